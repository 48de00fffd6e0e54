// Layer norm of `residual + dropout(x)` in one pass, which is how a transformer's blocks end.

#include "attention_ops.h"
#include "places.h"
#include "vec.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <optional>
#include <vector>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// Rows whose gradients of weight and bias are summed together. Fixed, so that the sums do not
// depend on the number of threads.
constexpr int64_t kChunk = 64;

struct Drop {
  const Row* row;  // null without dropout
  uint32_t threshold;
  float scale;
};

struct Stats {
  float mean, rstd;
};

// y = residual + dropout(x); out = (y - mean) · rstd · weight + bias. `y`, `work`: `[dp]`, 0 past d.
template <typename T>
LUTHIER_INLINE Stats forward_row(const T* x, const T* residual, const float* weight,
                                 const float* bias, T* sum, T* out, int64_t d, float eps,
                                 const Drop& drop, float* y, float* work) {
  const int64_t dp = vec::rounded(d);
  vec::widen(y, x, d);
  if (drop.row != nullptr) {
    philox::factors(work, d, drop.threshold, drop.scale, drop.row->c1, drop.row->c2, drop.row->c3,
                    drop.row->k0, drop.row->k1);
    for (int64_t j = 0; j < d; j++) {
      y[j] *= work[j];
    }
  }
  if (residual != nullptr) {
    for (int64_t j = 0; j < d; j++) {
      y[j] += vec::to_float(residual[j]);
    }
  }
  const float inverse = 1.0f / static_cast<float>(d);
  const float mean = vec::row_sum(y, dp) * inverse;
  for (int64_t j = 0; j < d; j++) {
    const float centred = y[j] - mean;
    work[j] = centred * centred;
  }
  const float rstd = 1.0f / std::sqrt(vec::row_sum(work, dp) * inverse + eps);
  if (sum != nullptr) {
    vec::narrow(sum, y, d);
  }
  for (int64_t j = 0; j < d; j++) {
    work[j] = (y[j] - mean) * rstd * weight[j] + bias[j];
  }
  vec::narrow(out, work, d);
  std::fill(work + d, work + dp, 0.0f);
  return {mean, rstd};
}

// Gradients of `residual` (and of x without dropout) in `dy`, of x in `dx` where it is not null.
template <typename T>
LUTHIER_INLINE void backward_row(const T* dout, const T* y, const Stats& stats,
                                 const float* weight, T* dy, T* dx, float* dweight, float* dbias,
                                 int64_t d, const Drop& drop, float* normed, float* grads,
                                 float* work) {
  const int64_t dp = vec::rounded(d);
  vec::widen(normed, y, d);
  vec::widen(grads, dout, d);
  for (int64_t j = 0; j < d; j++) {
    normed[j] = (normed[j] - stats.mean) * stats.rstd;
    dweight[j] += grads[j] * normed[j];
    dbias[j] += grads[j];
    grads[j] *= weight[j];
    work[j] = grads[j] * normed[j];
  }
  const float inverse = 1.0f / static_cast<float>(d);
  const float mean = vec::row_sum(grads, dp) * inverse, along = vec::row_sum(work, dp) * inverse;
  for (int64_t j = 0; j < d; j++) {
    grads[j] = (grads[j] - mean - normed[j] * along) * stats.rstd;
  }
  vec::narrow(dy, grads, d);
  if (dx != nullptr) {
    philox::factors(work, d, drop.threshold, drop.scale, drop.row->c1, drop.row->c2, drop.row->c3,
                    drop.row->k0, drop.row->k1);
    for (int64_t j = 0; j < d; j++) {
      grads[j] *= work[j];
    }
    vec::narrow(dx, grads, d);
  }
  std::fill(grads + d, grads + dp, 0.0f);
  std::fill(work + d, work + dp, 0.0f);
}

#define LUTHIER_NORM(T)                                                                          \
  LUTHIER_CLONES Stats forward_one(const T* x, const T* residual, const float* weight,           \
                                   const float* bias, T* sum, T* out, int64_t d, float eps,      \
                                   const Drop& drop, float* y, float* work) {                    \
    return forward_row<T>(x, residual, weight, bias, sum, out, d, eps, drop, y, work);           \
  }                                                                                              \
  LUTHIER_CLONES void backward_one(const T* dout, const T* y, const Stats& stats,                \
                                   const float* weight, T* dy, T* dx, float* dweight,            \
                                   float* dbias, int64_t d, const Drop& drop, float* normed,     \
                                   float* grads, float* work) {                                  \
    backward_row<T>(dout, y, stats, weight, dy, dx, dweight, dbias, d, drop, normed, grads,      \
                    work);                                                                       \
  }
LUTHIER_NORM(float)
LUTHIER_NORM(at::BFloat16)
#undef LUTHIER_NORM

template <typename T>
void forward_cpu(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                 double eps, const Places* places, const philox::Rate& rate, Tensor& sum,
                 Tensor& out, Tensor& stats) {
  const int64_t d = x.size(-1), dp = vec::rounded(d), rows = x.numel() / d;
  const auto* xs = x.const_data_ptr<T>();
  const auto* rs = residual.defined() ? residual.const_data_ptr<T>() : nullptr;
  const auto *ws = weight.const_data_ptr<float>(), *bs = bias.const_data_ptr<float>();
  auto* sums = sum.defined() ? sum.mutable_data_ptr<T>() : nullptr;
  auto* outs = out.mutable_data_ptr<T>();
  auto* all = stats.mutable_data_ptr<float>();
  at::parallel_for(0, rows, kChunk, [&](int64_t begin, int64_t end) {
    std::vector<float> mem(2 * dp, 0.0f);
    for (int64_t r = begin; r < end; r++) {
      const int64_t at = r * d;
      const Row row = places != nullptr ? places->at(r) : Row{};
      const Drop drop{places != nullptr ? &row : nullptr, rate.threshold,
                      static_cast<float>(rate.scale)};
      const Stats own = forward_one(xs + at, rs != nullptr ? rs + at : nullptr, ws, bs,
                                    sums != nullptr ? sums + at : nullptr, outs + at, d,
                                    static_cast<float>(eps), drop, mem.data(), mem.data() + dp);
      all[2 * r] = own.mean;
      all[2 * r + 1] = own.rstd;
    }
  });
}

template <typename T>
void backward_cpu(const Tensor& dout, const Tensor& y, const Tensor& stats, const Tensor& weight,
                  const Places* places, const philox::Rate& rate, Tensor& dy, Tensor& dx,
                  Tensor& dweight, Tensor& dbias) {
  const int64_t d = y.size(-1), dp = vec::rounded(d), rows = y.numel() / d;
  const int64_t chunks = (rows + kChunk - 1) / kChunk;
  const auto *douts = dout.const_data_ptr<T>(), *ys = y.const_data_ptr<T>();
  const auto *all = stats.const_data_ptr<float>(), *ws = weight.const_data_ptr<float>();
  auto* dys = dy.mutable_data_ptr<T>();
  auto* dxs = dx.defined() ? dx.mutable_data_ptr<T>() : nullptr;
  std::vector<float> partial(2 * chunks * d, 0.0f);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> mem(3 * dp, 0.0f);
    for (int64_t c = begin; c < end; c++) {
      float* own = partial.data() + 2 * c * d;
      for (int64_t r = c * kChunk; r < std::min(rows, (c + 1) * kChunk); r++) {
        const int64_t at = r * d;
        const Row row = places != nullptr ? places->at(r) : Row{};
        const Drop drop{&row, rate.threshold, static_cast<float>(rate.scale)};
        backward_one(douts + at, ys + at, Stats{all[2 * r], all[2 * r + 1]}, ws, dys + at,
                     dxs != nullptr ? dxs + at : nullptr, own, own + d, d, drop, mem.data(),
                     mem.data() + dp, mem.data() + 2 * dp);
      }
    }
  });
  auto *dws = dweight.mutable_data_ptr<float>(), *dbs = dbias.mutable_data_ptr<float>();
  for (int64_t c = 0; c < chunks; c++) {
    const float* own = partial.data() + 2 * c * d;
    for (int64_t j = 0; j < d; j++) {
      dws[j] += own[j];
      dbs[j] += own[d + j];
    }
  }
}

struct NormResidual : Function<NormResidual> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in,
                        const std::optional<Tensor>& added, const Tensor& weight,
                        const Tensor& bias, double eps, const std::optional<Tensor>& draws,
                        const std::optional<Tensor>& packed, double p) {
    const Tensor x = x_in.contiguous();
    const Tensor residual = added ? added->contiguous() : Tensor();
    const Tensor keys = or_none(draws), offsets = or_none(packed);
    const bool plain = !residual.defined() && p == 0.0;
    const bool kept = x_in.requires_grad() || weight.requires_grad() || bias.requires_grad() ||
                      (added && added->requires_grad());
    Tensor sum = plain ? x : kept ? at::empty_like(x) : Tensor();
    Tensor to = plain ? Tensor() : sum;
    Tensor out = at::empty_like(x);
    Tensor stats = at::empty({x.numel() / x.size(-1), 2}, x.options().dtype(at::kFloat));
    const philox::Rate rate(p);
    const Tensor ids = p > 0 ? keys.contiguous() : keys;
    std::optional<Places> places;
    if (p > 0) {
      places.emplace(x, ids, offsets);
    }
    const Places* at = places ? &*places : nullptr;
    if (x.scalar_type() == at::kFloat) {
      forward_cpu<float>(x, residual, weight, bias, eps, at, rate, to, out, stats);
    } else {
      forward_cpu<at::BFloat16>(x, residual, weight, bias, eps, at, rate, to, out, stats);
    }
    ctx->save_for_backward({sum, stats, weight, ids, offsets});
    ctx->saved_data["p"] = p;
    ctx->saved_data["residual"] = residual.defined();
    return out;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &y = saved[0], &weight = saved[2];
    const double p = ctx->saved_data["p"].toDouble();
    const Tensor dout = grads[0].contiguous();
    Tensor dy = at::empty_like(y), dx = p > 0 ? at::empty_like(y) : Tensor();
    Tensor dweight = at::zeros_like(weight), dbias = at::zeros_like(weight);
    const philox::Rate rate(p);
    std::optional<Places> places;
    if (p > 0) {
      places.emplace(y, saved[3], saved[4]);
    }
    const Places* at = places ? &*places : nullptr;
    if (y.scalar_type() == at::kFloat) {
      backward_cpu<float>(dout, y, saved[1], weight, at, rate, dy, dx, dweight, dbias);
    } else {
      backward_cpu<at::BFloat16>(dout, y, saved[1], weight, at, rate, dy, dx, dweight, dbias);
    }
    const bool residual = ctx->saved_data["residual"].toBool();
    return {dx.defined() ? dx : dy, residual ? dy : Tensor(), dweight, dbias,
            Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace luthier

extern "C" {

// `residual`, `keys` and `offsets` may be null.
char* luthier_norm_residual(const at::Tensor* x, const at::Tensor* residual,
                            const at::Tensor* weight, const at::Tensor* bias, double eps,
                            const at::Tensor* keys, const at::Tensor* offsets, double p,
                            at::Tensor** out) {
  return luthier::guarded([&] {
    const at::Tensor add = luthier::or_none(residual), draws = luthier::or_none(keys),
                     packed = luthier::or_none(offsets);
    const int64_t d = x->dim() > 0 ? x->size(-1) : 0;
    TORCH_CHECK(x->dim() >= 2 && d > 0, "norm: x has shape ", x->sizes());
    TORCH_CHECK(!add.defined() || (add.sizes() == x->sizes() &&
                                   add.scalar_type() == x->scalar_type() &&
                                   add.device() == x->device()),
                "norm: residual is ", add.scalar_type(), " ", add.sizes(), ", x is ",
                x->scalar_type(), " ", x->sizes());
    for (const auto* w : {weight, bias}) {
      TORCH_CHECK(w->dim() == 1 && w->size(0) == d, "norm: weight or bias is ", w->sizes(),
                  " for x ", x->sizes());
    }
    TORCH_CHECK(p >= 0.0 && p <= 1.0, "norm: dropout is ", p, ", it must lie in 0 to 1");
    TORCH_CHECK(p == 0.0 || draws.defined(), "norm: dropout of ", p, " without keys");
    const bool ours = x->is_cpu() && weight->scalar_type() == at::kFloat &&
                      bias->scalar_type() == at::kFloat && weight->is_contiguous() &&
                      bias->is_contiguous() &&
                      (x->scalar_type() == at::kFloat || x->scalar_type() == at::kBFloat16);
    if (ours) {
      if (p > 0.0) {
        TORCH_CHECK(draws.scalar_type() == at::kLong && draws.dim() == 1, "norm: keys are ",
                    draws.scalar_type(), " ", draws.sizes());
        if (packed.defined()) {
          TORCH_CHECK(x->dim() == 2, "norm: packed x has shape ", x->sizes());
          luthier::check_offsets(packed, x->size(0), draws.size(0));
        } else {
          TORCH_CHECK(draws.size(0) == x->size(0), "norm: ", draws.size(0), " keys for x ",
                      x->sizes());
        }
      }
      *out = new at::Tensor(
          luthier::NormResidual::apply(*x, luthier::given(add), *weight, *bias, eps,
                                       luthier::given(draws), luthier::given(packed), p));
      return;
    }
    at::Tensor sum = p > 0.0 ? luthier::dropout(*x, draws, packed, p) : *x;
    sum = add.defined() ? sum.add(add) : sum;
    *out = new at::Tensor(at::layer_norm(sum, {d}, weight->to(sum.scalar_type()),
                                         bias->to(sum.scalar_type()), eps));
  });
}
}
