// What the kernel of attention over packed sequences and its form by tensor operations share.
#pragma once

#include <ATen/core/Tensor.h>

namespace luthier {

// The same fields in the same order in Rust.
struct PackedHeads {
  int64_t query, key;  // heads; `query` is a multiple of `key`
  int64_t width;       // of a head
  bool causal;
  double scale;
  int64_t first;   // number of the first query head, as dropout counts them
  int64_t window;  // how many tokens a query sees at most, itself included; 0 for all. Causal alone
  double cap;      // scores become cap · tanh(score / cap); 0 for no such bound
};

// For devices and kinds without a kernel: pads, and computes by libtorch's operations.
at::Tensor packed_attention_by_ops(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& offsets, const at::Tensor& query_offsets,
                                   const at::Tensor& keys, double p,
                                   const at::Tensor& distances, const PackedHeads& heads);

// Dropout as dropout.cpp has it: of `[b, …, d]` where `offsets` is undefined, else of `[tokens, d]`.
at::Tensor dropout(const at::Tensor& x, const at::Tensor& keys, const at::Tensor& offsets,
                   double p);

}  // namespace luthier
