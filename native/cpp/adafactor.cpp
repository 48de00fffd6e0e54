// Adafactor: N. Shazeer and M. Stern, "Adafactor: adaptive learning rates with sublinear memory
// cost", ICML 2018, arXiv:1804.04235; options and their order as transformers' `Adafactor`.

#include "optim.h"

extern "C" {

struct LuthierAdafactor {
  double lr, beta2, beta1, eps_square, eps_scale, clip_threshold, weight_decay;
  float scale;
  bool scale_parameter, by_ops;
};

// Null where a parameter has no such part.
struct LuthierAdafactorState {
  at::Tensor *row, *col, *square, *exp_avg;
};
}

namespace luthier {
namespace {

constexpr int kLanes = 16;

// Sums in lanes, which are part of the result's definition.
struct Sum {
  double lanes[kLanes] = {};
  double total() const {
    double sum = 0;
    for (double lane : lanes) {
      sum += lane;
    }
    return sum;
  }
};

LUTHIER_CLONES void add_squares(const float* __restrict x, int64_t n, Sum& sum) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; lane++) {
      const double v = x[i + lane];
      sum.lanes[lane] += v * v;
    }
  }
  for (; i < n; i++) {
    sum.lanes[0] += static_cast<double>(x[i]) * x[i];
  }
}

LUTHIER_CLONES void square_row(const float* __restrict grad, float scale, float eps,
                               float* __restrict out, double* __restrict cols, int64_t n) {
  for (int64_t j = 0; j < n; j++) {
    const float g = grad[j] * scale;
    out[j] = g * g + eps;
    cols[j] += out[j];
  }
}

LUTHIER_CLONES double sum_row(const float* __restrict x, int64_t n) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; lane++) {
      lanes[lane] += x[i + lane];
    }
  }
  for (; i < n; i++) {
    lanes[0] += x[i];
  }
  double sum = 0;
  for (double lane : lanes) {
    sum += lane;
  }
  return sum;
}

LUTHIER_CLONES void update_row(const float* __restrict grad, float scale, float row,
                               const float* __restrict cols, float* __restrict out, int64_t n) {
  for (int64_t j = 0; j < n; j++) {
    out[j] = row * cols[j] * (grad[j] * scale);
  }
}

struct Apply {
  float by, lr, keep, beta1, rest1;
};

LUTHIER_CLONES void apply_row(float* __restrict param, float* __restrict update,
                              float* __restrict exp_avg, int64_t n, const Apply& a) {
  const auto [by, lr, keep, beta1, rest1] = a;
  for (int64_t j = 0; j < n; j++) {
    update[j] = update[j] / by * lr;
  }
  if (exp_avg != nullptr) {
    for (int64_t j = 0; j < n; j++) {
      exp_avg[j] = exp_avg[j] * beta1 + rest1 * update[j];
      param[j] = param[j] * keep - exp_avg[j];
    }
  } else {
    for (int64_t j = 0; j < n; j++) {
      param[j] = param[j] * keep - update[j];
    }
  }
}

// A matrix on the CPU, by pieces of rows whose borders do not depend on the number of threads.
class Matrix {
 public:
  Matrix(const Tensor& param, const Tensor& grad, const Tensor& row, const Tensor& col,
         float* exp_avg, const LuthierAdafactor& o)
      : o_(o), rows_(param.size(0)), width_(param.size(1)), param_(floats(param)),
        grad_(grad.const_data_ptr<float>()), row_(floats(row)), col_(floats(col)),
        exp_avg_(exp_avg), piece_(std::max<int64_t>(32, kChunk / std::max<int64_t>(1, width_))) {}

  void step() {
    const double size = static_cast<double>(rows_) * static_cast<double>(width_);
    const double rms = std::sqrt(moments() / size);
    const float lr = static_cast<float>(
        o_.scale_parameter ? o_.lr * std::max(o_.eps_scale, rms) : o_.lr);
    factors();
    const float update = static_cast<float>(std::sqrt(squared_update() / size));
    const float by = std::max(1.0f, update / static_cast<float>(o_.clip_threshold));
    const Apply apply{by, lr, static_cast<float>(1.0 - o_.weight_decay * lr),
                      static_cast<float>(o_.beta1), static_cast<float>(1.0 - o_.beta1)};
    for_pieces([&](int64_t, int64_t begin, int64_t end, std::vector<float>& buffer) {
      for (int64_t r = begin; r < end; r++) {
        const int64_t at = r * width_;
        update_row(grad_ + at, o_.scale, row_factor_[r], col_factor_.data(), buffer.data(),
                   width_);
        apply_row(param_ + at, buffer.data(), exp_avg_ == nullptr ? nullptr : exp_avg_ + at,
                  width_, apply);
      }
    });
  }

 private:
  template <typename F>
  void for_pieces(F&& f) {
    at::parallel_for(0, pieces(), 1, [&](int64_t begin, int64_t end) {
      std::vector<float> buffer(width_);
      for (int64_t i = begin; i < end; i++) {
        f(i, i * piece_, std::min(rows_, (i + 1) * piece_), buffer);
      }
    });
  }
  int64_t pieces() const { return (rows_ + piece_ - 1) / piece_; }

  // Moves the means of rows and columns; gives the sum of the parameter's squares.
  double moments() {
    const auto beta2 = static_cast<float>(o_.beta2), rest = static_cast<float>(1.0 - o_.beta2);
    std::vector<double> cols(pieces() * width_);
    std::vector<Sum> sums(pieces());
    for_pieces([&](int64_t i, int64_t begin, int64_t end, std::vector<float>& squares) {
      for (int64_t r = begin; r < end; r++) {
        square_row(grad_ + r * width_, o_.scale, static_cast<float>(o_.eps_square),
                   squares.data(), cols.data() + i * width_, width_);
        const double mean = sum_row(squares.data(), width_) / static_cast<double>(width_);
        row_[r] = row_[r] * beta2 + rest * static_cast<float>(mean);
        add_squares(param_ + r * width_, width_, sums[i]);
      }
    });
    for (int64_t j = 0; j < width_; j++) {
      double sum = 0;
      for (int64_t i = 0; i < pieces(); i++) {
        sum += cols[i * width_ + j];
      }
      const auto mean = static_cast<float>(sum / static_cast<double>(rows_));
      col_[j] = col_[j] * beta2 + rest * mean;
    }
    return total(sums);
  }

  void factors() {
    const auto mean = static_cast<float>(sum_row(row_, rows_) / static_cast<double>(rows_));
    row_factor_.resize(rows_);
    col_factor_.resize(width_);
    for (int64_t r = 0; r < rows_; r++) {
      row_factor_[r] = 1.0f / std::sqrt(row_[r] / mean);
    }
    for (int64_t j = 0; j < width_; j++) {
      col_factor_[j] = 1.0f / std::sqrt(col_[j]);
    }
  }

  double squared_update() {
    std::vector<Sum> sums(pieces());
    for_pieces([&](int64_t i, int64_t begin, int64_t end, std::vector<float>& buffer) {
      for (int64_t r = begin; r < end; r++) {
        update_row(grad_ + r * width_, o_.scale, row_factor_[r], col_factor_.data(),
                   buffer.data(), width_);
        add_squares(buffer.data(), width_, sums[i]);
      }
    });
    return total(sums);
  }

  static double total(const std::vector<Sum>& sums) {
    double all = 0;
    for (const auto& sum : sums) {
      all += sum.total();
    }
    return all;
  }

  const LuthierAdafactor& o_;
  int64_t rows_, width_;
  float* param_;
  const float* grad_;
  float *row_, *col_, *exp_avg_;
  int64_t piece_;
  std::vector<float> row_factor_, col_factor_;
};

Tensor rms(const Tensor& t) {
  return at::linalg_vector_norm(t).div_(std::sqrt(static_cast<double>(t.numel())));
}

void adafactor_by_ops(const Tensor& param, const Tensor& grad, const LuthierAdafactorState& s,
                      const LuthierAdafactor& o) {
  // The rate stays on the device: reading it back would wait.
  const Tensor lr = o.scale_parameter ? rms(param).clamp_min_(o.eps_scale).mul_(o.lr)
                                      : at::full({}, o.lr, param.options());
  const Tensor square = grad.square().add_(o.eps_square);
  Tensor update;
  if (s.row != nullptr) {
    const Tensor row = s.row->mul_(o.beta2).add_(square.mean(-1), 1.0 - o.beta2);
    const Tensor col = s.col->mul_(o.beta2).add_(square.mean(-2), 1.0 - o.beta2);
    update = row.div(row.mean(-1, /*keepdim=*/true)).rsqrt_().unsqueeze(-1) *
             col.unsqueeze(-2).rsqrt();
    update.mul_(grad);
  } else {
    update = s.square->mul_(o.beta2).add_(square, 1.0 - o.beta2).rsqrt().mul_(grad);
  }
  update.div_(rms(update).div_(o.clip_threshold).clamp_min_(1.0)).mul_(lr);
  if (s.exp_avg != nullptr) {
    update = s.exp_avg->mul_(o.beta1).add_(update, 1.0 - o.beta1);
  }
  if (o.weight_decay != 0) {
    param.mul_(lr.mul(-o.weight_decay).add_(1.0));
  }
  param.sub_(update);
}

void check_part(const Tensor* part, at::IntArrayRef sizes, const Tensor& param,
                const char* what) {
  TORCH_CHECK(part != nullptr && part->defined() && part->sizes() == sizes &&
                  part->is_contiguous() && part->scalar_type() == param.scalar_type() &&
                  part->device() == param.device(),
              what, " must be ", param.scalar_type(), " ", sizes, " for a parameter of ",
              param.sizes());
}

}  // namespace
}  // namespace luthier

extern "C" {

char* luthier_adafactor(at::Tensor* param, at::Tensor* grad, const LuthierAdafactorState* state,
                        const LuthierAdafactor* o) {
  using namespace luthier;
  return guarded([&] {
    c10::NoGradGuard no_grad;
    const auto p = list(&param, 1);
    const auto g = dense_gradients(p, &grad, 1);
    const auto sizes = p[0].sizes();
    const bool factored = p[0].dim() >= 2;
    if (factored) {
      auto cols = sizes.vec();
      cols.erase(cols.end() - 2);
      check_part(state->row, sizes.slice(0, sizes.size() - 1), p[0], "exp_avg_sq_row");
      check_part(state->col, cols, p[0], "exp_avg_sq_col");
    } else {
      check_part(state->square, sizes, p[0], "exp_avg_sq");
    }
    if (state->exp_avg != nullptr) {
      check_part(state->exp_avg, sizes, p[0], "exp_avg");
    }
    if (p[0].numel() == 0) {
      return;
    }
    if (!o->by_ops && p[0].dim() == 2 && all_cpu(p, at::kFloat)) {
      float* exp_avg = state->exp_avg == nullptr ? nullptr : floats(*state->exp_avg);
      Matrix(p[0], g[0], *state->row, *state->col, exp_avg, *o).step();
      return;
    }
    const Tensor scaled = o->scale == 1.0f ? g[0] : g[0] * o->scale;
    adafactor_by_ops(p[0], scaled, {factored ? state->row : nullptr, state->col, state->square,
                                    state->exp_avg}, *o);
  });
}
}
