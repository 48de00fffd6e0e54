//! Dropout whose mask is a function of (key of the example, position in the example).
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011). For an element at `[b, i1, …, ir, d]` its 64-bit key is `keys[b]`; its
//! counter words are `(d / 64 · 16 + d % 16, ir, …, i1)`, filled up with 0, and the element takes
//! word `(d / 16) % 4` of the four that come out. Radices are fixed, so that more padding in any
//! dimension changes no draw of what was there before. An element is dropped where its word is
//! below `p · 2^32`.
//!
//! Kept elements are multiplied by `1 / (1 - p)`, dropped ones by 0, as torch does. The mask is not
//! stored: backward draws it again. Results do not depend on the number of threads nor on the
//! processor's vector width. On a device without our kernel (CUDA) the same bits come from tensor
//! operations on Int64, correct but slow: about 80 passes over integers the size of `x`.

use tch::Tensor;

use crate::{Result, ffi};

/// Dropout of `x` by a mask drawn from `keys`, differentiable in `x`, any number of times.
///
/// - `x`: fp32, fp64, bf16 or fp16, `[b, …, d]` with 2 to 5 dimensions; needs not be contiguous.
///   Activations `[b, t, d]`: counted by (t, d). Attention probabilities `[b, h, q, k]`: (h, q, k);
/// - `p`: the probability of an element to become 0, in 0 to 1. With 0, `x` itself is returned;
/// - `keys`: Int64 `[b]` on the device of `x`, from [`crate::keys`].
///
/// Returns a contiguous tensor of the shape and kind of `x`.
///
/// # Errors
/// When `p`, the kind or shape of `x` or `keys`, or their devices are not as above.
pub fn f_dropout(x: &Tensor, p: f64, keys: &Tensor) -> Result<Tensor> {
    if p == 0.0 {
        return Ok(x.shallow_clone());
    }
    ffi::dropout(x, keys, None, p)
}

/// [`f_dropout`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_dropout`] gives an error.
pub fn dropout(x: &Tensor, p: f64, keys: &Tensor) -> Tensor {
    f_dropout(x, p, keys).unwrap()
}

/// [`f_dropout`] of sequences that lie end to end, without padding between them.
///
/// - `x`: `[tokens, d]`;
/// - `offsets`: Int64 `[sequences + 1]` on the CPU: sequence `i` is the tokens `offsets[i] .. offsets[i + 1]`;
/// - `keys`: Int64 `[sequences]`.
///
/// A token gets the draws that it would get in a padded `[b, t, d]`. Tokens after the last sequence take the draws that
/// would follow in it.
///
/// # Errors
/// As [`f_dropout`], and when offsets do not ascend from 0 or leave the tokens.
pub fn f_dropout_packed(x: &Tensor, p: f64, keys: &Tensor, offsets: &Tensor) -> Result<Tensor> {
    if p == 0.0 {
        return Ok(x.shallow_clone());
    }
    ffi::dropout(x, keys, Some(offsets), p)
}

/// [`f_dropout_packed`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_dropout_packed`] gives an error.
pub fn dropout_packed(x: &Tensor, p: f64, keys: &Tensor, offsets: &Tensor) -> Tensor {
    f_dropout_packed(x, p, keys, offsets).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn tensor_operations_give_the_bits_of_the_kernel() {
        let shapes: [&[i64]; 5] = [&[3, 70], &[2, 5, 64], &[2, 3, 4, 37], &[2, 2, 3, 2, 130], &[1, 0, 4]];
        for (shape, p) in shapes.iter().zip([0.1, 0.5, 0.9, 1.0, 0.5]) {
            for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
                let x = Tensor::randn(*shape, (kind, Device::Cpu));
                let ids = Tensor::arange(shape[0], (Kind::Int64, Device::Cpu));
                let keys = crate::keys(1, 2, 3, &ids);
                let kernel = dropout(&x, p, &keys);
                let ops = ffi::dropout_by_ops(&x, &keys, None, p).unwrap();
                assert!(kernel.equal(&ops), "{shape:?} {kind:?}");
            }
        }
    }

    #[test]
    fn packed_rows_get_the_draws_of_padded_ones() {
        let ids = Tensor::arange(3, (Kind::Int64, Device::Cpu));
        let keys = crate::keys(1, 2, 3, &ids);
        let padded = dropout(&Tensor::ones([3, 5, 70], (Kind::Float, Device::Cpu)), 0.3, &keys);
        let offsets = Tensor::from_slice(&[0_i64, 2, 7, 10]);
        let x = Tensor::ones([12, 70], (Kind::Float, Device::Cpu));
        let packed = dropout_packed(&x, 0.3, &keys, &offsets);
        for (sequence, (first, length)) in [(0, 2), (2, 5), (7, 3)].into_iter().enumerate() {
            let expected = padded.select(0, sequence as i64).narrow(0, 0, length);
            assert!(packed.narrow(0, first, length).equal(&expected), "sequence {sequence}");
        }
        assert!(packed.equal(&ffi::dropout_by_ops(&x, &keys, Some(&offsets), 0.3).unwrap()));
    }
}
