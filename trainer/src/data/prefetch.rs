//! The next batches, made in the background while the model computes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Context, Result};
use tch::Device;

use super::{Batch, Order, Split, collate};

/// Steps that are made ahead.
const AHEAD: usize = 2;

/// A micro-batch.
pub struct MicroBatch {
    /// Which rows of the split it holds.
    pub rows: Vec<usize>,
    /// The rows as tensors.
    pub batch: Batch,
}

/// The micro-batches of each step, in order.
pub struct Prefetch(Receiver<Vec<MicroBatch>>);

impl Prefetch {
    /// Starts with the batches of step `first`.
    pub fn start(
        split: Arc<Split>,
        mut order: Order,
        first: u64,
        padding: (u32, u32),
        device: Device,
    ) -> Result<Self> {
        let (sender, receiver) = sync_channel(AHEAD);
        thread::Builder::new().name("batches".into()).spawn(move || {
            for step in first.. {
                let made = order.step(step).into_iter().map(|rows| {
                    let own: Vec<_> = rows.iter().map(|&row| split.row(row)).collect();
                    MicroBatch { batch: collate(&own, padding, device), rows }
                });
                // Nobody takes them any more: the training is over.
                if sender.send(made.collect()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Prefetch(receiver))
    }

    /// The micro-batches of the next step.
    pub fn next(&self) -> Result<Vec<MicroBatch>> {
        self.0.recv().context("the thread that makes batches ended")
    }
}
