// Products by frozen weights that are kept in 4 bits (NF4, T. Dettmers et al., "QLoRA", 2023), in the layout of
// bitsandbytes: two codes a byte, the first in the upper half; a scale for 64 of them, itself a code of 8 bits times
// the scale of 256 such codes, plus the mean of all scales. The weights stand in full only for the time of a product.

#include "common.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

constexpr int64_t BLOCK = 64;
constexpr int64_t NESTED_BLOCK = 256;

// What `luthier_nf4_*` take: `codes` and `levels`, `scales` and `nested` with `map`, and `offset`.
struct Nf4 {
  Tensor codes;   // Byte [numel / 2]
  Tensor levels;  // Float [16]
  Tensor scales;  // Byte [numel / 64]
  Tensor map;     // Float [256]
  Tensor nested;  // Float [numel / 64 / 256, rounded up]
  Tensor offset;  // Float []
  int64_t rows, columns;
};

LUTHIER_CLONES void fill(float* out, const uint8_t* codes, const float* levels, float scale,
                         int64_t n) {
  for (int64_t i = 0; i < n / 2; i++) {
    out[2 * i] = levels[codes[i] >> 4] * scale;
    out[2 * i + 1] = levels[codes[i] & 15] * scale;
  }
}

void fill_all(const Nf4& w, float* out) {
  const auto* codes = w.codes.const_data_ptr<uint8_t>();
  const auto* scales = w.scales.const_data_ptr<uint8_t>();
  const auto* map = w.map.const_data_ptr<float>();
  const auto* nested = w.nested.const_data_ptr<float>();
  const auto* levels = w.levels.const_data_ptr<float>();
  const float offset = *w.offset.const_data_ptr<float>();
  const int64_t n = w.rows * w.columns, blocks = (n + BLOCK - 1) / BLOCK;
  at::parallel_for(0, blocks, 512, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      const float scale = map[scales[b]] * nested[b / NESTED_BLOCK] + offset;
      fill(out + b * BLOCK, codes + b * (BLOCK / 2), levels, scale, std::min(BLOCK, n - b * BLOCK));
    }
  });
}

// `[rows, columns]` in full.
Tensor dequantized(const Nf4& w, at::ScalarType kind) {
  TORCH_CHECK(w.codes.is_contiguous() && w.codes.numel() * 2 == w.rows * w.columns,
              "nf4: ", w.codes.numel(), " bytes for [", w.rows, ", ", w.columns, "]");
  if (w.codes.device().is_cpu()) {
    Tensor out = at::empty({w.rows, w.columns}, w.map.options());
    fill_all(w, out.mutable_data_ptr<float>());
    return out.to(kind);
  }
  const auto n = w.rows * w.columns;
  const Tensor upper = at::bitwise_right_shift(w.codes, 4), lower = at::bitwise_and(w.codes, 15);
  const Tensor values = w.levels.index_select(0, at::stack({upper, lower}, 1).view(-1).to(at::kInt));
  const auto wide = [](const Tensor& scales, int64_t each, int64_t count) {
    return scales.repeat_interleave(each).narrow(0, 0, count);
  };
  const Tensor scales = w.map.index_select(0, w.scales.to(at::kInt)) *
                            wide(w.nested, NESTED_BLOCK, w.scales.numel()) +
                        w.offset;
  return (values * wide(scales, BLOCK, n)).view({w.rows, w.columns}).to(kind);
}

Nf4 of_list(const std::vector<Tensor>& parts, int64_t rows, int64_t columns) {
  TORCH_CHECK(parts.size() == 6, "nf4: ", parts.size(), " tensors, 6 are needed");
  return {parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], rows, columns};
}

struct Nf4Linear : Function<Nf4Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& bias,
                        at::TensorList parts, int64_t rows) {
    ctx->save_for_backward(parts.vec());
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["columns"] = x.size(1);
    const Tensor w = dequantized(of_list(parts.vec(), rows, x.size(1)), x.scalar_type());
    return bias ? at::addmm(*bias, x, w.t()) : x.mm(w.t());
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto parts = ctx->get_saved_variables();
    tensor_list out(2 + parts.size() + 1);
    if (ctx->needs_input_grad(0)) {
      const Tensor g = grads[0].contiguous();
      const auto w = of_list(parts, ctx->saved_data["rows"].toInt(), ctx->saved_data["columns"].toInt());
      out[0] = g.mm(dequantized(w, g.scalar_type()));
    }
    return out;
  }
};

}  // namespace
}  // namespace luthier

extern "C" {

// `parts` are codes, levels, scales, map, nested and offset.
char* luthier_nf4_dequantize(at::Tensor* const* parts, size_t n, int64_t rows, int64_t columns,
                             at::Tensor** out) {
  return luthier::guarded([&] {
    const auto w = luthier::of_list(luthier::list(parts, n), rows, columns);
    *out = new at::Tensor(luthier::dequantized(w, at::kFloat));
  });
}

char* luthier_nf4_linear(const at::Tensor* x, const at::Tensor* bias, at::Tensor* const* parts,
                         size_t n, int64_t rows, at::Tensor** out) {
  return luthier::guarded([&] {
    TORCH_CHECK(x->dim() == 2, "nf4: x is ", x->sizes());
    const auto list = luthier::list(parts, n);
    *out = new at::Tensor(luthier::Nf4Linear::apply(*x, luthier::given(luthier::or_none(bias)),
                                                    at::TensorList(list), rows));
  });
}
}
