//! Adafactor.

use tch::Tensor;

use crate::{Result, ffi_optim as ffi};

/// Options of [`adafactor()`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adafactor {
    /// Learning rate of this step; a share of the parameter's size with `scale_parameter`.
    pub lr: f64,
    /// Steps taken with this one: the decay of the second moment is `1 - step^decay_rate`.
    pub step: u64,
    /// Exponent of the decay, below 0.
    pub decay_rate: f64,
    /// Decay of the mean of the updates; `None` for no mean.
    pub beta1: Option<f64>,
    /// Added to the squared gradient, and the least size of a parameter.
    pub eps: (f64, f64),
    /// The root mean square that an update may have at most.
    pub clip_threshold: f64,
    /// `param` is multiplied by `1 - rate · weight_decay`, with the rate that moves it.
    pub weight_decay: f64,
    /// Whether the rate is multiplied by the parameter's root mean square.
    pub scale_parameter: bool,
    /// The gradient is multiplied by this.
    pub scale: f32,
}

/// State of one parameter: for a matrix means of its rows `[.., rows]` and columns `[.., columns]`, for
/// a vector of all its elements.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdafactorState<'a> {
    /// Means over each row, for two dimensions and more.
    pub exp_avg_sq_row: Option<&'a Tensor>,
    /// Means over each column, for two dimensions and more.
    pub exp_avg_sq_col: Option<&'a Tensor>,
    /// Means of squares, for fewer than two dimensions.
    pub exp_avg_sq: Option<&'a Tensor>,
    /// Mean of the updates, with `beta1`.
    pub exp_avg: Option<&'a Tensor>,
}

/// A step of Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235) for one parameter, as transformers'
/// `Adafactor`.
///
/// # Errors
/// When a part of the state is missing or does not fit the parameter.
pub fn adafactor(param: &Tensor, grad: &Tensor, state: &AdafactorState, options: &Adafactor) -> Result<()> {
    step(param, grad, state, options, false)
}

fn step(
    param: &Tensor,
    grad: &Tensor,
    state: &AdafactorState,
    options: &Adafactor,
    by_ops: bool,
) -> Result<()> {
    let Adafactor { lr, eps, clip_threshold, weight_decay, scale_parameter, scale, .. } = *options;
    let options = ffi::Adafactor {
        lr,
        beta2: 1.0 - (options.step as f64).powf(options.decay_rate),
        beta1: options.beta1.unwrap_or_default(),
        eps_square: eps.0,
        eps_scale: eps.1,
        clip_threshold,
        weight_decay,
        scale,
        scale_parameter,
        by_ops,
    };
    let state = ffi::AdafactorState {
        row: state.exp_avg_sq_row,
        col: state.exp_avg_sq_col,
        square: state.exp_avg_sq,
        exp_avg: state.exp_avg,
    };
    ffi::adafactor(param, grad, &state, &options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn the_kernel_of_adafactor_is_its_tensor_operations() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let randn = || Tensor::randn([300, 170], (Kind::Float, Device::Cpu));
        let start = randn();
        let grads: Vec<Tensor> = (0..5).map(|_| randn()).collect();
        for (beta1, scale_parameter) in [(None, true), (Some(0.9), false)] {
            let run = |by_ops: bool| {
                let parts = [start.copy(), zeros(&[300]), zeros(&[170]), zeros(&[300, 170])];
                for (i, grad) in grads.iter().enumerate() {
                    let options = Adafactor {
                        lr: 1e-2,
                        step: i as u64 + 1,
                        decay_rate: -0.8,
                        beta1,
                        eps: (1e-30, 1e-3),
                        clip_threshold: 0.9,
                        weight_decay: 0.1,
                        scale_parameter,
                        scale: 0.5,
                    };
                    let state = AdafactorState {
                        exp_avg_sq_row: Some(&parts[1]),
                        exp_avg_sq_col: Some(&parts[2]),
                        exp_avg_sq: None,
                        exp_avg: beta1.is_some().then_some(&parts[3]),
                    };
                    step(&parts[0], grad, &state, &options, by_ops).unwrap();
                }
                parts
            };
            for (i, (a, b)) in run(false).iter().zip(&run(true)).enumerate() {
                assert!(a.allclose(b, 1e-5, 1e-6, false), "part {i}, beta1 {beta1:?}");
            }
        }
    }
}
