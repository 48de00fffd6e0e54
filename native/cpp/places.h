// Which example a row belongs to and where in it, as draws are counted by.
#pragma once

#include "philox.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace luthier {

// The three upper counter words of a row and the key of its example.
struct Row {
  uint32_t c1, c2, c3, k0, k1;
};

// Where the rows of a tensor lie: `[b, …, d]`, or `[tokens, d]` of sequences laid end to end.
struct Places {
  Places(const at::Tensor& x, const at::Tensor& keys, const at::Tensor& offsets)
      : sizes(x.sizes()),
        keys(keys.const_data_ptr<int64_t>()),
        offsets(offsets.defined() ? offsets.const_data_ptr<int64_t>() : nullptr),
        sequences(keys.numel()) {}


  Row at(int64_t row) const {
    uint32_t c[3] = {0, 0, 0};
    int64_t example = row;
    if (offsets != nullptr) {
      const auto* end = offsets + sequences;
      example = std::min<int64_t>(std::upper_bound(offsets, end + 1, row) - offsets, sequences) - 1;
      c[0] = static_cast<uint32_t>(row - offsets[example]);
    } else {
      for (int64_t i = 0, dim = static_cast<int64_t>(sizes.size()) - 2; dim >= 1; dim--, i++) {
        c[i] = static_cast<uint32_t>(example % sizes[dim]);
        example /= sizes[dim];
      }
    }
    const auto key = static_cast<uint64_t>(keys[example]);
    return {c[0], c[1], c[2], static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
  }

 private:
  at::IntArrayRef sizes;
  const int64_t* keys;
  const int64_t* offsets;  // null for the former
  int64_t sequences;
};

// The same for tensor operations: the key of each first index of `x`, and the position that its
// second counter word is, where rows are packed.
struct RowKeys {
  at::Tensor keys, positions;  // Int64 [rows]; positions undefined for `[b, …, d]`
};

inline RowKeys row_keys(const at::Tensor& x, const at::Tensor& keys, const at::Tensor& offsets) {
  if (!offsets.defined()) {
    return {keys, at::Tensor()};
  }
  const at::Tensor rows = at::arange(x.size(0), offsets.options());
  const at::Tensor example =
      at::searchsorted(offsets, rows, /*out_int32=*/false, /*right=*/true)
          .clamp_max_(offsets.numel() - 1)
          .sub_(1);
  const at::Tensor positions = rows.sub(offsets.index_select(0, example));
  return {keys.index_select(0, example.to(keys.device())), positions.to(keys.device())};
}

// Offsets are checked here once for all kernels: Int64 on the CPU, ascending from 0.
inline void check_offsets(const at::Tensor& offsets, int64_t rows, int64_t keys) {
  TORCH_CHECK(offsets.is_cpu() && offsets.scalar_type() == at::kLong && offsets.dim() == 1 &&
                  offsets.is_contiguous() && offsets.numel() >= 2,
              "offsets must be a vector of Int64 on the CPU, one more than there are sequences");
  TORCH_CHECK(keys < 0 || keys == offsets.numel() - 1, keys, " keys for ", offsets.numel() - 1,
              " sequences");
  const auto* at = offsets.const_data_ptr<int64_t>();
  TORCH_CHECK(at[0] == 0 && at[offsets.numel() - 1] <= rows, "offsets run from ", at[0], " to ",
              at[offsets.numel() - 1], " over ", rows, " rows");
  for (int64_t i = 1; i < offsets.numel(); i++) {
    TORCH_CHECK(at[i] > at[i - 1], "sequence ", i - 1, " is empty");
  }
}

}  // namespace luthier
