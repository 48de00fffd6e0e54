//! All C++ that tch lacks, and its safe Rust face: the only crate with `unsafe`.
//!
//! - [`optim`]: one optimizer step over lists of tensors;
//! - [`gradients`]: norm, clipping, scaling and clearing of gradients, and summing those of rows;
//! - [`random`]: the keys of every random draw of a training step;
//! - [`dropout`](mod@dropout), [`attention`](mod@attention): dropout whose mask can be drawn again;
//! - [`runtime`]: threads, determinism, denormals, versions;
//! - [`cuda`]: bringing the CUDA part of libtorch into a program that was linked without it;
//! - [`memory`]: memory of this process.
//!
//! Functions answer with a [`tch::TchError`] that says what was wrong. What a model's `forward` calls
//! exists twice, as in tch: `f_dropout` answers so, `dropout` panics with the same words, and the
//! job's edge catches it. Threads are those of libtorch ([`runtime::set_threads`]).
#![deny(missing_docs)]

pub mod attention;
pub mod cuda;
pub mod dropout;
mod ffi;
mod ffi_optim;
pub mod gradients;
pub mod memory;
pub mod optim;
pub mod random;
pub mod runtime;

pub use attention::{attention, f_attention};
pub use dropout::{dropout, dropout_add, f_dropout, f_dropout_add};
pub use random::{f_keys, key, keys, keys_of};

/// What every fallible function of this crate returns. `?` turns it into `anyhow::Error`.
pub type Result<T> = std::result::Result<T, tch::TchError>;
