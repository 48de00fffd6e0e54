// AdamW whose two moments take a byte a number: T. Dettmers et al., "8-bit optimizers via
// block-wise quantization", ICLR 2022, arXiv:2110.02861.
//
// A block of 256 numbers keeps the largest magnitude in fp32, and each number as the nearest of 256
// codes times it. Codes are dynamic: decades of 10^0 to 10^-6, the finer the larger, and 0 and 1.

#include "optim.h"

#include <array>
#include <limits>

namespace luthier {
namespace {

constexpr int64_t kQuantized = 256;
constexpr int kDecades = 7;

// Codes of one kind of number: with a sign (the mean of gradients) or without (that of squares).
class Codes {
 public:
  explicit Codes(bool with_sign) : sign_(with_sign) {
    std::vector<double> levels{0.0};
    for (int decade = 0; decade < kDecades; decade++) {
      // The decade is cut into equal parts; the codes are their middles.
      const int parts = 1 << (with_sign ? decade : decade + 1);
      for (int part = 0; part < parts; part++) {
        const double middle = 0.1 + 0.9 * (part + 0.5) / parts;
        levels.push_back(middle * std::pow(10.0, decade - (kDecades - 1)));
      }
    }
    levels.push_back(1.0);
    count_ = static_cast<int>(levels.size());
    for (int i = 0; i < count_; i++) {
      levels_[i] = static_cast<float>(levels[i]);
      value_[zero() + i] = levels_[i];
      if (with_sign && i < count_ - 1) {
        value_[zero() - i] = -levels_[i];
      }
    }
    middle_.fill(std::numeric_limits<float>::infinity());
    for (int i = 0; i + 1 < count_; i++) {
      middle_[i] = (levels_[i] + levels_[i + 1]) * 0.5f;
    }
    for (size_t bin = 0; bin < below_.size(); bin++) {
      const uint32_t bits = (kFirst + static_cast<uint32_t>(bin)) << kShift;
      const float edge = bin == 0 ? 0.0f : __builtin_bit_cast(float, bits);
      below_[bin] = static_cast<uint8_t>(
          std::lower_bound(middle_.begin(), middle_.begin() + count_ - 1, edge) - middle_.begin());
    }
  }

  // All 256 values, ascending.
  const std::array<float, 256>& values() const { return value_; }

  LUTHIER_INLINE float decode(uint8_t code) const { return value_[code]; }

  // The nearest code; of two at the same distance the smaller. `x` lies in -1 to 1.
  LUTHIER_INLINE uint8_t encode(float x) const {
    const float magnitude = std::fabs(x);
    const bool negative = x < 0;
    const uint32_t bits = __builtin_bit_cast(uint32_t, magnitude) >> kShift;
    const uint32_t bin = std::min(std::max(bits, kFirst), kFirst + kBins - 1) - kFirst;
    // A bin is narrower than two neighbouring codes are apart, so one look is enough.
    int level = below_[bin];
    const float middle = middle_[level];
    level += negative ? magnitude >= middle : magnitude > middle;
    if (!sign_) {
      return static_cast<uint8_t>(level);
    }
    // Minus 1 has no code.
    return static_cast<uint8_t>(negative ? zero() - std::min(level, count_ - 2) : zero() + level);
  }

 private:
  int zero() const { return sign_ ? 127 : 0; }

  // Bins by exponent and the upper 8 bits of the mantissa, from 2^-24 to 1.
  static constexpr int kShift = 15;
  static constexpr uint32_t kFirst = (127 - 24) << 8;
  static constexpr uint32_t kBins = (24 << 8) + 1;

  bool sign_;
  int count_ = 0;
  std::array<float, 256> levels_{}, value_{}, middle_{};
  std::array<uint8_t, kBins> below_{};
};

const Codes& with_sign() {
  static const Codes codes(true);
  return codes;
}

const Codes& without_sign() {
  static const Codes codes(false);
  return codes;
}

LUTHIER_INLINE void decode(const Codes& codes, const uint8_t* __restrict from, float absmax,
                           float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    to[i] = codes.decode(from[i]) * absmax;
  }
}

LUTHIER_INLINE float encode(const Codes& codes, const float* __restrict from,
                            uint8_t* __restrict to, int64_t n) {
  constexpr int lanes = 16;
  float tops[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int lane = 0; lane < lanes; lane++) {
      const float x = std::fabs(from[i + lane]);
      tops[lane] = x > tops[lane] ? x : tops[lane];
    }
  }
  for (; i < n; i++) {
    tops[0] = std::max(tops[0], std::fabs(from[i]));
  }
  const float absmax = *std::max_element(tops, tops + lanes);
  const float by = absmax > 0 ? absmax : 1.0f;
  for (i = 0; i < n; i++) {
    to[i] = codes.encode(from[i] / by);
  }
  return absmax;
}

struct Block {
  float* param;
  const float* grad;
  uint8_t *exp_avg, *exp_avg_sq;
  float *absmax, *absmax_sq;
  int64_t n;
};

LUTHIER_CLONES void adam_8bit_block(const Block& b, const AdamNumbers& s) {
  float means[kQuantized], squares[kQuantized];
  decode(with_sign(), b.exp_avg, *b.absmax, means, b.n);
  decode(without_sign(), b.exp_avg_sq, *b.absmax_sq, squares, b.n);
  adam_loop<false, false>(b.param, b.grad, means, squares, nullptr, b.n, s);
  *b.absmax = encode(with_sign(), means, b.exp_avg, b.n);
  *b.absmax_sq = encode(without_sign(), squares, b.exp_avg_sq, b.n);
}

// The moment of codes as fp32 like `param`.
Tensor decode_by_ops(const Codes& codes, const Tensor& code, const Tensor& absmax) {
  const Tensor values =
      at::tensor(at::ArrayRef<float>(codes.values().data(), 256)).to(code.device());
  const Tensor scale = absmax.repeat_interleave(kQuantized).slice(0, 0, code.numel());
  return values.index_select(0, code.flatten().to(at::kInt)).mul_(scale).view(code.sizes());
}

void encode_by_ops(const Codes& codes, const Tensor& moment, const Tensor& code,
                   const Tensor& absmax) {
  const int64_t n = moment.numel();
  const Tensor flat =
      at::constant_pad_nd(moment.flatten(), {0, absmax.numel() * kQuantized - n})
          .view({-1, kQuantized});
  const Tensor top = flat.abs().amax(1);
  absmax.copy_(top);
  const Tensor scaled = flat / top.masked_fill(top == 0, 1.0).unsqueeze(1);
  std::vector<float> middles(255);
  for (int i = 0; i < 255; i++) {
    middles[i] = (codes.values()[i] + codes.values()[i + 1]) * 0.5f;
  }
  const Tensor found = at::bucketize(scaled, at::tensor(middles).to(moment.device()));
  code.copy_(found.flatten().slice(0, 0, n).view(code.sizes()));
}

void adam_8bit_by_ops(const Tensor& param, const Tensor& grad, const Tensor& code,
                      const Tensor& absmax, const Tensor& code_sq, const Tensor& absmax_sq,
                      const AdamNumbers& s) {
  const Tensor g = grad * s.scale;
  const Tensor m = decode_by_ops(with_sign(), code, absmax).lerp_(g, s.rest1);
  const Tensor v =
      decode_by_ops(without_sign(), code_sq, absmax_sq).mul_(s.beta2).addcmul_(g, g, s.rest2);
  param.mul_(s.keep).addcdiv_(m, v.sqrt().mul_(s.inv_root).add_(s.eps), -s.step_size);
  encode_by_ops(with_sign(), m, code, absmax);
  encode_by_ops(without_sign(), v, code_sq, absmax_sq);
}

void check_absmax(const Tensors& params, const Tensors& absmax, const char* what) {
  for (size_t i = 0; i < params.size(); i++) {
    const int64_t blocks = (params[i].numel() + kQuantized - 1) / kQuantized;
    TORCH_CHECK(absmax[i].scalar_type() == at::kFloat && absmax[i].is_contiguous() &&
                    absmax[i].dim() == 1 && absmax[i].size(0) == blocks &&
                    absmax[i].device() == params[i].device(),
                what, " ", i, " is ", absmax[i].scalar_type(), " ", absmax[i].sizes(),
                ", it must be Float [", blocks, "]");
  }
}

}  // namespace
}  // namespace luthier

extern "C" {

char* luthier_adamw_8bit(at::Tensor* const* params, at::Tensor* const* grads,
                         at::Tensor* const* exp_avgs, at::Tensor* const* absmaxs,
                         at::Tensor* const* exp_avg_sqs, at::Tensor* const* absmax_sqs,
                         at::Tensor* const* steps, size_t n, const LuthierAdam* o, bool by_ops) {
  using namespace luthier;
  return guarded([&] {
    c10::NoGradGuard no_grad;
    if (n == 0) {
      return;
    }
    const auto p = list(params, n);
    const bool ours = !by_ops && all_cpu(p, at::kFloat);
    const auto g = ours ? row_gradients(p, grads, n) : dense_gradients(p, grads, n);
    const auto m = list(exp_avgs, n), v = list(exp_avg_sqs, n);
    const auto m_top = list(absmaxs, n), v_top = list(absmax_sqs, n);
    const auto counts = list(steps, n);
    check_shape(p, m, "exp_avg", {at::kByte});
    check_shape(p, v, "exp_avg_sq", {at::kByte});
    check_absmax(p, m_top, "exp_avg_absmax");
    check_absmax(p, v_top, "exp_avg_sq_absmax");
    check_steps(p, counts);
    std::vector<AdamNumbers> numbers;
    for (const auto& count : counts) {
      count.add_(1);
      numbers.push_back(adam_numbers(*o, count.item<float>()));
    }
    if (!ours) {
      for (size_t i = 0; i < n; i++) {
        adam_8bit_by_ops(p[i], g[i], m[i], m_top[i], v[i], v_top[i], numbers[i]);
      }
      return;
    }
    const std::vector<Gradient> read(g.begin(), g.end());
    for_chunks(p, [&](size_t i, int64_t at, int64_t n) {
      float buffer[kQuantized];
      for_blocks(at, n, kQuantized, [&](int64_t at, int64_t n) {
        const Block block{floats(p[i]) + at,
                          read[i].read(at, n, buffer),
                          m[i].mutable_data_ptr<uint8_t>() + at,
                          v[i].mutable_data_ptr<uint8_t>() + at,
                          floats(m_top[i]) + at / kQuantized,
                          floats(v_top[i]) + at / kQuantized,
                          n};
        adam_8bit_block(block, numbers[i]);
      });
    });
  });
}
}
