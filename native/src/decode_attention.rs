//! Attention of a model that writes: one new token a sequence, the earlier ones kept.

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Heads, Result, ffi};

/// What [`crate::attention`] gives the last token of each sequence, from keys and values that are kept.
///
/// - `joined`: `[sequences, (query + 2 · key) · width]`, fp32 on the CPU: queries, keys and values of the new tokens;
/// - `kept`: for each sequence `[2, key, room, width]`, contiguous: keys, then values, a head after the other. Those of the
///   new token are written to place `length - 1`;
/// - `lengths`: tokens of each sequence, the new one included;
/// - `by_distance`: what scores get by the distance of tokens, as in [`crate::distance_attention`].
///
/// Returns `[sequences, query · width]`. It has no gradient.
///
/// # Errors
/// When shapes or kinds do not fit, or a sequence has no room left.
pub fn f_decode_attention<T: Borrow<Tensor>>(
    joined: &Tensor,
    kept: &[T],
    lengths: &[i64],
    heads: Heads,
    by_distance: Option<&Tensor>,
) -> Result<Tensor> {
    ffi::decode_attention(joined, kept, lengths, by_distance, &heads.packed())
}

/// [`f_decode_attention`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_decode_attention`] gives an error.
pub fn decode_attention<T: Borrow<Tensor>>(
    joined: &Tensor,
    kept: &[T],
    lengths: &[i64],
    heads: Heads,
    by_distance: Option<&Tensor>,
) -> Tensor {
    f_decode_attention(joined, kept, lengths, heads, by_distance).unwrap()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::Projections;

    const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Keys and values of packed rows as they are kept.
    fn kept(rows: &Tensor, heads: Heads, room: i64) -> Tensor {
        let (length, wide) = (rows.size()[0], heads.query * heads.width);
        let cache = Tensor::full([2, heads.key, room, heads.width], f64::NAN, OPTIONS);
        let own = rows.narrow(1, wide, 2 * heads.key * heads.width);
        let own = own.reshape([length, 2, heads.key, heads.width]).permute([1, 2, 0, 3]);
        cache.narrow(2, 0, length).copy_(&own);
        cache
    }

    #[test]
    fn each_token_in_turn_gets_what_all_at_once_would() {
        tch::manual_seed(2);
        for (number, heads) in [
            Heads::causal(4, 2, 16),
            Heads::causal(3, 3, 40),
            Heads { window: 5, ..Heads::causal(2, 1, 7) },
            Heads { cap: 0.7, scale: 0.4, ..Heads::causal(6, 2, 64) },
        ]
        .into_iter()
        .enumerate()
        {
            let distances = Tensor::randn([heads.query, 2 * 80 - 1], OPTIONS);
            let by_distance = (number % 3 == 0 && heads.cap == 0.0).then_some(&distances);
            let lengths = [1_i64, 9, 70];
            let width = (heads.query + 2 * heads.key) * heads.width;
            let all: Vec<Tensor> = lengths.iter().map(|&n| Tensor::randn([n, width], OPTIONS)).collect();
            let caches: Vec<Tensor> = all
                .iter()
                .zip(lengths)
                .map(|(rows, n)| kept(&rows.narrow(0, 0, n - 1), heads, n + 3))
                .collect();
            let last: Vec<Tensor> =
                all.iter().zip(lengths).map(|(rows, n)| rows.narrow(0, n - 1, 1)).collect();
            let found = decode_attention(&Tensor::cat(&last, 0), &caches, &lengths, heads, by_distance);
            for (at, (rows, n)) in all.iter().zip(lengths).enumerate() {
                let offsets = Tensor::from_slice(&[0, n]);
                let joined = Projections::Joined(rows);
                let whole = match by_distance {
                    Some(given) => crate::distance_attention(joined, heads, &offsets, given, None),
                    None => crate::attention(joined, heads, &offsets, None),
                };
                let off = (whole.get(n - 1) - found.get(at as i64)).abs().max().double_value(&[]);
                assert!(off < 1e-5, "{heads:?} of {n}: {off}");
                // The new token's are kept with the others.
                assert!(caches[at].narrow(2, 0, n).equal(&kept(rows, heads, n)), "{heads:?} of {n}");
            }
        }
    }

    #[test]
    fn a_sequence_without_room_is_refused() {
        let heads = Heads::causal(2, 1, 8);
        let (joined, full) = (Tensor::zeros([1, 32], OPTIONS), Tensor::zeros([2, 1, 4, 8], OPTIONS));
        let error = f_decode_attention(&joined, &[full], &[5], heads, None).unwrap_err();
        assert!(error.to_string().contains("5 tokens in"), "{error}");
    }
}
