//! Several processes that train one model: torch.distributed's own engine (c10d, inside libtorch).
//!
//! - [`Store`]: where the processes, called ranks, find each other;
//! - [`Group`]: the collectives, over Gloo on tensors in main memory, over NCCL on GPUs;
//! - [`autograd`]: collectives within a model, which backward goes through (tensor and pipeline parallel);
//! - [`Reducer`]: the averaging of gradients, bucket by bucket while backward still runs (data parallel).
//!
//! **Order.** All ranks must call the same collectives in the same order, with the same shapes and kinds; backward
//! calls its own in the order of its graph, so that the graphs of all ranks must be alike. Groups are used by one
//! thread at a time.
//!
//! **Errors.** A peer that dies closes its connections: what waits for it ends with an error at once. A peer that is
//! stuck, or calls something else, gives an error after the group's timeout. In both cases the contents of the tensors
//! are undefined, and the group is of no more use: drop it, and begin again from a checkpoint.
//!
//! **The same bits.** Every rank gets the same bits from an all-reduce (each part is summed once, then copied). Another
//! number of ranks sums in another order and rounds otherwise.
//!
//! Gloo is there where the build found its headers ([`gloo_built`]).

pub mod autograd;
mod ffi;
mod group;
mod reducer;
mod store;

pub use group::{Group, Work};
pub use reducer::{Reducer, ReducerOptions};
pub use store::Store;

/// How the values of the ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Reduce {
    /// Their sum.
    Sum = 0,
    /// Their sum, divided by the number of ranks; floating kinds only.
    Avg = 1,
    /// The largest of them.
    Max = 2,
}

/// Whether [`Group::gloo`] can be had: false where the build did not find Gloo's headers.
#[must_use]
pub fn gloo_built() -> bool {
    ffi::has_gloo()
}
