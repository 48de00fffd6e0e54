// Lion: X. Chen et al., "Symbolic discovery of optimization algorithms", 2023, arXiv:2302.06675,
// algorithm 2.

#include "optim.h"

extern "C" {

struct LuthierLion {
  double lr, beta1, beta2, weight_decay;
  float scale;
  bool by_ops;
};
}

namespace luthier {
namespace {

LUTHIER_CLONES void lion_block(float* __restrict param, const float* __restrict grad,
                               float* __restrict exp_avg, int64_t n, const LuthierLion& o) {
  const float keep = static_cast<float>(1.0 - o.lr * o.weight_decay);
  const float lr = static_cast<float>(o.lr);
  const float beta1 = static_cast<float>(o.beta1), rest1 = static_cast<float>(1.0 - o.beta1);
  const float beta2 = static_cast<float>(o.beta2), rest2 = static_cast<float>(1.0 - o.beta2);
  const float scale = o.scale;
  for (int64_t i = 0; i < n; i++) {
    const float g = grad[i] * scale;
    const float m = exp_avg[i];
    const float c = m * beta1 + rest1 * g;
    const float step = c > 0 ? lr : (c < 0 ? -lr : 0.0f);
    param[i] = param[i] * keep - step;
    exp_avg[i] = m * beta2 + rest2 * g;
  }
}

void lion_by_ops(const Tensors& p, const Tensors& g, const Tensors& m, const LuthierLion& o) {
  scale_gradients(g, o.scale);
  for (size_t i = 0; i < p.size(); i++) {
    const Tensor c = m[i].mul(o.beta1).add_(g[i], 1.0 - o.beta1);
    p[i].mul_(1.0 - o.lr * o.weight_decay).add_(c.sign_(), -o.lr);
    m[i].mul_(o.beta2).add_(g[i], 1.0 - o.beta2);
  }
}

}  // namespace
}  // namespace luthier

extern "C" {

char* luthier_lion(at::Tensor* const* params, at::Tensor* const* grads,
                   at::Tensor* const* exp_avgs, size_t n, const LuthierLion* o) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    const auto p = luthier::list(params, n);
    const auto m = luthier::list(exp_avgs, n);
    const bool ours = !o->by_ops && luthier::all_cpu(p, at::kFloat);
    const auto g = ours ? luthier::row_gradients(p, grads, n)
                        : luthier::dense_gradients(p, grads, n);
    luthier::check_like(p, m, "exp_avg");
    if (!ours) {
      luthier::lion_by_ops(p, g, m, *o);
      return;
    }
    const std::vector<luthier::Gradient> read(g.begin(), g.end());
    luthier::for_chunks(p, [&](size_t i, int64_t at, int64_t n) {
      float buffer[luthier::kBlock];
      luthier::for_blocks(at, n, luthier::kBlock, [&](int64_t at, int64_t n) {
        luthier::lion_block(luthier::floats(p[i]) + at, read[i].read(at, n, buffer),
                            luthier::floats(m[i]) + at, n, *o);
      });
    });
  });
}
}
