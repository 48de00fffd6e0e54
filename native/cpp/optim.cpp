// SGD by libtorch's fused kernel, and RMSprop by one of our own, which libtorch has not.

#include "optim.h"

namespace luthier {
namespace {

struct RmspropOptions {
  double lr, alpha, eps, weight_decay, momentum, scale;
  bool centered;
};

template <typename T>
struct RmspropChunk {
  T* param;
  const T* grad;
  T* square_avg;
  T* grad_avg;  // null unless centered
  T* momentum;  // null without momentum
  int64_t n;
};

template <typename T, bool Centered, bool Momentum, bool Decay>
LUTHIER_INLINE void rmsprop_loop(const RmspropChunk<T>& c, T lr, T alpha, T eps, T decay,
                                 T momentum, T one_minus_alpha, T scale) {
  T* __restrict param = c.param;
  const T* __restrict grad = c.grad;
  T* __restrict square_avg = c.square_avg;
  T* __restrict grad_avg = c.grad_avg;
  T* __restrict buffer = c.momentum;
  for (int64_t i = 0; i < c.n; i++) {
    T g = grad[i] * scale;
    if constexpr (Decay) {
      g = g + decay * param[i];
    }
    const T square = square_avg[i] * alpha + one_minus_alpha * g * g;
    square_avg[i] = square;
    T avg = square;
    if constexpr (Centered) {
      const T mean = grad_avg[i] + one_minus_alpha * (g - grad_avg[i]);
      grad_avg[i] = mean;
      avg = square - mean * mean;
    }
    avg = std::sqrt(avg) + eps;
    if constexpr (Momentum) {
      const T step = buffer[i] * momentum + g / avg;
      buffer[i] = step;
      param[i] = param[i] - lr * step;
    } else {
      param[i] = param[i] - lr * g / avg;
    }
  }
}

template <typename T>
LUTHIER_INLINE void rmsprop_any(const RmspropChunk<T>& c, const RmspropOptions& o) {
  const auto run = [&](auto centered, auto momentum, auto decay)
                       __attribute__((always_inline)) {
    rmsprop_loop<T, centered.value, momentum.value, decay.value>(
        c, static_cast<T>(o.lr), static_cast<T>(o.alpha), static_cast<T>(o.eps),
        static_cast<T>(o.weight_decay), static_cast<T>(o.momentum),
        static_cast<T>(1.0 - o.alpha), static_cast<T>(o.scale));
  };
  const std::true_type yes;
  const std::false_type no;
  const int options = (o.centered ? 4 : 0) + (o.momentum > 0 ? 2 : 0) + (o.weight_decay != 0);
  switch (options) {
    case 0: return run(no, no, no);
    case 1: return run(no, no, yes);
    case 2: return run(no, yes, no);
    case 3: return run(no, yes, yes);
    case 4: return run(yes, no, no);
    case 5: return run(yes, no, yes);
    case 6: return run(yes, yes, no);
    default: return run(yes, yes, yes);
  }
}

LUTHIER_CLONES void rmsprop_chunk(const RmspropChunk<float>& c, const RmspropOptions& o) {
  rmsprop_any(c, o);
}
LUTHIER_CLONES void rmsprop_chunk(const RmspropChunk<double>& c, const RmspropOptions& o) {
  rmsprop_any(c, o);
}

struct RmspropLists {
  Tensors params, grads, square_avgs, grad_avgs, momentums;
};

template <typename T>
void rmsprop_cpu(const RmspropLists& l, const RmspropOptions& o) {
  const auto place = [](const Tensors& list, bool used, size_t i, int64_t at) {
    return used ? list[i].mutable_data_ptr<T>() + at : nullptr;
  };
  for_chunks(l.params, [&](size_t i, int64_t at, int64_t n) {
    rmsprop_chunk({place(l.params, true, i, at), l.grads[i].const_data_ptr<T>() + at,
                   place(l.square_avgs, true, i, at), place(l.grad_avgs, o.centered, i, at),
                   place(l.momentums, o.momentum > 0, i, at), n},
                  o);
  });
}

// The order of torch.optim's multi-tensor RMSprop.
void rmsprop_by_ops(const RmspropLists& l, const RmspropOptions& o) {
  scale_gradients(l.grads, o.scale);
  const Tensors grads = o.weight_decay != 0
                            ? at::_foreach_add(l.grads, l.params, at::Scalar(o.weight_decay))
                            : l.grads;
  at::_foreach_mul_(l.square_avgs, at::Scalar(o.alpha));
  at::_foreach_addcmul_(l.square_avgs, grads, grads, at::Scalar(1.0 - o.alpha));
  Tensors avg;
  if (o.centered) {
    at::_foreach_lerp_(l.grad_avgs, grads, at::Scalar(1.0 - o.alpha));
    avg = at::_foreach_addcmul(l.square_avgs, l.grad_avgs, l.grad_avgs, at::Scalar(-1.0));
    at::_foreach_sqrt_(avg);
  } else {
    avg = at::_foreach_sqrt(l.square_avgs);
  }
  at::_foreach_add_(avg, at::Scalar(o.eps));
  if (o.momentum > 0) {
    at::_foreach_mul_(l.momentums, at::Scalar(o.momentum));
    at::_foreach_addcdiv_(l.momentums, grads, avg, at::Scalar(1.0));
    at::_foreach_add_(l.params, l.momentums, at::Scalar(-o.lr));
  } else {
    at::_foreach_addcdiv_(l.params, grads, avg, at::Scalar(-o.lr));
  }
}

}  // namespace
}  // namespace luthier

extern "C" {

struct LuthierSgd {
  double lr, momentum, dampening, weight_decay;
  float scale;
  bool nesterov, first_step;
};

char* luthier_sgd(at::Tensor* const* params, at::Tensor* const* grads,
                  at::Tensor* const* momentums, size_t n, const LuthierSgd* o) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    if (n == 0) {
      return;
    }
    const auto p = luthier::list(params, n);
    const auto g = luthier::dense_gradients(p, grads, n);
    const auto buffers = luthier::list(o->momentum != 0 ? momentums : nullptr, n);
    if (o->momentum != 0) {
      luthier::check_like(p, buffers, "momentum_buffer");
    }
    luthier::scale_gradients(g, o->scale);
    at::_fused_sgd_(p, g, buffers, o->weight_decay, o->momentum, o->lr, o->dampening, o->nesterov,
                    /*maximize=*/false, o->first_step);
  });
}

struct LuthierRmsprop {
  double lr, alpha, eps, weight_decay, momentum;
  float scale;
  bool centered, by_ops;
};

char* luthier_rmsprop(at::Tensor* const* params, at::Tensor* const* grads,
                      at::Tensor* const* square_avgs, at::Tensor* const* grad_avgs,
                      at::Tensor* const* momentums, size_t n, const LuthierRmsprop* o) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    if (n == 0) {
      return;
    }
    const luthier::RmspropOptions options{o->lr,       o->alpha, o->eps,     o->weight_decay,
                                          o->momentum, o->scale, o->centered};
    luthier::RmspropLists l;
    l.params = luthier::list(params, n);
    l.grads = luthier::dense_gradients(l.params, grads, n);
    l.square_avgs = luthier::list(square_avgs, n);
    luthier::check_like(l.params, l.square_avgs, "square_avg");
    if (o->centered) {
      l.grad_avgs = luthier::list(grad_avgs, n);
      luthier::check_like(l.params, l.grad_avgs, "grad_avg");
    }
    if (o->momentum > 0) {
      l.momentums = luthier::list(momentums, n);
      luthier::check_like(l.params, l.momentums, "momentum_buffer");
    }
    if (!o->by_ops && luthier::all_cpu(l.params, at::kFloat)) {
      luthier::rmsprop_cpu<float>(l, options);
    } else if (!o->by_ops && luthier::all_cpu(l.params, at::kDouble)) {
      luthier::rmsprop_cpu<double>(l, options);
    } else {
      luthier::rmsprop_by_ops(l, options);
    }
  });
}
}
