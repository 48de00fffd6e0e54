// Dropout whose mask is a function of (key of the example, position in the example), so that it
// can be drawn again: in backward, after a resume, on another rank, behind other padding.

#include "attention_ops.h"
#include "common.h"
#include "philox.h"
#include "places.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

constexpr int64_t kMaxDims = 5;   // example, three counted dimensions, last dimension
constexpr int64_t kGrain = 16384; // elements a thread should have before it is worth waking

template <typename T, typename O>
LUTHIER_INLINE void apply(const T* __restrict x, T* __restrict out,
                          const uint32_t* __restrict draws, int64_t n, uint32_t threshold,
                          O scale) {
  for (int64_t i = 0; i < n; i++) {
    // A product, not a choice: what is not finite stays visible, as with torch.
    out[i] = static_cast<T>(static_cast<O>(x[i]) * (draws[i] >= threshold ? scale : O(0)));
  }
}

template <typename T, typename O>
LUTHIER_INLINE void drop_row(const T* x, T* out, int64_t n, const Row& row, uint32_t threshold,
                             O scale) {
  using philox::kLanes;
  using philox::kTile;
  alignas(64) uint32_t draws[2 * kTile];
  int64_t at = 0;
  // Two tiles at a time hide the latency of the multiplications.
  for (; at + kTile < n; at += 2 * kTile) {
    philox::tiles<2>(draws, static_cast<uint32_t>(at / kTile * kLanes), row.c1, row.c2, row.c3,
                     row.k0, row.k1);
    const int64_t left = n - at < 2 * kTile ? n - at : 2 * kTile;
    if (left == 2 * kTile) {
      apply<T, O>(x + at, out + at, draws, 2 * kTile, threshold, scale);
    } else {
      apply<T, O>(x + at, out + at, draws, left, threshold, scale);
    }
  }
  if (at < n) {
    philox::tiles<1>(draws, static_cast<uint32_t>(at / kTile * kLanes), row.c1, row.c2, row.c3,
                     row.k0, row.k1);
    apply<T, O>(x + at, out + at, draws, n - at, threshold, scale);
  }
}

// Clones exist for plain functions only, hence one for each type.
#define LUTHIER_DROP_ROW(T, O)                                                                \
  LUTHIER_CLONES void drop(const T* x, T* out, int64_t n, const Row& row, uint32_t threshold, \
                           O scale) {                                                         \
    drop_row<T, O>(x, out, n, row, threshold, scale);                                         \
  }
LUTHIER_DROP_ROW(float, float)
LUTHIER_DROP_ROW(double, double)
LUTHIER_DROP_ROW(at::BFloat16, float)
LUTHIER_DROP_ROW(at::Half, float)
#undef LUTHIER_DROP_ROW

Tensor dropout_cpu(const Tensor& x, const Tensor& keys, const Tensor& offsets, double p) {
  const Tensor from = x.contiguous();
  const Tensor ids = keys.contiguous();
  Tensor out = at::empty(from.sizes(), from.options());
  if (out.numel() == 0) {
    return out;
  }
  const philox::Rate rate(p);
  const int64_t width = from.size(-1);
  const int64_t rows = from.numel() / width;
  const Places places(from, ids, offsets);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, from.scalar_type(), "dropout", [&] {
        const auto* x_at = from.const_data_ptr<scalar_t>();
        auto* out_at = out.mutable_data_ptr<scalar_t>();
        const auto scale = static_cast<at::opmath_type<scalar_t>>(rate.scale);
        at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / width),
                         [&](int64_t begin, int64_t end) {
          for (int64_t r = begin; r < end; r++) {
            const int64_t at = r * width;
            drop(x_at + at, out_at + at, width, places.at(r), rate.threshold, scale);
          }
        });
      });
  return out;
}

// The same draws by tensor operations on int64, for devices without a kernel of ours.
// [b, …, d] int64, each in [0, 2^32).
Tensor draws_by_ops(at::IntArrayRef sizes, const RowKeys& rows) {
  const Tensor& keys = rows.keys;
  constexpr int64_t low = 0xFFFFFFFF;
  const auto dims = static_cast<int64_t>(sizes.size());
  const int64_t width = sizes.back();
  const int64_t tiles = (width + philox::kTile - 1) / philox::kTile;
  const auto index = [&](int64_t count, int64_t dim) {
    std::vector<int64_t> shape(dims, 1);
    shape[dim] = count;
    return at::arange(count, keys.options()).view(shape);
  };
  const Tensor zero = at::zeros(std::vector<int64_t>(dims, 1), keys.options());
  std::vector<int64_t> by_example(dims, 1);
  by_example[0] = sizes[0];
  Tensor k0 = keys.bitwise_and(low).view(by_example);
  Tensor k1 = keys.bitwise_right_shift(32).bitwise_and(low).view(by_example);

  Tensor w0 = index(tiles * philox::kLanes, dims - 1);
  Tensor w1 = rows.positions.defined() ? rows.positions.unsqueeze(1)
              : dims > 2               ? index(sizes[dims - 2], dims - 2)
                                       : zero;
  Tensor w2 = dims > 3 ? index(sizes[dims - 3], dims - 3) : zero;
  Tensor w3 = dims > 4 ? index(sizes[dims - 4], dims - 4) : zero;
  for (int round = 0; round < philox::kRounds; round++) {
    // The 64-bit product wraps into the sign, so its upper half is masked after the shift.
    const Tensor p0 = w0.mul(static_cast<int64_t>(philox::kMul0));
    const Tensor p1 = w2.mul(static_cast<int64_t>(philox::kMul1));
    w0 = p1.bitwise_right_shift(32).bitwise_and_(low).bitwise_xor(w1).bitwise_xor(k0);
    w2 = p0.bitwise_right_shift(32).bitwise_and_(low).bitwise_xor(w3).bitwise_xor(k1);
    w1 = p1.bitwise_and(low);
    w3 = p0.bitwise_and(low);
    k0 = k0.add(static_cast<int64_t>(philox::kWeyl0)).bitwise_and_(low);
    k1 = k1.add(static_cast<int64_t>(philox::kWeyl1)).bitwise_and_(low);
  }
  std::vector<int64_t> lanes(sizes.begin(), sizes.end());
  lanes.back() = tiles * philox::kLanes;
  std::vector<Tensor> words;
  for (const auto& word : {w0, w1, w2, w3}) {
    words.push_back(word.expand(lanes).unflatten(-1, {tiles, philox::kLanes}));
  }
  return at::stack(words, -2).flatten(-3).narrow(-1, 0, width);
}

Tensor dropout_by_ops(const Tensor& x, const Tensor& keys, const Tensor& offsets, double p) {
  if (x.numel() == 0) {
    return at::empty(x.sizes(), x.options());
  }
  const philox::Rate rate(p);
  // In the type that the kernel computes in, so that bf16 and fp16 are rounded once, as there.
  const Tensor factor = draws_by_ops(x.sizes(), row_keys(x, keys, offsets))
                            .ge(static_cast<int64_t>(rate.threshold))
                            .to(at::toOpMathType(x.scalar_type()))
                            .mul_(rate.scale);
  return x.mul(factor).to(x.scalar_type());
}

// Saves the keys alone; backward draws the mask again, by this same function, so that it can
// itself be differentiated.
struct Dropout : Function<Dropout> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& keys,
                        const std::optional<Tensor>& packed, double p) {
    const Tensor offsets = or_none(packed);
    ctx->save_for_backward({keys, offsets});
    ctx->saved_data["p"] = p;
    return x.is_cpu() ? dropout_cpu(x, keys, offsets, p) : dropout_by_ops(x, keys, offsets, p);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const double p = ctx->saved_data["p"].toDouble();
    return {Dropout::apply(grads[0], saved[0], given(saved[1]), p), Tensor(), Tensor(), Tensor()};
  }
};

void check(const Tensor& x, const Tensor& keys, const Tensor& offsets, double p) {
  TORCH_CHECK(x.defined() && keys.defined(), "dropout: undefined tensor");
  TORCH_CHECK(p >= 0.0 && p <= 1.0, "dropout: p is ", p, ", it must lie in 0 to 1");
  TORCH_CHECK(at::isFloatingType(x.scalar_type()), "dropout: x is ", x.scalar_type(),
              ", it must be a floating type");
  TORCH_CHECK(x.dim() >= 2 && x.dim() <= kMaxDims, "dropout: x has shape ", x.sizes(),
              ", it must have 2 to ", kMaxDims, " dimensions, the example first");
  TORCH_CHECK(keys.scalar_type() == at::kLong && keys.dim() == 1 &&
                  (offsets.defined() || keys.size(0) == x.size(0)),
              "dropout: keys are ", keys.scalar_type(), " ", keys.sizes(), ", they must be Int64 [",
              x.size(0), "], one for each example of x ", x.sizes());
  if (offsets.defined()) {
    TORCH_CHECK(x.dim() == 2, "dropout: packed x has shape ", x.sizes(),
                ", it must be [tokens, width]");
    check_offsets(offsets, x.size(0), keys.size(0));
  }
  TORCH_CHECK(x.device() == keys.device(), "dropout: x is on ", x.device(), ", keys are on ",
              keys.device());
}

}  // namespace

Tensor dropout(const Tensor& x, const Tensor& keys, const Tensor& offsets, double p) {
  check(x, keys, offsets, p);
  return Dropout::apply(x, keys, given(offsets), p);
}

}  // namespace luthier

extern "C" {

// `offsets` may be null.
char* luthier_dropout(const at::Tensor* x, const at::Tensor* keys, const at::Tensor* offsets,
                      double p, at::Tensor** out) {
  return luthier::guarded([&] {
    const at::Tensor packed = luthier::or_none(offsets);
    *out = new at::Tensor(luthier::dropout(*x, *keys, packed, p));
  });
}

char* luthier_dropout_by_ops(const at::Tensor* x, const at::Tensor* keys,
                             const at::Tensor* offsets, double p, at::Tensor** out) {
  return luthier::guarded([&] {
    const at::Tensor packed = luthier::or_none(offsets);
    luthier::check(*x, *keys, packed, p);
    *out = new at::Tensor(luthier::dropout_by_ops(*x, *keys, packed, p));
  });
}
}
