// Rotary position embedding (J. Su et al., "RoFormer", 2021) of the first heads of each row.

#include "vec.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// The heads of a row: `heads` of `width` numbers, of which the first `2 · half` are turned. Number
// `i` and number `i + half` are a point in a plane.
struct Turned {
  int64_t heads, width, half;
};

template <typename T>
LUTHIER_INLINE void turn_row(T* x, const float* cos, const float* sin, float sign,
                             const Turned& by) {
  for (int64_t h = 0; h < by.heads; h++) {
    T *a = x + h * by.width, *b = a + by.half;
    for (int64_t i = 0; i < by.half; i++) {
      const float u = vec::to_float(a[i]), v = vec::to_float(b[i]), s = sign * sin[i];
      vec::from_float(a[i], u * cos[i] - v * s);
      vec::from_float(b[i], v * cos[i] + u * s);
    }
  }
}

#define LUTHIER_TURN(T)                                                                      \
  LUTHIER_CLONES void turn_one(T* x, const float* cos, const float* sin, float sign,         \
                               const Turned& by) {                                           \
    turn_row<T>(x, cos, sin, sign, by);                                                      \
  }
LUTHIER_TURN(float)
LUTHIER_TURN(at::BFloat16)
#undef LUTHIER_TURN

template <typename T>
void turn_all(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
              float sign, const Turned& by) {
  const int64_t d = x.size(1);
  auto* xs = x.mutable_data_ptr<T>();
  const auto *cs = cos.const_data_ptr<float>(), *ss = sin.const_data_ptr<float>();
  const auto* at = positions.const_data_ptr<int64_t>();
  at::parallel_for(0, x.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      turn_one(xs + r * d, cs + at[r] * by.half, ss + at[r] * by.half, sign, by);
    }
  });
}

Tensor turned(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
              float sign, const Turned& by) {
  const Tensor out = x.clone(at::MemoryFormat::Contiguous);
  if (x.scalar_type() == at::kFloat) {
    turn_all<float>(out, cos, sin, positions, sign, by);
  } else {
    turn_all<at::BFloat16>(out, cos, sin, positions, sign, by);
  }
  return out;
}

struct Rotary : Function<Rotary> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cos,
                        const Tensor& sin, const Tensor& positions, int64_t heads,
                        int64_t width) {
    const Turned by{heads, width, cos.size(1)};
    ctx->save_for_backward({cos, sin, positions});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["width"] = width;
    return turned(x, cos, sin, positions, 1.0f, by);
  }

  // The gradient is turned back.
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Turned by{ctx->saved_data["heads"].toInt(), ctx->saved_data["width"].toInt(),
                    saved[0].size(1)};
    return {turned(grads[0], saved[0], saved[1], saved[2], -1.0f, by),
            Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor by_operations(const Tensor& x, const Tensor& cos, const Tensor& sin,
                     const Tensor& positions, const Turned& by) {
  const int64_t n = x.size(0), wide = by.heads * by.width, half = by.half;
  const Tensor heads = x.narrow(1, 0, wide).view({n, by.heads, by.width});
  const Tensor c = cos.index_select(0, positions).unsqueeze(1).to(x.scalar_type());
  const Tensor s = sin.index_select(0, positions).unsqueeze(1).to(x.scalar_type());
  const Tensor a = heads.narrow(2, 0, half), b = heads.narrow(2, half, half);
  const Tensor rest = heads.narrow(2, 2 * half, by.width - 2 * half);
  const Tensor out =
      at::cat({a.mul(c).sub(b.mul(s)), b.mul(c).add(a.mul(s)), rest}, 2).view({n, wide});
  return at::cat({out, x.narrow(1, wide, x.size(1) - wide)}, 1);
}

}  // namespace
}  // namespace luthier

extern "C" {

// `by_ops`: not by the kernel.
char* luthier_rotary(const at::Tensor* x, const at::Tensor* cos, const at::Tensor* sin,
                     const at::Tensor* positions, int64_t heads, int64_t width, bool by_ops,
                     at::Tensor** out) {
  return luthier::guarded([&] {
    TORCH_CHECK(x->dim() == 2 && heads >= 1 && width >= 2 && heads * width <= x->size(1),
                "rotary: ", heads, " heads of ", width, " in x ", x->sizes());
    TORCH_CHECK(cos->dim() == 2 && cos->sizes() == sin->sizes() && 2 * cos->size(1) <= width &&
                    cos->scalar_type() == at::kFloat && sin->scalar_type() == at::kFloat &&
                    cos->is_contiguous() && sin->is_contiguous(),
                "rotary: angles are ", cos->sizes(), " and ", sin->sizes(), " for heads of ", width);
    TORCH_CHECK(positions->dim() == 1 && positions->size(0) == x->size(0) &&
                    positions->scalar_type() == at::kLong && positions->is_contiguous(),
                "rotary: positions are ", positions->sizes(), " for x ", x->sizes());
    const luthier::Turned by{heads, width, cos->size(1)};
    const bool ours = !by_ops && x->is_cpu() && (x->scalar_type() == at::kFloat ||
                                                 x->scalar_type() == at::kBFloat16);
    if (ours) {
      TORCH_CHECK(x->size(0) == 0 || (positions->min().item<int64_t>() >= 0 &&
                                      positions->max().item<int64_t>() < cos->size(0)),
                  "rotary: positions leave the ", cos->size(0), " that there are angles for");
      *out = new at::Tensor(luthier::Rotary::apply(*x, *cos, *sin, *positions, heads, width));
    } else {
      *out = new at::Tensor(luthier::by_operations(*x, *cos, *sin, *positions, by));
    }
  });
}
}
