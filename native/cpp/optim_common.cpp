// What optim.h declares.

#include "optim.h"

#include <array>

namespace luthier {

void check_shape(const Tensors& params, const Tensors& others, const char* what,
                 std::initializer_list<at::ScalarType> kinds) {
  TORCH_CHECK(params.size() == others.size(), what, ": ", others.size(), " tensors for ",
              params.size(), " parameters");
  for (size_t i = 0; i < params.size(); i++) {
    const auto& p = params[i];
    const auto& o = others[i];
    TORCH_CHECK(p.layout() == at::kStrided && p.is_contiguous(), "parameter ", i, " ", p.sizes(),
                " is not contiguous");
    const bool kind = std::find(kinds.begin(), kinds.end(), o.scalar_type()) != kinds.end();
    TORCH_CHECK(o.layout() == at::kStrided && o.is_contiguous() && o.sizes() == p.sizes() &&
                    kind && o.device() == p.device(),
                what, " ", i, " is ", o.scalar_type(), " ", o.sizes(), " on ", o.device(),
                ", its parameter is ", p.scalar_type(), " ", p.sizes(), " on ", p.device());
  }
}

void check_like(const Tensors& params, const Tensors& others, const char* what) {
  TORCH_CHECK(params.size() == others.size(), what, ": ", others.size(), " tensors for ",
              params.size(), " parameters");
  for (size_t i = 0; i < params.size(); i++) {
    check_shape({params[i]}, {others[i]}, what, {params[i].scalar_type()});
  }
}

Tensors dense_gradients(const Tensors& params, at::Tensor* const* grads, size_t n) {
  Tensors out = list(grads, n);
  for (auto& g : out) {
    g = g.layout() == at::kSparse ? coalesce_rows(g).to_dense() : g.contiguous();
  }
  check_like(params, out, "gradient");
  return out;
}

Tensors row_gradients(const Tensors& params, at::Tensor* const* grads, size_t n) {
  Tensors out = list(grads, n);
  for (size_t i = 0; i < n; i++) {
    auto& g = out[i];
    const bool rows = g.layout() == at::kSparse && g.sparse_dim() == 1 && g.dense_dim() >= 1 &&
                      g.is_cpu() && g.scalar_type() == at::kFloat;
    if (rows && i < params.size()) {
      g = coalesce_rows(g);
      TORCH_CHECK(g.sizes() == params[i].sizes() && params[i].is_contiguous(), "gradient ", i,
                  " is of rows of ", g.sizes(), ", its parameter is ", params[i].sizes());
    } else {
      g = g.layout() == at::kSparse ? coalesce_rows(g).to_dense() : g.contiguous();
      check_shape({params.at(i)}, {g}, "gradient",
                  params[i].scalar_type() == at::kBFloat16
                      ? std::initializer_list<at::ScalarType>{at::kFloat, at::kBFloat16}
                      : std::initializer_list<at::ScalarType>{params[i].scalar_type()});
    }
  }
  return out;
}

void scale_gradients(const Tensors& grads, double scale) {
  if (scale != 1.0 && !grads.empty()) {
    at::_foreach_mul_(grads, at::Scalar(scale));
  }
}

bool all_cpu(const Tensors& params, at::ScalarType type) {
  return std::all_of(params.begin(), params.end(), [&](const Tensor& p) {
    return p.is_cpu() && p.scalar_type() == type;
  });
}

void check_steps(const Tensors& params, const Tensors& steps) {
  for (const auto& s : steps) {
    TORCH_CHECK(
        s.numel() == 1 && s.scalar_type() == at::kFloat && s.device() == params[0].device(),
        "a step is ", s.scalar_type(), " ", s.sizes(), " on ", s.device(),
        ", it must be one Float on ", params[0].device());
  }
}

LUTHIER_CLONES void from_halves(const uint16_t* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    to[i] = from_half(from[i]);
  }
}

LUTHIER_CLONES void to_halves(const float* __restrict from, uint16_t* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    to[i] = to_half(from[i]);
  }
}

Gradient::Gradient(const Tensor& grad) : held_(grad) {
  if (grad.layout() == at::kSparse) {
    held_ = grad._values().contiguous();
    held_rows_ = grad._indices().contiguous();
    rows_ = held_rows_.const_data_ptr<int64_t>();
    row_count_ = held_.size(0);
    width_ = grad.numel() == 0 ? 1 : grad.numel() / grad.size(0);
  }
  if (held_.scalar_type() == at::kBFloat16) {
    half_ = static_cast<const uint16_t*>(held_.const_data_ptr());
  } else {
    dense_ = held_.const_data_ptr<float>();
  }
}

const float* Gradient::read(int64_t at, int64_t n, float* buffer) const {
  static const std::array<float, kBlock> zeros{};
  if (half_ != nullptr) {
    from_halves(half_ + at, buffer, n);
    return buffer;
  }
  if (rows_ == nullptr) {
    return dense_ + at;
  }
  const int64_t* last = rows_ + row_count_;
  const int64_t* row = std::lower_bound(rows_, last, at / width_);
  if (row == last || *row * width_ >= at + n) {
    return zeros.data();
  }
  std::fill_n(buffer, n, 0.0f);
  for (; row != last && *row * width_ < at + n; row++) {
    const int64_t begin = std::max(at, *row * width_);
    const int64_t end = std::min(at + n, (*row + 1) * width_);
    const float* values = dense_ + (row - rows_) * width_ + (begin - *row * width_);
    std::copy(values, values + (end - begin), buffer + (begin - at));
  }
  return buffer;
}

namespace {

Tensor coalesce_cpu(const Tensor& grad) {
  const Tensor indices = grad._indices().contiguous();
  const Tensor values = grad._values().contiguous();
  const auto* index = indices.const_data_ptr<int64_t>();
  const int64_t n = indices.size(1);
  const int64_t width = n == 0 ? 0 : values.numel() / n;
  // By row, and within a row by the place where it came.
  std::vector<std::pair<int64_t, int64_t>> order(n);
  for (int64_t i = 0; i < n; i++) {
    order[i] = {index[i], i};
  }
  std::sort(order.begin(), order.end());
  TORCH_CHECK(n == 0 || (order[0].first >= 0 && order[n - 1].first < grad.size(0)),
              "a gradient of rows has row ", n == 0 ? 0 : order[n - 1].first, " of ",
              grad.size(0));
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < n; i++) {
    if (i == 0 || order[i].first != order[i - 1].first) {
      starts.push_back(i);
    }
  }
  const auto count = static_cast<int64_t>(starts.size());
  starts.push_back(n);
  Tensor rows = at::empty({1, count}, indices.options());
  auto sizes = values.sizes().vec();
  sizes[0] = count;
  Tensor sums = at::empty(sizes, values.options());
  auto* row = rows.mutable_data_ptr<int64_t>();
  const auto* from = values.const_data_ptr<float>();
  auto* to = sums.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, width));
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      row[r] = order[starts[r]].first;
      float* sum = to + r * width;
      // From zero, as the dense gradient of an embedding is summed: -0 becomes 0 there too.
      std::fill_n(sum, width, 0.0f);
      for (int64_t i = starts[r]; i < starts[r + 1]; i++) {
        const float* value = from + order[i].second * width;
        for (int64_t j = 0; j < width; j++) {
          sum[j] += value[j];
        }
      }
    }
  });
  return at::_sparse_coo_tensor_unsafe(rows, sums, grad.sizes())._coalesced_(true);
}

}  // namespace

Tensor coalesce_rows(const Tensor& grad) {
  if (grad.is_coalesced()) {
    return grad;
  }
  const bool ours = grad.is_cpu() && grad.scalar_type() == at::kFloat && grad.sparse_dim() == 1 &&
                    grad.dense_dim() >= 1;
  return ours ? coalesce_cpu(grad) : grad.coalesce();
}

}  // namespace luthier
