//! A linear layer whose parameters need not be the numbers that it multiplies by.

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Result, ffi};

/// `x · weightᵀ + bias`, with gradients for `params`.
///
/// - `x`: `[tokens, in]`;
/// - `weight`: `[out, in]`, `bias`: `[out]`, in the kind of `x`: what is computed with, without gradients;
/// - `params`: `weights` weights whose rows together are `weight`'s, then as many biases, or none. They may share memory
///   with `weight` (several layers beside each other are one product), or hold it in a higher precision.
///
/// Returns `[tokens, out]`. A gradient comes in the kind of its parameter. Where no weight is trained, `x` is not kept.
///
/// # Errors
/// When shapes or kinds do not fit.
pub fn f_linear<T: Borrow<Tensor>>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    params: &[T],
    weights: usize,
) -> Result<Tensor> {
    ffi::linear(x, weight, bias, params, weights)
}

/// [`f_linear`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_linear`] gives an error.
pub fn linear<T: Borrow<Tensor>>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    params: &[T],
    weights: usize,
) -> Tensor {
    f_linear(x, weight, bias, params, weights).unwrap()
}
