// `x · Wᵀ + b` where the numbers that are multiplied and the parameters that are trained may be
// different tensors: several parameters beside each other, or a copy in another precision.

#include "common.h"
#include "maker.h"
#include "skinny.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

struct Linear : Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias, at::TensorList params,
                        int64_t weights) {
    bool trained = false;
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < weights; i++) {
      trained |= params[i].requires_grad();
      rows.push_back(params[i].size(0));
    }
    // Frozen weights need no input kept, and a frozen input below needs no weight.
    ctx->save_for_backward(
        {trained ? kept_input(*ctx, x) : Tensor(), x.requires_grad() ? weight : Tensor()});
    ctx->saved_data["trained"] = trained;
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["params"] = static_cast<int64_t>(params.size());
    ctx->saved_data["kind"] = static_cast<int64_t>(params[0].scalar_type());
    return bias ? at::addmm(*bias, x, weight.t()) : x.mm(weight.t());
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor g = grads[0].contiguous();
    const auto rows = ctx->saved_data["rows"].toIntVector();
    const int64_t params = ctx->saved_data["params"].toInt();
    const auto kind = static_cast<at::ScalarType>(ctx->saved_data["kind"].toInt());
    const auto weights = static_cast<int64_t>(rows.size());
    tensor_list out(3 + params + 1);
    if (saved[1].defined()) {
      out[0] = g.mm(saved[1]);
    }
    const auto share = [&](const Tensor& all, int64_t first) {
      int64_t at = 0;
      for (int64_t i = 0; i < weights; i++) {
        out[3 + first + i] = all.narrow(0, at, rows[i]);
        at += rows[i];
      }
    };
    if (ctx->saved_data["trained"].toBool()) {
      share(g.t().mm(input_again(*ctx, saved[0])).to(kind), 0);
    }
    if (params > weights && ctx->needs_input_grad(3 + weights)) {
      share(g.sum(0, /*keepdim=*/false, kind), weights);
    }
    return out;
  }
};

}  // namespace
}  // namespace luthier

extern "C" {

// `params`: `weights` weights whose rows together are those of `weight`, then as many biases, or none.
char* luthier_linear(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                     at::Tensor* const* params, size_t n, size_t weights, at::Tensor** out) {
  return luthier::guarded([&] {
    const auto trained = luthier::list(params, n);
    const at::Tensor b = luthier::or_none(bias);
    TORCH_CHECK(x->dim() == 2 && weight->dim() == 2 && x->size(1) == weight->size(1),
                "linear: x is ", x->sizes(), ", the weight is ", weight->sizes());
    TORCH_CHECK(weights >= 1 && (n == weights || n == 2 * weights),
                "linear: ", weights, " weights among ", n, " parameters");
    int64_t rows = 0;
    for (size_t i = 0; i < weights; i++) {
      rows += trained[i].size(0);
    }
    TORCH_CHECK(rows == weight->size(0), "linear: parameters have ", rows, " rows, the weight ",
                weight->size(0));
    *out = new at::Tensor(luthier::Linear::apply(*x, *weight, luthier::given(b),
                                                 at::TensorList(trained),
                                                 static_cast<int64_t>(weights)));
  });
}

// The same for who only writes: without a gradient, and on the CPU by a kernel of its own.
char* luthier_linear_of_few(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                            at::Tensor** out) {
  return luthier::guarded([&] {
    const at::Tensor b = luthier::or_none(bias);
    TORCH_CHECK(x->dim() == 2 && weight->dim() == 2 && x->size(1) == weight->size(1),
                "linear: x is ", x->sizes(), ", the weight is ", weight->sizes());
    const c10::NoGradGuard guard;
    if (luthier::is_skinny(*x, *weight)) {
      *out = new at::Tensor(luthier::skinny(*x, *weight, b));
      return;
    }
    const at::Tensor w = weight->to(x->scalar_type()).t();
    *out = new at::Tensor(b.defined() ? at::addmm(b.to(x->scalar_type()), *x, w) : x->mm(w));
  });
}
}
