// Inputs of products that are not kept for backward, since the node that made them keeps what they were made of.
//
// A gated block's middle and a norm are cheap to make again beside the products that they enter, and are a third of what a
// decoder keeps. This is found by the graph alone: a model file says nothing of it, and whatever is not made by such a
// node is kept as always.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

namespace luthier {

// The node that can make `x` again, or null. It lives as long as `x`'s graph: a function that took `x` has an edge to it.
torch::autograd::Node* maker_of(const at::Tensor& x);

// The output 0 of such a node, the same bits. Only within a backward of a function that took it: the node's own comes
// later, and lets go of what it keeps.
at::Tensor made_again(torch::autograd::Node& maker);

// Each kind of node that is a maker.
bool is_gated(const torch::autograd::Node& node);
at::Tensor gated_again(torch::autograd::Node& node);
bool is_rms_norm(const torch::autograd::Node& node);
at::Tensor rms_norm_again(torch::autograd::Node& node);

// What a function is to save of its input: `x`, or nothing where its maker is noted instead.
inline at::Tensor kept_input(torch::autograd::AutogradContext& ctx, const at::Tensor& x) {
  auto* maker = maker_of(x);
  ctx.saved_data["maker"] = reinterpret_cast<int64_t>(maker);
  return maker == nullptr ? x : at::Tensor();
}

// That input again, of what was saved.
inline at::Tensor input_again(torch::autograd::AutogradContext& ctx, const at::Tensor& saved) {
  auto* maker = reinterpret_cast<torch::autograd::Node*>(ctx.saved_data["maker"].toInt());
  return maker == nullptr ? saved : made_again(*maker);
}

}  // namespace luthier
