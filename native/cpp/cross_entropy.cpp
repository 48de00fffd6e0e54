// Cross-entropy of the logits `x · Wᵀ`, in chunks of rows: of all logits only one chunk stands at once,
// and the gradients are made with them, so that the product is not computed again in backward.

#include "vec.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <vector>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// What one row of logits says of its target.
struct Said {
  float loss;
  bool right;
};

// Reads a row of `v` logits. Where `weight` is not 0 it becomes the gradient of `weight · loss` by the
// logits before they were bounded.
LUTHIER_INLINE Said row_of(float* x, int64_t v, int64_t target, float weight, bool grad, float cap,
                           float* slope) {
  if (cap > 0) {
    for (int64_t j = 0; j < v; j++) {
      const float part = std::tanh(x[j] / cap);
      x[j] = cap * part;
      slope[j] = 1.0f - part * part;
    }
  }
  int64_t j = 0;
  vec::Floats<false> most;
  vec::fill(most, -INFINITY);
  for (; j + vec::kWidth <= v; j += vec::kWidth) {
    vec::Floats<false> part;
    vec::load(part, x + j);
    vec::greater(most, part);
  }
  float top = vec::max(most);
  for (; j < v; j++) {
    top = x[j] > top ? x[j] : top;
  }
  const float own = x[target];
  bool right = own == top;
  for (int64_t i = 0; right && i < target; i++) {
    // Of equal ones the first counts, as argmax has it.
    right = x[i] != top;
  }
  vec::Floats<false> total{};
  float rest = 0.0f;
  for (j = 0; j + vec::kWidth <= v; j += vec::kWidth) {
    vec::Floats<false> part;
    vec::load(part, x + j);
    vec::exp(part, top);
    vec::store(x + j, part);
    vec::add(total, part);
  }
  for (; j < v; j++) {
    x[j] = std::exp(x[j] - top);
    rest += x[j];
  }
  const float sum = vec::sum(total) + rest;
  if (grad) {
    const float factor = weight / sum;
    for (int64_t i = 0; i < v; i++) {
      x[i] *= factor;
    }
    x[target] -= weight;
    if (cap > 0) {
      for (int64_t i = 0; i < v; i++) {
        x[i] *= slope[i];
      }
    }
  }
  return {top + std::log(sum) - own, right};
}

LUTHIER_CLONES Said row_one(float* x, int64_t v, int64_t target, float weight, bool grad, float cap,
                            float* slope) {
  return row_of(x, v, target, weight, grad, cap, slope);
}

// The same of a chunk by tensor operations; returns losses and whether the greatest is right.
std::pair<Tensor, Tensor> chunk_by_ops(Tensor& logits, const Tensor& targets, const Tensor& weights,
                                       bool grad, double cap) {
  Tensor bounded = logits, slope;
  if (cap > 0) {
    const Tensor part = logits.div(cap).tanh();
    bounded = part.mul(cap);
    slope = part.square().neg().add(1.0);
  }
  const Tensor at = targets.unsqueeze(1), lse = bounded.logsumexp({1}, true);
  const Tensor losses = lse.sub(bounded.gather(1, at)).squeeze(1);
  const Tensor right = bounded.argmax(1).eq(targets);
  if (grad) {
    logits = bounded.sub(lse).exp().mul(weights.unsqueeze(1));
    logits.scatter_add_(1, at, weights.unsqueeze(1).neg());
    if (cap > 0) {
      logits.mul_(slope);
    }
  }
  return {losses, right};
}

struct CrossEntropy : Function<CrossEntropy> {
  // `weight` is what is multiplied by, `param` what is trained: itself, or in a higher precision.
  static tensor_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                             const Tensor& param, const Tensor& targets, const Tensor& weights,
                             const std::optional<Tensor>& bias, double cap, int64_t chunk,
                             bool by_ops) {
    const int64_t n = x.size(0), v = weight.size(0);
    const bool trained = param.requires_grad(), grad = trained || x.requires_grad();
    const Tensor losses = at::empty({n}, x.options().dtype(at::kFloat));
    const Tensor right = at::empty({n}, x.options().dtype(at::kFloat));
    const Tensor dx = x.requires_grad() ? at::empty_like(x) : Tensor();
    Tensor dw = trained ? at::zeros(weight.sizes(), x.options().dtype(at::kFloat)) : Tensor();
    for (int64_t at = 0; at < n; at += chunk) {
      const int64_t size = std::min(chunk, n - at);
      const Tensor rows = x.narrow(0, at, size);
      Tensor logits = rows.mm(weight.t()).to(at::kFloat).contiguous();
      if (bias) {
        logits.add_(*bias);
      }
      const Tensor own = targets.narrow(0, at, size), by = weights.narrow(0, at, size);
      if (by_ops) {
        const auto [loss, hit] = chunk_by_ops(logits, own, by, grad, cap);
        losses.narrow(0, at, size).copy_(loss);
        right.narrow(0, at, size).copy_(hit);
      } else {
        auto *all = logits.mutable_data_ptr<float>(), *to = losses.mutable_data_ptr<float>() + at,
             *hits = right.mutable_data_ptr<float>() + at;
        const auto* ids = own.const_data_ptr<int64_t>();
        const auto* factors = by.const_data_ptr<float>();
        at::parallel_for(0, size, 1, [&](int64_t begin, int64_t end) {
          std::vector<float> slope(cap > 0 ? v : 0);
          for (int64_t r = begin; r < end; r++) {
            const Said said = row_one(all + r * v, v, ids[r], factors[r], grad,
                                      static_cast<float>(cap), slope.data());
            to[r] = said.loss;
            hits[r] = said.right ? 1.0f : 0.0f;
          }
        });
      }
      if (!grad) {
        continue;
      }
      const Tensor low = logits.to(x.scalar_type());
      if (dx.defined()) {
        const Tensor part = dx.narrow(0, at, size);
        at::mm_out(const_cast<Tensor&>(part), low, weight);
      }
      if (trained && x.scalar_type() == at::kFloat) {
        dw.addmm_(low.t(), rows);
      } else if (trained) {
        dw.add_(low.t().mm(rows));
      }
    }
    const Tensor total = losses.mul(weights).sum();
    ctx->save_for_backward({dx, trained ? dw.to(param.scalar_type()) : Tensor()});
    ctx->mark_non_differentiable({losses, right});
    return {total, losses, right};
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor by = grads[0];
    // Most often backward begins here, and with 1.
    const auto times = [&](const Tensor& x) {
      return x.defined() ? x.mul(by.to(x.scalar_type())) : Tensor();
    };
    return {times(saved[0]), Tensor(), times(saved[1]), Tensor(), Tensor(),
            Tensor(),        Tensor(), Tensor(),        Tensor()};
  }
};

}  // namespace
}  // namespace luthier

extern "C" {

// `out`: the sum of the losses times `weights`, each loss, and 1 where the target has the greatest logit.
// `bias`, which may be null, is added to the logits of each row; it has no gradient.
char* luthier_cross_entropy(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* param,
                            const at::Tensor* targets, const at::Tensor* weights,
                            const at::Tensor* bias, double cap,
                            int64_t chunk, bool by_ops, at::Tensor** total, at::Tensor** losses,
                            at::Tensor** right) {
  return luthier::guarded([&] {
    TORCH_CHECK(x->dim() == 2 && weight->dim() == 2 && x->size(1) == weight->size(1) &&
                    x->scalar_type() == weight->scalar_type() && param->sizes() == weight->sizes(),
                "cross_entropy: x is ", x->scalar_type(), " ", x->sizes(), ", the weight ",
                weight->scalar_type(), " ", weight->sizes(), ", the parameter ", param->sizes());
    TORCH_CHECK(targets->dim() == 1 && targets->size(0) == x->size(0) &&
                    targets->scalar_type() == at::kLong && weights->sizes() == targets->sizes() &&
                    weights->scalar_type() == at::kFloat && targets->is_contiguous() &&
                    weights->is_contiguous(),
                "cross_entropy: targets are ", targets->scalar_type(), " ", targets->sizes(),
                ", weights ", weights->scalar_type(), " ", weights->sizes(), " for x ", x->sizes());
    TORCH_CHECK(targets->numel() == 0 || (targets->min().item<int64_t>() >= 0 &&
                                          targets->max().item<int64_t>() < weight->size(0)),
                "cross_entropy: a target lies outside of the ", weight->size(0), " tokens");
    TORCH_CHECK(bias == nullptr || (bias->dim() == 1 && bias->size(0) == weight->size(0) &&
                                    bias->scalar_type() == at::kFloat && !bias->requires_grad()),
                "cross_entropy: the bias is ", bias == nullptr ? at::IntArrayRef() : bias->sizes(),
                " for ", weight->size(0), " tokens");
    TORCH_CHECK(chunk >= 1 && cap >= 0.0, "cross_entropy: chunks of ", chunk, ", bound ", cap);
    const bool ops = by_ops || !x->is_cpu();
    const auto made = luthier::CrossEntropy::apply(x->contiguous(), *weight, *param, *targets, *weights,
                                                   luthier::given(luthier::or_none(bias)), cap, chunk, ops);
    *total = new at::Tensor(made[0]);
    *losses = new at::Tensor(made[1]);
    *right = new at::Tensor(made[2]);
  });
}
}
