// One head of attention over one sequence, forward and backward. Included by the kernel alone.
#pragma once

#include "philox.h"
#include "small_gemm.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace luthier {
namespace {

// Queries that go through at once: their scores stay in cache.
constexpr int64_t kBlock = 64;

// Rows of one head: element `(row, d)` at `at[row * stride + d]`.
template <typename T>
struct Rows {
  T* at;
  int64_t stride;
};

struct Drop {
  uint32_t threshold;
  float scale;
  uint32_t k0, k1, head;

  // For the weights of one query, `[n]`.
  LUTHIER_INLINE void factors(float* out, int64_t n, int64_t query) const {
    philox::factors(out, n, threshold, scale, static_cast<uint32_t>(query), head, 0, k0, k1);
  }
};

// One head of one sequence. `t` keys and `n` queries, `d` numbers each; `tp` and `dp` rounded to
// vectors. Where it is causal the queries are those of the last `n` tokens.
struct Shape {
  int64_t t, n, d;
  bool causal;
  float scale;
  int64_t window;
  float cap;
  // What a score gets by the distance from query to key, at distance 0; null for nothing.
  const float* distance;
  // The place of query `i` among the keys.
  int64_t place(int64_t i) const { return causal ? t - n + i : i; }
  int64_t tp() const { return vec::rounded(t); }
  int64_t dp() const { return vec::rounded(d); }
  int64_t most() const { return std::max(t, n); }
  // Query `i` sees the keys from `begin` to `limit`.
  int64_t limit(int64_t i) const { return causal ? t - n + i + 1 : t; }
  int64_t begin(int64_t i) const {
    return window > 0 ? std::max<int64_t>(limit(i) - window, 0) : 0;
  }
};

// Buffers of a thread, as large as its longest sequence needs.
struct Scratch {
  std::vector<float> scores, grads, kt, vt, q, k, v, dout, dq, dk, dv, row, slope;
  void fit(const Shape& s, bool backward) {
    const auto room = [](std::vector<float>& buffer, int64_t n) {
      if (static_cast<int64_t>(buffer.size()) < n) {
        buffer.assign(n, 0.0f);
      }
    };
    const int64_t tokens = vec::rounded(s.most()) * s.dp(), block = kBlock * s.tp();
    room(scores, block);
    room(row, std::max(s.tp(), s.dp()));
    for (auto* buffer : {&kt, &q, &v, &dq}) {
      room(*buffer, tokens);
    }
    if (backward) {
      room(grads, 2 * block);
      room(slope, s.tp());
      for (auto* buffer : {&vt, &k, &dout, &dk, &dv}) {
        room(*buffer, tokens);
      }
    }
  }
};

// `rows` rows of `x` as floats `[rows, dp]`, times `scale`; columns past `d` are 0.
template <typename T>
LUTHIER_INLINE void gather(std::vector<float>& to, const Rows<const T>& x, int64_t rows,
                           const Shape& s, float scale) {
  const int64_t dp = s.dp();
  for (int64_t i = 0; i < rows; i++) {
    float* out = to.data() + i * dp;
    vec::widen(out, x.at + i * x.stride, s.d);
    for (int64_t j = 0; j < s.d; j++) {
      out[j] *= scale;
    }
    std::fill(out + s.d, out + dp, 0.0f);
  }
}

// The keys transposed, `[d, tp]`; columns past `t` are 0.
template <typename T>
LUTHIER_INLINE void gather_transposed(std::vector<float>& to, const Rows<const T>& x,
                                      const Shape& s) {
  const int64_t tp = s.tp();
  for (int64_t j = 0; j < s.d; j++) {
    float* out = to.data() + j * tp;
    for (int64_t i = 0; i < s.t; i++) {
      out[i] = vec::to_float(x.at[i * x.stride + j]);
    }
    std::fill(out + s.t, out + tp, 0.0f);
  }
}

// Scores that are bounded (Gemma 2: "Gemma 2: Improving open language models at a practical size",
// 2024, section 2). `slope`, where it is not null, gets the derivative.
LUTHIER_INLINE void bound(float* row, float* slope, int64_t tp, float cap) {
  for (int64_t j = 0; j < tp; j++) {
    const float part = std::tanh(row[j] / cap);
    row[j] = cap * part;
    if (slope != nullptr) {
      slope[j] = 1.0f - part * part;
    }
  }
}

// Adds what distances give to the scores of query `i`.
LUTHIER_INLINE void add_distances(float* row, const Shape& s, int64_t i) {
  if (s.distance != nullptr) {
    const float* own = s.distance - s.place(i);
    for (int64_t j = 0; j < s.t; j++) {
      row[j] += own[j];
    }
  }
}

// Turns a row of scores into e^(score - shift), 0 before `begin` and from `limit` on; returns the sum.
template <bool Wide>
LUTHIER_INLINE float exponentials(float* row, int64_t tp, int64_t begin, int64_t limit,
                                  float shift) {
  vec::Floats<Wide> total{};
  const int64_t first = begin / vec::kWidth * vec::kWidth;
  std::fill(row, row + first, 0.0f);
  for (int64_t j = first; j < tp; j += vec::kWidth) {
    vec::Floats<Wide> x;
    vec::load(x, row + j);
    vec::exp(x, shift);
    vec::keep_first(x, static_cast<int32_t>(limit - j));
    if (j < begin) {
      vec::leave_first(x, static_cast<int32_t>(begin - j));
    }
    vec::store(row + j, x);
    vec::add(total, x);
  }
  return vec::sum(total);
}

template <bool Wide>
LUTHIER_INLINE float greatest(const float* row, int64_t begin, int64_t limit) {
  vec::Floats<Wide> top;
  vec::fill(top, -INFINITY);
  int64_t j = begin;
  for (; j + vec::kWidth <= limit; j += vec::kWidth) {
    vec::Floats<Wide> x;
    vec::load(x, row + j);
    vec::greater(top, x);
  }
  float out = vec::max(top);
  for (; j < limit; j++) {
    out = row[j] > out ? row[j] : out;
  }
  return out;
}

// `By`: products and the width of registers, as compiled for a processor.
template <typename T, typename By>
LUTHIER_INLINE void head_forward(const Rows<const T>& q, const Rows<const T>& k,
                                 const Rows<const T>& v, const Rows<T>& out, float* lse,
                                 const Shape& s, const Drop* drop, Scratch& mem) {
  const int64_t tp = s.tp(), dp = s.dp();
  gather(mem.q, q, s.n, s, s.scale);
  gather_transposed(mem.kt, k, s);
  gather(mem.v, v, s.t, s, 1.0f);
  for (int64_t i0 = 0; i0 < s.n; i0 += kBlock) {
    const int64_t n = std::min(kBlock, s.n - i0);
    By::set({mem.q.data() + i0 * dp, dp, 1}, mem.kt.data(), tp, mem.scores.data(), tp, n, tp,
                s.d);
    for (int64_t i = 0; i < n; i++) {
      float* row = mem.scores.data() + i * tp;
      const int64_t begin = s.begin(i0 + i), limit = s.limit(i0 + i);
      if (s.cap > 0) {
        bound(row, nullptr, tp, s.cap);
      }
      add_distances(row, s, i0 + i);
      const float top = greatest<By::kWide>(row, begin, limit);
      const float sum = exponentials<By::kWide>(row, tp, begin, limit, top);
      lse[i0 + i] = top + std::log(sum);
      const float inverse = 1.0f / sum;
      if (drop != nullptr) {
        drop->factors(mem.row.data(), tp, i0 + i);
        for (int64_t j = 0; j < tp; j++) {
          row[j] *= inverse * mem.row[j];
        }
      } else {
        for (int64_t j = 0; j < tp; j++) {
          row[j] *= inverse;
        }
      }
    }
    By::set({mem.scores.data(), tp, 1}, mem.v.data(), dp, mem.dq.data(), dp, n, dp, s.t);
    for (int64_t i = 0; i < n; i++) {
      vec::narrow(out.at + (i0 + i) * out.stride, mem.dq.data() + i * dp, s.d);
    }
  }
}

// Adds to `mem.dk` and `mem.dv`, which the caller clears and writes: heads of a group share them. To
// `of_distance`, as `Shape::distance` lies, is added as well where it is not null.
template <typename T, typename By>
LUTHIER_INLINE void head_backward(const Rows<const T>& q, const Rows<const T>& dout,
                                  const Rows<T>& dq, const float* lse, const Shape& s,
                                  const Drop* drop, float* of_distance, Scratch& mem) {
  const int64_t tp = s.tp(), dp = s.dp();
  gather(mem.q, q, s.n, s, s.scale);
  gather(mem.dout, dout, s.n, s, 1.0f);
  float* scores = mem.scores.data();
  float* weights = mem.grads.data();           // after dropout
  float* grads = mem.grads.data() + kBlock * tp;
  for (int64_t i0 = 0; i0 < s.n; i0 += kBlock) {
    const int64_t n = std::min(kBlock, s.n - i0);
    By::set({mem.q.data() + i0 * dp, dp, 1}, mem.kt.data(), tp, scores, tp, n, tp, s.d);
    By::set({mem.dout.data() + i0 * dp, dp, 1}, mem.vt.data(), tp, grads, tp, n, tp, s.d);
    for (int64_t i = 0; i < n; i++) {
      float *p = scores + i * tp, *w = weights + i * tp, *g = grads + i * tp;
      if (s.cap > 0) {
        bound(p, mem.slope.data(), tp, s.cap);
      }
      add_distances(p, s, i0 + i);
      exponentials<By::kWide>(p, tp, s.begin(i0 + i), s.limit(i0 + i), lse[i0 + i]);
      if (drop != nullptr) {
        drop->factors(mem.row.data(), tp, i0 + i);
        for (int64_t j = 0; j < tp; j++) {
          w[j] = p[j] * mem.row[j];
          g[j] *= mem.row[j];
        }
      } else {
        std::memcpy(w, p, tp * sizeof(float));
      }
      vec::Floats<By::kWide> dot{};
      for (int64_t j = 0; j < tp; j += vec::kWidth) {
        vec::Floats<By::kWide> a, b;
        vec::load(a, p + j);
        vec::load(b, g + j);
        vec::add_product(dot, a, b);
      }
      const float shared = vec::sum(dot);
      for (int64_t j = 0; j < tp; j++) {
        g[j] = p[j] * (g[j] - shared);
      }
      if (of_distance != nullptr) {
        float* own = of_distance - s.place(i0 + i);
        for (int64_t j = 0; j < s.t; j++) {
          own[j] += g[j];
        }
      }
      if (s.cap > 0) {
        for (int64_t j = 0; j < tp; j++) {
          g[j] *= mem.slope[j];
        }
      }
    }
    By::add({weights, 1, tp}, mem.dout.data() + i0 * dp, dp, mem.dv.data(), dp, s.t, dp, n);
    By::add({grads, 1, tp}, mem.q.data() + i0 * dp, dp, mem.dk.data(), dp, s.t, dp, n);
    By::set({grads, tp, 1}, mem.k.data(), dp, mem.dq.data(), dp, n, dp, s.t);
    for (int64_t i = 0; i < n; i++) {
      float* row = mem.dq.data() + i * dp;
      for (int64_t j = 0; j < s.d; j++) {
        row[j] *= s.scale;
      }
      vec::narrow(dq.at + (i0 + i) * dq.stride, row, s.d);
    }
  }
}

template <typename T>
LUTHIER_INLINE void head_keys(const Rows<const T>& k, const Rows<const T>& v, const Shape& s,
                              Scratch& mem) {
  gather(mem.k, k, s.t, s, 1.0f);
  gather_transposed(mem.kt, k, s);
  gather_transposed(mem.vt, v, s);
}

}  // namespace
}  // namespace luthier
