//! Norm, clipping, scaling and clearing of gradients, and summing those of rows. Nothing here is recorded by autograd.

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Result, ffi};

/// The 2-norm of all gradients taken as one vector, a Float scalar on their device; 0 for none.
///
/// On the CPU in fp32 squares are summed in double precision in a fixed order, so that the result
/// does not depend on the number of threads. Elsewhere it is the norm of the tensors' norms, as in
/// torch.nn.utils. A sparse gradient `[rows, ..]` counts as the dense one that it stands for, entries
/// of one row summed first, and on the CPU in fp32 gives the same bits.
///
/// # Errors
/// When a gradient is undefined or not floating.
pub fn grad_norm<T: Borrow<Tensor>>(grads: &[T]) -> Result<Tensor> {
    ffi::grad_norm(grads)
}

/// Scales gradients in place so that their norm is at most `max_norm`; returns the norm before.
///
/// As `torch.nn.utils.clip_grad_norm_`: each gradient is multiplied by
/// `min(1, max_norm / (norm + 1e-6))`. A norm that is infinite or NaN spreads into every gradient,
/// as it does there: look at the returned norm before the step. On a GPU nothing is read back.
///
/// # Errors
/// As [`grad_norm`], and when `max_norm` is negative or a sparse gradient is not coalesced.
pub fn clip_grad_norm<T: Borrow<Tensor>>(grads: &[T], max_norm: f64) -> Result<Tensor> {
    ffi::clip_grad_norm(grads, max_norm)
}

/// What [`clip_grad_norm`] multiplies gradients of this norm by, with the same bits, for an optimizer
/// step that multiplies as it reads. A `max_norm` of 0 or less is no clipping; a NaN stays one.
#[must_use]
pub fn clip_coefficient(norm: f32, max_norm: f64) -> f32 {
    if max_norm <= 0.0 {
        return 1.0;
    }
    let coefficient = (norm + 1e-6).recip() * max_norm as f32;
    if coefficient > 1.0 { 1.0 } else { coefficient }
}

/// Replaces each sparse gradient `[rows, ..]` by one that names each row once, ascending, with the
/// sum of its entries.
///
/// On the CPU in fp32 entries are added in the order in which backward brought them, so that the
/// result does not depend on the number of threads. Dense and undefined gradients stay.
///
/// # Errors
/// When a tensor is undefined, or a gradient names a row that its parameter has not.
pub fn coalesce_grads<T: Borrow<Tensor>>(tensors: &[T]) -> Result<()> {
    ffi::coalesce_grads(tensors)
}

/// Multiplies each gradient by `factor` in place.
///
/// For a loss that was summed over examples or tokens and is divided once, after accumulation.
///
/// # Errors
/// When a gradient is undefined.
pub fn scale_grads<T: Borrow<Tensor>>(grads: &[T], factor: f64) -> Result<()> {
    ffi::scale_grads(grads, factor)
}

/// Makes the gradient of each tensor undefined and frees it, as `zero_grad(set_to_none=True)`.
///
/// # Errors
/// When a tensor is undefined.
pub fn clear_grads<T: Borrow<Tensor>>(tensors: &[T]) -> Result<()> {
    ffi::clear_grads(tensors)
}

/// Goes backward from `of`, whose gradient is `grad` (its shape and kind), and adds to the gradients of the leaves.
///
/// # Errors
/// libtorch's.
pub fn backward(of: &Tensor, grad: &Tensor) -> Result<()> {
    ffi::backward(of, grad)
}

/// Puts `grad` in the place of the gradient of `tensor`; it may be sparse.
///
/// # Errors
/// When it does not fit.
pub fn set_grad(tensor: &Tensor, grad: &Tensor) -> Result<()> {
    ffi::set_grad(tensor, grad)
}
