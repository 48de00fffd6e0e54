// Root-mean-square norm of a sum, which is how a decoder's blocks begin, and the sum itself.

#include "maker.h"
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

// Rows whose gradients of the weight are summed together. Fixed, so that the sums do not depend on
// the number of threads.
constexpr int64_t kChunk = 64;

// y = residual + x; out = y · rstd · (add + weight). `y`, `work`: `[dp]`, 0 past d. Returns rstd.
template <typename T>
LUTHIER_INLINE float forward_row(const T* x, const T* residual, const float* weight, float add,
                                 T* sum, T* out, int64_t d, float eps, float* y, float* work) {
  vec::widen(y, x, d);
  if (residual != nullptr) {
    for (int64_t j = 0; j < d; j++) {
      y[j] += vec::to_float(residual[j]);
    }
    vec::narrow(sum, y, d);
    // The norm is that of the sum as it is handed on.
    vec::widen(y, sum, d);
  }
  for (int64_t j = 0; j < d; j++) {
    work[j] = y[j] * y[j];
  }
  const float rstd =
      1.0f / std::sqrt(vec::row_sum(work, vec::rounded(d)) / static_cast<float>(d) + eps);
  for (int64_t j = 0; j < d; j++) {
    work[j] = y[j] * rstd * (add + weight[j]);
  }
  vec::narrow(out, work, d);
  std::fill(work + d, work + vec::rounded(d), 0.0f);
  return rstd;
}

// The gradient of the sum: what comes by the norm, and `dsum` where it is not null.
template <typename T>
LUTHIER_INLINE void backward_row(const T* dout, const T* dsum, const T* y, float rstd,
                                 const float* weight, float add, T* dy, float* dweight, int64_t d,
                                 float* normed, float* grads, float* work) {
  vec::widen(normed, y, d);
  vec::widen(grads, dout, d);
  for (int64_t j = 0; j < d; j++) {
    normed[j] *= rstd;
    dweight[j] += grads[j] * normed[j];
    grads[j] *= add + weight[j];
    work[j] = grads[j] * normed[j];
  }
  const float along = vec::row_sum(work, vec::rounded(d)) / static_cast<float>(d);
  for (int64_t j = 0; j < d; j++) {
    grads[j] = (grads[j] - normed[j] * along) * rstd;
  }
  if (dsum != nullptr) {
    for (int64_t j = 0; j < d; j++) {
      grads[j] += vec::to_float(dsum[j]);
    }
  }
  vec::narrow(dy, grads, d);
  std::fill(work + d, work + vec::rounded(d), 0.0f);
}

#define LUTHIER_RMS(T)                                                                            \
  LUTHIER_CLONES float forward_one(const T* x, const T* residual, const float* weight, float add, \
                                   T* sum, T* out, int64_t d, float eps, float* y, float* work) { \
    return forward_row<T>(x, residual, weight, add, sum, out, d, eps, y, work);                   \
  }                                                                                               \
  LUTHIER_CLONES void backward_one(const T* dout, const T* dsum, const T* y, float rstd,          \
                                   const float* weight, float add, T* dy, float* dweight,         \
                                   int64_t d, float* normed, float* grads, float* work) {         \
    backward_row<T>(dout, dsum, y, rstd, weight, add, dy, dweight, d, normed, grads, work);       \
  }
LUTHIER_RMS(float)
LUTHIER_RMS(at::BFloat16)
#undef LUTHIER_RMS

template <typename T>
void forward_cpu(const Tensor& x, const Tensor& residual, const Tensor& weight, float add,
                 double eps, const Tensor& sum, const Tensor& out, const Tensor& stats) {
  const int64_t d = x.size(1), dp = vec::rounded(d);
  const auto* xs = x.const_data_ptr<T>();
  const auto* rs = residual.defined() ? residual.const_data_ptr<T>() : nullptr;
  const auto* ws = weight.const_data_ptr<float>();
  auto* sums = residual.defined() ? sum.mutable_data_ptr<T>() : nullptr;
  auto* outs = out.mutable_data_ptr<T>();
  auto* all = stats.mutable_data_ptr<float>();
  at::parallel_for(0, x.size(0), kChunk, [&](int64_t begin, int64_t end) {
    std::vector<float> mem(2 * dp, 0.0f);
    for (int64_t r = begin; r < end; r++) {
      const int64_t at = r * d;
      all[r] = forward_one(xs + at, rs != nullptr ? rs + at : nullptr, ws, add,
                           sums != nullptr ? sums + at : nullptr, outs + at, d,
                           static_cast<float>(eps), mem.data(), mem.data() + dp);
    }
  });
}

template <typename T>
void backward_cpu(const Tensor& dout, const Tensor& dsum, const Tensor& y, const Tensor& stats,
                  const Tensor& weight, float add, const Tensor& dy, const Tensor& dweight) {
  const int64_t d = y.size(1), dp = vec::rounded(d), rows = y.size(0);
  const int64_t chunks = (rows + kChunk - 1) / kChunk;
  const auto *douts = dout.const_data_ptr<T>(), *ys = y.const_data_ptr<T>();
  const auto* dsums = dsum.defined() ? dsum.const_data_ptr<T>() : nullptr;
  const auto *all = stats.const_data_ptr<float>(), *ws = weight.const_data_ptr<float>();
  auto* dys = dy.mutable_data_ptr<T>();
  std::vector<float> partial(chunks * d, 0.0f);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> mem(3 * dp, 0.0f);
    for (int64_t c = begin; c < end; c++) {
      for (int64_t r = c * kChunk; r < std::min(rows, (c + 1) * kChunk); r++) {
        const int64_t at = r * d;
        backward_one(douts + at, dsums != nullptr ? dsums + at : nullptr, ys + at, all[r], ws, add,
                     dys + at, partial.data() + c * d, d, mem.data(), mem.data() + dp,
                     mem.data() + 2 * dp);
      }
    }
  });
  auto* dws = dweight.mutable_data_ptr<float>();
  for (int64_t c = 0; c < chunks; c++) {
    for (int64_t j = 0; j < d; j++) {
      dws[j] += partial[c * d + j];
    }
  }
}

void norm_of(const Tensor& x, const Tensor& residual, const Tensor& weight, float add, double eps,
             const Tensor& sum, const Tensor& out, const Tensor& stats) {
  if (x.scalar_type() == at::kFloat) {
    forward_cpu<float>(x, residual, weight, add, eps, sum, out, stats);
  } else {
    forward_cpu<at::BFloat16>(x, residual, weight, add, eps, sum, out, stats);
  }
}

// Gives the norm, and the sum where there is a residual.
struct RmsNorm : Function<RmsNorm> {
  static tensor_list forward(AutogradContext* ctx, const Tensor& x_in,
                             const std::optional<Tensor>& added, const Tensor& weight, double eps,
                             double add) {
    const Tensor x = x_in.contiguous(), residual = added ? added->contiguous() : Tensor();
    const Tensor sum = residual.defined() ? at::empty_like(x) : x, out = at::empty_like(x);
    const Tensor stats = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
    const auto plus = static_cast<float>(add);
    norm_of(x, residual, weight, plus, eps, sum, out, stats);
    ctx->save_for_backward({sum, stats, weight});
    ctx->saved_data["add"] = add;
    ctx->saved_data["eps"] = eps;
    return residual.defined() ? tensor_list{out, sum} : tensor_list{out};
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &y = saved[0], &weight = saved[2];
    const bool residual = grads.size() == 2;
    const Tensor dout = grads[0].defined() ? grads[0].contiguous() : at::zeros_like(y);
    const Tensor dsum = residual && grads[1].defined() ? grads[1].contiguous() : Tensor();
    const Tensor dy = at::empty_like(y), dweight = at::zeros_like(weight);
    const auto add = static_cast<float>(ctx->saved_data["add"].toDouble());
    if (y.scalar_type() == at::kFloat) {
      backward_cpu<float>(dout, dsum, y, saved[1], weight, add, dy, dweight);
    } else {
      backward_cpu<at::BFloat16>(dout, dsum, y, saved[1], weight, add, dy, dweight);
    }
    return {dy, residual ? dy : Tensor(), dweight, Tensor(), Tensor()};
  }
};

using RmsNormNode = torch::autograd::CppNode<RmsNorm>;

}  // namespace

bool is_rms_norm(const torch::autograd::Node& node) {
  return dynamic_cast<const RmsNormNode*>(&node) != nullptr;
}

Tensor rms_norm_again(torch::autograd::Node& node) {
  auto& ctx = static_cast<RmsNormNode&>(node).ctx_;
  const auto saved = ctx.get_saved_variables();
  Tensor out = at::empty_like(saved[0]);
  norm_of(saved[0], Tensor(), saved[2], static_cast<float>(ctx.saved_data["add"].toDouble()),
          ctx.saved_data["eps"].toDouble(), Tensor(), out, at::empty_like(saved[1]));
  return out;
}

}  // namespace luthier

extern "C" {

// `residual` may be null; then `sum` is not written. `by_ops`: not by the kernel.
char* luthier_rms_norm(const at::Tensor* x, const at::Tensor* residual, const at::Tensor* weight,
                       double eps, double add, bool by_ops, at::Tensor** out, at::Tensor** sum) {
  return luthier::guarded([&] {
    const at::Tensor added = luthier::or_none(residual);
    TORCH_CHECK(x->dim() == 2 && x->size(1) > 0, "rms_norm: x has shape ", x->sizes());
    TORCH_CHECK(!added.defined() || (added.sizes() == x->sizes() &&
                                     added.scalar_type() == x->scalar_type() &&
                                     added.device() == x->device()),
                "rms_norm: residual is ", added.scalar_type(), " ", added.sizes(), ", x is ",
                x->scalar_type(), " ", x->sizes());
    TORCH_CHECK(weight->dim() == 1 && weight->size(0) == x->size(1), "rms_norm: the weight is ",
                weight->sizes(), " for x ", x->sizes());
    const bool ours = !by_ops && x->is_cpu() && weight->scalar_type() == at::kFloat &&
                      weight->is_contiguous() &&
                      (x->scalar_type() == at::kFloat || x->scalar_type() == at::kBFloat16);
    if (ours) {
      const auto made =
          luthier::RmsNorm::apply(*x, luthier::given(added), *weight, eps, add);
      *out = new at::Tensor(made[0]);
      if (added.defined()) {
        *sum = new at::Tensor(made[1]);
      }
      return;
    }
    const at::Tensor y = added.defined() ? added.add(*x) : *x;
    const at::Tensor wide = y.to(at::kFloat);
    const at::Tensor rstd = wide.square().mean({1}, true).add(eps).rsqrt();
    *out = new at::Tensor(wide.mul(rstd).mul(weight->to(at::kFloat).add(add)).to(y.scalar_type()));
    if (added.defined()) {
      *sum = new at::Tensor(y);
    }
  });
}
}
