//! Attention over sequences that lie end to end, with dropout that can be drawn again.

use tch::Tensor;

use crate::{Result, ffi};

/// The heads of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub query: i64,
    /// Key and value heads, a divisor of `query`: each serves `query / key` neighbouring query heads.
    pub key: i64,
    /// Numbers of a head.
    pub width: i64,
    /// Whether a token sees only itself and what came before it in its sequence. Where queries are apart, they are those
    /// of its last tokens.
    pub causal: bool,
    /// What the scores are multiplied by; usually `1 / √width`.
    pub scale: f64,
    /// The number of the first query head in dropout's draws: 0, or how many heads other processes have before these.
    pub first: i64,
    /// How many tokens a token sees at most, itself included; 0 for all. Only where it is causal.
    pub window: i64,
    /// Scores become `cap · tanh(score / cap)`; 0 for no bound.
    pub cap: f64,
}

impl Heads {
    /// Bidirectional attention of `heads` heads of `width`, scores divided by `√width`.
    #[must_use]
    pub fn bidirectional(heads: i64, width: i64) -> Self {
        let scale = 1.0 / (width as f64).sqrt();
        Heads { query: heads, key: heads, width, causal: false, scale, first: 0, window: 0, cap: 0.0 }
    }

    /// The same of a decoder: a token sees itself and what came before it.
    #[must_use]
    pub fn causal(query: i64, key: i64, width: i64) -> Self {
        Heads { key, causal: true, ..Heads::bidirectional(query, width) }
    }

    /// Part `part` of `parts` of the heads, which divides both counts.
    #[must_use]
    pub fn part(self, part: i64, parts: i64) -> Self {
        let (query, key) = (self.query / parts, self.key / parts);
        Heads { query, key, first: self.first + part * query, ..self }
    }

    /// The same as C++ takes it.
    pub(crate) fn packed(self) -> ffi::PackedHeads {
        let Heads { query, key, width, causal, scale, first, window, cap } = self;
        ffi::PackedHeads { query, key, width, causal, scale, first, window, cap }
    }
}

/// Queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub enum Projections<'a> {
    /// Side by side in one tensor, `[tokens, (query + 2 · key) · width]`.
    Joined(&'a Tensor),
    /// `[tokens, query · width]`, and twice `[tokens, key · width]`.
    Apart(&'a Tensor, &'a Tensor, &'a Tensor),
    /// Queries of some tokens only, or of other sequences: one sequence of them for each sequence of tokens.
    Across {
        /// `[queries, query · width]`.
        query: &'a Tensor,
        /// Int64 `[sequences + 1]` on the CPU: where each sequence's queries lie.
        query_offsets: &'a Tensor,
        /// Keys and values side by side, `[tokens, 2 · key · width]`.
        key_value: &'a Tensor,
    },
}

/// `dropout(softmax(scale · q · kᵀ)) · v` within each sequence and head.
///
/// - `offsets`: Int64 `[sequences + 1]` on the CPU: sequence `i` is the tokens `offsets[i] .. offsets[i + 1]`. Tokens
///   after the last sequence belong to none, and give 0;
/// - `drop`: dropout probability on the attention weights, and Int64 `[sequences]` from [`crate::keys`]. The draw of a
///   weight is that of [`crate::dropout`] at `[sequence, heads.first + head, query, key]`.
///
/// Returns `[tokens or queries, query · width]`. On the CPU, in fp32 and bf16, a kernel of our own computes it (in fp32 inside),
/// keeps one number a token and head for backward and draws weights and dropout again there; bits do not depend on the
/// number of threads. On a GPU sequences are padded and libtorch's operations take over.
///
/// Source: A. Vaswani et al., "Attention is all you need", 2017, equation 1; the recomputation in backward is that of
/// T. Dao et al., "FlashAttention", 2022.
///
/// # Errors
/// When shapes, kinds or devices do not fit, a sequence is empty, or offsets leave the tokens.
pub fn f_attention(
    projections: Projections,
    heads: Heads,
    offsets: &Tensor,
    drop: Option<(f64, &Tensor)>,
) -> Result<Tensor> {
    of_packed(projections, heads, offsets, drop, None, false)
}

/// [`f_attention`] whose scores get something by the distance from query to key: to the score of query `i` and key `j` of
/// head `h` is added `by_distance[h][span − 1 + j − i]`.
///
/// `by_distance`: fp32 `[query, 2 · span − 1]`, where no sequence has more than `span` tokens; it has a gradient. Scores have
/// no bound, and queries that are apart are those of a sequence's last tokens.
///
/// Source: C. Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020,
/// section 2.1.
///
/// # Errors
/// Where [`f_attention`] gives one, and where `by_distance` does not fit.
pub fn f_distance_attention(
    projections: Projections,
    heads: Heads,
    offsets: &Tensor,
    by_distance: &Tensor,
    drop: Option<(f64, &Tensor)>,
) -> Result<Tensor> {
    of_packed(projections, heads, offsets, drop, Some(by_distance), false)
}

/// [`f_distance_attention`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_distance_attention`] gives an error.
pub fn distance_attention(
    projections: Projections,
    heads: Heads,
    offsets: &Tensor,
    by_distance: &Tensor,
    drop: Option<(f64, &Tensor)>,
) -> Tensor {
    f_distance_attention(projections, heads, offsets, by_distance, drop).unwrap()
}

/// [`f_attention`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_attention`] gives an error.
pub fn attention(
    projections: Projections,
    heads: Heads,
    offsets: &Tensor,
    drop: Option<(f64, &Tensor)>,
) -> Tensor {
    f_attention(projections, heads, offsets, drop).unwrap()
}

fn of_packed(
    projections: Projections,
    heads: Heads,
    offsets: &Tensor,
    drop: Option<(f64, &Tensor)>,
    by_distance: Option<&Tensor>,
    by_ops: bool,
) -> Result<Tensor> {
    let (query, key, value, query_offsets) = match projections {
        Projections::Joined(all) => (all, None, None, None),
        Projections::Apart(q, k, v) => (q, Some(k), Some(v), None),
        Projections::Across { query, query_offsets, key_value } => {
            (query, Some(key_value), None, Some(query_offsets))
        }
    };
    let heads = heads.packed();
    let (p, keys) = drop.map_or((0.0, None), |(p, keys)| (p, Some(keys)));
    ffi::packed_attention(&ffi::PackedAttention {
        query,
        key,
        value,
        offsets,
        query_offsets,
        keys,
        p,
        by_distance,
        heads,
        by_ops,
    })
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::ffi::tests::leaf;

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
        (&a - &b).abs().max().double_value(&[]) / b.abs().max().double_value(&[])
    }

    /// Output and gradients of the kernel against those of padded tensor operations.
    fn compare(heads: Heads, lengths: &[i64], tail: i64, p: f64, kind: Kind, tolerance: f64) {
        tch::manual_seed(3);
        let ends = lengths.iter().scan(0, |at, length| {
            *at += length;
            Some(*at)
        });
        let offsets: Vec<i64> = std::iter::once(0).chain(ends).collect();
        let tokens = offsets.last().unwrap() + tail;
        let offsets = Tensor::from_slice(&offsets);
        let ids = Tensor::arange(lengths.len() as i64, (Kind::Int64, Device::Cpu));
        let keys = crate::keys(1, 2, 3, &ids);
        let drop = (p > 0.0).then_some((p, &keys));
        let q = leaf(&[tokens, heads.query * heads.width], kind);
        let k = leaf(&[tokens, heads.key * heads.width], kind);
        let v = leaf(&[tokens, heads.key * heads.width], kind);
        let seen = Tensor::randn([tokens, heads.query * heads.width], (Kind::Float, Device::Cpu));
        let run = |by_ops: bool, joined: bool| {
            let all = Tensor::cat(&[&q, &k, &v], 1);
            let projections = if joined { Projections::Joined(&all) } else { Projections::Apart(&q, &k, &v) };
            let out = of_packed(projections, heads, &offsets, drop, None, by_ops).unwrap();
            let loss = (out.to_kind(Kind::Float) * &seen).sum(Kind::Float);
            let grads = Tensor::run_backward(&[loss], &[&q, &k, &v], false, false);
            (out.detach(), grads)
        };
        let (expected, expected_grads) = run(true, false);
        for joined in [false, true] {
            let (found, grads) = run(false, joined);
            let what = format!("{heads:?} {lengths:?} {p} {kind:?} joined {joined}");
            assert!(difference(&found, &expected) < tolerance, "{what}");
            assert_eq!(tail == 0, found.narrow(0, tokens - tail, tail).numel() == 0);
            for (grad, expected) in grads.iter().zip(&expected_grads) {
                assert!(difference(grad, expected) < tolerance, "{what}: {}", difference(grad, expected));
            }
        }
    }

    #[test]
    fn the_kernel_is_its_tensor_operations() {
        let encoder = Heads::bidirectional(3, 32);
        for p in [0.0, 0.2] {
            compare(encoder, &[5, 1, 27, 70], 0, p, Kind::Float, 1e-5);
            compare(encoder, &[130], 3, p, Kind::Float, 1e-5);
            compare(Heads { causal: true, ..encoder }, &[5, 1, 66], 2, p, Kind::Float, 1e-5);
            compare(Heads { causal: true, window: 20, ..encoder }, &[5, 1, 90], 2, p, Kind::Float, 1e-5);
            let bounded = Heads { cap: 0.7, ..Heads::causal(4, 2, 16) };
            compare(bounded, &[5, 1, 66], 0, p, Kind::Float, 1e-5);
            compare(Heads { query: 4, key: 2, width: 7, ..encoder }, &[19, 4], 1, p, Kind::Float, 1e-5);
            compare(encoder, &[5, 40], 1, p, Kind::BFloat16, 2e-2);
            compare(Heads { first: 2, ..encoder }, &[5, 40], 1, p, Kind::Float, 1e-5);
        }
    }

    #[test]
    fn scores_get_what_distances_give() {
        tch::manual_seed(4);
        let lengths = [5_i64, 1, 70];
        let offsets = Tensor::from_slice(&[0_i64, 5, 6, 76]);
        let keys = crate::keys(1, 2, 3, &Tensor::from_slice(&[7_i64, 9, 4]));
        for (causal, p, kind, tolerance) in [
            (false, 0.0, Kind::Float, 1e-5),
            (true, 0.0, Kind::Float, 1e-5),
            (false, 0.3, Kind::Float, 1e-5),
            (true, 0.3, Kind::BFloat16, 2e-2),
        ] {
            let heads = Heads { causal, scale: 1.0, ..Heads::bidirectional(3, 8) };
            let drop = (p > 0.0).then_some((p, &keys));
            let (joined, given) = (leaf(&[77, 72], kind), leaf(&[3, 2 * 75 - 1], Kind::Float));
            let seen = Tensor::randn([77, 24], (Kind::Float, Device::Cpu));
            let [found, expected] = [false, true].map(|by_ops| {
                let joined = Projections::Joined(&joined);
                of_packed(joined, heads, &offsets, drop, Some(&given), by_ops).unwrap()
            });
            let what = format!("causal {causal} dropout {p} {kind:?} {lengths:?}");
            assert!(difference(&found, &expected) < tolerance, "{what}");
            let grads = [&found, &expected].map(|out| {
                let loss = (out.to_kind(Kind::Float) * &seen).sum(Kind::Float);
                Tensor::run_backward(&[loss], &[&joined, &given], false, false)
            });
            for (found, expected) in grads[0].iter().zip(&grads[1]) {
                assert!(difference(found, expected) < tolerance, "{what}: {}", difference(found, expected));
            }
        }
        let far = Tensor::zeros([3, 2 * 69 - 1], (Kind::Float, Device::Cpu));
        let joined = Tensor::zeros([77, 72], (Kind::Float, Device::Cpu));
        let heads = Heads::bidirectional(3, 8);
        let error = f_distance_attention(Projections::Joined(&joined), heads, &offsets, &far, None);
        assert!(error.unwrap_err().to_string().contains("70 tokens, distances reach over 69"));
    }

    #[test]
    fn queries_of_some_tokens_get_what_all_of_them_would() {
        tch::manual_seed(6);
        let lengths = [5_i64, 1, 27];
        let offsets = Tensor::from_slice(&[0_i64, 5, 6, 33]);
        let keys = crate::keys(1, 2, 3, &Tensor::from_slice(&[7_i64, 9, 4]));
        for (causal, by_ops, p) in [
            (false, false, 0.0),
            (false, true, 0.0),
            (false, false, 0.3),
            (false, true, 0.3),
            (true, false, 0.0),
            (true, true, 0.0),
        ] {
            let heads = Heads { causal, key: 2, ..Heads::bidirectional(4, 8) };
            let drop = (p > 0.0).then_some((p, &keys));
            let query = leaf(&[35, 32], Kind::Float);
            let key_value = leaf(&[35, 32], Kind::Float);
            // The first token of each, or the last where those before it cannot be seen otherwise.
            let chosen: Vec<i64> = match causal {
                false => vec![0, 5, 6],
                true => lengths
                    .iter()
                    .scan(0, |end, length| {
                        *end += length;
                        Some(*end - 1)
                    })
                    .collect(),
            };
            let chosen = Tensor::from_slice(&chosen);
            let all = Tensor::cat(&[&query, &key_value], 1);
            let whole = of_packed(Projections::Joined(&all), heads, &offsets, drop, None, by_ops).unwrap();
            let whole = whole.index_select(0, &chosen);
            let some = query.index_select(0, &chosen);
            let query_offsets = Tensor::from_slice(&[0_i64, 1, 2, 3]);
            let across =
                Projections::Across { query: &some, query_offsets: &query_offsets, key_value: &key_value };
            let found = of_packed(across, heads, &offsets, drop, None, by_ops).unwrap();
            let seen = Tensor::randn([3, 32], (Kind::Float, Device::Cpu));
            let grads = [&whole, &found].map(|out| {
                Tensor::run_backward(&[(out * &seen).sum(Kind::Float)], &[&query, &key_value], true, false)
            });
            let what = format!("causal {causal} by operations {by_ops} dropout {p}");
            assert!(difference(&found, &whole) < 1e-5, "{what}: {}", difference(&found, &whole));
            for (found, expected) in grads[1].iter().zip(&grads[0]) {
                assert!(difference(found, expected) < 1e-5, "{what}: {}", difference(found, expected));
            }
        }
    }

    #[test]
    fn parts_of_the_heads_are_those_of_the_whole() {
        tch::manual_seed(5);
        let heads = Heads::bidirectional(4, 8);
        let offsets = Tensor::from_slice(&[0_i64, 5, 12]);
        let keys = crate::keys(1, 2, 3, &Tensor::from_slice(&[7_i64, 9]));
        let [q, k, v] = [(); 3].map(|()| Tensor::randn([12, 32], (Kind::Float, Device::Cpu)));
        let drop = Some((0.3, &keys));
        let whole = attention(Projections::Apart(&q, &k, &v), heads, &offsets, drop);
        for part in 0..2 {
            let own = |x: &Tensor| x.narrow(1, part * 16, 16);
            let (q, k, v) = (own(&q), own(&k), own(&v));
            let found = attention(Projections::Apart(&q, &k, &v), heads.part(part, 2), &offsets, drop);
            assert!(found.equal(&own(&whole)), "part {part}");
        }
    }
}
