// Attention over sequences laid end to end: each query looks at the tokens of its own sequence,
// without padding, without a mask, and without keeping the weights for backward.

#include "attention_head.h"
#include "attention_ops.h"
#include "places.h"
#include "processor.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// The kernels of one head as compiled for a processor.
template <typename T>
struct Kernels {
  void (*forward)(const Rows<const T>& q, const Rows<const T>& k, const Rows<const T>& v,
                  const Rows<T>& out, float* lse, const Shape& s, const Drop* drop, Scratch& mem);
  void (*keys)(const Rows<const T>& k, const Rows<const T>& v, const Shape& s, Scratch& mem);
  void (*backward)(const Rows<const T>& q, const Rows<const T>& dout, const Rows<T>& dq,
                   const float* lse, const Shape& s, const Drop* drop, float* of_distance,
                   Scratch& mem);
};

// Versions by hand instead of LUTHIER_CLONES: tiles differ with the registers that there are. Products
// are functions of their own, so that they are compiled once for a processor.
#define LUTHIER_HEADS(Name, Target, Wide)                                                         \
  struct Name##Products {                                                                         \
    static constexpr bool kWide = Wide;                                                           \
    Target __attribute__((noinline)) static void set(const Strided& a, const float* b,            \
                                                     int64_t ldb, float* c, int64_t ldc,          \
                                                     int64_t m, int64_t n, int64_t k) {           \
      gemm<false, Wide>(a, b, ldb, c, ldc, m, n, k);                                              \
    }                                                                                             \
    Target __attribute__((noinline)) static void add(const Strided& a, const float* b,            \
                                                     int64_t ldb, float* c, int64_t ldc,          \
                                                     int64_t m, int64_t n, int64_t k) {           \
      gemm<true, Wide>(a, b, ldb, c, ldc, m, n, k);                                               \
    }                                                                                             \
  };                                                                                              \
  template <typename T>                                                                           \
  struct Name {                                                                                   \
    Target static void forward(const Rows<const T>& q, const Rows<const T>& k,                    \
                               const Rows<const T>& v, const Rows<T>& out, float* lse,            \
                               const Shape& s, const Drop* drop, Scratch& mem) {                  \
      head_forward<T, Name##Products>(q, k, v, out, lse, s, drop, mem);                           \
    }                                                                                             \
    Target static void keys(const Rows<const T>& k, const Rows<const T>& v, const Shape& s,       \
                            Scratch& mem) {                                                       \
      head_keys<T>(k, v, s, mem);                                                                 \
    }                                                                                             \
    Target static void backward(const Rows<const T>& q, const Rows<const T>& dout,                \
                                const Rows<T>& dq, const float* lse, const Shape& s,              \
                                const Drop* drop, float* of_distance, Scratch& mem) {             \
      head_backward<T, Name##Products>(q, dout, dq, lse, s, drop, of_distance, mem);              \
    }                                                                                             \
    static constexpr Kernels<T> kernels{forward, keys, backward};                                 \
  };
LUTHIER_HEADS(Plain, , false)
LUTHIER_HEADS(Avx2, LUTHIER_AVX2, false)
LUTHIER_HEADS(Avx512, LUTHIER_AVX512, true)
#undef LUTHIER_HEADS

template <typename T>
const Kernels<T>& kernels() {
  switch (processor()) {
    case Level::kAvx512: return Avx512<T>::kernels;
    case Level::kAvx2: return Avx2<T>::kernels;
    case Level::kPlain: break;
  }
  return Plain<T>::kernels;
}

// What does not change between forward and backward.
struct Plan {
  PackedHeads heads;
  const int64_t *offsets, *query_offsets;
  int64_t sequences;
  const int64_t* keys;
  philox::Rate rate;
  // `[query heads, 2 · span - 1]`, what scores get by distance; null for nothing.
  const float* distances;
  int64_t span;

  Plan(const PackedHeads& heads, const Tensor& offsets, const Tensor& query_offsets,
       const Tensor& keys, double p, const Tensor& distances)
      : heads(heads),
        offsets(offsets.const_data_ptr<int64_t>()),
        query_offsets(query_offsets.const_data_ptr<int64_t>()),
        sequences(offsets.numel() - 1),
        keys(p > 0 ? keys.const_data_ptr<int64_t>() : nullptr),
        rate(p),
        distances(distances.defined() ? distances.const_data_ptr<float>() : nullptr),
        span(distances.defined() ? (distances.size(1) + 1) / 2 : 0) {}

  Shape shape(int64_t sequence, int64_t head) const {
    return {offsets[sequence + 1] - offsets[sequence],
            query_offsets[sequence + 1] - query_offsets[sequence], heads.width, heads.causal,
            static_cast<float>(heads.scale), heads.window, static_cast<float>(heads.cap),
            distances == nullptr ? nullptr : distances + head * (2 * span - 1) + span - 1};
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
  const Kernels<T>& by = kernels<T>();
  // The sequence is the fast index, so that each thread gets its share of long ones.
  at::parallel_for(0, h.query * plan.sequences, 1, [&](int64_t begin, int64_t end) {
    Scratch mem;
    for (int64_t task = begin; task < end; task++) {
      const int64_t sequence = task % plan.sequences, head = task / plan.sequences;
      const int64_t first = plan.offsets[sequence], asks = plan.query_offsets[sequence],
                    shared = head / (h.query / h.key);
      const Shape s = plan.shape(sequence, head);
      mem.fit(s, false);
      Drop drop{};
      if (plan.keys != nullptr) {
        drop = plan.drop(sequence, head);
      }
      by.forward(rows_of<const T>(qs, q, asks, head, h.width),
                 rows_of<const T>(ks, k, first, shared, h.width),
                 rows_of<const T>(vs, v, first, shared, h.width),
                 rows_of<T>(outs, out, asks, head, h.width), sums + head * q.size(0) + asks, s,
                 plan.keys != nullptr ? &drop : nullptr, mem);
    }
  });
}

template <typename T>
void backward_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lse,
                  const Tensor& dout, Tensor& dq, Tensor& dk, Tensor& dv, const Plan& plan,
                  float* of_distances) {
  const auto& h = plan.heads;
  const auto *qs = q.const_data_ptr<T>(), *ks = k.const_data_ptr<T>(), *vs = v.const_data_ptr<T>();
  const auto* douts = dout.const_data_ptr<T>();
  const auto* sums = lse.const_data_ptr<float>();
  auto *dqs = dq.mutable_data_ptr<T>(), *dks = dk.mutable_data_ptr<T>(),
       *dvs = dv.mutable_data_ptr<T>();
  const Kernels<T>& by = kernels<T>();
  at::parallel_for(0, h.key * plan.sequences, 1, [&](int64_t begin, int64_t end) {
    Scratch mem;
    for (int64_t task = begin; task < end; task++) {
      const int64_t sequence = task % plan.sequences, shared = task / plan.sequences;
      const int64_t first = plan.offsets[sequence], asks = plan.query_offsets[sequence],
                    group = h.query / h.key;
      const Shape s = plan.shape(sequence, shared * group);
      mem.fit(s, true);
      by.keys(rows_of<const T>(ks, k, first, shared, h.width),
              rows_of<const T>(vs, v, first, shared, h.width), s, mem);
      std::fill_n(mem.dk.begin(), s.t * s.dp(), 0.0f);
      std::fill_n(mem.dv.begin(), s.t * s.dp(), 0.0f);
      for (int64_t head = shared * group; head < (shared + 1) * group; head++) {
        Drop drop{};
        if (plan.keys != nullptr) {
          drop = plan.drop(sequence, head);
        }
        // Each sequence has a row of its own, so that sums do not depend on the number of threads.
        float* of_distance = of_distances == nullptr
                                 ? nullptr
                                 : of_distances + (head * plan.sequences + sequence) * (2 * plan.span - 1) +
                                       plan.span - 1;
        by.backward(rows_of<const T>(qs, q, asks, head, h.width),
                    rows_of<const T>(douts, dout, asks, head, h.width),
                    rows_of<T>(dqs, dq, asks, head, h.width), sums + head * q.size(0) + asks,
                    plan.shape(sequence, head), plan.keys != nullptr ? &drop : nullptr, of_distance,
                    mem);
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

// The parts of `[n, (query + 2 · key) · width]`, queries and `[n, 2 · key · width]`, or three
// tensors as they are.
struct Parts {
  Tensor q, k, v;
  Parts(const Tensor& first, const Tensor& second, const Tensor& third, const PackedHeads& h)
      : q(first), k(second), v(third) {
    const int64_t wide = h.query * h.width, slim = h.key * h.width;
    if (!second.defined()) {
      q = first.narrow(1, 0, wide);
      k = first.narrow(1, wide, slim);
      v = first.narrow(1, wide + slim, slim);
    } else if (!third.defined()) {
      k = second.narrow(1, 0, slim);
      v = second.narrow(1, slim, slim);
    }
  }
};

Tensor rows_contiguous(const Tensor& x) { return !x.defined() || x.stride(1) == 1 ? x : x.contiguous(); }

// Rows after the last sequence belong to none: they give 0.
void clear_tail(const Tensor& x, const Tensor& offsets) {
  const int64_t used = offsets.const_data_ptr<int64_t>()[offsets.numel() - 1];
  if (used < x.size(0)) {
    x.narrow(0, used, x.size(0) - used).zero_();
  }
}

// The sum over sequences, one after the other: `[heads, sequences, m]` → `[heads, m]`.
Tensor over_sequences(const Tensor& each) {
  const int64_t heads = each.size(0), sequences = each.size(1), m = each.size(2);
  Tensor out = at::zeros({heads, m}, each.options());
  const auto* from = each.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; head++) {
      for (int64_t i = 0; i < sequences; i++) {
        const float* own = from + (head * sequences + i) * m;
        for (int64_t j = 0; j < m; j++) {
          to[head * m + j] += own[j];
        }
      }
    }
  });
  return out;
}

struct PackedAttention : Function<PackedAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q_in,
                        const std::optional<Tensor>& k_in, const std::optional<Tensor>& v_in,
                        const Tensor& offsets, const Tensor& query_offsets,
                        const std::optional<Tensor>& draws,
                        const std::optional<Tensor>& by_distance, double p, const PackedHeads& h) {
    const Tensor q = rows_contiguous(q_in), k = rows_contiguous(or_none(k_in)),
                 v = rows_contiguous(or_none(v_in)), keys = or_none(draws),
                 distances = or_none(by_distance);
    const Parts parts(q, k, v, h);
    Tensor out = at::empty({q.size(0), h.query * h.width}, q.options());
    Tensor lse = at::empty({h.query, q.size(0)}, q.options().dtype(at::kFloat));
    const Plan plan(h, offsets, query_offsets, keys, p, distances);
    if (q.scalar_type() == at::kFloat) {
      forward_cpu<float>(parts.q, parts.k, parts.v, out, lse, plan);
    } else {
      forward_cpu<at::BFloat16>(parts.q, parts.k, parts.v, out, lse, plan);
    }
    clear_tail(out, query_offsets);
    ctx->save_for_backward({q, k, v, offsets, query_offsets, keys, lse, distances});
    ctx->saved_data["p"] = p;
    ctx->saved_data["of_distances"] = distances.defined() && distances.requires_grad();
    ctx->saved_data["heads"] = h.query;
    ctx->saved_data["key_heads"] = h.key;
    ctx->saved_data["width"] = h.width;
    ctx->saved_data["causal"] = h.causal;
    ctx->saved_data["scale"] = h.scale;
    ctx->saved_data["first"] = h.first;
    ctx->saved_data["window"] = h.window;
    ctx->saved_data["cap"] = h.cap;
    return out;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &offsets = saved[3],
                 &query_offsets = saved[4], &lse = saved[6], &distances = saved[7];
    auto& data = ctx->saved_data;
    const PackedHeads h{data["heads"].toInt(), data["key_heads"].toInt(), data["width"].toInt(),
                        data["causal"].toBool(), data["scale"].toDouble(), data["first"].toInt(),
                        data["window"].toInt(), data["cap"].toDouble()};
    const Parts parts(q, k, v, h);
    const Tensor dq = at::empty(q.sizes(), q.options());
    const Tensor dk = k.defined() ? at::empty(k.sizes(), k.options()) : Tensor();
    const Tensor dv = v.defined() ? at::empty(v.sizes(), v.options()) : Tensor();
    Parts to(dq, dk, dv, h);
    const Plan plan(h, offsets, query_offsets, saved[5], data["p"].toDouble(), distances);
    Tensor each;
    if (data["of_distances"].toBool()) {
      each = at::zeros({h.query, plan.sequences, distances.size(1)}, distances.options());
    }
    float* of_distances = each.defined() ? each.mutable_data_ptr<float>() : nullptr;
    const Tensor dout = grads[0].contiguous();
    if (q.scalar_type() == at::kFloat) {
      backward_cpu<float>(parts.q, parts.k, parts.v, lse, dout, to.q, to.k, to.v, plan, of_distances);
    } else {
      backward_cpu<at::BFloat16>(parts.q, parts.k, parts.v, lse, dout, to.q, to.k, to.v, plan,
                                 of_distances);
    }
    clear_tail(to.q, query_offsets);
    clear_tail(to.k, offsets);
    clear_tail(to.v, offsets);
    return {dq, dk, dv, Tensor(), Tensor(), Tensor(), each.defined() ? over_sequences(each) : Tensor(),
            Tensor(), Tensor()};
  }
};

void check(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
           const Tensor& query_offsets, const Tensor& keys, const Tensor& distances, double p,
           const PackedHeads& h) {
  TORCH_CHECK(h.query >= 1 && h.key >= 1 && h.query % h.key == 0 && h.width >= 1, "attention: ",
              h.query, " query heads of ", h.width, " over ", h.key, " key heads");
  TORCH_CHECK(h.first >= 0, "attention: the first head is ", h.first);
  TORCH_CHECK(h.window >= 0 && (h.window == 0 || h.causal), "attention: a window of ", h.window,
              " tokens, causal ", h.causal);
  TORCH_CHECK(h.cap >= 0.0, "attention: scores are bounded by ", h.cap);
  TORCH_CHECK(p >= 0.0 && p <= 1.0, "attention: dropout is ", p, ", it must lie in 0 to 1");
  const int64_t wide = h.query * h.width, slim = h.key * h.width;
  const bool alone = k.defined(), joined = alone && !v.defined();
  const int64_t tokens = alone ? k.size(0) : q.size(0), asking = alone ? wide : wide + 2 * slim,
                answering = joined ? 2 * slim : slim;
  const auto fits = [&](const Tensor& x, int64_t width) {
    return x.dim() == 2 && x.size(1) == width && x.scalar_type() == q.scalar_type() &&
           x.device() == q.device();
  };
  TORCH_CHECK(fits(q, asking), "attention: q is ", q.sizes(), ", it must be [tokens, ", asking, "]");
  for (const auto& x : {k, v}) {
    TORCH_CHECK(!x.defined() || (fits(x, answering) && x.size(0) == tokens),
                "attention: keys or values are ", x.sizes(), " of ", x.scalar_type(),
                ", they must be [", tokens, ", ", answering, "] in the kind of q");
  }
  check_offsets(offsets, tokens, -1);
  check_offsets(query_offsets, q.size(0), offsets.numel() - 1);
  if (h.causal) {
    const auto *ends = offsets.const_data_ptr<int64_t>(),
               *asks = query_offsets.const_data_ptr<int64_t>();
    for (int64_t i = 0; i + 1 < offsets.numel(); i++) {
      TORCH_CHECK(asks[i + 1] - asks[i] <= ends[i + 1] - ends[i], "attention: sequence ", i, " has ",
                  asks[i + 1] - asks[i], " causal queries for ", ends[i + 1] - ends[i], " tokens");
    }
  }
  if (distances.defined()) {
    TORCH_CHECK(distances.dim() == 2 && distances.size(0) == h.query && distances.size(1) % 2 == 1 &&
                    distances.scalar_type() == at::kFloat && distances.device() == q.device() &&
                    h.cap == 0.0,
                "attention: what distances give is ", distances.scalar_type(), " ",
                distances.sizes(), ", it must be fp32 [", h.query,
                ", 2 · span - 1], and scores without a bound");
    const int64_t span = (distances.size(1) + 1) / 2;
    const auto *ends = offsets.const_data_ptr<int64_t>(),
               *asks = query_offsets.const_data_ptr<int64_t>();
    for (int64_t i = 0; i + 1 < offsets.numel(); i++) {
      const int64_t t = ends[i + 1] - ends[i], n = asks[i + 1] - asks[i];
      TORCH_CHECK(t <= span && n <= t, "attention: sequence ", i, " has ", n, " queries and ", t,
                  " tokens, distances reach over ", span);
    }
  }
  TORCH_CHECK(p == 0.0 || (keys.defined() && keys.scalar_type() == at::kLong &&
                           keys.numel() == offsets.numel() - 1 && keys.device() == q.device()),
              "attention: dropout needs a key for each sequence, on the device of q");
}

}  // namespace
}  // namespace luthier

extern "C" {

// `k` and `v` may be null: then `q` holds all three side by side; or `v` alone: then `k` holds keys
// and values. `query_offsets` may be null where queries lie as keys do. `by_distance` may be null.
// `by_ops`: not by the kernel.
char* luthier_packed_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v,
                               const at::Tensor* offsets, const at::Tensor* query_offsets,
                               const at::Tensor* keys, double p, const at::Tensor* by_distance,
                               const luthier::PackedHeads* heads, bool by_ops,
                               at::Tensor** out) {
  return luthier::guarded([&] {
    const at::Tensor ks = luthier::or_none(k), vs = luthier::or_none(v);
    const at::Tensor draws = luthier::or_none(keys);
    const at::Tensor distances =
        by_distance == nullptr ? at::Tensor() : by_distance->contiguous();
    const at::Tensor& asks = query_offsets == nullptr ? *offsets : *query_offsets;
    luthier::check(*q, ks, vs, *offsets, asks, draws, distances, p, *heads);
    const bool ours = !by_ops && q->is_cpu() && (q->scalar_type() == at::kFloat ||
                                      q->scalar_type() == at::kBFloat16);
    if (ours) {
      *out = new at::Tensor(luthier::PackedAttention::apply(
          *q, luthier::given(ks), luthier::given(vs), *offsets, asks,
          p > 0 ? luthier::given(draws.contiguous()) : std::nullopt, luthier::given(distances), p,
          *heads));
    } else {
      const luthier::Parts parts(*q, ks, vs, *heads);
      *out = new at::Tensor(luthier::packed_attention_by_ops(parts.q, parts.k, parts.v, *offsets,
                                                             asks, draws, p, distances, *heads));
    }
  });
}
}
