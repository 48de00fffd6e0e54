//! Muon.

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Result, ffi_optim as ffi};

/// Options of [`muon()`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Learning rate of this step, before [`AdjustLr`].
    pub lr: f64,
    /// How the rate depends on a matrix's shape.
    pub adjust_lr: AdjustLr,
    /// Decay of the mean gradient.
    pub momentum: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Steps of the Newton-Schulz iteration.
    pub ns_steps: u32,
    /// The least norm that a matrix is divided by.
    pub eps: f64,
    /// `param` is multiplied by `1 - lr · weight_decay`.
    pub weight_decay: f64,
    /// Each gradient is multiplied by this.
    pub scale: f32,
}

/// The factor of the learning rate for a matrix `[a, b]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdjustLr {
    /// `sqrt(max(1, a / b))`, Jordan's.
    Original,
    /// `0.2 · sqrt(max(a, b))`: steps of AdamW's size (Liu et al., 2025, arXiv:2502.16982).
    MatchRmsAdamw,
}

impl AdjustLr {
    fn factor(self, size: &[i64]) -> f64 {
        let side = |i: usize| size.get(i).copied().unwrap_or(1) as f64;
        match self {
            AdjustLr::Original => (side(0) / side(1)).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamw => 0.2 * side(0).max(side(1)).sqrt(),
        }
    }
}

/// A step of Muon (Jordan et al., 2024) for matrices; `momentum_buffers` are the mean gradients.
///
/// The iteration runs in bf16 on a GPU, as torch.optim.Muon's, and in fp32 on a CPU.
///
/// # Errors
/// As [`adam()`](super::adam()), and for a parameter that is not a matrix.
pub fn muon<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    momentum_buffers: &[T],
    options: &Muon,
) -> Result<()> {
    let Muon { lr, adjust_lr, momentum, nesterov, ns_steps, eps, weight_decay, scale } = *options;
    let of = |param: &T| ffi::Muon {
        lr,
        adjusted_lr: lr * adjust_lr.factor(&param.borrow().size()),
        momentum,
        weight_decay,
        eps,
        ns_steps: i64::from(ns_steps),
        scale,
        nesterov,
    };
    let options: Vec<ffi::Muon> = params.iter().map(of).collect();
    ffi::muon(params, grads, momentum_buffers, &options)
}

/// The matrix that Muon moves along: the singular vectors of `matrix` with singular values near 1
/// (0.7 to 1.2 after five steps).
///
/// # Errors
/// When `matrix` is no matrix.
pub fn orthogonalize(matrix: &Tensor, ns_steps: u32, eps: f64) -> Result<Tensor> {
    ffi::orthogonalize(matrix, i64::from(ns_steps), eps)
}
