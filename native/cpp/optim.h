// Shared by the optimizer kernels: what lists of tensors must look like, how a gradient is read,
// and how all parameters together are cut into pieces of work.
#pragma once

#include "common.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace luthier {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// Elements that a thread takes at once. A piece begins at a multiple of it within its parameter, so
// that what a piece computes does not depend on who computes it.
constexpr int64_t kChunk = 16384;
// Elements that pass through a buffer together; three of these lie in the first cache.
constexpr int64_t kBlock = 1024;

// The kernels walk raw memory by the parameter's size: anything else than the same layout would
// read or write out of bounds.
void check_like(const Tensors& params, const Tensors& others, const char* what);

// As `check_like`, for a list of another kind of number than the parameters'.
void check_shape(const Tensors& params, const Tensors& others, const char* what,
                 std::initializer_list<at::ScalarType> kinds);

// Contiguous gradients like their parameters; those of rows are made dense.
Tensors dense_gradients(const Tensors& params, at::Tensor* const* grads, size_t n);

// Multiplies gradients in place, for kernels that cannot as they read.
void scale_gradients(const Tensors& grads, double scale);

// The sum of all gradients of each row, rows ascending, for a sparse gradient `[rows, ...]`. On the
// CPU in fp32 they are added in the order in which they came, at any number of threads.
Tensor coalesce_rows(const Tensor& grad);

// The 2-norm of all gradients together, a Float scalar; see gradients.cpp.
Tensor norm_of(const Tensors& grads);

bool all_cpu(const Tensors& params, at::ScalarType type);

// bf16 is the upper half of fp32.
LUTHIER_INLINE float from_half(uint16_t x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16);
}

// To the nearest, and to the even one of two.
LUTHIER_INLINE uint16_t to_half(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return static_cast<uint16_t>(nan ? 0x7FC0u : rounded);
}

void from_halves(const uint16_t* from, float* to, int64_t n);
void to_halves(const float* from, uint16_t* to, int64_t n);

inline float* floats(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }
inline uint16_t* halves(const Tensor& t) { return static_cast<uint16_t*>(t.mutable_data_ptr()); }

// A gradient on the CPU: fp32, bf16, or fp32 rows of a sparse one with zeros between them.
class Gradient {
 public:
  explicit Gradient(const Tensor& grad);

  // `n` (at most `kBlock`) elements from `at` on: in the gradient itself, or in `buffer`.
  const float* read(int64_t at, int64_t n, float* buffer) const;

  // The rows that have a gradient, ascending, and their values; null for a dense gradient.
  const int64_t* rows() const { return rows_; }
  int64_t row_count() const { return row_count_; }
  int64_t width() const { return width_; }
  const float* values() const { return dense_; }

 private:
  const float* dense_ = nullptr;  // or the rows' values
  const uint16_t* half_ = nullptr;
  const int64_t* rows_ = nullptr;
  int64_t row_count_ = 0;
  int64_t width_ = 0;
  Tensor held_, held_rows_;
};

// Gradients for `Gradient`: contiguous, or coalesced rows where parameters are fp32 on the CPU.
Tensors row_gradients(const Tensors& params, at::Tensor* const* grads, size_t n);

// Calls `f(parameter, at, n)` for each piece of each parameter, in parallel.
template <typename F>
void for_chunks(const Tensors& params, F&& f) {
  struct Chunk {
    size_t param;
    int64_t at, n;
  };
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < params.size(); i++) {
    const int64_t n = params[i].numel();
    for (int64_t at = 0; at < n; at += kChunk) {
      chunks.push_back({i, at, std::min(kChunk, n - at)});
    }
  }
  at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      f(chunks[i].param, chunks[i].at, chunks[i].n);
    }
  });
}

// Calls `f(at, n)` for the blocks of a piece.
template <typename F>
void for_blocks(int64_t at, int64_t n, int64_t block, F&& f) {
  for (const int64_t end = at + n; at < end; at += block) {
    f(at, std::min(block, end - at));
  }
}

// The numbers of one step of Adam for one parameter.
struct AdamNumbers {
  float keep;   // what decoupled weight decay leaves of the parameter
  float decay;  // of the parameter, added to the gradient
  float beta1, rest1, beta2, rest2;
  float step_size, inv_root, eps, scale;
};

// torch.optim's single-tensor Adam, in its order except that the root is multiplied by the inverse
// of the bias correction's root.
template <bool Decay, bool Amsgrad>
LUTHIER_INLINE void adam_loop(float* __restrict param, const float* __restrict grad,
                              float* __restrict exp_avg, float* __restrict exp_avg_sq,
                              float* __restrict top, int64_t n, const AdamNumbers& numbers) {
  const AdamNumbers s = numbers;
  for (int64_t i = 0; i < n; i++) {
    float p = param[i] * s.keep;
    float g = grad[i] * s.scale;
    if constexpr (Decay) {
      g = g + s.decay * p;
    }
    const float m = exp_avg[i] + s.rest1 * (g - exp_avg[i]);
    const float v = exp_avg_sq[i] * s.beta2 + s.rest2 * g * g;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    float square = v;
    if constexpr (Amsgrad) {
      square = top[i] > v ? top[i] : v;
      top[i] = square;
    }
    param[i] = p - s.step_size * m / (std::sqrt(square) * s.inv_root + s.eps);
  }
}

}  // namespace luthier

extern "C" {

// What Rust passes for Adam and its kin; the same fields in the same order there.
struct LuthierAdam {
  double lr, beta1, beta2, eps, weight_decay;
  float scale;
  bool amsgrad, decoupled;
};
}

namespace luthier {

// `count`: steps with this one.
inline AdamNumbers adam_numbers(const LuthierAdam& o, double count) {
  AdamNumbers s;
  s.keep = o.decoupled ? static_cast<float>(1.0 - o.lr * o.weight_decay) : 1.0f;
  s.decay = o.decoupled ? 0.0f : static_cast<float>(o.weight_decay);
  s.beta1 = static_cast<float>(o.beta1);
  s.rest1 = static_cast<float>(1.0 - o.beta1);
  s.beta2 = static_cast<float>(o.beta2);
  s.rest2 = static_cast<float>(1.0 - o.beta2);
  s.step_size = static_cast<float>(o.lr / (1.0 - std::pow(o.beta1, count)));
  s.inv_root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(o.beta2, count)));
  s.eps = static_cast<float>(o.eps);
  s.scale = o.scale;
  return s;
}

// Each must be one Float.
void check_steps(const Tensors& params, const Tensors& steps);

}  // namespace luthier
