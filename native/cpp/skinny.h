// Products of few rows by a matrix that is read once.
#pragma once

#include <ATen/core/Tensor.h>

namespace luthier {

// Rows up to which the kernel is the faster one: what then takes the time is to read the matrix.
constexpr int64_t kSkinny = 32;

// Whether `x · weightᵀ` is a product for the kernel: few fp32 rows on the CPU, by weights in fp32 or bf16.
bool is_skinny(const at::Tensor& x, const at::Tensor& weight);

// `x · weightᵀ + bias`, fp32. The bits of a row do not depend on how many rows there are.
at::Tensor skinny(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace luthier
