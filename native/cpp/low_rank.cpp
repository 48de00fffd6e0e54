// What low-rank adapters add to the outputs of frozen layers beside each other, `s · (x Aᵀ) Bᵀ` each
// (E. Hu et al., "LoRA", 2021): into the outputs themselves, and all adapters by one product with `x`.

#include "common.h"
#include "maker.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// `params` are k matrices A `[rank, in]` and k matrices B `[out, rank]`, to which gradients go; `numbers` are
// the same in the kind that is multiplied in.
struct LowRank : Function<LowRank> {
  static Tensor forward(AutogradContext* ctx, const Tensor& base, const Tensor& x,
                        at::TensorList numbers, at::TensorList params, std::vector<int64_t> starts,
                        double scale) {
    const auto k = starts.size();
    const Tensor a = k == 1 ? numbers[0] : at::cat(numbers.slice(0, k));
    const Tensor inner = x.mm(a.t()).mul_(scale);
    tensor_list saved{kept_input(*ctx, x), inner, x.requires_grad() ? a : Tensor()};
    int64_t at = 0;
    for (size_t i = 0; i < k; i++) {
      const Tensor& b = numbers[k + i];
      base.narrow(1, starts[i], b.size(0)).addmm_(inner.narrow(1, at, b.size(1)), b.t());
      at += b.size(1);
      saved.push_back(b);
    }
    ctx->mark_dirty({base});
    ctx->save_for_backward(saved);
    ctx->saved_data["starts"] = starts;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["kind"] = static_cast<int64_t>(params[0].scalar_type());
    return base;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto starts = ctx->saved_data["starts"].toIntVector();
    const auto kind = static_cast<at::ScalarType>(ctx->saved_data["kind"].toInt());
    const Tensor x = input_again(*ctx, saved[0]), &inner = saved[1], &a = saved[2];
    const Tensor g = grads[0].contiguous();
    const auto k = starts.size();
    // base, x, numbers, params, and two that are no tensors.
    tensor_list out(2 + 4 * k + 2);
    out[0] = g;
    const auto to_a = out.begin() + 2 + 2 * static_cast<int64_t>(k), to_b = to_a + static_cast<int64_t>(k);
    Tensor dinner = at::empty_like(inner);
    int64_t at = 0;
    for (size_t i = 0; i < k; i++) {
      const Tensor& b = saved[3 + i];
      const Tensor own = g.narrow(1, starts[i], b.size(0));
      Tensor part = dinner.narrow(1, at, b.size(1));
      at::mm_out(part, own, b);
      to_b[static_cast<int64_t>(i)] = own.t().mm(inner.narrow(1, at, b.size(1))).to(kind);
      at += b.size(1);
    }
    dinner.mul_(ctx->saved_data["scale"].toDouble());
    if (a.defined()) {
      out[1] = dinner.mm(a);
    }
    const Tensor da = dinner.t().mm(x).to(kind);
    at = 0;
    for (size_t i = 0; i < k; i++) {
      const int64_t rank = saved[3 + i].size(1);
      to_a[static_cast<int64_t>(i)] = da.narrow(0, at, rank);
      at += rank;
    }
    return out;
  }
};

}  // namespace
}  // namespace luthier

extern "C" {

// `numbers` and `params` are `2 k` tensors each; adapter i adds to the columns of `base` from `starts[i]`. `base` is
// changed and becomes the answer.
char* luthier_low_rank(const at::Tensor* base, const at::Tensor* x, at::Tensor* const* numbers,
                       at::Tensor* const* params, const int64_t* starts, size_t k, double scale,
                       at::Tensor** out) {
  return luthier::guarded([&] {
    const auto with = luthier::list(numbers, 2 * k), trained = luthier::list(params, 2 * k);
    TORCH_CHECK(k > 0 && base->dim() == 2 && x->dim() == 2 && base->size(0) == x->size(0),
                "low_rank: ", k, " adapters, base is ", base->sizes(), ", x is ", x->sizes());
    for (size_t i = 0; i < k; i++) {
      const at::Tensor &a = with[i], &b = with[k + i];
      TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == x->size(1) && a.size(0) == b.size(1) &&
                      starts[i] >= 0 && starts[i] + b.size(0) <= base->size(1) &&
                      trained[i].sizes() == a.sizes() && trained[k + i].sizes() == b.sizes(),
                  "low_rank: adapter ", i, " is ", a.sizes(), " and ", b.sizes(), " at ", starts[i],
                  " of base ", base->sizes(), ", x is ", x->sizes());
    }
    *out = new at::Tensor(luthier::LowRank::apply(*base, *x, at::TensorList(with), at::TensorList(trained),
                                                  std::vector<int64_t>(starts, starts + k), scale));
  });
}
}
