//! Rows through a model, timed.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Map, json};
use tch::{Device, Tensor};

use super::rows::Rows;
use crate::data::{Batch, collate};
use crate::job::control::{Asked, Control};
use crate::job::events::Events;
use crate::models::TextModel;
use crate::nn::Context;
use crate::tasks::{Given, Predictions};

/// A replay that takes longer than this ends early; the other model gets the same rows.
const LONGEST: Duration = Duration::from_secs(180);

/// How far it is, is told at most this often.
const TELLS: Duration = Duration::from_secs(3);

/// Someone asked the job to stop.
#[derive(Debug, thiserror::Error)]
#[error("asked to stop")]
pub struct Stopped(pub Asked);

/// Stops where that was asked for.
pub fn obey(control: &Control) -> Result<()> {
    control.asked().map_or(Ok(()), |asked| Err(Stopped(asked).into()))
}

/// What a model says of rows.
pub struct Replay<'a> {
    /// The model.
    pub model: &'a dyn TextModel,
    /// The rows.
    pub rows: &'a Rows,
    /// Where it computes.
    pub device: Device,
    /// Whether to go on.
    pub control: &'a Control,
    /// How many rows; as many as the time allows where nothing is said.
    pub most: Option<usize>,
    /// Where it is told how far it is.
    pub events: &'a mut Events,
}

/// What came of it.
pub struct Said {
    /// Rows that were replayed: the first ones.
    pub rows: usize,
    /// Their tokens.
    pub tokens: u64,
    /// Seconds that the model took for them, without the comparison.
    pub seconds: f64,
    /// What it said, where the rows say what is right.
    pub predictions: Option<Predictions>,
}

impl Replay<'_> {
    /// Runs it; `each` gets logits `[m, width]`, fp32, as [`Rows::places`] chooses them, in the same portions each time.
    pub fn run(self, mut each: impl FnMut(&Tensor) -> Result<()>) -> Result<Said> {
        let Replay { model, rows, device, control, most, events } = self;
        let _guard = tch::no_grad_guard();
        let mut said = Said { rows: 0, tokens: 0, seconds: 0.0, predictions: None };
        let mut predictions = rows.objective.as_ref().map(|_| Predictions::default());
        let (began, mut told) = (Instant::now(), Instant::now());
        let batches = rows.batches();
        if let Some(first) = batches.first() {
            // The first pass makes buffers that the others find made.
            let _unused = top(model, &batch_of(rows, first, device));
        }
        for numbers in &batches {
            obey(control)?;
            let is_enough = match most {
                Some(most) => said.rows >= most,
                None => said.rows > 0 && began.elapsed() > LONGEST,
            };
            if is_enough {
                break;
            }
            let batch = batch_of(rows, numbers, device);
            let start = Instant::now();
            let top = top(model, &batch);
            if let (Some(objective), Some(predictions)) = (&rows.objective, &mut predictions) {
                let given = Given { model, top: &top, split: &rows.split, rows: numbers, batch: &batch };
                let (outputs, losses) = objective.look(&given)?;
                predictions.outputs.extend(outputs);
                predictions.losses.extend(losses.into_iter().map(f64::from));
            } else {
                // On a GPU the work is done once a number of it is asked for.
                let _done = f64::try_from(top.max())?;
            }
            said.seconds += start.elapsed().as_secs_f64();
            said.rows += numbers.len();
            said.tokens += batch.tokens;
            rows.places(model, &top, &batch, &mut each)?;
            if told.elapsed() > TELLS {
                told = Instant::now();
                let progress =
                    json!({"done": said.rows, "of": most.unwrap_or(rows.split.len()), "what": "rows"});
                let name = if most.is_none() { "replaying" } else { "checking" };
                events.phase(0, name, Map::from_iter([("progress".to_owned(), progress)]))?;
            }
        }
        Ok(Said { predictions, ..said })
    }
}

fn batch_of(rows: &Rows, numbers: &[usize], device: Device) -> Batch {
    collate(&rows.split.sequences(numbers), rows.padding, device)
}

/// In fp32, as an evaluation.
fn top(model: &dyn TextModel, batch: &Batch) -> Tensor {
    model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing))
}
