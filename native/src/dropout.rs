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
    ffi::dropout(x, keys, p)
}

/// [`f_dropout`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_dropout`] gives an error.
pub fn dropout(x: &Tensor, p: f64, keys: &Tensor) -> Tensor {
    f_dropout(x, p, keys).unwrap()
}

/// `residual + dropout(x, p, keys)` in one pass, bit for bit what the two operations give.
///
/// `residual` has the shape, kind and device of `x`; both are differentiable.
///
/// # Errors
/// As [`f_dropout`], and when `residual` is not like `x`.
pub fn f_dropout_add(x: &Tensor, residual: &Tensor, p: f64, keys: &Tensor) -> Result<Tensor> {
    if p == 0.0 {
        return residual.f_add(x);
    }
    ffi::dropout_add(x, residual, keys, p)
}

/// [`f_dropout_add`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_dropout_add`] gives an error.
pub fn dropout_add(x: &Tensor, residual: &Tensor, p: f64, keys: &Tensor) -> Tensor {
    f_dropout_add(x, residual, p, keys).unwrap()
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
                let ops = ffi::dropout_by_ops(&x, &keys, p).unwrap();
                assert!(kernel.equal(&ops), "{shape:?} {kind:?}");
            }
        }
    }
}
