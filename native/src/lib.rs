//! All C++ that tch lacks, and its safe Rust face: the only crate with `unsafe`.
//!
//! - [`optim`]: one optimizer step over lists of tensors;
//! - [`gradients`]: norm, clipping, scaling and clearing of gradients, and summing those of rows;
//! - [`random`]: the keys of every random draw of a training step;
//! - [`dropout`](mod@dropout), [`attention`](mod@attention), [`norm`]: dropout whose mask can be drawn again, and what is
//!   computed together with it;
//! - [`decode_attention`](mod@decode_attention): attention of a model that writes, one token at a time;
//! - [`rms_norm`](mod@rms_norm), [`rotary`](mod@rotary), [`gated`](mod@gated): what decoders have between their products;
//! - [`cross_entropy`](mod@cross_entropy): the loss over a vocabulary, whose logits never stand all at once;
//! - [`linear`](mod@linear): products by several parameters at once, or by a copy in another precision;
//! - [`low_rank`](mod@low_rank): what adapters add to the outputs of frozen layers;
//! - [`nf4`]: products by frozen weights that are kept in 4 bits;
//! - [`c10d`]: process groups, collectives, and the averaging of gradients over ranks;
//! - [`runtime`]: threads, determinism, denormals, versions;
//! - [`cuda`]: bringing the CUDA part of libtorch into a program that was linked without it;
//! - [`memory`]: memory of this process.
//!
//! Functions answer with a [`tch::TchError`] that says what was wrong. What a model's `forward` calls
//! exists twice, as in tch: `f_dropout` answers so, `dropout` panics with the same words, and the
//! job's edge catches it. Threads are those of libtorch ([`runtime::set_threads`]).
#![deny(missing_docs)]

pub mod attention;
pub mod c10d;
pub mod cross_entropy;
pub mod cuda;
pub mod decode_attention;
pub mod dropout;
mod ffi;
mod ffi_optim;
pub mod gated;
pub mod gradients;
pub mod linear;
pub mod low_rank;
pub mod memory;
pub mod nf4;
pub mod norm;
pub mod optim;
pub mod random;
pub mod rms_norm;
pub mod rotary;
pub mod runtime;

pub use attention::{Heads, Projections, attention, distance_attention, f_attention, f_distance_attention};
pub use cross_entropy::{CrossEntropy, Losses, cross_entropy, f_cross_entropy};
pub use decode_attention::{decode_attention, f_decode_attention};
pub use dropout::{dropout, dropout_packed, f_dropout, f_dropout_packed};
pub use gated::{Gate, f_gated, gated};
pub use linear::{f_linear, f_linear_of_few, linear, linear_of_few};
pub use low_rank::{Adapter, f_low_rank, low_rank};
pub use nf4::Nf4;
pub use norm::{f_norm_residual, norm_residual};
pub use random::{f_keys, key, keys, keys_of};
pub use rms_norm::{f_rms_norm, rms_norm};
pub use rotary::{Angles, f_rotary, rotary};

/// What every fallible function of this crate returns. `?` turns it into `anyhow::Error`.
pub type Result<T> = std::result::Result<T, tch::TchError>;
