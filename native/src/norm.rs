//! Layer norm of a sum, in one pass.

use tch::Tensor;

use crate::{Result, ffi};

/// `layer_norm(residual + dropout(x))` over the last dimension.
///
/// - `x`, `residual`: fp32 or bf16, `[tokens, d]` or `[b, …, d]`, alike; no residual adds nothing;
/// - `weight`, `bias`: fp32 `[d]`;
/// - `drop`: probability, keys, and offsets where rows are packed, as [`crate::dropout_packed`] takes them; `None` for
///   no dropout.
///
/// Returns the shape and kind of `x`. Sums and statistics are fp32 inside, on the CPU by a kernel of our own whose
/// bits do not depend on the number of threads; elsewhere by libtorch's operations.
///
/// Source: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016.
///
/// # Errors
/// When shapes, kinds or devices do not fit.
pub fn f_norm_residual(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    drop: Option<(f64, &Tensor, Option<&Tensor>)>,
) -> Result<Tensor> {
    ffi::norm_residual(x, residual, weight, bias, eps, drop)
}

/// [`f_norm_residual`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_norm_residual`] gives an error.
pub fn norm_residual(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    drop: Option<(f64, &Tensor, Option<&Tensor>)>,
) -> Tensor {
    f_norm_residual(x, residual, weight, bias, eps, drop).unwrap()
}
