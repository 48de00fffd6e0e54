//! AdamW with moments of a byte a number.

use std::borrow::Borrow;

use tch::Tensor;

use super::Adam;
use crate::{Result, ffi_optim as ffi};

/// Numbers of a moment that share one magnitude.
pub const BLOCK: i64 = 256;

/// State of 8-bit AdamW. Zeros are the start.
#[derive(Debug)]
pub struct Adam8bitState<'a, T> {
    /// Codes of the running means, Uint8 like the parameters.
    pub exp_avgs: &'a [T],
    /// Largest magnitude of each [`BLOCK`] numbers of the means, Float `[ceil(numel / BLOCK)]`.
    pub exp_avg_absmaxs: &'a [T],
    /// Codes of the running means of squares, Uint8 like the parameters.
    pub exp_avg_sqs: &'a [T],
    /// Largest magnitude of each block of these.
    pub exp_avg_sq_absmaxs: &'a [T],
    /// As in [`AdamState`](super::AdamState).
    pub steps: &'a [T],
}

/// A step of AdamW whose moments are kept in 8 bits, block by block (Dettmers et al., 2022,
/// arXiv:2110.02861), with the arithmetic in fp32. Without amsgrad.
///
/// # Errors
/// As [`adam()`](super::adam()).
pub fn adamw_8bit<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &Adam8bitState<T>,
    options: &Adam,
) -> Result<()> {
    step(params, grads, state, options, false)
}

fn step<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    state: &Adam8bitState<T>,
    options: &Adam,
    by_ops: bool,
) -> Result<()> {
    let lists = ffi::Adam8bitLists {
        params,
        grads,
        exp_avgs: state.exp_avgs,
        absmaxs: state.exp_avg_absmaxs,
        exp_avg_sqs: state.exp_avg_sqs,
        absmax_sqs: state.exp_avg_sq_absmaxs,
        steps: state.steps,
    };
    ffi::adamw_8bit(&lists, &options.to_ffi(true), by_ops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Codes may differ by one where a value lies at the middle of two, as rounding goes before.
    #[test]
    fn the_kernel_of_8_bits_is_its_tensor_operations() {
        let randn = || Tensor::randn([70, 300], (Kind::Float, Device::Cpu));
        let start = randn();
        let grads: Vec<Tensor> = (0..5).map(|step| randn() * 10f64.powi(-step)).collect();
        let options =
            Adam { lr: 1e-2, betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.1, scale: 0.5, amsgrad: false };
        let run = |by_ops: bool| -> Vec<Tensor> {
            let codes = || Tensor::zeros([70, 300], (Kind::Uint8, Device::Cpu));
            let tops = || Tensor::zeros([83], (Kind::Float, Device::Cpu));
            let state = [codes(), tops(), codes(), tops(), Tensor::zeros([], (Kind::Float, Device::Cpu))];
            let param = start.copy();
            for grad in &grads {
                let [m, m_top, v, v_top, steps] = &state;
                let state = Adam8bitState {
                    exp_avgs: &[m],
                    exp_avg_absmaxs: &[m_top],
                    exp_avg_sqs: &[v],
                    exp_avg_sq_absmaxs: &[v_top],
                    steps: &[steps],
                };
                step(&[&param], &[grad], &state, &options, by_ops).unwrap();
            }
            std::iter::once(param).chain(state).collect()
        };
        let (ours, theirs) = (run(false), run(true));
        let differing = |a: &Tensor, b: &Tensor, by: f64| {
            let apart = (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs();
            apart.gt(by).sum(Kind::Int64).int64_value(&[])
        };
        assert!(differing(&ours[0], &theirs[0], 1e-5) < 20, "parameters");
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate().skip(1) {
            assert!(differing(a, b, 0.0) < 200, "part {i}");
            assert!(i % 2 == 0 || differing(a, b, 1.0) == 0, "codes of part {i}");
        }
    }
}
