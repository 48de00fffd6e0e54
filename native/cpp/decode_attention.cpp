// Attention of one new token in each of several sequences, whose earlier keys and values are kept: what a
// model that writes one token at a time does most of its steps.

#include "common.h"
#include "attention_ops.h"
#include "processor.h"
#include "vec.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace luthier {
namespace {

using at::Tensor;

// One head of keys and values, and the query heads that it serves.
struct Head {
  const float* queries;  // `group` rows of `width`
  const float *keys, *values;  // `tokens` rows of `width`
  float* out;  // as `queries`
  int64_t group, width, tokens;
  float scale, cap;
  // What the score of each token gets by its distance, for the first of the group; null for nothing.
  const float* distances;
  int64_t distances_stride;
};

template <typename V>
LUTHIER_INLINE float dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(float);
  V sums[2] = {};
  int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    V x[2], y[2];
    std::memcpy(x, a + j, sizeof(x));
    std::memcpy(y, b + j, sizeof(y));
    sums[0] += x[0] * y[0];
    sums[1] += x[1] * y[1];
  }
  sums[0] += sums[1];
  float s[kLanes];
  std::memcpy(s, &sums[0], sizeof(s));
  float total = 0.0f;
  for (int64_t i = 0; i < kLanes; i++) {
    total += s[i];
  }
  for (; j < n; j++) {
    total += a[j] * b[j];
  }
  return total;
}

// `scores`: room for `group · rounded(tokens)`.
template <typename V>
LUTHIER_INLINE void head(const Head& h, float* scores) {
  const int64_t room = vec::rounded(h.tokens);
  for (int64_t t = 0; t < h.tokens; t++) {
    for (int64_t g = 0; g < h.group; g++) {
      const float score =
          dot<V>(h.queries + g * h.width, h.keys + t * h.width, h.width) * h.scale;
      const float more = h.distances == nullptr ? 0.0f : h.distances[g * h.distances_stride + t];
      scores[g * room + t] = (h.cap > 0.0f ? h.cap * std::tanh(score / h.cap) : score) + more;
    }
  }
  for (int64_t g = 0; g < h.group; g++) {
    float* own = scores + g * room;
    const float top = *std::max_element(own, own + h.tokens);
    std::fill(own + h.tokens, own + room, -INFINITY);
    for (int64_t t = 0; t < room; t += vec::kWidth) {
      vec::Floats<false> v;
      vec::load(v, own + t);
      vec::exp(v, top);
      vec::store(own + t, v);
    }
    const float by = 1.0f / vec::row_sum(own, room);
    float* out = h.out + g * h.width;
    std::fill_n(out, h.width, 0.0f);
    for (int64_t t = 0; t < h.tokens; t++) {
      const float weight = own[t] * by;
      const float* value = h.values + t * h.width;
      for (int64_t j = 0; j < h.width; j++) {
        out[j] += weight * value[j];
      }
    }
  }
}

#define LUTHIER_HEAD(Name, Target, V) \
  Target void Name(const Head& h, float* scores) { head<V>(h, scores); }
LUTHIER_HEAD(plain, , vec::v8)
LUTHIER_HEAD(avx2, LUTHIER_AVX2, vec::v8)
LUTHIER_HEAD(avx512, LUTHIER_AVX512, vec::v16)
#undef LUTHIER_HEAD

auto chosen() {
  switch (processor()) {
    case Level::kAvx512: return avx512;
    case Level::kAvx2: return avx2;
    case Level::kPlain: break;
  }
  return plain;
}

Tensor decode(const Tensor& joined, const std::vector<Tensor>& kept, const int64_t* lengths,
              const Tensor& by_distance, const PackedHeads& h) {
  const int64_t m = by_distance.defined() ? by_distance.size(1) : 0, span = (m + 1) / 2;
  const auto* distances = by_distance.defined() ? by_distance.const_data_ptr<float>() : nullptr;
  const int64_t n = joined.size(0), group = h.query / h.key, width = h.width;
  Tensor out = at::empty({n, h.query * width}, joined.options());
  const auto* rows = joined.const_data_ptr<float>();
  auto* outs = out.mutable_data_ptr<float>();
  const auto by = chosen();
  at::parallel_for(0, n * h.key, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores;
    for (int64_t task = begin; task < end; task++) {
      const int64_t row = task / h.key, at = task % h.key, length = lengths[row];
      const float* own = rows + row * joined.size(1);
      const Tensor& cache = kept[row];
      const int64_t room = cache.size(2);
      float* keys = cache.mutable_data_ptr<float>() + at * room * width;
      float* values = keys + h.key * room * width;
      std::copy_n(own + (h.query + at) * width, width, keys + (length - 1) * width);
      std::copy_n(own + (h.query + h.key + at) * width, width, values + (length - 1) * width);
      const int64_t first = h.window > 0 ? std::max<int64_t>(0, length - h.window) : 0;
      scores.resize(group * vec::rounded(length - first));
      by({own + at * group * width, keys + first * width, values + first * width,
          outs + (row * h.query + at * group) * width, group, width, length - first,
          static_cast<float>(h.scale), static_cast<float>(h.cap),
          distances == nullptr ? nullptr : distances + at * group * m + span - length + first, m},
         scores.data());
    }
  });
  return out;
}

}  // namespace
}  // namespace luthier

extern "C" {

// `joined`: a token a row, queries, keys and values side by side; `kept`: `[2, key, room, width]` a row, of
// which `lengths` tokens are used with the new one, whose keys and values are written.
char* luthier_decode_attention(const at::Tensor* joined, at::Tensor* const* kept,
                               const int64_t* lengths, size_t n, const at::Tensor* by_distance,
                               const luthier::PackedHeads* heads, at::Tensor** out) {
  return luthier::guarded([&] {
    const auto& h = *heads;
    const auto caches = luthier::list(kept, n);
    TORCH_CHECK(h.query >= 1 && h.key >= 1 && h.query % h.key == 0 && h.width >= 1,
                "decode attention: ", h.query, " query heads of ", h.width, " over ", h.key);
    TORCH_CHECK(joined->is_cpu() && joined->scalar_type() == at::kFloat && joined->dim() == 2 &&
                    joined->size(0) == static_cast<int64_t>(n) &&
                    joined->size(1) == (h.query + 2 * h.key) * h.width,
                "decode attention: projections are ", joined->sizes(), " for ", n, " sequences");
    const at::Tensor distances =
        by_distance == nullptr ? at::Tensor() : by_distance->contiguous();
    TORCH_CHECK(!distances.defined() ||
                    (distances.dim() == 2 && distances.size(0) == h.query &&
                     distances.size(1) % 2 == 1 && distances.scalar_type() == at::kFloat &&
                     distances.is_cpu()),
                "decode attention: what distances give is ", distances.sizes());
    for (size_t i = 0; i < n; i++) {
      TORCH_CHECK(!distances.defined() || 2 * lengths[i] - 1 <= distances.size(1),
                  "decode attention: ", lengths[i], " tokens, distances are ", distances.sizes());
      const auto& cache = caches[i];
      TORCH_CHECK(cache.is_cpu() && cache.scalar_type() == at::kFloat && cache.is_contiguous() &&
                      cache.dim() == 4 && cache.size(0) == 2 && cache.size(1) == h.key &&
                      cache.size(3) == h.width && lengths[i] >= 1 && lengths[i] <= cache.size(2),
                  "decode attention: ", lengths[i], " tokens in ", cache.sizes());
    }
    *out = new at::Tensor(luthier::decode(joined->contiguous(), caches, lengths, distances, h));
  });
}
}
