// Products of rows by a matrix whose bits are the same in any company: the linear layers of a model that writes
// one token at a time, or reads several prompts at once.
//
// Tiles of rows of the matrix and rows of `x` are kept in registers, so that the matrix is read once, in
// order, and each number of it meets all of `x`. Weights in bf16 are widened as they are read. How an element is
// summed up depends on its row of `x` and its row of the matrix alone.

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

// The upper half of the lanes is added to the lower one until one is left.
typedef float v4 __attribute__((vector_size(16)));
LUTHIER_INLINE float total(const v4& x) {
  const v4 two = x + __builtin_shufflevector(x, x, 2, 3, 2, 3);
  return two[0] + two[1];
}
LUTHIER_INLINE float total(const vec::v8& x) {
  v4 half[2];
  std::memcpy(half, &x, sizeof(x));
  return total(half[0] + half[1]);
}
LUTHIER_INLINE float total(const vec::v16& x) {
  vec::v8 half[2];
  std::memcpy(half, &x, sizeof(x));
  return total(half[0] + half[1]);
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

// Rows of `x` that stay in the second cache while they meet the matrix.
int64_t rows_at_once(int64_t k) {
  constexpr int64_t kNumbers = 1 << 16;
  return std::max<int64_t>(4, kNumbers / std::max<int64_t>(1, k) / 4 * 4);
}

template <typename T>
void multiply(const Tensor& x, const Tensor& weight, const float* bias, Tensor& y) {
  const int64_t m = x.size(0), k = x.size(1), n = weight.size(0);
  const auto* w = weight.const_data_ptr<T>();
  const auto* from = x.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  const Part<T> by = chosen<T>();
  const int64_t rows = rows_at_once(k);
  // Less than this is done before another thread has begun.
  constexpr int64_t kLeast = 1 << 16;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  const int64_t grain = std::max<int64_t>(1, kLeast / (kBlock * k * std::max<int64_t>(1, m / 2)));
  at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < m; first += rows) {
      by(w, from + first * k, bias, to + first * n, std::min(rows, m - first), k, n,
         begin * kBlock, std::min(n, end * kBlock));
    }
  });
}

// M rows of `x` by N vectors of columns of a matrix that is kept by column, `[in, out]`.
template <typename V, int M, int N, typename T>
LUTHIER_INLINE void tile_by_column(const T* w, const float* x, const float* bias, float* y,
                                   int64_t k, int64_t n) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(float);
  V sums[M][N] = {};
  for (int64_t at = 0; at < k; at++) {
    V right[N];
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) {
      load(right[v], w + at * n + v * kLanes);
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) {
      const float left = x[m * k + at];
#pragma GCC unroll 8
      for (int v = 0; v < N; v++) {
        sums[m][v] += left * right[v];
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) {
      if (bias != nullptr) {
        V added;
        load(added, bias + v * kLanes);
        sums[m][v] += added;
      }
      std::memcpy(y + m * n + v * kLanes, &sums[m][v], sizeof(V));
    }
  }
}

// M rows of `x` by the columns `begin .. end`, N vectors at a time.
template <typename V, int M, int N, typename T>
LUTHIER_INLINE void strip_by_column(const T* w, const float* x, const float* bias, float* y,
                                    int64_t k, int64_t n, int64_t begin, int64_t end) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(float);
  const auto added = [&](int64_t j) { return bias == nullptr ? nullptr : bias + j; };
  int64_t j = begin;
  for (; j + N * kLanes <= end; j += N * kLanes) {
    tile_by_column<V, M, N>(w + j, x, added(j), y + j, k, n);
  }
  for (; j + kLanes <= end; j += kLanes) {
    tile_by_column<V, M, 1>(w + j, x, added(j), y + j, k, n);
  }
  for (; j < end; j++) {
    for (int m = 0; m < M; m++) {
      float sum = 0.0f;
      for (int64_t at = 0; at < k; at++) {
        sum += x[m * k + at] * vec::to_float(w[at * n + j]);
      }
      y[m * n + j] = bias == nullptr ? sum : sum + bias[j];
    }
  }
}

// All rows of `x` by the columns `begin .. end`; fewer rows take more columns at a time.
template <typename V, typename T>
LUTHIER_INLINE void part_by_column(const T* w, const float* x, const float* bias, float* y,
                                   int64_t m, int64_t k, int64_t n, int64_t begin, int64_t end) {
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) {
    strip_by_column<V, 4, 2>(w, x + i * k, bias, y + i * n, k, n, begin, end);
  }
  switch (m - i) {
    case 3: strip_by_column<V, 3, 2>(w, x + i * k, bias, y + i * n, k, n, begin, end); break;
    case 2: strip_by_column<V, 2, 4>(w, x + i * k, bias, y + i * n, k, n, begin, end); break;
    case 1: strip_by_column<V, 1, 8>(w, x + i * k, bias, y + i * n, k, n, begin, end); break;
    default: break;
  }
}

#define LUTHIER_PART(Name, Target, V)                                                              \
  template <typename T>                                                                            \
  Target void Name(const T* w, const float* x, const float* bias, float* y, int64_t m, int64_t k,  \
                   int64_t n, int64_t begin, int64_t end) {                                        \
    part_by_column<V>(w, x, bias, y, m, k, n, begin, end);                                         \
  }
LUTHIER_PART(plain_by_column, , vec::v8)
LUTHIER_PART(avx2_by_column, LUTHIER_AVX2, vec::v8)
LUTHIER_PART(avx512_by_column, LUTHIER_AVX512, vec::v16)
#undef LUTHIER_PART

template <typename T>
Part<T> chosen_by_column() {
  switch (processor()) {
    case Level::kAvx512: return avx512_by_column<T>;
    case Level::kAvx2: return avx2_by_column<T>;
    case Level::kPlain: break;
  }
  return plain_by_column<T>;
}

// Columns that a thread takes at least: a multiple of what a tile has.
constexpr int64_t kColumns = 128;

template <typename T>
void multiply_by_column(const Tensor& x, const Tensor& weight, const float* bias, Tensor& y) {
  const int64_t m = x.size(0), k = x.size(1), n = weight.size(0);
  const auto* w = weight.const_data_ptr<T>();
  const auto* from = x.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  const Part<T> by = chosen_by_column<T>();
  at::parallel_for(0, (n + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end) {
    // A block of columns after the other, so that it is still in the cache for the next rows.
    for (int64_t at = begin; at < end; at++) {
      by(w, from, bias, to, m, k, n, at * kColumns, std::min(n, (at + 1) * kColumns));
    }
  });
}

bool is_by_column(const Tensor& weight) {
  return !weight.is_contiguous() && weight.t().is_contiguous();
}

}  // namespace

bool is_skinny(const Tensor& x, const Tensor& weight) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.size(0) > 0 &&
         (weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kBFloat16) &&
         (weight.is_contiguous() || is_by_column(weight));
}

Tensor skinny(const Tensor& x_in, const Tensor& weight, const Tensor& bias_in) {
  const Tensor x = x_in.contiguous();
  const Tensor bias = bias_in.defined() ? bias_in.to(at::kFloat).contiguous() : Tensor();
  Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
  const float* added = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  const bool whole = weight.scalar_type() == at::kFloat;
  if (is_by_column(weight)) {
    whole ? multiply_by_column<float>(x, weight, added, y)
          : multiply_by_column<c10::BFloat16>(x, weight, added, y);
  } else {
    whole ? multiply<float>(x, weight, added, y) : multiply<c10::BFloat16>(x, weight, added, y);
  }
  return y;
}

}  // namespace luthier
