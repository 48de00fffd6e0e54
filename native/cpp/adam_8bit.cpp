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
      const int32_t bits = (kFirst + static_cast<int32_t>(bin)) << kShift;
      const float edge = bin == 0 ? 0.0f : __builtin_bit_cast(float, bits);
      below_[bin] = static_cast<int32_t>(
          std::lower_bound(middle_.begin(), middle_.begin() + count_ - 1, edge) - middle_.begin());
    }
  }

  // All 256 values, ascending.
  const std::array<float, 256>& values() const { return value_; }
  bool sign() const { return sign_; }

  void decode(const uint8_t* from, float* to, int64_t n) const;

  // The nearest level of each magnitude in 0 to 1, whose bin is known; of two at the same distance
  // the one nearer to 0.
  void levels(const float* magnitudes, const int32_t* bins, int32_t* to, int64_t n) const;

  // What is no number falls into the last bin.
  static LUTHIER_INLINE int32_t bin_of(float magnitude) {
    const int32_t bits = __builtin_bit_cast(int32_t, magnitude) >> kShift;
    return std::min(std::max(bits, kFirst), kFirst + kBins - 1) - kFirst;
  }

 private:
  int zero() const { return sign_ ? 127 : 0; }

  // Bins by exponent and the upper 7 bits of the mantissa, from 2^-24 to 1.
  static constexpr int kShift = 16;
  static constexpr int32_t kFirst = (127 - 24) << 7;
  static constexpr int32_t kBins = (24 << 7) + 1;

  bool sign_;
  int count_ = 0;
  std::array<float, 256> levels_{}, value_{}, middle_{};
  std::array<int32_t, kBins> below_{};
};

// Loops over tables: without a gather in the plain instructions the compiler puts vectors together
// number by number, which takes several times as long as doing without.
#if defined(__GNUC__) && !defined(__clang__)
#define LUTHIER_SCALAR \
  __attribute__((noinline, optimize("no-tree-loop-vectorize", "no-tree-slp-vectorize")))
#else
#define LUTHIER_SCALAR
#endif

LUTHIER_SCALAR void Codes::decode(const uint8_t* __restrict from, float* __restrict to,
                                  int64_t n) const {
  const float* __restrict value = value_.data();
  for (int64_t i = 0; i < n; i++) {
    to[i] = value[from[i]];
  }
}

LUTHIER_SCALAR void Codes::levels(const float* __restrict magnitudes,
                                  const int32_t* __restrict bins, int32_t* __restrict to,
                                  int64_t n) const {
  const int32_t* __restrict below = below_.data();
  const float* __restrict middle = middle_.data();
  for (int64_t i = 0; i < n; i++) {
    // A bin is narrower than two neighbouring middles are apart, so one look is enough.
    const int32_t low = below[bins[i]];
    to[i] = low + static_cast<int32_t>(magnitudes[i] > middle[low]);
  }
}

const Codes& with_sign() {
  static const Codes codes(true);
  return codes;
}

const Codes& without_sign() {
  static const Codes codes(false);
  return codes;
}

LUTHIER_CLONES void multiply(float* x, float by, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    x[i] *= by;
  }
}

LUTHIER_CLONES float largest(const float* __restrict x, int64_t n) {
  constexpr int lanes = 16;
  float tops[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int lane = 0; lane < lanes; lane++) {
      const float v = std::fabs(x[i + lane]);
      tops[lane] = v > tops[lane] ? v : tops[lane];
    }
  }
  for (; i < n; i++) {
    tops[0] = std::max(tops[0], std::fabs(x[i]));
  }
  return *std::max_element(tops, tops + lanes);
}

LUTHIER_CLONES void find_bins(const float* __restrict x, float by, float* __restrict magnitudes,
                              int32_t* __restrict bins, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    magnitudes[i] = std::fabs(x[i] / by);
    bins[i] = Codes::bin_of(magnitudes[i]);
  }
}

// Code 127 is 0; minus 1 has none.
LUTHIER_CLONES void with_signs(const float* __restrict x, const int32_t* __restrict levels,
                               uint8_t* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    to[i] = static_cast<uint8_t>(x[i] < 0 ? 127 - std::min(levels[i], 127) : 127 + levels[i]);
  }
}

LUTHIER_CLONES void without_signs(const int32_t* __restrict levels, uint8_t* __restrict to,
                                  int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    to[i] = static_cast<uint8_t>(levels[i]);
  }
}

// A block of a moment in codes: read, and written with its largest magnitude.
struct Coded {
  const Codes& codes;
  uint8_t* code;
  float* absmax;

  void read(float* to, int64_t n) const {
    codes.decode(code, to, n);
    multiply(to, *absmax, n);
  }
  void write(const float* from, int64_t n) const {
    float magnitudes[kQuantized];
    int32_t bins[kQuantized], levels[kQuantized];
    *absmax = largest(from, n);
    find_bins(from, *absmax > 0 ? *absmax : 1.0f, magnitudes, bins, n);
    codes.levels(magnitudes, bins, levels, n);
    if (codes.sign()) {
      with_signs(from, levels, code, n);
    } else {
      without_signs(levels, code, n);
    }
  }
};

LUTHIER_CLONES void adam_block(float* param, const float* grad, float* mean, float* square,
                               int64_t n, const AdamNumbers& s) {
  adam_loop<false, false>(param, grad, mean, square, nullptr, n, s);
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
      float buffer[kQuantized], means[kQuantized], squares[kQuantized];
      for_blocks(at, n, kQuantized, [&](int64_t at, int64_t n) {
        const auto coded = [&](const Codes& codes, const Tensor& code, const Tensor& absmax) {
          return Coded{codes, code.mutable_data_ptr<uint8_t>() + at,
                       floats(absmax) + at / kQuantized};
        };
        const Coded mean = coded(with_sign(), m[i], m_top[i]);
        const Coded square = coded(without_sign(), v[i], v_top[i]);
        mean.read(means, n);
        square.read(squares, n);
        adam_block(floats(p[i]) + at, read[i].read(at, n, buffer), means, squares, n, numbers[i]);
        mean.write(means, n);
        square.write(squares, n);
      });
    });
  });
}
}
