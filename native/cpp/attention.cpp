// Attention over sequences laid end to end: each token looks at the tokens of its own sequence,
// without padding, without a mask, and without keeping the weights for backward.

#include "attention_ops.h"
#include "philox.h"
#include "places.h"
#include "small_gemm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// Queries that go through at once: their scores stay in cache.
constexpr int64_t kBlock = 64;

// Rows of one head: element `(row, d)` at `at[row * stride + d]`.
template <typename T>
struct Rows {
  T* at;
  int64_t stride;
};

struct Drop {
  uint32_t threshold;
  float scale;
  uint32_t k0, k1, head;

  // For the weights of one query, `[n]`.
  LUTHIER_INLINE void factors(float* out, int64_t n, int64_t query) const {
    philox::factors(out, n, threshold, scale, static_cast<uint32_t>(query), head, 0, k0, k1);
  }
};

// One head of one sequence. `t` tokens, `d` numbers each; `tp` and `dp` rounded to vectors.
struct Shape {
  int64_t t, d;
  bool causal;
  float scale;
  int64_t tp() const { return vec::rounded(t); }
  int64_t dp() const { return vec::rounded(d); }
};

// Buffers of a thread, as large as its longest sequence needs.
struct Scratch {
  std::vector<float> scores, grads, kt, vt, q, k, v, dout, dq, dk, dv, row;
  void fit(const Shape& s, bool backward) {
    const auto room = [](std::vector<float>& buffer, int64_t n) {
      if (static_cast<int64_t>(buffer.size()) < n) {
        buffer.assign(n, 0.0f);
      }
    };
    const int64_t tokens = s.tp() * s.dp(), block = kBlock * s.tp();
    room(scores, block);
    room(row, std::max(s.tp(), s.dp()));
    for (auto* buffer : {&kt, &q, &v, &dq}) {
      room(*buffer, tokens);
    }
    if (backward) {
      room(grads, 2 * block);
      for (auto* buffer : {&vt, &k, &dout, &dk, &dv}) {
        room(*buffer, tokens);
      }
    }
  }
};

// Rows of `x` as floats `[t, dp]`, times `scale`; columns past `d` are 0.
template <typename T>
LUTHIER_INLINE void gather(std::vector<float>& to, const Rows<const T>& x, const Shape& s,
                           float scale) {
  const int64_t dp = s.dp();
  for (int64_t i = 0; i < s.t; i++) {
    float* out = to.data() + i * dp;
    vec::widen(out, x.at + i * x.stride, s.d);
    for (int64_t j = 0; j < s.d; j++) {
      out[j] *= scale;
    }
    std::fill(out + s.d, out + dp, 0.0f);
  }
}

// The same transposed, `[d, tp]`; columns past `t` are 0.
template <typename T>
LUTHIER_INLINE void gather_transposed(std::vector<float>& to, const Rows<const T>& x,
                                      const Shape& s) {
  const int64_t tp = s.tp();
  for (int64_t j = 0; j < s.d; j++) {
    float* out = to.data() + j * tp;
    for (int64_t i = 0; i < s.t; i++) {
      out[i] = vec::to_float(x.at[i * x.stride + j]);
    }
    std::fill(out + s.t, out + tp, 0.0f);
  }
}

// Turns a row of scores into e^(score - shift), 0 from `limit` on; returns the sum.
LUTHIER_INLINE float exponentials(float* row, int64_t tp, int64_t limit, float shift) {
  vec::i16 lane;
  vec::lanes(lane);
  vec::v16 total{};
  for (int64_t j = 0; j < tp; j += vec::kWidth) {
    vec::v16 x;
    vec::load(x, row + j);
    vec::exp(x, x - shift);
    x = lane + static_cast<int32_t>(j) < static_cast<int32_t>(limit) ? x : vec::v16{};
    vec::store(row + j, x);
    total += x;
  }
  return vec::sum(total);
}

LUTHIER_INLINE float greatest(const float* row, int64_t limit) {
  vec::v16 top;
  vec::fill(top, -INFINITY);
  int64_t j = 0;
  for (; j + vec::kWidth <= limit; j += vec::kWidth) {
    vec::v16 x;
    vec::load(x, row + j);
    top = x > top ? x : top;
  }
  float out = vec::max(top);
  for (; j < limit; j++) {
    out = row[j] > out ? row[j] : out;
  }
  return out;
}

template <typename T>
LUTHIER_INLINE void head_forward(const Rows<const T>& q, const Rows<const T>& k,
                                 const Rows<const T>& v, const Rows<T>& out, float* lse,
                                 const Shape& s, const Drop* drop, Scratch& mem) {
  const int64_t tp = s.tp(), dp = s.dp();
  gather(mem.q, q, s, s.scale);
  gather_transposed(mem.kt, k, s);
  gather(mem.v, v, s, 1.0f);
  for (int64_t i0 = 0; i0 < s.t; i0 += kBlock) {
    const int64_t n = std::min(kBlock, s.t - i0);
    gemm<false>({mem.q.data() + i0 * dp, dp, 1}, mem.kt.data(), tp, mem.scores.data(), tp, n, tp,
                s.d);
    for (int64_t i = 0; i < n; i++) {
      float* row = mem.scores.data() + i * tp;
      const int64_t limit = s.causal ? i0 + i + 1 : s.t;
      const float top = greatest(row, limit);
      const float sum = exponentials(row, tp, limit, top);
      lse[i0 + i] = top + std::log(sum);
      const float inverse = 1.0f / sum;
      if (drop != nullptr) {
        drop->factors(mem.row.data(), tp, i0 + i);
        for (int64_t j = 0; j < tp; j++) {
          row[j] *= inverse * mem.row[j];
        }
      } else {
        for (int64_t j = 0; j < tp; j++) {
          row[j] *= inverse;
        }
      }
    }
    gemm<false>({mem.scores.data(), tp, 1}, mem.v.data(), dp, mem.dq.data(), dp, n, dp, s.t);
    for (int64_t i = 0; i < n; i++) {
      vec::narrow(out.at + (i0 + i) * out.stride, mem.dq.data() + i * dp, s.d);
    }
  }
}

// Adds to `mem.dk` and `mem.dv`, which the caller clears and writes: heads of a group share them.
template <typename T>
LUTHIER_INLINE void head_backward(const Rows<const T>& q, const Rows<const T>& dout,
                                  const Rows<T>& dq, const float* lse, const Shape& s,
                                  const Drop* drop, Scratch& mem) {
  const int64_t tp = s.tp(), dp = s.dp();
  gather(mem.q, q, s, s.scale);
  gather(mem.dout, dout, s, 1.0f);
  float* scores = mem.scores.data();
  float* weights = mem.grads.data();           // after dropout
  float* grads = mem.grads.data() + kBlock * tp;
  for (int64_t i0 = 0; i0 < s.t; i0 += kBlock) {
    const int64_t n = std::min(kBlock, s.t - i0);
    gemm<false>({mem.q.data() + i0 * dp, dp, 1}, mem.kt.data(), tp, scores, tp, n, tp, s.d);
    gemm<false>({mem.dout.data() + i0 * dp, dp, 1}, mem.vt.data(), tp, grads, tp, n, tp, s.d);
    for (int64_t i = 0; i < n; i++) {
      float *p = scores + i * tp, *w = weights + i * tp, *g = grads + i * tp;
      exponentials(p, tp, s.causal ? i0 + i + 1 : s.t, lse[i0 + i]);
      if (drop != nullptr) {
        drop->factors(mem.row.data(), tp, i0 + i);
        for (int64_t j = 0; j < tp; j++) {
          w[j] = p[j] * mem.row[j];
          g[j] *= mem.row[j];
        }
      } else {
        std::memcpy(w, p, tp * sizeof(float));
      }
      vec::v16 dot{};
      for (int64_t j = 0; j < tp; j += vec::kWidth) {
        vec::v16 a, b;
        vec::load(a, p + j);
        vec::load(b, g + j);
        dot += a * b;
      }
      const float shared = vec::sum(dot);
      for (int64_t j = 0; j < tp; j++) {
        g[j] = p[j] * (g[j] - shared);
      }
    }
    gemm<true>({weights, 1, tp}, mem.dout.data() + i0 * dp, dp, mem.dv.data(), dp, s.t, dp, n);
    gemm<true>({grads, 1, tp}, mem.q.data() + i0 * dp, dp, mem.dk.data(), dp, s.t, dp, n);
    gemm<false>({grads, tp, 1}, mem.k.data(), dp, mem.dq.data(), dp, n, dp, s.t);
    for (int64_t i = 0; i < n; i++) {
      float* row = mem.dq.data() + i * dp;
      for (int64_t j = 0; j < s.d; j++) {
        row[j] *= s.scale;
      }
      vec::narrow(dq.at + (i0 + i) * dq.stride, row, s.d);
    }
  }
}

#define LUTHIER_HEADS(T)                                                                        \
  LUTHIER_CLONES void forward_one(const Rows<const T>& q, const Rows<const T>& k,               \
                                  const Rows<const T>& v, const Rows<T>& out, float* lse,       \
                                  const Shape& s, const Drop* drop, Scratch& mem) {             \
    head_forward<T>(q, k, v, out, lse, s, drop, mem);                                           \
  }                                                                                             \
  LUTHIER_CLONES void backward_one(const Rows<const T>& q, const Rows<const T>& dout,           \
                                   const Rows<T>& dq, const float* lse, const Shape& s,         \
                                   const Drop* drop, Scratch& mem) {                            \
    head_backward<T>(q, dout, dq, lse, s, drop, mem);                                           \
  }                                                                                             \
  LUTHIER_CLONES void gather_keys(const Rows<const T>& k, const Rows<const T>& v,               \
                                  const Shape& s, Scratch& mem) {                               \
    gather(mem.k, k, s, 1.0f);                                                                  \
    gather_transposed(mem.kt, k, s);                                                            \
    gather_transposed(mem.vt, v, s);                                                            \
  }
LUTHIER_HEADS(float)
LUTHIER_HEADS(at::BFloat16)
#undef LUTHIER_HEADS

// What does not change between forward and backward.
struct Plan {
  PackedHeads heads;
  const int64_t* offsets;
  int64_t sequences;
  const int64_t* keys;
  philox::Rate rate;

  Plan(const PackedHeads& heads, const Tensor& offsets, const Tensor& keys, double p)
      : heads(heads),
        offsets(offsets.const_data_ptr<int64_t>()),
        sequences(offsets.numel() - 1),
        keys(p > 0 ? keys.const_data_ptr<int64_t>() : nullptr),
        rate(p) {}

  Shape shape(int64_t sequence) const {
    return {offsets[sequence + 1] - offsets[sequence], heads.width, heads.causal,
            static_cast<float>(heads.scale)};
  }

  Drop drop(int64_t sequence, int64_t head) const {
    const auto key = static_cast<uint64_t>(keys[sequence]);
    return {rate.threshold, static_cast<float>(rate.scale), static_cast<uint32_t>(key),
            static_cast<uint32_t>(key >> 32), static_cast<uint32_t>(heads.first + head)};
  }
};

template <typename T, typename X>
Rows<T> rows_of(X* data, const Tensor& x, int64_t first, int64_t head, int64_t width) {
  return {data + first * x.stride(0) + head * width, x.stride(0)};
}

template <typename T>
void forward_cpu(const Tensor& q, const Tensor& k, const Tensor& v, Tensor& out, Tensor& lse,
                 const Plan& plan) {
  const auto& h = plan.heads;
  const auto *qs = q.const_data_ptr<T>(), *ks = k.const_data_ptr<T>(), *vs = v.const_data_ptr<T>();
  auto* outs = out.mutable_data_ptr<T>();
  auto* sums = lse.mutable_data_ptr<float>();
  // The sequence is the fast index, so that each thread gets its share of long ones.
  at::parallel_for(0, h.query * plan.sequences, 1, [&](int64_t begin, int64_t end) {
    Scratch mem;
    for (int64_t task = begin; task < end; task++) {
      const int64_t sequence = task % plan.sequences, head = task / plan.sequences;
      const int64_t first = plan.offsets[sequence], shared = head / (h.query / h.key);
      const Shape s = plan.shape(sequence);
      mem.fit(s, false);
      Drop drop{};
      if (plan.keys != nullptr) {
        drop = plan.drop(sequence, head);
      }
      forward_one(rows_of<const T>(qs, q, first, head, h.width),
                  rows_of<const T>(ks, k, first, shared, h.width),
                  rows_of<const T>(vs, v, first, shared, h.width),
                  rows_of<T>(outs, out, first, head, h.width), sums + head * q.size(0) + first, s,
                  plan.keys != nullptr ? &drop : nullptr, mem);
    }
  });
}

template <typename T>
void backward_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lse,
                  const Tensor& dout, Tensor& dq, Tensor& dk, Tensor& dv, const Plan& plan) {
  const auto& h = plan.heads;
  const auto *qs = q.const_data_ptr<T>(), *ks = k.const_data_ptr<T>(), *vs = v.const_data_ptr<T>();
  const auto* douts = dout.const_data_ptr<T>();
  const auto* sums = lse.const_data_ptr<float>();
  auto *dqs = dq.mutable_data_ptr<T>(), *dks = dk.mutable_data_ptr<T>(),
       *dvs = dv.mutable_data_ptr<T>();
  at::parallel_for(0, h.key * plan.sequences, 1, [&](int64_t begin, int64_t end) {
    Scratch mem;
    for (int64_t task = begin; task < end; task++) {
      const int64_t sequence = task % plan.sequences, shared = task / plan.sequences;
      const int64_t first = plan.offsets[sequence], group = h.query / h.key;
      const Shape s = plan.shape(sequence);
      mem.fit(s, true);
      gather_keys(rows_of<const T>(ks, k, first, shared, h.width),
                  rows_of<const T>(vs, v, first, shared, h.width), s, mem);
      std::fill_n(mem.dk.begin(), s.t * s.dp(), 0.0f);
      std::fill_n(mem.dv.begin(), s.t * s.dp(), 0.0f);
      for (int64_t head = shared * group; head < (shared + 1) * group; head++) {
        Drop drop{};
        if (plan.keys != nullptr) {
          drop = plan.drop(sequence, head);
        }
        backward_one(rows_of<const T>(qs, q, first, head, h.width),
                     rows_of<const T>(douts, dout, first, head, h.width),
                     rows_of<T>(dqs, dq, first, head, h.width), sums + head * q.size(0) + first, s,
                     plan.keys != nullptr ? &drop : nullptr, mem);
      }
      const auto to_k = rows_of<T>(dks, dk, first, shared, h.width);
      const auto to_v = rows_of<T>(dvs, dv, first, shared, h.width);
      for (int64_t i = 0; i < s.t; i++) {
        vec::narrow(to_k.at + i * to_k.stride, mem.dk.data() + i * s.dp(), s.d);
        vec::narrow(to_v.at + i * to_v.stride, mem.dv.data() + i * s.dp(), s.d);
      }
    }
  });
}

// The parts of `[n, (query + 2 · key) · width]`, or three tensors as they are.
struct Parts {
  Tensor q, k, v;
  Parts(const Tensor& q, const Tensor& k, const Tensor& v, const PackedHeads& h)
      : q(k.defined() ? q : q.narrow(1, 0, h.query * h.width)),
        k(k.defined() ? k : q.narrow(1, h.query * h.width, h.key * h.width)),
        v(k.defined() ? v : q.narrow(1, (h.query + h.key) * h.width, h.key * h.width)) {}
};

Tensor rows_contiguous(const Tensor& x) { return !x.defined() || x.stride(1) == 1 ? x : x.contiguous(); }

// Rows after the last sequence belong to none: they give 0.
void clear_tail(const Tensor& x, const Tensor& offsets) {
  const int64_t used = offsets.const_data_ptr<int64_t>()[offsets.numel() - 1];
  if (used < x.size(0)) {
    x.narrow(0, used, x.size(0) - used).zero_();
  }
}

struct PackedAttention : Function<PackedAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q_in,
                        const std::optional<Tensor>& k_in, const std::optional<Tensor>& v_in,
                        const Tensor& offsets, const std::optional<Tensor>& draws, double p,
                        const PackedHeads& h) {
    const Tensor q = rows_contiguous(q_in), k = rows_contiguous(or_none(k_in)),
                 v = rows_contiguous(or_none(v_in)), keys = or_none(draws);
    const Parts parts(q, k, v, h);
    Tensor out = at::empty({q.size(0), h.query * h.width}, q.options());
    Tensor lse = at::empty({h.query, q.size(0)}, q.options().dtype(at::kFloat));
    const Plan plan(h, offsets, keys, p);
    if (q.scalar_type() == at::kFloat) {
      forward_cpu<float>(parts.q, parts.k, parts.v, out, lse, plan);
    } else {
      forward_cpu<at::BFloat16>(parts.q, parts.k, parts.v, out, lse, plan);
    }
    clear_tail(out, offsets);
    ctx->save_for_backward({q, k, v, offsets, keys, lse});
    ctx->saved_data["p"] = p;
    ctx->saved_data["heads"] = h.query;
    ctx->saved_data["key_heads"] = h.key;
    ctx->saved_data["width"] = h.width;
    ctx->saved_data["causal"] = h.causal;
    ctx->saved_data["scale"] = h.scale;
    ctx->saved_data["first"] = h.first;
    return out;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &offsets = saved[3];
    auto& data = ctx->saved_data;
    const PackedHeads h{data["heads"].toInt(), data["key_heads"].toInt(), data["width"].toInt(),
                        data["causal"].toBool(), data["scale"].toDouble(), data["first"].toInt()};
    const Parts parts(q, k, v, h);
    const Tensor dq = at::empty(q.sizes(), q.options());
    const Tensor dk = k.defined() ? at::empty(k.sizes(), k.options()) : Tensor();
    const Tensor dv = v.defined() ? at::empty(v.sizes(), v.options()) : Tensor();
    Parts to(dq, dk, dv, h);
    const Plan plan(h, offsets, saved[4], data["p"].toDouble());
    const Tensor dout = grads[0].contiguous();
    if (q.scalar_type() == at::kFloat) {
      backward_cpu<float>(parts.q, parts.k, parts.v, saved[5], dout, to.q, to.k, to.v, plan);
    } else {
      backward_cpu<at::BFloat16>(parts.q, parts.k, parts.v, saved[5], dout, to.q, to.k, to.v, plan);
    }
    for (const auto& x : {to.q, to.k, to.v}) {
      clear_tail(x, offsets);
    }
    return {dq, dk, dv, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

void check(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
           const Tensor& keys, double p, const PackedHeads& h) {
  TORCH_CHECK(h.query >= 1 && h.key >= 1 && h.query % h.key == 0 && h.width >= 1, "attention: ",
              h.query, " query heads of ", h.width, " over ", h.key, " key heads");
  TORCH_CHECK(h.first >= 0, "attention: the first head is ", h.first);
  TORCH_CHECK(p >= 0.0 && p <= 1.0, "attention: dropout is ", p, ", it must lie in 0 to 1");
  const int64_t wide = h.query * h.width, slim = h.key * h.width;
  const auto fits = [&](const Tensor& x, int64_t width) {
    return x.dim() == 2 && x.size(0) == q.size(0) && x.size(1) == width &&
           x.scalar_type() == q.scalar_type() && x.device() == q.device();
  };
  TORCH_CHECK(k.defined() == v.defined(), "attention: keys without values");
  TORCH_CHECK(k.defined() ? fits(q, wide) && fits(k, slim) && fits(v, slim)
                          : fits(q, wide + 2 * slim),
              "attention: q is ", q.sizes(), ", it must be [tokens, ",
              k.defined() ? wide : wide + 2 * slim, "], keys and values [tokens, ", slim, "]");
  check_offsets(offsets, q.size(0), -1);
  TORCH_CHECK(p == 0.0 || (keys.defined() && keys.scalar_type() == at::kLong &&
                           keys.numel() == offsets.numel() - 1 && keys.device() == q.device()),
              "attention: dropout needs a key for each sequence, on the device of q");
}

}  // namespace
}  // namespace luthier

extern "C" {

// `k` and `v` may be null: then `q` holds all three side by side. `by_ops`: not by the kernel.
char* luthier_packed_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v,
                               const at::Tensor* offsets, const at::Tensor* keys, double p,
                               const luthier::PackedHeads* heads, bool by_ops,
                               at::Tensor** out) {
  return luthier::guarded([&] {
    const at::Tensor ks = luthier::or_none(k), vs = luthier::or_none(v);
    const at::Tensor draws = luthier::or_none(keys);
    luthier::check(*q, ks, vs, *offsets, draws, p, *heads);
    const bool ours = !by_ops && q->is_cpu() && (q->scalar_type() == at::kFloat ||
                                      q->scalar_type() == at::kBFloat16);
    if (ours) {
      *out = new at::Tensor(luthier::PackedAttention::apply(
          *q, luthier::given(ks), luthier::given(vs), *offsets,
          p > 0 ? luthier::given(draws.contiguous()) : std::nullopt, p, *heads));
    } else {
      const luthier::Parts parts(*q, ks, vs, *heads);
      *out = new at::Tensor(luthier::packed_attention_by_ops(parts.q, parts.k, parts.v, *offsets,
                                                             draws, p, *heads));
    }
  });
}
}
