#include "maker.h"

namespace luthier {

using torch::autograd::Node;

Node* maker_of(const at::Tensor& x) {
  Node* node = x.grad_fn().get();
  const bool makes = node != nullptr && x.output_nr() == 0 && (is_gated(*node) || is_rms_norm(*node));
  return makes ? node : nullptr;
}

at::Tensor made_again(Node& maker) {
  return is_gated(maker) ? gated_again(maker) : rms_norm_again(maker);
}

}  // namespace luthier
