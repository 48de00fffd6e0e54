// `act(gate) · up`, gate and up side by side: the middle of a gated feed-forward block
// (N. Shazeer, "GLU variants improve Transformer", 2020). Only its input is kept for backward.

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

enum class Act : int64_t { kSilu = 0, kGeluTanh = 1, kGelu = 2 };

// 1 / (1 + e^-x) of a row whose length is a multiple of vectors.
LUTHIER_INLINE void sigmoid(float* out, const float* x, int64_t np) {
  for (int64_t j = 0; j < np; j++) {
    out[j] = x[j] < -87.0f ? 87.0f : -x[j];
  }
  for (int64_t j = 0; j < np; j += vec::kWidth) {
    vec::Floats<false> v;
    vec::load(v, out + j);
    vec::exp(v, 0.0f);
    vec::store(out + j, v);
  }
  for (int64_t j = 0; j < np; j++) {
    out[j] = 1.0f / (1.0f + out[j]);
  }
}

// act(x) and, where `slope` is not null, act'(x). GELU by tanh is x · sigmoid(2 u).
LUTHIER_INLINE void activate(float* value, float* slope, const float* x, int64_t np, Act act,
                             float* work) {
  constexpr float kA = 0.7978845608028654f, kB = 0.044715f;
  if (act == Act::kGelu) {
    for (int64_t j = 0; j < np; j++) {
      const float below = 0.5f * (1.0f + std::erf(x[j] * 0.7071067811865476f));
      value[j] = x[j] * below;
      if (slope != nullptr) {
        slope[j] = below + x[j] * 0.3989422804014327f * std::exp(-0.5f * x[j] * x[j]);
      }
    }
    return;
  }
  const bool tanh = act == Act::kGeluTanh;
  for (int64_t j = 0; j < np; j++) {
    work[j] = tanh ? 2.0f * kA * (x[j] + kB * x[j] * x[j] * x[j]) : x[j];
  }
  sigmoid(value, work, np);
  for (int64_t j = 0; j < np; j++) {
    const float s = value[j];
    if (slope != nullptr) {
      const float inner = tanh ? 2.0f * kA * (1.0f + 3.0f * kB * x[j] * x[j]) : 1.0f;
      slope[j] = s + x[j] * s * (1.0f - s) * inner;
    }
    value[j] = x[j] * s;
  }
}

template <typename T>
LUTHIER_INLINE void forward_row(const T* x, T* out, int64_t m, Act act, float* mem) {
  const int64_t mp = vec::rounded(m);
  float *gate = mem, *value = mem + mp, *work = mem + 2 * mp;
  vec::widen(gate, x, m);
  activate(value, nullptr, gate, mp, act, work);
  for (int64_t j = 0; j < m; j++) {
    vec::from_float(out[j], value[j] * vec::to_float(x[m + j]));
  }
}

template <typename T>
LUTHIER_INLINE void backward_row(const T* x, const T* dout, T* dx, int64_t m, Act act,
                                 float* mem) {
  const int64_t mp = vec::rounded(m);
  float *gate = mem, *value = mem + mp, *work = mem + 2 * mp, *slope = mem + 3 * mp;
  vec::widen(gate, x, m);
  activate(value, slope, gate, mp, act, work);
  for (int64_t j = 0; j < m; j++) {
    const float g = vec::to_float(dout[j]);
    vec::from_float(dx[j], g * slope[j] * vec::to_float(x[m + j]));
    vec::from_float(dx[m + j], g * value[j]);
  }
}

#define LUTHIER_GATED(T)                                                                      \
  LUTHIER_CLONES void forward_one(const T* x, T* out, int64_t m, Act act, float* mem) {       \
    forward_row<T>(x, out, m, act, mem);                                                      \
  }                                                                                           \
  LUTHIER_CLONES void backward_one(const T* x, const T* dout, T* dx, int64_t m, Act act,      \
                                   float* mem) {                                              \
    backward_row<T>(x, dout, dx, m, act, mem);                                                \
  }
LUTHIER_GATED(float)
LUTHIER_GATED(at::BFloat16)
#undef LUTHIER_GATED

template <typename T>
void forward_cpu(const Tensor& x, const Tensor& out, Act act) {
  const int64_t m = out.size(1);
  const auto* xs = x.const_data_ptr<T>();
  auto* outs = out.mutable_data_ptr<T>();
  at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
    std::vector<float> mem(3 * vec::rounded(m), 0.0f);
    for (int64_t r = begin; r < end; r++) {
      forward_one(xs + r * 2 * m, outs + r * m, m, act, mem.data());
    }
  });
}

template <typename T>
void backward_cpu(const Tensor& x, const Tensor& dout, const Tensor& dx, Act act) {
  const int64_t m = dout.size(1);
  const auto *xs = x.const_data_ptr<T>(), *douts = dout.const_data_ptr<T>();
  auto* dxs = dx.mutable_data_ptr<T>();
  at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
    std::vector<float> mem(4 * vec::rounded(m), 0.0f);
    for (int64_t r = begin; r < end; r++) {
      backward_one(xs + r * 2 * m, douts + r * m, dxs + r * 2 * m, m, act, mem.data());
    }
  });
}

Tensor middle(const Tensor& x, Act act) {
  Tensor out = at::empty({x.size(0), x.size(1) / 2}, x.options());
  if (x.scalar_type() == at::kFloat) {
    forward_cpu<float>(x, out, act);
  } else {
    forward_cpu<at::BFloat16>(x, out, act);
  }
  return out;
}

struct Gated : Function<Gated> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, int64_t act) {
    const Tensor x = x_in.contiguous();
    ctx->save_for_backward({x});
    ctx->saved_data["act"] = act;
    return middle(x, static_cast<Act>(act));
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const Tensor x = ctx->get_saved_variables()[0], dout = grads[0].contiguous(),
                 dx = at::empty_like(x);
    const auto act = static_cast<Act>(ctx->saved_data["act"].toInt());
    if (x.scalar_type() == at::kFloat) {
      backward_cpu<float>(x, dout, dx, act);
    } else {
      backward_cpu<at::BFloat16>(x, dout, dx, act);
    }
    return {dx, Tensor()};
  }
};

using GatedNode = torch::autograd::CppNode<Gated>;

}  // namespace

bool is_gated(const torch::autograd::Node& node) {
  return dynamic_cast<const GatedNode*>(&node) != nullptr;
}

Tensor gated_again(torch::autograd::Node& node) {
  auto& ctx = static_cast<GatedNode&>(node).ctx_;
  return middle(ctx.get_saved_variables()[0], static_cast<Act>(ctx.saved_data["act"].toInt()));
}

}  // namespace luthier

extern "C" {

// `by_ops`: not by the kernel.
char* luthier_gated(const at::Tensor* x, int64_t act, bool by_ops, at::Tensor** out) {
  return luthier::guarded([&] {
    TORCH_CHECK(x->dim() == 2 && x->size(1) > 0 && x->size(1) % 2 == 0, "gated: x has shape ",
                x->sizes());
    TORCH_CHECK(act >= 0 && act <= 2, "gated: activation ", act);
    const bool ours = !by_ops && x->is_cpu() && (x->scalar_type() == at::kFloat ||
                                                 x->scalar_type() == at::kBFloat16);
    if (ours) {
      *out = new at::Tensor(luthier::Gated::apply(*x, act));
      return;
    }
    const auto parts = x->chunk(2, 1);
    const at::Tensor gate = act == 0 ? at::silu(parts[0])
                                     : at::gelu(parts[0], act == 1 ? "tanh" : "none");
    *out = new at::Tensor(gate.mul(parts[1]));
  });
}
}
