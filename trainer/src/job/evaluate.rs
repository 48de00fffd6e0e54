//! What the model says of rows, without gradients.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::pipeline;
use super::setup::Session;
use crate::data::{Split, collate};
use crate::metrics::Metrics;
use crate::tasks::text_classification::Predictions;

/// Metrics of a split, and the predictions behind them.
pub struct Evaluation {
    /// All metrics.
    pub metrics: Metrics,
    /// Logits and losses, row by row.
    pub predictions: Predictions,
}

/// Evaluates a split with the weights in full precision, as whoever downloads them will use them.
pub fn evaluate(session: &Session, split: &Split) -> Result<Evaluation> {
    let training = &session.spec.training;
    let size = training.eval_batch_size.unwrap_or(training.batch_size) as usize;
    let share = session.ranks.share();
    let order: Vec<usize> = (share.rank..split.len()).step_by(share.size).collect();
    let outputs = session.objective.labels.len();
    let mut predictions =
        Predictions { logits: vec![0.0; split.len() * outputs], losses: vec![0.0; split.len()] };
    let _guard = tch::no_grad_guard();
    for rows in order.chunks(size) {
        let own: Vec<_> = rows.iter().map(|&row| split.row(row)).collect();
        let batch = collate(&own, session.padding, session.device);
        // Of the processes of a copy of the model, one says what it found: elsewhere there are zeros.
        let Some(logits) = pipeline::logits(session, &batch)?.filter(|_| session.ranks.speaks()) else {
            continue;
        };
        let losses = session.objective.row_losses(&logits, &split.targets, rows);
        let (logits, losses) = (floats(&logits)?, floats(&losses)?);
        for (at, &row) in rows.iter().enumerate() {
            predictions.logits[row * outputs..][..outputs]
                .copy_from_slice(&logits[at * outputs..][..outputs]);
            predictions.losses[row] = f64::from(losses[at]);
        }
    }
    gather(session, &mut predictions)?;
    let metrics = session.objective.metrics(&split.targets, &predictions)?;
    Ok(Evaluation { metrics, predictions })
}

/// Puts together what the processes of a job found, each for its rows: elsewhere it has zeros.
fn gather(session: &Session, predictions: &mut Predictions) -> Result<()> {
    if session.ranks.size() == 1 {
        return Ok(());
    }
    let mut logits: Vec<f64> = predictions.logits.iter().map(|&logit| f64::from(logit)).collect();
    session.ranks.sum(&mut logits)?;
    predictions.logits = logits.into_iter().map(|logit| logit as f32).collect();
    session.ranks.sum(&mut predictions.losses)
}

/// All numbers of a tensor, row by row.
pub fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::try_from(tensor.to_kind(Kind::Float).contiguous().view(-1))?)
}
