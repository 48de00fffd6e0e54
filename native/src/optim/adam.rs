//! Adam, AdamW and the lazy Adam of rows.

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Result, ffi_optim as ffi};

/// Options of [`adam()`], [`adamw`], [`sparse_adam`] and [`adamw_8bit`](super::adamw_8bit).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the running means of the gradient and of its square.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Adam: added to the gradient as `weight_decay · param`. AdamW: `param` is multiplied by
    /// `1 - lr · weight_decay`.
    pub weight_decay: f64,
    /// Each gradient is multiplied by this.
    pub scale: f32,
    /// Divide by the largest second moment so far.
    pub amsgrad: bool,
}

impl Adam {
    pub(super) fn to_ffi(self, decoupled: bool) -> ffi::Adam {
        let Adam { lr, betas: (beta1, beta2), eps, weight_decay, scale, amsgrad } = self;
        ffi::Adam { lr, beta1, beta2, eps, weight_decay, scale, amsgrad, decoupled }
    }
}

/// State of Adam and AdamW: lists like the parameters, except `steps`.
#[derive(Debug)]
pub struct AdamState<'a, T> {
    /// Running means of the gradients; also Float where parameters are bf16.
    pub exp_avgs: &'a [T],
    /// Running means of the squares, of the same kind.
    pub exp_avg_sqs: &'a [T],
    /// Largest of the latter, of the same kind; empty without amsgrad.
    pub max_exp_avg_sqs: &'a [T],
    /// Steps taken, a Float of one element for each parameter; this call adds 1.
    pub steps: &'a [T],
}

impl<'a, T> AdamState<'a, T> {
    fn lists(&self, params: &'a [T], grads: &'a [T]) -> ffi::AdamLists<'a, T> {
        ffi::AdamLists {
            params,
            grads,
            exp_avgs: self.exp_avgs,
            exp_avg_sqs: self.exp_avg_sqs,
            max_exp_avg_sqs: self.max_exp_avg_sqs,
            steps: self.steps,
        }
    }
}

/// What a step does beside moving the parameters; the default is nothing.
#[derive(Debug)]
pub struct Extra<'a, T> {
    /// A bf16 tensor for each parameter, which becomes its new value rounded to the nearest even;
    /// empty for none.
    pub shadows: &'a [T],
    /// How parameters in bf16 are rounded.
    pub rounding: Rounding<'a, T>,
}

impl<T> Default for Extra<'_, T> {
    fn default() -> Self {
        Extra { shadows: &[], rounding: Rounding::Nearest }
    }
}

/// How a new value becomes bf16, for parameters in bf16 on the CPU.
///
/// An update below 2^-9 of a parameter is lost in rounding to the nearest. The other two keep it: by
/// chance, so that it is right in the mean, or in a second number.
#[derive(Debug, Clone, Copy)]
pub enum Rounding<'a, T> {
    /// To the nearest, and to the even one of two.
    Nearest,
    /// Up or down, with the odds of the distance (Gupta et al., 2015, arXiv:1502.02551). The draw is
    /// Philox's, a function of seed, step count, parameter index and element.
    Stochastic {
        /// The job's.
        seed: u64,
        /// The number of each parameter, constant over time and no two alike.
        indices: &'a [u32],
    },
    /// A bf16 tensor like each parameter, at first 0, holds what rounding took away (Kahan, 1965): the
    /// parameter is the sum of both.
    Compensated(&'a [T]),
}

/// A step of Adam (Kingma and Ba, 2015; amsgrad: Reddi et al., 2018).
///
/// # Errors
/// When a list's length, or a tensor's shape, kind, device or layout does not fit; for rounding
/// other than to the nearest where parameters are not bf16 on the CPU.
pub fn adam<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &AdamState<T>,
    options: &Adam,
    extra: &Extra<T>,
) -> Result<()> {
    step(params, grads, state, &options.to_ffi(false), extra)
}

/// A step of AdamW, Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
///
/// # Errors
/// As [`adam()`].
pub fn adamw<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &AdamState<T>,
    options: &Adam,
    extra: &Extra<T>,
) -> Result<()> {
    step(params, grads, state, &options.to_ffi(true), extra)
}

fn step<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &AdamState<T>,
    options: &ffi::Adam,
    extra: &Extra<T>,
) -> Result<()> {
    let (compensations, stochastic): (&[T], _) = match extra.rounding {
        Rounding::Nearest => (&[], None),
        Rounding::Stochastic { seed, indices } => (&[], Some((seed, indices))),
        Rounding::Compensated(compensations) => (compensations, None),
    };
    let extra = ffi::AdamExtra { shadows: extra.shadows, compensations, stochastic };
    ffi::adam(&state.lists(params, grads), &extra, options)
}

/// A step of the lazy Adam of torch.optim.SparseAdam for gradients that are sparse `[rows, ..]`: rows
/// without a gradient keep parameter and moments. Weight decay and amsgrad are not looked at.
///
/// # Errors
/// As [`adam()`], and for a gradient that is not sparse.
pub fn sparse_adam<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &AdamState<T>,
    options: &Adam,
) -> Result<()> {
    ffi::sparse_adam(&state.lists(params, grads), &options.to_ffi(true), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn the_kernel_of_rows_is_its_tensor_operations() {
        let randn = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let start = randn(&[50, 33]);
        let grads: Vec<Tensor> = (0..4)
            .map(|_| {
                let rows = Tensor::randint(50, [1, 20], (Kind::Int64, Device::Cpu));
                Tensor::sparse_coo_tensor_indices_size(
                    &rows,
                    &randn(&[20, 33]),
                    [50, 33],
                    (Kind::Float, Device::Cpu),
                    false,
                )
            })
            .collect();
        let run = |by_ops: bool| {
            let state = [start.copy(), start.zeros_like(), start.zeros_like()];
            let steps = Tensor::zeros([], (Kind::Float, Device::Cpu));
            for grad in &grads {
                let lists = ffi::AdamLists {
                    params: &[&state[0]],
                    grads: &[grad],
                    exp_avgs: &[&state[1]],
                    exp_avg_sqs: &[&state[2]],
                    max_exp_avg_sqs: &[],
                    steps: &[&steps],
                };
                let adam = Adam {
                    lr: 1e-2,
                    betas: (0.9, 0.99),
                    eps: 1e-8,
                    weight_decay: 0.0,
                    scale: 0.5,
                    amsgrad: false,
                };
                ffi::sparse_adam(&lists, &adam.to_ffi(true), by_ops).unwrap();
            }
            state
        };
        for (a, b) in run(false).iter().zip(&run(true)) {
            assert!(a.allclose(b, 1e-5, 1e-6, false));
        }
    }
}
