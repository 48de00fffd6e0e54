//! What the model says of rows, without gradients.

use anyhow::Result;
use tch::Kind;

use super::pipeline;
use super::setup::Session;
use crate::data::{Split, collate};
use crate::metrics::Metrics;
use crate::tasks::{Given, Predictions, Written};

/// Metrics of a split, and the predictions behind them.
pub struct Evaluation {
    /// All metrics.
    pub metrics: Metrics,
    /// What was said of each row.
    pub predictions: Predictions,
}

/// Evaluates a split with the weights in full precision, as whoever downloads them will use them. Where texts are written, then
/// for all rows, or for as many as are looked at in training.
pub fn evaluate(session: &Session, split: &Split, all: bool) -> Result<Evaluation> {
    let training = &session.spec.training;
    let size = training.eval_batch_size.unwrap_or(training.batch_size);
    let mut predictions = predictions(session, split, size, Kind::Float)?;
    predictions.written = written(session, split, size, all)?;
    if let Some(mismatched) = &split.mismatched {
        predictions.mismatched = self::predictions(session, mismatched, size, Kind::Float)?.outputs;
    }
    let metrics = session.objective.metrics(split, &predictions)?;
    Ok(Evaluation { metrics, predictions })
}

/// What the model says of all rows of a split, so many at once, computed in this kind.
pub fn predictions(session: &Session, split: &Split, size: u32, kind: Kind) -> Result<Predictions> {
    of_rows(session, split, &(0..split.len()).collect::<Vec<_>>(), size, kind)
}

/// What it says of some rows, in their order.
pub fn of_rows(
    session: &Session,
    split: &Split,
    asked: &[usize],
    size: u32,
    kind: Kind,
) -> Result<Predictions> {
    let share = session.ranks.share();
    let all: Vec<usize> = (0..asked.len()).collect();
    let own: Vec<usize> = all.iter().copied().skip(share.rank).step_by(share.size).collect();
    // Where rows of a batch look at each other, batches are the same for any number of processes.
    let batches: Vec<&[usize]> = match session.objective.couples_rows() {
        true => all.chunks(size as usize).skip(share.rank).step_by(share.size).collect(),
        false => own.chunks(size as usize).collect(),
    };
    let outputs = session.objective.outputs();
    let mut predictions = Predictions {
        outputs: vec![0.0; asked.len() * outputs],
        losses: vec![0.0; asked.len()],
        ..Predictions::default()
    };
    let _guard = tch::no_grad_guard();
    for places in batches {
        let rows: Vec<usize> = places.iter().map(|&place| asked[place]).collect();
        let batch = collate(&split.sequences(&rows), session.padding, session.device);
        // Of the processes of a copy of the model, one says what it found: elsewhere there are zeros.
        let Some(top) = pipeline::top(session, &batch, kind)?.filter(|_| session.ranks.speaks()) else {
            continue;
        };
        let model = session.model.as_ref();
        let given = Given { model, top: &top, split, rows: &rows, batch: &batch };
        let (said, losses) = session.objective.look(&given)?;
        for (at, &place) in places.iter().enumerate() {
            let into = &mut predictions.outputs[place * outputs..][..outputs];
            into.copy_from_slice(&said[at * outputs..][..outputs]);
            predictions.losses[place] = f64::from(losses[at]);
        }
    }
    gather(session, &mut predictions)?;
    Ok(predictions)
}

/// What the model writes for rows of a split, evenly chosen where they are too many; `None` where the task writes nothing, or
/// each process has some of the layers alone.
fn written(session: &Session, split: &Split, size: u32, all: bool) -> Result<Option<Written>> {
    let Some((writing, tokenizer, most)) = session.objective.writes() else { return Ok(None) };
    if session.ranks.grid().stages > 1 {
        return Ok(None);
    }
    let count = if all { split.len() } else { split.len().min(most) };
    let rows: Vec<usize> = (0..count).map(|at| at * split.len() / count).collect();
    let share = session.ranks.share();
    let own: Vec<usize> = (0..count).skip(share.rank).step_by(share.size).collect();
    // The tokens of each, after their number; elsewhere zeros, so that the processes' sum is what all have.
    let width = writing.max_new_tokens + 1;
    let mut numbers = vec![0.0; count * width];
    for places in own.chunks(size as usize) {
        let sources: Vec<&[u32]> = places.iter().map(|&at| split.tokens.row(rows[at]).0).collect();
        let answers = writing.answers(session.model.as_ref(), &sources, session.padding, session.device)?;
        for (&at, answer) in places.iter().zip(answers).filter(|_| session.ranks.speaks()) {
            numbers[at * width] = answer.len() as f64;
            for (place, id) in answer.into_iter().enumerate() {
                numbers[at * width + 1 + place] = f64::from(id);
            }
        }
    }
    session.ranks.sum(&mut numbers)?;
    let mut made = Written { rows, ..Written::default() };
    for answer in numbers.chunks(width) {
        let length = answer[0] as usize;
        let ids: Vec<u32> = answer[1..=length].iter().map(|&id| id as u32).collect();
        made.texts.push(tokenizer.decode(&ids, false)?);
        made.tokens.push(length);
    }
    Ok(Some(made))
}

/// Puts together what the processes of a job found, each for its rows: elsewhere it has zeros.
fn gather(session: &Session, predictions: &mut Predictions) -> Result<()> {
    if session.ranks.size() == 1 {
        return Ok(());
    }
    let mut outputs: Vec<f64> = predictions.outputs.iter().map(|&output| f64::from(output)).collect();
    session.ranks.sum(&mut outputs)?;
    predictions.outputs = outputs.into_iter().map(|output| output as f32).collect();
    session.ranks.sum(&mut predictions.losses)
}
