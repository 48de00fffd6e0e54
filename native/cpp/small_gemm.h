// Products of small matrices that stay in cache: the scores and mixtures of one attention head.
#pragma once

#include "vec.h"

namespace luthier {

// A factor whose element (i, k) lies at `at[i * row + k * column]`.
struct Strided {
  const float* at;
  int64_t row, column;
};

// `Rows` × (16 · `Vectors`) of c = a · b, added to what is there where `Add`.
template <typename V, int Rows, int Vectors, bool Add>
LUTHIER_INLINE void gemm_tile(const Strided& a, int64_t i0, const float* b, int64_t ldb, float* c,
                              int64_t ldc, int64_t k) {
  V sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      if constexpr (Add) {
        vec::load(sums[i][v], c + i * ldc + v * vec::kWidth);
      } else {
        sums[i][v] = V{};
      }
    }
  }
  const float* from = a.at + i0 * a.row;
  for (int64_t at = 0; at < k; at++) {
    V right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      vec::load(right[v], b + at * ldb + v * vec::kWidth);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) {
      const float left = from[i * a.row + at * a.column];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) {
        vec::add_product(sums[i][v], left, right[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      vec::store(c + i * ldc + v * vec::kWidth, sums[i][v]);
    }
  }
}

template <typename V, int Rows, int Vectors, bool Add>
LUTHIER_INLINE void gemm_columns(const Strided& a, const float* b, int64_t ldb, float* c,
                                 int64_t ldc, int64_t m, int64_t k) {
  int64_t i = 0;
  for (; i + Rows <= m; i += Rows) {
    gemm_tile<V, Rows, Vectors, Add>(a, i, b, ldb, c + i * ldc, ldc, k);
  }
  for (; i < m; i++) {
    gemm_tile<V, 1, Vectors, Add>(a, i, b, ldb, c + i * ldc, ldc, k);
  }
}

// c `[m, n]` = a `[m, k]` · b `[k, n]`, added where `Add`; `n` is a multiple of 16. Each element is
// summed over k in order, whatever the tiling. `Wide`: 32 registers that hold 16 floats each, instead
// of 16 registers of 8, where a larger tile would spill.
template <bool Add, bool Wide>
LUTHIER_INLINE void gemm(const Strided& a, const float* b, int64_t ldb, float* c, int64_t ldc,
                         int64_t m, int64_t n, int64_t k) {
  using V = vec::Floats<Wide>;
  int64_t j = 0;
  if constexpr (Wide) {
    for (; j + 2 * vec::kWidth <= n; j += 2 * vec::kWidth) {
      gemm_columns<V, 4, 2, Add>(a, b + j, ldb, c + j, ldc, m, k);
    }
  }
  for (; j < n; j += vec::kWidth) {
    gemm_columns<V, Wide ? 4 : 6, 1, Add>(a, b + j, ldb, c + j, ldc, m, k);
  }
}

}  // namespace luthier
