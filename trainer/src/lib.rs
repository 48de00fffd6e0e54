//! The trainer: computes jobs with libtorch.
//!
//! [`job`] is the blocking part, a function of a directory; [`agent`] takes jobs from the queue and runs each in a
//! process of its own. Models are in [`models`], tasks in [`tasks`]; both stand on [`nn`], [`data`] and [`optim`].

pub mod agent;
pub mod data;
pub mod device;
pub mod entities;
pub mod failure;
pub mod generate;
pub mod gguf;
pub mod job;
pub mod memory;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod optim;
pub mod precision;
pub mod predict;
pub mod products;
pub mod tasks;
pub mod tensors;
pub mod tuned;
