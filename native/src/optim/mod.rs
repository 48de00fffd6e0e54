//! One optimizer step over lists of tensors, in place, without autograd.
//!
//! Each list holds one tensor a parameter, in the same order, of the parameter's shape, kind and
//! device, contiguous; a gradient that is not contiguous is copied. Parameters of one call share
//! kind and device. Who holds the state is the caller: nothing is kept here.
//!
//! Every rule multiplies each gradient by `scale`, the coefficient of clipping. Kernels that are ours
//! do so as they read and leave the gradient alone; SGD, and the others where they are tensor
//! operations, multiply a dense gradient in place first.
//!
//! A gradient may be a sparse `[rows, ..]` ([`gradients::coalesce_grads`](crate::gradients)). Adam, AdamW, Lion and
//! 8-bit AdamW on the CPU in fp32 read it as it is, with the bits of the dense gradient that has
//! zeros elsewhere; everything else makes it dense, except [`sparse_adam`].
//!
//! | rule | CPU | elsewhere |
//! | --- | --- | --- |
//! | Adam, AdamW | ours in fp32 and bf16 | libtorch's `_fused_adam(w)_` |
//! | SGD | libtorch's `_fused_sgd_` | the same |
//! | RMSprop | ours in fp32 and fp64 | tensor operations |
//! | Lion, AdamW in 8 bits, SparseAdam, Adafactor of matrices | ours in fp32 | tensor operations |
//! | Muon | tensor operations, fp32 | tensor operations, bf16 |
//!
//! Kernels that are ours give the same bits at any number of threads. Formulas: torch.optim of
//! PyTorch 2.11 where no other source is named.

mod adafactor;
mod adam;
mod adam_8bit;
mod lion;
mod muon;

pub use adafactor::{Adafactor, AdafactorState, adafactor};
pub use adam::{Adam, AdamState, Extra, Rounding, adam, adamw, sparse_adam};
pub use adam_8bit::{Adam8bitState, BLOCK, adamw_8bit};
pub use lion::{Lion, lion};
pub use muon::{AdjustLr, Muon, muon, orthogonalize};

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Result, ffi};

/// Options of [`sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the momentum buffer; 0 for none.
    pub momentum: f64,
    /// Part of the gradient that does not enter the buffer, except at the first step.
    pub dampening: f64,
    /// Added to the gradient as `weight_decay · param`.
    pub weight_decay: f64,
    /// Each gradient is multiplied by this.
    pub scale: f32,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// The buffers hold nothing yet: they become the gradients.
    pub first_step: bool,
}

/// A step of stochastic gradient descent (Sutskever et al., 2013). `momentum_buffers` is empty
/// where `momentum` is 0.
///
/// # Errors
/// As [`adam()`].
pub fn sgd<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    momentum_buffers: &[T],
    options: &Sgd,
) -> Result<()> {
    let Sgd { lr, momentum, dampening, weight_decay, scale, nesterov, first_step } = *options;
    let options = ffi::Sgd { lr, momentum, dampening, weight_decay, scale, nesterov, first_step };
    ffi::sgd(params, grads, momentum_buffers, &options)
}

/// Options of [`rmsprop`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rmsprop {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the running mean of squares.
    pub alpha: f64,
    /// Added to the root.
    pub eps: f64,
    /// Added to the gradient as `weight_decay · param`.
    pub weight_decay: f64,
    /// Decay of the momentum buffer; 0 for none.
    pub momentum: f64,
    /// Each gradient is multiplied by this.
    pub scale: f32,
    /// Take the square of the mean gradient off the mean square.
    pub centered: bool,
}

/// State of RMSprop: lists like the parameters.
#[derive(Debug)]
pub struct RmspropState<'a, T> {
    /// Running means of the squares.
    pub square_avgs: &'a [T],
    /// Running means of the gradients; empty unless centered.
    pub grad_avgs: &'a [T],
    /// Momentum buffers; empty where `momentum` is 0.
    pub momentum_buffers: &'a [T],
}

/// A step of RMSprop (Tieleman and Hinton, 2012; centered: Graves, 2013).
///
/// On the CPU in fp32 and fp64 this is one pass over memory, whose results depend neither on the
/// number of threads nor on the processor's vector width.
///
/// # Errors
/// As [`adam`].
pub fn rmsprop<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &RmspropState<T>,
    options: &Rmsprop,
) -> Result<()> {
    rmsprop_step(params, grads, state, options, false)
}

fn rmsprop_step<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &RmspropState<T>,
    options: &Rmsprop,
    by_ops: bool,
) -> Result<()> {
    let lists = ffi::RmspropLists {
        params,
        grads,
        square_avgs: state.square_avgs,
        grad_avgs: state.grad_avgs,
        momentums: state.momentum_buffers,
    };
    let Rmsprop { lr, alpha, eps, weight_decay, momentum, scale, centered } = *options;
    ffi::rmsprop(&lists, &ffi::Rmsprop { lr, alpha, eps, weight_decay, momentum, scale, centered, by_ops })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// A step with each of `grads` from `start`; parameters and state afterwards.
    fn run(options: &Rmsprop, start: &[Tensor], grads: &[Vec<Tensor>], by_ops: bool) -> Vec<Tensor> {
        let copies = |of: &[Tensor]| -> Vec<Tensor> { of.iter().map(Tensor::copy).collect() };
        let zeros = |wanted: bool| match wanted {
            true => start.iter().map(Tensor::zeros_like).collect(),
            false => Vec::new(),
        };
        let params = copies(start);
        let (squares, means, momentums) =
            (zeros(true), zeros(options.centered), zeros(options.momentum > 0.0));
        for grads in grads {
            let state =
                RmspropState { square_avgs: &squares, grad_avgs: &means, momentum_buffers: &momentums };
            rmsprop_step(&params, &copies(grads), &state, options, by_ops).unwrap();
        }
        params.into_iter().chain(squares).chain(means).chain(momentums).collect()
    }

    #[test]
    fn the_kernel_of_rmsprop_is_its_tensor_operations() {
        for bits in 0..8 {
            let options = Rmsprop {
                lr: 1e-2,
                alpha: 0.95,
                eps: 1e-8,
                weight_decay: if bits & 1 == 0 { 0.0 } else { 0.1 },
                momentum: if bits & 2 == 0 { 0.0 } else { 0.9 },
                scale: 0.5,
                centered: bits & 4 != 0,
            };
            // Where decay and gradient all but cancel, the division by the root enlarges the rounding of their sum.
            for (kind, tolerance) in [(Kind::Double, 1e-10), (Kind::Float, 1e-5)] {
                let randn = || -> Vec<Tensor> {
                    let of = |shape| Tensor::randn(shape, (Kind::Double, Device::Cpu)).to_kind(kind);
                    [[70, 300], [1, 17]].map(of).into()
                };
                let (start, grads) = (randn(), Vec::from([(); 5].map(|()| randn())));
                let (ours, theirs) =
                    (run(&options, &start, &grads, false), run(&options, &start, &grads, true));
                for (a, b) in ours.iter().zip(&theirs) {
                    assert!(a.allclose(b, tolerance, tolerance, false), "{options:?} {kind:?}");
                }
            }
        }
    }
}
