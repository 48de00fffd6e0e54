// Products of rows by a matrix whose bits are the same in any company.
#pragma once

#include <ATen/core/Tensor.h>

namespace luthier {

// Whether `x · weightᵀ` is a product for the kernel: fp32 rows on the CPU, by weights in fp32 or bf16 that lie by row or by
// column.
bool is_skinny(const at::Tensor& x, const at::Tensor& weight);

// `x · weightᵀ + bias`, fp32. The bits of a row do not depend on how many rows there are.
at::Tensor skinny(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace luthier
