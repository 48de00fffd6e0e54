// The norm of all gradients, clipping by it, and scaling.

#include "optim.h"

namespace luthier {
namespace {

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

// `sum_of_squares` of a piece of the dense gradient that these rows stand for: what is left out
// adds 0 in every lane, so the bits are the same.
double sum_of_squares(const Gradient& g, int64_t at, int64_t n) {
  if (g.rows() == nullptr) {
    return sum_of_squares(g.values() + at, n);
  }
  constexpr int64_t lanes = 16;
  double sums[lanes] = {};
  const int64_t whole = at + n - n % lanes;
  const int64_t* last = g.rows() + g.row_count();
  const int64_t* row = std::lower_bound(g.rows(), last, at / g.width());
  for (; row != last && *row * g.width() < at + n; row++) {
    const int64_t first = *row * g.width();
    const float* values = g.values() + (row - g.rows()) * g.width();
    const int64_t end = std::min(at + n, first + g.width());
    for (int64_t i = std::max(at, first); i < end; i++) {
      const double v = values[i - first];
      sums[i < whole ? (i - at) % lanes : 0] += v * v;
    }
  }
  double total = 0;
  for (double sum : sums) {
    total += sum;
  }
  return total;
}

bool ours(const Tensors& grads) {
  return std::all_of(grads.begin(), grads.end(), [](const Tensor& g) {
    return g.is_cpu() && g.scalar_type() == at::kFloat &&
           (g.layout() == at::kSparse ? g.sparse_dim() == 1 && g.dense_dim() >= 1
                                      : g.is_non_overlapping_and_dense());
  });
}

Tensor norm_cpu(const Tensors& grads) {
  const std::vector<Gradient> read(grads.begin(), grads.end());
  struct Chunk {
    size_t grad;
    int64_t at, n;
  };
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < grads.size(); i++) {
    const int64_t n = grads[i].numel();
    for (int64_t at = 0; at < n; at += kChunk) {
      chunks.push_back({i, at, std::min(kChunk, n - at)});
    }
  }
  std::vector<double> sums(chunks.size());
  at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      sums[i] = sum_of_squares(read[chunks[i].grad], chunks[i].at, chunks[i].n);
    }
  });
  double total = 0;
  for (double sum : sums) {
    total += sum;
  }
  return at::scalar_tensor(std::sqrt(total), at::TensorOptions(at::kFloat));
}

Tensor norm_by_ops(const Tensors& grads) {
  Tensors norms;
  norms.reserve(grads.size());
  for (const auto& g : grads) {
    const Tensor values = g.layout() == at::kSparse ? g._values() : g;
    norms.push_back(
        at::linalg_vector_norm(values.scalar_type() == at::kDouble ? values
                                                                   : values.to(at::kFloat))
            .to(grads[0].device(), at::kFloat));
  }
  return at::linalg_vector_norm(at::stack(norms));
}

}  // namespace

Tensor norm_of(const Tensors& all) {
  if (all.empty()) {
    return at::zeros({}, at::kFloat);
  }
  Tensors grads = all;
  for (size_t i = 0; i < grads.size(); i++) {
    auto& g = grads[i];
    const bool layout = g.layout() == at::kStrided || g.layout() == at::kSparse;
    TORCH_CHECK(at::isFloatingType(g.scalar_type()) && layout, "grad_norm: gradient ", i, " is ",
                g.layout(), " ", g.scalar_type(), ", it must be dense or of rows, and floating");
    if (g.layout() == at::kSparse) {
      g = coalesce_rows(g);
    }
  }
  return ours(grads) ? norm_cpu(grads) : norm_by_ops(grads);
}

}  // namespace luthier

extern "C" {

char* luthier_grad_norm(at::Tensor* const* grads, size_t n, at::Tensor** out) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    *out = new at::Tensor(luthier::norm_of(luthier::list(grads, n)));
  });
}

char* luthier_clip_grad_norm(at::Tensor* const* grads, size_t n, double max_norm,
                             at::Tensor** out) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    TORCH_CHECK(max_norm >= 0, "clip_grad_norm: max_norm is ", max_norm, ", it must be 0 or more");
    auto all = luthier::list(grads, n);
    for (auto& g : all) {
      TORCH_CHECK(g.layout() != at::kSparse || g.is_coalesced(),
                  "clip_grad_norm: a gradient of rows must be coalesced first");
    }
    const at::Tensor total = luthier::norm_of(all);
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

char* luthier_coalesce_grads(at::Tensor* const* tensors, size_t n) {
  return luthier::guarded([&] {
    c10::NoGradGuard no_grad;
    for (const auto& t : luthier::list(tensors, n)) {
      auto& grad = t.mutable_grad();
      if (grad.defined() && grad.layout() == at::kSparse) {
        grad = luthier::coalesce_rows(grad);
      }
    }
  });
}

char* luthier_clear_grads(at::Tensor* const* tensors, size_t n) {
  return luthier::guarded([&] {
    for (const auto& t : luthier::list(tensors, n)) {
      t.mutable_grad().reset();
    }
  });
}
}
