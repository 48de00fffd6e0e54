//! Collectives within a model: backward goes through them, by the transpose of each.
//!
//! All of them can be differentiated any number of times, but for [`send`] and [`recv`]. Sums are over ranks.
//!
//! | function | forward | backward |
//! | --- | --- | --- |
//! | [`copy`] | identity | all-reduce (sum) |
//! | [`sum`] | all-reduce (sum) | identity |
//! | [`gather`] | all-gather | reduce-scatter (sum) |
//! | [`scatter_sum`] | reduce-scatter (sum) | all-gather |
//! | [`send`], [`recv`] | to the peer, from the peer | from the peer, to the peer |
//!
//! With weights that are split over the ranks, a layer by columns and then one by rows: `y = g(f(x) · A) · B)`, where
//! `f` is [`copy`] and `g` is [`sum`]. The gradients of such weights are each rank's own and are not averaged.
//!
//! Source: M. Shoeybi et al., "Megatron-LM", 2019, section 3 (`f`, `g`); V. Korthikanti et al., "Reducing activation
//! recomputation in large transformer models", 2022, section 4.2.2 (gather and reduce-scatter).

use tch::{Kind, Tensor};

use super::Group;
use super::ffi::Along;
use crate::Result;

/// Megatron's `f`: `x` as it is, whose gradient is summed over the ranks. Before weights that are split by columns.
///
/// # Errors
/// As the [module](super) says; those of backward come from backward.
pub fn copy(group: &Group, x: &Tensor) -> Result<Tensor> {
    group.inner.along(x, Along::Copy)
}

/// Megatron's `g`: the sum of `x` over the ranks, whose gradient goes to each as it is. After weights that are split by
/// rows. What follows must be the same on every rank.
///
/// # Errors
/// As [`copy`].
pub fn sum(group: &Group, x: &Tensor) -> Result<Tensor> {
    group.inner.along(x, Along::Sum)
}

/// The `[n, …]` of each rank, one after the other: `[size · n, …]`; gradients are summed and split again.
///
/// # Errors
/// When `x` is a scalar, and as [`copy`].
pub fn gather(group: &Group, x: &Tensor) -> Result<Tensor> {
    group.inner.along(x, Along::Gather)
}

/// This rank's `[n, …]` of the sum of all ranks' `[size · n, …]`; gradients are gathered.
///
/// # Errors
/// When the first dimension is no multiple of the number of ranks, and as [`copy`].
pub fn scatter_sum(group: &Group, x: &Tensor) -> Result<Tensor> {
    group.inner.along(x, Along::Scatter)
}

/// Sends `x` to rank `to`; returns the scalar 0, whose backward waits for the gradient of `x` from there.
///
/// Add it to this rank's loss, or call `backward` on it where there is none: the first stages of a pipeline.
///
/// # Errors
/// As [`copy`].
pub fn send(group: &Group, x: &Tensor, to: usize, tag: u16) -> Result<Tensor> {
    group.inner.send_forward(x, group.peer(to)?, i64::from(tag))
}

/// Receives from rank `from` a tensor of `shape` and the floating `kind`; its backward sends its gradient there.
///
/// # Errors
/// As [`copy`].
pub fn recv(group: &Group, shape: &[i64], kind: Kind, from: usize, tag: u16) -> Result<Tensor> {
    group.inner.recv_forward(shape, kind, group.peer(from)?, i64::from(tag))
}
