//! How much memory a job will take at most, and how much it will compute, told before it starts.
//!
//! Bytes are counted from what the trainer keeps: parameters, what layers keep for the backward pass, gradients, the
//! optimizer's state, and the copy that is made of weights and state to write them. What cannot be counted (libtorch
//! itself, its kernels' scratch space) is measured, in [`runtime`]. On a CPU; a GPU keeps the same tensors.

mod memory;
mod model;
mod rows;
mod ways;

pub use memory::Machine;
pub use model::{Model, Parameter, Place};
pub use rows::Rows;
pub use ways::{Way, fitting, ways};

use serde::{Deserialize, Serialize};

use crate::spec::{JobSpec, Training};

/// Memory in bytes, and work, of one process of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Parameters.
    pub weights: u64,
    /// Copies of the layers' parameters in fewer bits.
    pub copies: u64,
    /// Gradients, without those of large tables, which come by row.
    pub gradients: u64,
    /// The optimizer's state.
    pub optimizer: u64,
    /// What the forward pass of the greatest batch keeps for the backward pass.
    pub activations: u64,
    /// The most that passing buffers take beside all this: of the backward pass, of the optimizer, of writing a checkpoint.
    pub buffers: u64,
    /// The program with its libraries, and the rows.
    pub runtime: u64,
    /// The most that is held at once; less than the sum of the parts, which do not all stand at the same time.
    pub peak: u64,
    /// Processes, of which each takes `peak`.
    pub processes: u64,
    /// Optimizer steps of the whole training.
    pub steps: u64,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: u64,
    /// Tokens of a step, on average.
    pub tokens_per_step: u64,
    /// Tokens of the greatest batch of one process.
    pub tokens_at_once: u64,
    /// Floating-point operations of a step, on average, in all processes.
    pub flops_per_step: f64,
}

impl Estimate {
    /// What all processes take together.
    pub fn total(&self) -> u64 {
        self.peak * self.processes
    }
}

/// Estimates a job: its model, settings, and rows.
pub fn estimate(model: &Model, spec: &JobSpec, rows: &Rows, machine: Machine) -> Estimate {
    let training = &spec.training;
    let processes = u64::from(spec.resources.devices).max(1);
    let batch = u64::from(training.batch_size).max(1);
    let accumulation = u64::from(training.gradient_accumulation_steps).max(1);
    let steps_per_epoch = rows.count.div_ceil(batch).div_ceil(accumulation).max(1);
    let steps = total_steps(training, steps_per_epoch);
    let own = batch.div_ceil(processes);
    let tokens_at_once = rows.greatest(own, steps * accumulation);
    let seen = (batch * accumulation).min(rows.count.max(1));
    let mut estimate = Estimate {
        processes,
        steps,
        steps_per_epoch,
        tokens_per_step: (seen as f64 * rows.mean()).round() as u64,
        tokens_at_once,
        flops_per_step: model.flops(training, seen as f64 * rows.mean(), seen as f64 * rows.mean_square()),
        ..Estimate::default()
    };
    memory::fill(&mut estimate, model, training, rows, machine);
    estimate
}

/// Optimizer steps of the whole training, as the trainer counts them.
fn total_steps(training: &Training, steps_per_epoch: u64) -> u64 {
    let by_epochs = (training.epochs * steps_per_epoch as f64).ceil() as u64;
    training.max_steps.unwrap_or(by_epochs).max(1)
}
