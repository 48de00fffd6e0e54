// Adam and AdamW: a kernel of our own on the CPU, libtorch's fused one elsewhere.
//
// Ours reads each gradient once, multiplies it as it reads, takes gradients of rows, and keeps
// parameters in fp32, or in bf16 with one of three ways to round.

#include "optim.h"
#include "philox.h"

extern "C" {

// What goes beyond torch.optim; null lists for none.
struct LuthierAdamMore {
  at::Tensor* const* shadows;
  at::Tensor* const* compensations;
  const uint32_t* indices;  // of parameters, for stochastic rounding
  uint64_t seed;
};
}

namespace luthier {
namespace {

struct AdamLists {
  Tensors params, grads, exp_avgs, exp_avg_sqs, tops, steps, shadows, compensations;
};

LUTHIER_CLONES void adam_block(float* param, const float* grad, float* exp_avg, float* exp_avg_sq,
                               float* top, int64_t n, const AdamNumbers& s) {
  if (s.decay != 0) {
    top == nullptr ? adam_loop<true, false>(param, grad, exp_avg, exp_avg_sq, top, n, s)
                   : adam_loop<true, true>(param, grad, exp_avg, exp_avg_sq, top, n, s);
  } else {
    top == nullptr ? adam_loop<false, false>(param, grad, exp_avg, exp_avg_sq, top, n, s)
                   : adam_loop<false, true>(param, grad, exp_avg, exp_avg_sq, top, n, s);
  }
}

// Up or down, with the odds of its distance to either, so that the mean of many is the value.
LUTHIER_CLONES void to_halves_stochastic(const float* __restrict from, uint16_t* __restrict to,
                                         int64_t at, int64_t n, uint32_t param, uint32_t step,
                                         uint64_t seed) {
  uint32_t words[philox::kTile];
  for (int64_t tile = 0; tile < n; tile += philox::kTile) {
    const int64_t counter = (at + tile) / philox::kTile * philox::kLanes;
    philox::tiles<1>(words, static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                     param, step, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    const int64_t end = std::min(philox::kTile, n - tile);
    for (int64_t i = 0; i < end; i++) {
      const uint32_t bits = __builtin_bit_cast(uint32_t, from[tile + i]);
      const bool finite = (bits & 0x7F800000u) != 0x7F800000u;
      const uint32_t rounded = (bits + (words[i] >> 16)) >> 16;
      to[tile + i] = finite ? static_cast<uint16_t>(rounded) : to_half(from[tile + i]);
    }
  }
}

LUTHIER_CLONES void from_compensated(const uint16_t* __restrict param,
                                     const uint16_t* __restrict rest, float* __restrict to,
                                     int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    to[i] = from_half(param[i]) + from_half(rest[i]);
  }
}

// What the rounding of the parameter took away is kept for the next step (Kahan, 1965).
LUTHIER_CLONES void to_compensated(const float* __restrict from, uint16_t* __restrict param,
                                   uint16_t* __restrict rest, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    param[i] = to_half(from[i]);
    rest[i] = to_half(from[i] - from_half(param[i]));
  }
}

// A list of fp32 is worked on where it lies, one of bf16 in a buffer.
struct Floats {
  float* here = nullptr;
  uint16_t* half = nullptr;

  Floats() = default;
  explicit Floats(const Tensor& t) {
    if (t.scalar_type() == at::kBFloat16) {
      half = halves(t);
    } else {
      here = floats(t);
    }
  }
  float* open(int64_t at, int64_t n, float* buffer) const {
    if (half == nullptr) {
      return here == nullptr ? nullptr : here + at;
    }
    from_halves(half + at, buffer, n);
    return buffer;
  }
  void close(int64_t at, int64_t n, const float* buffer) const {
    if (half != nullptr) {
      to_halves(buffer, half + at, n);
    }
  }
};

struct AdamParam {
  Floats param, exp_avg, exp_avg_sq, top;
  Gradient grad;
  uint16_t* shadow;
  uint16_t* compensation;
  AdamNumbers numbers;
  uint32_t index, step;
};

struct Rounding {
  bool stochastic;
  uint64_t seed;
};

void adam_piece(const AdamParam& a, const Rounding& rounding, int64_t at, int64_t n) {
  float params[kBlock], grads[kBlock], means[kBlock], squares[kBlock], tops[kBlock];
  const bool plain = a.param.half == nullptr && a.exp_avg.half == nullptr &&
                     a.grad.rows() == nullptr && a.shadow == nullptr;
  if (plain) {
    adam_block(a.param.here + at, a.grad.values() + at, a.exp_avg.here + at,
               a.exp_avg_sq.here + at, a.top.here == nullptr ? nullptr : a.top.here + at, n,
               a.numbers);
    return;
  }
  for_blocks(at, n, kBlock, [&](int64_t at, int64_t n) {
    float* p = params;
    if (a.compensation != nullptr) {
      from_compensated(a.param.half + at, a.compensation + at, p, n);
    } else {
      p = a.param.open(at, n, params);
    }
    float* m = a.exp_avg.open(at, n, means);
    float* v = a.exp_avg_sq.open(at, n, squares);
    float* top = a.top.open(at, n, tops);
    adam_block(p, a.grad.read(at, n, grads), m, v, top, n, a.numbers);
    a.exp_avg.close(at, n, m);
    a.exp_avg_sq.close(at, n, v);
    a.top.close(at, n, top);
    if (a.compensation != nullptr) {
      to_compensated(p, a.param.half + at, a.compensation + at, n);
    } else if (rounding.stochastic && a.param.half != nullptr) {
      to_halves_stochastic(p, a.param.half + at, at, n, a.index, a.step, rounding.seed);
    } else {
      a.param.close(at, n, p);
    }
    if (a.shadow != nullptr) {
      to_halves(p, a.shadow + at, n);
    }
  });
}

void adam_cpu(const AdamLists& l, const LuthierAdam& o, const LuthierAdamMore& more) {
  std::vector<AdamParam> params;
  params.reserve(l.params.size());
  for (size_t i = 0; i < l.params.size(); i++) {
    float& count = *floats(l.steps[i]);
    count += 1;
    params.push_back({Floats(l.params[i]), Floats(l.exp_avgs[i]), Floats(l.exp_avg_sqs[i]),
                      l.tops.empty() ? Floats() : Floats(l.tops[i]), Gradient(l.grads[i]),
                      l.shadows.empty() ? nullptr : halves(l.shadows[i]),
                      l.compensations.empty() ? nullptr : halves(l.compensations[i]),
                      adam_numbers(o, count), more.indices == nullptr ? 0 : more.indices[i],
                      static_cast<uint32_t>(count)});
  }
  const Rounding rounding{more.indices != nullptr, more.seed};
  for_chunks(l.params, [&](size_t i, int64_t at, int64_t n) {
    adam_piece(params[i], rounding, at, n);
  });
}

void adam_by_libtorch(AdamLists& l, const LuthierAdam& o) {
  scale_gradients(l.grads, o.scale);
  at::_foreach_add_(l.steps, at::Scalar(1));
  const auto step = [&](auto fused) {
    fused(l.params, l.grads, l.exp_avgs, l.exp_avg_sqs, l.tops, l.steps, o.lr, o.beta1, o.beta2,
          o.weight_decay, o.eps, o.amsgrad, /*maximize=*/false);
  };
  if (o.decoupled) {
    step([](auto&&... args) { at::_fused_adamw_(args...); });
  } else {
    step([](auto&&... args) { at::_fused_adam_(args...); });
  }
  if (!l.shadows.empty()) {
    at::_foreach_copy_(l.shadows, l.params);
  }
}

// One row that has a gradient, in the order of torch.optim.SparseAdam.
LUTHIER_CLONES void lazy_row(float* __restrict param, const float* __restrict grad,
                             float* __restrict exp_avg, float* __restrict exp_avg_sq, int64_t n,
                             const AdamNumbers& numbers) {
  const AdamNumbers s = numbers;
  for (int64_t i = 0; i < n; i++) {
    const float g = grad[i] * s.scale;
    const float m = (g - exp_avg[i]) * s.rest1 + exp_avg[i];
    const float v = (g * g - exp_avg_sq[i]) * s.rest2 + exp_avg_sq[i];
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    param[i] = param[i] + -s.step_size * (m / (std::sqrt(v) + s.eps));
  }
}

void lazy_cpu(const Tensor& param, const Tensor& grad, const Tensor& exp_avg,
              const Tensor& exp_avg_sq, const AdamNumbers& s) {
  const Gradient g(grad);
  const int64_t width = g.width();
  const int64_t grain = std::max<int64_t>(1, kChunk / width);
  float* p = floats(param);
  float* m = floats(exp_avg);
  float* v = floats(exp_avg_sq);
  at::parallel_for(0, g.row_count(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const int64_t at = g.rows()[r] * width;
      lazy_row(p + at, g.values() + r * width, m + at, v + at, width, s);
    }
  });
}

void lazy_by_ops(const Tensor& param, const Tensor& grad, const Tensor& exp_avg,
                 const Tensor& exp_avg_sq, const AdamNumbers& s) {
  const Tensor rows = grad._indices()[0];
  const Tensor g = grad._values() * s.scale;
  const Tensor m = exp_avg.index_select(0, rows).lerp_(g, s.rest1);
  const Tensor v = exp_avg_sq.index_select(0, rows).lerp_(g * g, s.rest2);
  exp_avg.index_copy_(0, rows, m);
  exp_avg_sq.index_copy_(0, rows, v);
  param.index_add_(0, rows, m / (v.sqrt() + s.eps), -s.step_size);
}

}  // namespace
}  // namespace luthier

extern "C" {

char* luthier_adam(at::Tensor* const* params, at::Tensor* const* grads,
                   at::Tensor* const* exp_avgs, at::Tensor* const* exp_avg_sqs,
                   at::Tensor* const* max_exp_avg_sqs, at::Tensor* const* steps, size_t n,
                   const LuthierAdam* o, const LuthierAdamMore* more) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    if (n == 0) {
      return;
    }
    luthier::AdamLists l;
    l.params = luthier::list(params, n);
    const bool half = luthier::all_cpu(l.params, at::kBFloat16);
    const bool ours = half || luthier::all_cpu(l.params, at::kFloat);
    l.grads = ours ? luthier::row_gradients(l.params, grads, n)
                   : luthier::dense_gradients(l.params, grads, n);
    l.exp_avgs = luthier::list(exp_avgs, n);
    l.exp_avg_sqs = luthier::list(exp_avg_sqs, n);
    l.tops = luthier::list(o->amsgrad ? max_exp_avg_sqs : nullptr, n);
    l.steps = luthier::list(steps, n);
    l.shadows = luthier::list(more->shadows, more->shadows == nullptr ? 0 : n);
    l.compensations = luthier::list(more->compensations, more->compensations == nullptr ? 0 : n);
    const auto moments = [&](const luthier::Tensors& list, const char* what) {
      const auto first = half && l.exp_avgs[0].scalar_type() == at::kFloat
                             ? at::kFloat
                             : l.params[0].scalar_type();
      luthier::check_shape(l.params, list, what, {first});
    };
    moments(l.exp_avgs, "exp_avg");
    moments(l.exp_avg_sqs, "exp_avg_sq");
    if (o->amsgrad) {
      moments(l.tops, "max_exp_avg_sq");
    }
    luthier::check_steps(l.params, l.steps);
    if (!l.shadows.empty()) {
      luthier::check_shape(l.params, l.shadows, "shadow", {at::kBFloat16});
    }
    if (!l.compensations.empty()) {
      luthier::check_shape(l.params, l.compensations, "compensation", {at::kBFloat16});
    }
    TORCH_CHECK(half || (l.compensations.empty() && more->indices == nullptr),
                "rounding is a matter of bf16 parameters on the CPU, the first one is ",
                l.params[0].scalar_type(), " on ", l.params[0].device());
    if (ours) {
      luthier::adam_cpu(l, *o, *more);
    } else {
      luthier::adam_by_libtorch(l, *o);
    }
  });
}

char* luthier_sparse_adam(at::Tensor* const* params, at::Tensor* const* grads,
                          at::Tensor* const* exp_avgs, at::Tensor* const* exp_avg_sqs,
                          at::Tensor* const* steps, size_t n, const LuthierAdam* o, bool by_ops) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    if (n == 0) {
      return;
    }
    const auto p = luthier::list(params, n);
    auto g = luthier::list(grads, n);
    const auto m = luthier::list(exp_avgs, n);
    const auto v = luthier::list(exp_avg_sqs, n);
    const auto counts = luthier::list(steps, n);
    luthier::check_like(p, m, "exp_avg");
    luthier::check_like(p, v, "exp_avg_sq");
    luthier::check_steps(p, counts);
    for (size_t i = 0; i < n; i++) {
      TORCH_CHECK(g[i].layout() == at::kSparse && g[i].sparse_dim() == 1 &&
                      g[i].sizes() == p[i].sizes() && g[i].scalar_type() == p[i].scalar_type(),
                  "sparse_adam: gradient ", i, " is ", g[i].layout(), " ", g[i].sizes(),
                  ", it must be of rows of ", p[i].sizes());
      g[i] = luthier::coalesce_rows(g[i]);
    }
    for (size_t i = 0; i < n; i++) {
      counts[i].add_(1);
      const double count = counts[i].item<float>();
      auto s = luthier::adam_numbers(*o, count);
      s.step_size = static_cast<float>(o->lr * std::sqrt(1.0 - std::pow(o->beta2, count)) /
                                       (1.0 - std::pow(o->beta1, count)));
      const bool ours = !by_ops && p[i].is_cpu() && p[i].scalar_type() == at::kFloat;
      (ours ? luthier::lazy_cpu : luthier::lazy_by_ops)(p[i], g[i], m[i], v[i], s);
    }
  });
}
}
