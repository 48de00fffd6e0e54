// One optimizer step over lists of tensors: libtorch's fused kernels for Adam, AdamW and SGD, and
// a kernel of our own for RMSprop, which libtorch has not.

#include "common.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

namespace luthier {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// The fused kernels walk raw memory by the parameter's size: anything else than the same layout
// would read or write out of bounds.
void check_like(const Tensors& params, const Tensors& others, const char* what) {
  TORCH_CHECK(params.size() == others.size(), what, ": ", others.size(), " tensors for ",
              params.size(), " parameters");
  for (size_t i = 0; i < params.size(); i++) {
    const auto& p = params[i];
    const auto& o = others[i];
    TORCH_CHECK(p.layout() == at::kStrided && p.is_contiguous(), "parameter ", i, " ", p.sizes(),
                " is not contiguous");
    TORCH_CHECK(o.layout() == at::kStrided && o.is_contiguous() && o.sizes() == p.sizes() &&
                    o.scalar_type() == p.scalar_type() && o.device() == p.device(),
                what, " ", i, " is ", o.scalar_type(), " ", o.sizes(), " on ", o.device(),
                ", its parameter is ", p.scalar_type(), " ", p.sizes(), " on ", p.device());
  }
}

Tensors gradients(const Tensors& params, at::Tensor* const* grads, size_t n) {
  Tensors out = list(grads, n);
  for (auto& g : out) {
    TORCH_CHECK(g.layout() == at::kStrided, "a sparse gradient: ", g.sizes());
    g = g.contiguous();
  }
  check_like(params, out, "gradient");
  return out;
}

struct RmspropOptions {
  double lr, alpha, eps, weight_decay, momentum;
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
                                 T momentum, T one_minus_alpha) {
  T* __restrict param = c.param;
  const T* __restrict grad = c.grad;
  T* __restrict square_avg = c.square_avg;
  T* __restrict grad_avg = c.grad_avg;
  T* __restrict buffer = c.momentum;
  for (int64_t i = 0; i < c.n; i++) {
    T g = grad[i];
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
        static_cast<T>(1.0 - o.alpha));
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
  constexpr int64_t kChunk = 16384;
  std::vector<RmspropChunk<T>> chunks;
  for (size_t i = 0; i < l.params.size(); i++) {
    auto* param = l.params[i].mutable_data_ptr<T>();
    const auto* grad = l.grads[i].const_data_ptr<T>();
    auto* square_avg = l.square_avgs[i].mutable_data_ptr<T>();
    auto* grad_avg = o.centered ? l.grad_avgs[i].mutable_data_ptr<T>() : nullptr;
    auto* momentum = o.momentum > 0 ? l.momentums[i].mutable_data_ptr<T>() : nullptr;
    const int64_t n = l.params[i].numel();
    for (int64_t at = 0; at < n; at += kChunk) {
      chunks.push_back({param + at, grad + at, square_avg + at,
                        grad_avg == nullptr ? nullptr : grad_avg + at,
                        momentum == nullptr ? nullptr : momentum + at,
                        std::min(kChunk, n - at)});
    }
  }
  at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      rmsprop_chunk(chunks[i], o);
    }
  });
}

// The order of torch.optim's multi-tensor RMSprop.
void rmsprop_by_ops(const RmspropLists& l, const RmspropOptions& o) {
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

bool all_cpu(const Tensors& params, at::ScalarType type) {
  return std::all_of(params.begin(), params.end(), [&](const Tensor& p) {
    return p.is_cpu() && p.scalar_type() == type;
  });
}

}  // namespace
}  // namespace luthier

extern "C" {

// What Rust passes for Adam and AdamW; the same fields in the same order there.
struct LuthierAdam {
  double lr, beta1, beta2, eps, weight_decay;
  bool amsgrad, decoupled;
};

char* luthier_adam(at::Tensor* const* params, at::Tensor* const* grads,
                   at::Tensor* const* exp_avgs, at::Tensor* const* exp_avg_sqs,
                   at::Tensor* const* max_exp_avg_sqs, at::Tensor* const* steps, size_t n,
                   const LuthierAdam* o) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    if (n == 0) {
      return;
    }
    const auto p = luthier::list(params, n);
    const auto g = luthier::gradients(p, grads, n);
    const auto m = luthier::list(exp_avgs, n);
    const auto v = luthier::list(exp_avg_sqs, n);
    const auto top = luthier::list(o->amsgrad ? max_exp_avg_sqs : nullptr, n);
    const auto at_step = luthier::list(steps, n);
    luthier::check_like(p, m, "exp_avg");
    luthier::check_like(p, v, "exp_avg_sq");
    if (o->amsgrad) {
      luthier::check_like(p, top, "max_exp_avg_sq");
    }
    for (const auto& s : at_step) {
      TORCH_CHECK(s.numel() == 1 && s.scalar_type() == at::kFloat && s.device() == p[0].device(),
                  "a step is ", s.scalar_type(), " ", s.sizes(), " on ", s.device(),
                  ", it must be one Float on ", p[0].device());
    }
    at::_foreach_add_(at_step, at::Scalar(1));
    const auto step = [&](auto fused) {
      fused(p, g, m, v, top, at_step, o->lr, o->beta1, o->beta2, o->weight_decay, o->eps,
            o->amsgrad, /*maximize=*/false);
    };
    if (o->decoupled) {
      step([](auto&&... args) { at::_fused_adamw_(args...); });
    } else {
      step([](auto&&... args) { at::_fused_adam_(args...); });
    }
  });
}

struct LuthierSgd {
  double lr, momentum, dampening, weight_decay;
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
    const auto g = luthier::gradients(p, grads, n);
    const auto buffers = luthier::list(o->momentum != 0 ? momentums : nullptr, n);
    if (o->momentum != 0) {
      luthier::check_like(p, buffers, "momentum_buffer");
    }
    at::_fused_sgd_(p, g, buffers, o->weight_decay, o->momentum, o->lr, o->dampening, o->nesterov,
                    /*maximize=*/false, o->first_step);
  });
}

struct LuthierRmsprop {
  double lr, alpha, eps, weight_decay, momentum;
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
    const luthier::RmspropOptions options{o->lr,           o->alpha,    o->eps,
                                          o->weight_decay, o->momentum, o->centered};
    luthier::RmspropLists l;
    l.params = luthier::list(params, n);
    l.grads = luthier::gradients(l.params, grads, n);
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
