// Products of few rows by a matrix: the linear layers of a model that writes one token at a time.
//
// Tiles of rows of the matrix and rows of `x` are kept in registers, so that the matrix is read once, in
// order, and each number of it meets all of `x`. Weights in bf16 are widened as they are read.

#include "skinny.h"

#include "processor.h"
#include "vec.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <utility>

namespace luthier {
namespace {

using at::Tensor;

// Rows of the matrix that are worked on together: a multiple of the rows of every tile.
constexpr int64_t kBlock = 12;

typedef uint16_t h8 __attribute__((vector_size(16)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef uint32_t u8 __attribute__((vector_size(32)));
typedef uint32_t u16 __attribute__((vector_size(64)));

template <typename V>
LUTHIER_INLINE void load(V& out, const float* from) {
  std::memcpy(&out, from, sizeof(V));
}
template <typename V>
LUTHIER_INLINE void load(V& out, const c10::BFloat16* from) {
  using Half = std::conditional_t<sizeof(V) == 64, h16, h8>;
  using Bits = std::conditional_t<sizeof(V) == 64, u16, u8>;
  Half half;
  std::memcpy(&half, from, sizeof(half));
  const Bits bits = __builtin_convertvector(half, Bits) << 16;
  std::memcpy(&out, &bits, sizeof(V));
}

template <typename V>
LUTHIER_INLINE float total(const V& x) {
  constexpr int kLanes = sizeof(V) / sizeof(float);
  float s[kLanes];
  std::memcpy(s, &x, sizeof(V));
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) {
      s[i] += s[i + half];
    }
  }
  return s[0];
}

// One vector of each of M rows of `x` against those of R rows of the matrix. By packs instead of loops, so that all
// indices are constants and the sums stay in registers.
template <typename V, int R, size_t... r>
LUTHIER_INLINE void add_row(V* sums, const V* a, const float* x, std::index_sequence<r...>) {
  V b;
  load(b, x);
  ((sums[r] += a[r] * b), ...);
}
template <typename V, int R, typename T, size_t... r, size_t... m>
LUTHIER_INLINE void add_rows(V* sums, const T* w, const float* x, int64_t k,
                             std::index_sequence<r...> rows, std::index_sequence<m...>) {
  V a[R];
  (load(a[r], w + r * k), ...);
  (add_row<V, R>(sums + m * R, a, x + m * k, rows), ...);
}

// R rows of the matrix by M rows of `x`.
template <typename V, int R, int M, typename T>
LUTHIER_INLINE void tile(const T* w, const float* x, const float* bias, float* y, int64_t k,
                         int64_t n) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(float);
  V sums[M * R] = {};
  int64_t j = 0;
  for (; j + kLanes <= k; j += kLanes) {
    add_rows<V, R>(sums, w + j, x + j, k, std::make_index_sequence<R>(),
                   std::make_index_sequence<M>());
  }
  for (int m = 0; m < M; m++) {
    for (int r = 0; r < R; r++) {
      float sum = total(sums[m * R + r]);
      for (int64_t i = j; i < k; i++) {
        sum += vec::to_float(w[r * k + i]) * x[m * k + i];
      }
      y[m * n + r] = bias == nullptr ? sum : sum + bias[r];
    }
  }
}

// All rows of `x`, M at a time, by `rows` rows of the matrix, R at a time.
template <typename V, int R, int M, typename T>
LUTHIER_INLINE void strip(const T* w, const float* x, const float* bias, float* y, int64_t rows,
                          int64_t k, int64_t n) {
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    tile<V, R, M>(w + r * k, x, bias == nullptr ? nullptr : bias + r, y + r, k, n);
  }
  for (; r < rows; r++) {
    tile<V, 1, M>(w + r * k, x, bias == nullptr ? nullptr : bias + r, y + r, k, n);
  }
}

// Rows `begin .. end` of the matrix. `Wide`: there are 32 registers, not 16.
template <typename V, bool Wide, typename T>
LUTHIER_INLINE void part(const T* w, const float* x, const float* bias, float* y, int64_t m,
                         int64_t k, int64_t n, int64_t begin, int64_t end) {
  constexpr int kFour = Wide ? 6 : 3, kFewer = Wide ? 6 : 4;
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t rows = std::min(kBlock, end - at);
    const T* own = w + at * k;
    const float* added = bias == nullptr ? nullptr : bias + at;
    int64_t i = 0;
    for (; i + 4 <= m; i += 4) {
      strip<V, kFour, 4>(own, x + i * k, added, y + i * n + at, rows, k, n);
    }
    switch (m - i) {
      case 3: strip<V, kFewer, 3>(own, x + i * k, added, y + i * n + at, rows, k, n); break;
      case 2: strip<V, kFewer, 2>(own, x + i * k, added, y + i * n + at, rows, k, n); break;
      case 1: strip<V, kFewer, 1>(own, x + i * k, added, y + i * n + at, rows, k, n); break;
      default: break;
    }
  }
}

template <typename T>
using Part = void (*)(const T* w, const float* x, const float* bias, float* y, int64_t m, int64_t k,
                      int64_t n, int64_t begin, int64_t end);

#define LUTHIER_PART(Name, Target, V, Wide)                                                        \
  template <typename T>                                                                            \
  Target void Name(const T* w, const float* x, const float* bias, float* y, int64_t m, int64_t k,  \
                   int64_t n, int64_t begin, int64_t end) {                                        \
    part<V, Wide>(w, x, bias, y, m, k, n, begin, end);                                             \
  }
LUTHIER_PART(plain, , vec::v8, false)
LUTHIER_PART(avx2, LUTHIER_AVX2, vec::v8, false)
LUTHIER_PART(avx512, LUTHIER_AVX512, vec::v16, true)
#undef LUTHIER_PART

template <typename T>
Part<T> chosen() {
  switch (processor()) {
    case Level::kAvx512: return avx512<T>;
    case Level::kAvx2: return avx2<T>;
    case Level::kPlain: break;
  }
  return plain<T>;
}

template <typename T>
void multiply(const Tensor& x, const Tensor& weight, const float* bias, Tensor& y) {
  const int64_t m = x.size(0), k = x.size(1), n = weight.size(0);
  const auto* w = weight.const_data_ptr<T>();
  const auto* from = x.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  const Part<T> by = chosen<T>();
  // Less than this is done before another thread has begun.
  constexpr int64_t kLeast = 1 << 16;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  const int64_t grain = std::max<int64_t>(1, kLeast / (kBlock * k * std::max<int64_t>(1, m / 2)));
  at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    by(w, from, bias, to, m, k, n, begin * kBlock, std::min(n, end * kBlock));
  });
}

}  // namespace

bool is_skinny(const Tensor& x, const Tensor& weight) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.size(0) > 0 && x.size(0) <= kSkinny &&
         (weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kBFloat16) &&
         weight.is_contiguous();
}

Tensor skinny(const Tensor& x_in, const Tensor& weight, const Tensor& bias_in) {
  const Tensor x = x_in.contiguous();
  const Tensor bias = bias_in.defined() ? bias_in.to(at::kFloat).contiguous() : Tensor();
  Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
  const float* added = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  if (weight.scalar_type() == at::kFloat) {
    multiply<float>(x, weight, added, y);
  } else {
    multiply<c10::BFloat16>(x, weight, added, y);
  }
  return y;
}

}  // namespace luthier
