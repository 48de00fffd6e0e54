// Collectives that autograd knows: each one's backward is its transpose, which is again one of them.

#include "c10d.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

void save(AutogradContext* ctx, const GroupPtr& group) {
  ctx->saved_data["group"] = c10::IValue::make_capsule(group);
}

GroupPtr saved(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<Group>(ctx->saved_data["group"].toCapsule());
}

// Megatron's f.
struct Copy : Function<Copy> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group);
  static tensor_list backward(AutogradContext* ctx, tensor_list grads);
};

// Megatron's g.
struct Sum : Function<Sum> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group);
  static tensor_list backward(AutogradContext* ctx, tensor_list grads);
};

struct Gather : Function<Gather> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group);
  static tensor_list backward(AutogradContext* ctx, tensor_list grads);
};

struct Scatter : Function<Scatter> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group);
  static tensor_list backward(AutogradContext* ctx, tensor_list grads);
};

Tensor Copy::forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group) {
  save(ctx, group);
  return x;
}

tensor_list Copy::backward(AutogradContext* ctx, tensor_list grads) {
  return {Sum::apply(grads[0], saved(ctx)), Tensor()};
}

Tensor Sum::forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group) {
  save(ctx, group);
  Tensor sum = x.clone(at::MemoryFormat::Contiguous);
  group->sum(sum);
  return sum;
}

tensor_list Sum::backward(AutogradContext* ctx, tensor_list grads) {
  return {Copy::apply(grads[0], saved(ctx)), Tensor()};
}

Tensor Gather::forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group) {
  TORCH_CHECK(x.dim() > 0, "gather: a scalar has no dimension to gather along");
  save(ctx, group);
  return group->gather(x);
}

tensor_list Gather::backward(AutogradContext* ctx, tensor_list grads) {
  return {Scatter::apply(grads[0], saved(ctx)), Tensor()};
}

Tensor Scatter::forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group) {
  save(ctx, group);
  return group->scatter_sum(x);
}

tensor_list Scatter::backward(AutogradContext* ctx, tensor_list grads) {
  return {Gather::apply(grads[0], saved(ctx)), Tensor()};
}

// The scalar 0 whose backward brings the gradient of what was sent.
struct Send : Function<Send> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const GroupPtr& group, int64_t to,
                        int64_t tag) {
    save(ctx, group);
    ctx->saved_data["peer"] = to;
    ctx->saved_data["tag"] = tag;
    ctx->saved_data["shape"] = x.sizes();
    group->send(x, to, tag);
    return at::zeros({}, x.options());
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    Tensor grad = at::empty(ctx->saved_data["shape"].toIntVector(), grads[0].options());
    saved(ctx)->recv(grad, ctx->saved_data["peer"].toInt(), ctx->saved_data["tag"].toInt());
    return {grad, Tensor(), Tensor(), Tensor()};
  }
};

// `leaf` is there to be differentiated: without an input that requires it there is no backward.
struct Recv : Function<Recv> {
  static Tensor forward(AutogradContext* ctx, const Tensor& leaf, at::IntArrayRef shape,
                        const GroupPtr& group, int64_t from, int64_t tag) {
    save(ctx, group);
    ctx->saved_data["peer"] = from;
    ctx->saved_data["tag"] = tag;
    Tensor x = at::empty(shape, leaf.options());
    group->recv(x, from, tag);
    return x;
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    saved(ctx)->send(grads[0], ctx->saved_data["peer"].toInt(), ctx->saved_data["tag"].toInt());
    return {Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace luthier

using luthier::GroupPtr;
using luthier::guarded;

extern "C" {

// 0: copy, 1: sum, 2: gather, 3: scatter; the numbers are those of `c10d::ffi::Along`.
char* luthier_along(const GroupPtr* group, at::Tensor* x, int32_t which, at::Tensor** out) {
  return guarded([&] {
    switch (which) {
      case 0:
        *out = new at::Tensor(luthier::Copy::apply(*x, *group));
        break;
      case 1:
        *out = new at::Tensor(luthier::Sum::apply(*x, *group));
        break;
      case 2:
        *out = new at::Tensor(luthier::Gather::apply(*x, *group));
        break;
      case 3:
        *out = new at::Tensor(luthier::Scatter::apply(*x, *group));
        break;
      default:
        TORCH_CHECK(false, "no collective ", which);
    }
  });
}

char* luthier_send_forward(const GroupPtr* group, at::Tensor* x, int64_t to, int64_t tag,
                           at::Tensor** out) {
  return guarded([&] { *out = new at::Tensor(luthier::Send::apply(*x, *group, to, tag)); });
}

char* luthier_recv_forward(const GroupPtr* group, const int64_t* shape, size_t dims, int32_t kind,
                           int64_t from, int64_t tag, at::Tensor** out) {
  return guarded([&] {
    const auto options =
        at::TensorOptions(static_cast<at::ScalarType>(kind)).device((*group)->device);
    const at::Tensor leaf = at::empty({0}, options).requires_grad_(true);
    *out = new at::Tensor(
        luthier::Recv::apply(leaf, at::IntArrayRef(shape, dims), *group, from, tag));
  });
}
}
