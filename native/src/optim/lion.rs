//! Lion.

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Result, ffi_optim as ffi};

/// Options of [`lion()`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lion {
    /// Learning rate of this step: how far each element moves. A tenth to a third of AdamW's.
    pub lr: f64,
    /// Share of the mean in the direction of the step, and decay of the mean.
    pub betas: (f64, f64),
    /// `param` is multiplied by `1 - lr · weight_decay`.
    pub weight_decay: f64,
    /// Each gradient is multiplied by this.
    pub scale: f32,
}

/// A step of Lion (Chen et al., 2023, arXiv:2302.06675, algorithm 2); `exp_avgs` are the running
/// means of the gradients.
///
/// # Errors
/// As [`adam()`](super::adam()).
pub fn lion<T: Borrow<Tensor>>(params: &[T], grads: &[T], exp_avgs: &[T], options: &Lion) -> Result<()> {
    step(params, grads, exp_avgs, options, false)
}

fn step<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    exp_avgs: &[T],
    options: &Lion,
    by_ops: bool,
) -> Result<()> {
    let Lion { lr, betas: (beta1, beta2), weight_decay, scale } = *options;
    ffi::lion(params, grads, exp_avgs, &ffi::Lion { lr, beta1, beta2, weight_decay, scale, by_ops })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn the_kernel_of_lion_is_its_tensor_operations() {
        let randn = || Tensor::randn([70, 300], (Kind::Float, Device::Cpu));
        let start = randn();
        let grads: Vec<Tensor> = (0..5).map(|_| randn()).collect();
        let options = Lion { lr: 1e-3, betas: (0.9, 0.99), weight_decay: 0.1, scale: 0.5 };
        let run = |by_ops: bool| {
            let (param, mean) = (start.copy(), start.zeros_like());
            for grad in &grads {
                step(&[&param], &[&grad.copy()], &[&mean], &options, by_ops).unwrap();
            }
            (param, mean)
        };
        let (ours, theirs) = (run(false), run(true));
        assert!(ours.0.allclose(&theirs.0, 1e-6, 1e-6, false));
        assert!(ours.1.allclose(&theirs.1, 1e-6, 1e-6, false));
    }
}
