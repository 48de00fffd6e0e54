// Muon: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
// https://kellerjordan.github.io/posts/muon/; options and their order as torch.optim.Muon.

#include "optim.h"

extern "C" {

struct LuthierMuon {
  double lr, adjusted_lr, momentum, weight_decay, eps;
  int64_t ns_steps;
  float scale;
  bool nesterov;
};
}

namespace luthier {
namespace {

// A matrix of the same singular vectors whose singular values lie near 1, by steps of a
// Newton-Schulz iteration of degree 5. In bf16 on a GPU, as the reference; in fp32 on a CPU, where
// bf16 is slow.
Tensor orthogonalized(const Tensor& matrix, int64_t steps, double eps) {
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
  Tensor x = matrix.is_cpu() ? matrix : matrix.to(at::kBFloat16);
  const bool tall = matrix.size(0) > matrix.size(1);
  if (tall) {
    x = x.t();
  }
  x = x.div(norm_of({x}).to(x.scalar_type()).clamp_min(eps));
  for (int64_t i = 0; i < steps; i++) {
    const Tensor gram = at::matmul(x, x.t());
    const Tensor polynomial = at::addmm(gram, gram, gram, b, c);
    x = at::addmm(x, polynomial, x, a);
  }
  return tall ? x.t() : x;
}

}  // namespace
}  // namespace luthier

extern "C" {

char* luthier_orthogonalize(const at::Tensor* matrix, int64_t steps, double eps,
                            at::Tensor** out) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    TORCH_CHECK(matrix->defined() && matrix->dim() == 2, "orthogonalize: a matrix is needed");
    *out = new at::Tensor(luthier::orthogonalized(*matrix, steps, eps).contiguous());
  });
}

char* luthier_muon(at::Tensor* const* params, at::Tensor* const* grads,
                   at::Tensor* const* momentums, const LuthierMuon* options, size_t n) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    const auto p = luthier::list(params, n);
    const auto g = luthier::dense_gradients(p, grads, n);
    const auto buffers = luthier::list(momentums, n);
    luthier::check_like(p, buffers, "momentum_buffer");
    for (size_t i = 0; i < n; i++) {
      const LuthierMuon& o = options[i];
      TORCH_CHECK(p[i].dim() == 2, "muon: parameter ", i, " is ", p[i].sizes(),
                  ", it must be a matrix");
      const auto grad = o.scale == 1.0f ? g[i] : g[i] * o.scale;
      buffers[i].lerp_(grad, 1.0 - o.momentum);
      const auto update = o.nesterov ? grad.lerp(buffers[i], o.momentum) : buffers[i];
      const auto step = luthier::orthogonalized(update, o.ns_steps, o.eps);
      p[i].mul_(1.0 - o.lr * o.weight_decay).add_(step, -o.adjusted_lr);
    }
  });
}
}
