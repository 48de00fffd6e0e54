// The norm of all gradients, clipping by it, and scaling.

#include "common.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

namespace luthier {
namespace {

using at::Tensor;

constexpr int64_t kChunk = 16384;

// The lanes are part of the result's definition: the same bits on every processor and at any
// number of threads.
LUTHIER_CLONES double sum_of_squares(const float* x, int64_t n) {
  constexpr int lanes = 16;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int lane = 0; lane < lanes; lane++) {
      const double v = x[i + lane];
      sums[lane] += v * v;
    }
  }
  for (; i < n; i++) {
    const double v = x[i];
    sums[0] += v * v;
  }
  double total = 0;
  for (double sum : sums) {
    total += sum;
  }
  return total;
}

bool ours(const std::vector<Tensor>& grads) {
  return std::all_of(grads.begin(), grads.end(), [](const Tensor& g) {
    return g.is_cpu() && g.layout() == at::kStrided && g.scalar_type() == at::kFloat &&
           g.is_non_overlapping_and_dense();
  });
}

struct Chunk {
  const float* at;
  int64_t n;
};

Tensor norm_cpu(const std::vector<Tensor>& grads) {
  std::vector<Chunk> chunks;
  for (const auto& g : grads) {
    const auto* x = g.const_data_ptr<float>();
    for (int64_t at = 0; at < g.numel(); at += kChunk) {
      chunks.push_back({x + at, std::min(kChunk, g.numel() - at)});
    }
  }
  std::vector<double> sums(chunks.size());
  at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      sums[i] = sum_of_squares(chunks[i].at, chunks[i].n);
    }
  });
  double total = 0;
  for (double sum : sums) {
    total += sum;
  }
  return at::scalar_tensor(std::sqrt(total), at::TensorOptions(at::kFloat));
}

Tensor norm_by_ops(const std::vector<Tensor>& grads) {
  std::vector<Tensor> norms;
  norms.reserve(grads.size());
  for (const auto& g : grads) {
    norms.push_back(at::linalg_vector_norm(g.scalar_type() == at::kDouble ? g : g.to(at::kFloat))
                        .to(grads[0].device(), at::kFloat));
  }
  return at::linalg_vector_norm(at::stack(norms));
}

Tensor norm(const std::vector<Tensor>& grads) {
  if (grads.empty()) {
    return at::zeros({}, at::kFloat);
  }
  for (size_t i = 0; i < grads.size(); i++) {
    TORCH_CHECK(at::isFloatingType(grads[i].scalar_type()) && grads[i].layout() == at::kStrided,
                "grad_norm: gradient ", i, " is ", grads[i].layout(), " ",
                grads[i].scalar_type(), ", it must be dense and floating");
  }
  return ours(grads) ? norm_cpu(grads) : norm_by_ops(grads);
}

}  // namespace
}  // namespace luthier

extern "C" {

char* luthier_grad_norm(at::Tensor* const* grads, size_t n, at::Tensor** out) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    *out = new at::Tensor(luthier::norm(luthier::list(grads, n)));
  });
}

char* luthier_clip_grad_norm(at::Tensor* const* grads, size_t n, double max_norm,
                             at::Tensor** out) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    TORCH_CHECK(max_norm >= 0, "clip_grad_norm: max_norm is ", max_norm, ", it must be 0 or more");
    auto all = luthier::list(grads, n);
    const at::Tensor total = luthier::norm(all);
    // The operations of torch.nn.utils.clip_grad_norm_, in its order.
    const at::Tensor coefficient =
        total.add(1e-6).reciprocal_().mul_(max_norm).clamp_max_(1.0);
    // On the CPU reading is free, and a product with 1 changes nothing. On a GPU it would wait.
    if (!all.empty() && !(total.is_cpu() && coefficient.item<float>() == 1.0f)) {
      for (auto& g : all) {
        g.mul_(coefficient.to(g.device()));
      }
    }
    *out = new at::Tensor(total);
  });
}

char* luthier_scale_grads(at::Tensor* const* grads, size_t n, double factor) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    const auto all = luthier::list(grads, n);
    if (!all.empty() && factor != 1.0) {
      at::_foreach_mul_(all, at::Scalar(factor));
    }
  });
}

// Adds what `grad`, the gradient of `of`, is the gradient of to the leaves.
char* luthier_backward(const at::Tensor* of, const at::Tensor* grad) {
  return luthier::guarded([&] { of->backward(*grad); });
}

char* luthier_set_grad(const at::Tensor* tensor, const at::Tensor* grad) {
  return luthier::guarded([&] { tensor->mutable_grad() = *grad; });
}

char* luthier_clear_grads(at::Tensor* const* tensors, size_t n) {
  return luthier::guarded([&] {
    for (const auto& t : luthier::list(tensors, n)) {
      t.mutable_grad().reset();
    }
  });
}
}
