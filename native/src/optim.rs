//! One optimizer step over lists of tensors, in place, without autograd.
//!
//! Each list holds one tensor a parameter, in the same order, of the parameter's shape, kind and
//! device, contiguous; a gradient that is not contiguous is copied. Parameters of one call share
//! kind and device. Who holds the state is the caller: nothing is kept here.
//!
//! Adam, AdamW and SGD are libtorch's fused kernels (`_fused_adam_`, `_fused_adamw_`,
//! `_fused_sgd_`), on CPU and CUDA. RMSprop is ours on the CPU in fp32 and fp64, and tensor
//! operations elsewhere. Formulas: torch.optim of PyTorch 2.11.

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Result, ffi};

/// Options of [`adam`] and [`adamw`].
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
    /// Divide by the largest second moment so far.
    pub amsgrad: bool,
}

/// State of Adam and AdamW: lists like the parameters, except `steps`.
#[derive(Debug)]
pub struct AdamState<'a, T> {
    /// Running means of the gradients.
    pub exp_avgs: &'a [T],
    /// Running means of the squares.
    pub exp_avg_sqs: &'a [T],
    /// Largest of the latter; empty without amsgrad.
    pub max_exp_avg_sqs: &'a [T],
    /// Steps taken, a Float of one element for each parameter; this call adds 1.
    pub steps: &'a [T],
}

/// A step of Adam (Kingma and Ba, 2015; amsgrad: Reddi et al., 2018).
///
/// # Errors
/// When a list's length, or a tensor's shape, kind, device or layout does not fit.
pub fn adam<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &AdamState<T>,
    options: &Adam,
) -> Result<()> {
    adam_step(params, grads, state, options, false)
}

/// A step of AdamW, Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
///
/// # Errors
/// As [`adam`].
pub fn adamw<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &AdamState<T>,
    options: &Adam,
) -> Result<()> {
    adam_step(params, grads, state, options, true)
}

fn adam_step<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &AdamState<T>,
    options: &Adam,
    decoupled: bool,
) -> Result<()> {
    let lists = ffi::AdamLists {
        params,
        grads,
        exp_avgs: state.exp_avgs,
        exp_avg_sqs: state.exp_avg_sqs,
        max_exp_avg_sqs: state.max_exp_avg_sqs,
        steps: state.steps,
    };
    let Adam { lr, betas: (beta1, beta2), eps, weight_decay, amsgrad } = *options;
    ffi::adam(&lists, &ffi::Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, decoupled })
}

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
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// The buffers hold nothing yet: they become the gradients.
    pub first_step: bool,
}

/// A step of stochastic gradient descent (Sutskever et al., 2013). `momentum_buffers` is empty
/// where `momentum` is 0.
///
/// # Errors
/// As [`adam`].
pub fn sgd<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    momentum_buffers: &[T],
    options: &Sgd,
) -> Result<()> {
    let Sgd { lr, momentum, dampening, weight_decay, nesterov, first_step } = *options;
    let options = ffi::Sgd { lr, momentum, dampening, weight_decay, nesterov, first_step };
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
    let Rmsprop { lr, alpha, eps, weight_decay, momentum, centered } = *options;
    ffi::rmsprop(&lists, &ffi::Rmsprop { lr, alpha, eps, weight_decay, momentum, centered, by_ops })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Five steps; parameters and state afterwards.
    fn run(options: &Rmsprop, kind: Kind, by_ops: bool) -> Vec<Tensor> {
        tch::manual_seed(1);
        let randn =
            || [[70, 300], [1, 17]].map(|s| Tensor::randn(s, (Kind::Double, Device::Cpu)).to_kind(kind));
        let zeros = |wanted: bool| match wanted {
            true => randn().iter().map(Tensor::zeros_like).collect(),
            false => Vec::new(),
        };
        let params = randn();
        let (squares, means, momentums) =
            (zeros(true), zeros(options.centered), zeros(options.momentum > 0.0));
        tch::manual_seed(2);
        for _ in 0..5 {
            let grads = randn();
            let state =
                RmspropState { square_avgs: &squares, grad_avgs: &means, momentum_buffers: &momentums };
            rmsprop_step(&params, &grads, &state, options, by_ops).unwrap();
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
                centered: bits & 4 != 0,
            };
            for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
                for (a, b) in run(&options, kind, false).iter().zip(&run(&options, kind, true)) {
                    assert!(a.allclose(b, tolerance, tolerance, false), "{options:?} {kind:?}");
                }
            }
        }
    }
}
