// Attention over packed sequences by tensor operations: on a GPU, and in tests as the definition.

#include "attention_ops.h"

#include "common.h"

#include <ATen/ATen.h>

namespace luthier {

using at::Tensor;

namespace {

// Where the tokens of padded rows lie among the packed ones, and back.
struct Padding {
  Tensor from;     // Int64 [b · longest]: packed row of each place, the last row for padding
  Tensor back;     // Int64 [tokens]: place of each packed row
  Tensor absent;   // Bool [b, longest]
  Tensor lengths;  // Int64 [b], on the CPU
  int64_t sequences, longest, tokens;
};

Padding padding_of(const Tensor& offsets, int64_t rows, const at::Device& device) {
  const Tensor starts = offsets.slice(0, 0, -1).unsqueeze(1);
  const Tensor lengths = offsets.diff().unsqueeze(1);
  Padding out;
  out.lengths = lengths.squeeze(1);
  out.sequences = lengths.size(0);
  out.longest = lengths.max().item<int64_t>();
  const Tensor at = at::arange(out.longest, offsets.options()).unsqueeze(0);
  const Tensor present = at.lt(lengths);
  const Tensor places = starts.add(at);
  out.from = places.where(present, at::full_like(places, rows - 1)).flatten().to(device);
  out.back = present.flatten().nonzero().squeeze(1).to(device);
  out.absent = present.logical_not().to(device);
  out.tokens = out.back.size(0);
  return out;
}

// Dropout of `[b, h, q, k]` where the first head has another number than 0.
Tensor dropped(const Tensor& weights, const Tensor& keys, double p, int64_t first) {
  if (first == 0) {
    return dropout(weights, keys, Tensor(), p);
  }
  auto before = weights.sizes().vec();
  before[1] = first;
  const Tensor all = at::cat({at::zeros(before, weights.options()), weights}, 1);
  return dropout(all, keys, Tensor(), p).narrow(1, first, weights.size(1));
}

}  // namespace

Tensor packed_attention_by_ops(const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& offsets, const Tensor& query_offsets,
                               const Tensor& keys, double p, const Tensor& distances,
                               const PackedHeads& h) {
  const Padding pad = padding_of(offsets, k.size(0), q.device());
  const bool alike = query_offsets.is_same(offsets);
  const Padding asks = alike ? pad : padding_of(query_offsets, q.size(0), q.device());
  const auto padded = [&](const Tensor& x, int64_t heads, const Padding& by) {
    return x.index_select(0, by.from)
        .view({by.sequences, by.longest, heads, h.width})
        .transpose(1, 2)
        .repeat_interleave(h.query / heads, 1);  // [b, h, t, d]
  };
  const Tensor qs = padded(q, h.query, asks), ks = padded(k, h.key, pad), vs = padded(v, h.key, pad);
  Tensor mask = pad.absent.unsqueeze(1).unsqueeze(1);  // [b, 1, 1, t]
  // Where it is causal the queries are those of the last tokens of each sequence.
  const Tensor lengths = pad.lengths.sub(asks.lengths).view({-1, 1, 1, 1});
  const Tensor shift = h.causal ? lengths : lengths.zero_();
  const Tensor last = at::arange(asks.longest, shift.options()).view({1, 1, -1, 1}).add(shift);
  const Tensor at = at::arange(pad.longest, shift.options()).view({1, 1, 1, -1});
  if (h.causal) {
    mask = mask.logical_or(at.gt(last).to(mask.device()));
    if (h.window > 0) {
      mask = mask.logical_or(at.le(last.sub(h.window)).to(mask.device()));
      // A query that only fills up would see nothing, and softmax would give no number.
      mask = mask.logical_and(asks.absent.logical_not().unsqueeze(1).unsqueeze(3));
    }
  }
  Tensor mixed;
  if (p == 0.0 && h.cap == 0.0 && !distances.defined()) {
    mixed = at::scaled_dot_product_attention(qs, ks, vs, mask.logical_not(), 0.0, false, h.scale);
  } else {
    Tensor scores = qs.mul(h.scale).matmul(ks.transpose(-2, -1));
    if (h.cap > 0.0) {
      scores = scores.div(h.cap).tanh().mul(h.cap);
    }
    if (distances.defined()) {
      const int64_t span = (distances.size(1) + 1) / 2;
      // Rows that only fill up may lie too far.
      const Tensor far = at.sub(last).clamp(1 - span, span - 1).add(span - 1);  // [b, 1, n, t]
      const Tensor given = distances.index_select(1, far.flatten().to(distances.device()));
      const auto sizes = far.sizes();
      scores = scores.add(
          given.view({h.query, sizes[0], sizes[2], sizes[3]}).transpose(0, 1).to(scores.scalar_type()));
    }
    const Tensor weights = scores.masked_fill(mask, -INFINITY).softmax(-1);
    mixed = (p > 0.0 ? dropped(weights, keys, p, h.first) : weights).matmul(vs);
  }
  const Tensor flat =
      mixed.transpose(1, 2).reshape({asks.sequences * asks.longest, h.query * h.width});
  const Tensor out = flat.index_select(0, asks.back);
  const int64_t tail = q.size(0) - asks.tokens;
  return tail == 0 ? out : at::cat({out, at::zeros({tail, out.size(1)}, out.options())});
}

}  // namespace luthier
