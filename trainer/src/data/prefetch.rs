//! The next batches, made in the background while the model computes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Context, Result};
use tch::Device;

use super::{Batch, Order, Share, Split, collate};

/// Steps that are made ahead.
const AHEAD: usize = 2;

/// A micro-batch.
pub struct MicroBatch {
    /// The rows of the split that all copies of the model together compute. Where a copy's are computed in pieces, the
    /// first piece names them all.
    pub all: Vec<usize>,
    /// Tokens of all of them.
    pub tokens: u64,
    /// Those of this copy.
    pub rows: Vec<usize>,
    /// The same as tensors.
    pub batch: Batch,
    /// Whether there are fewer rows than processes, and none was left for this one: its row is another's.
    pub idle: bool,
}

/// The micro-batches of each step, in order.
pub struct Prefetch(Receiver<Vec<MicroBatch>>);

impl Prefetch {
    /// Starts with the batches of step `first`, and cuts what is this copy's of each into at most `pieces`.
    pub fn start(
        split: Arc<Split>,
        mut order: Order,
        first: u64,
        padding: (u32, u32),
        device: Device,
        share: Share,
        pieces: usize,
    ) -> Result<Self> {
        let (sender, receiver) = sync_channel(AHEAD);
        thread::Builder::new().name("batches".into()).spawn(move || {
            for step in first.. {
                let made = order.step(step).into_iter().flat_map(|mut all| {
                    let tokens = |row: usize| split.tokens_of(row);
                    let mut rows = share.of(&all, tokens);
                    let idle = rows.is_empty();
                    if idle {
                        rows.push(all[0]);
                    }
                    let mut of_all = all.iter().map(|&row| tokens(row) as u64).sum();
                    let piece = |rows: &[usize]| {
                        let batch = collate(&split.sequences(rows), padding, device);
                        let (all, tokens) = (std::mem::take(&mut all), std::mem::take(&mut of_all));
                        MicroBatch { all, tokens, rows: rows.to_vec(), batch, idle }
                    };
                    rows.chunks(rows.len().div_ceil(pieces)).map(piece).collect::<Vec<_>>()
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
