//! The passes of a step, in the order in which the stages of a model keep each other busy: one forward, one backward
//! (D. Narayanan et al., "PipeDream", 2019; with one update a step, as in "Memory-efficient pipeline-parallel DNN
//! training", 2021, section 3.2).
//!
//! A stage that has `k` after it is `k` micro-batches ahead of the last, and keeps no more than `k + 1` of them. In one
//! stage that is forward and backward in turn.

use std::collections::VecDeque;

use anyhow::Result;
use native::c10d::Work;
use tch::{Kind, Tensor};

use super::grid::Place;
use super::pass::Passed;
use super::setup::Session;
use super::train::Window;
use crate::data::{Batch, MicroBatch};
use crate::nn::{Context, Draw};
use crate::tasks::Given;

/// A micro-batch between its two passes.
struct Underway<'a> {
    micro: &'a MicroBatch,
    number: usize,
    passed: Passed,
    /// States on their way to the next stage.
    sent: Option<Work>,
    /// Bytes of this process before it.
    before: u64,
}

/// Makes the gradients of a step's micro-batches, whose loss is divided by `weight`; returns this process's share of the
/// loss. The exchange between copies of the model is under way with the last backward pass.
pub fn gradients(
    session: &mut Session,
    micros: &[MicroBatch],
    weight: f64,
    window: &mut Window,
) -> Result<Tensor> {
    let place = session.ranks.place();
    let ahead = (session.ranks.grid().stages - place.stage - 1).min(micros.len());
    let mut underway: VecDeque<Underway> = VecDeque::new();
    let mut gradients_sent = Vec::new();
    let mut loss = Tensor::zeros([], (Kind::Float, session.device));
    for number in 0..micros.len() + ahead {
        if let Some(micro) = micros.get(number) {
            let forward = forward(session, micro, number, weight)?;
            if let Some(share) = &forward.passed.share {
                loss += share;
            }
            underway.push_back(forward);
        }
        if number < ahead {
            continue;
        }
        let Some(oldest) = underway.pop_front() else { break };
        let last = oldest.number + 1 == micros.len();
        gradients_sent.extend(backward(session, oldest, last, window)?);
    }
    gradients_sent.into_iter().try_for_each(Work::wait)?;
    Ok(loss)
}

/// The context of a training pass.
fn context<'a>(session: &Session, batch: &'a Batch) -> Context<'a> {
    let draw =
        Draw { seed: u64::from(session.spec.seed), step: session.state.step, examples: &batch.examples };
    Context { packing: &batch.inputs.packing, kind: session.precision.kind(), draw: Some(draw), kept: None }
}

fn forward<'a>(session: &Session, micro: &'a MicroBatch, number: usize, weight: f64) -> Result<Underway<'a>> {
    let before = native::memory::allocated_bytes();
    let context = context(session, &micro.batch);
    let sent = receive(session, &micro.batch, context.kind, number)?;
    let Session { objective, data, ranks, model, stage, .. } = session;
    // The exchange gives the mean over copies, and what is wanted is the sum.
    let factor = f64::from(session.state.scaler.factor()) * ranks.share().size as f64;
    let share_of = |top: &Tensor| {
        // A copy that has no row of this batch computes one for the exchange, and it counts for nothing.
        let by = if micro.idle { 0.0 } else { weight.recip() };
        let (split, rows, batch) = (&*data.train, micro.rows.as_slice(), &micro.batch);
        objective.loss(&Given { model: model.as_ref(), top, split, rows, batch }, by)
    };
    let passed = stage.forward(model.as_ref(), &micro.batch.inputs, sent, &context, share_of, factor);
    let sent = match stage.last {
        true => None,
        false => Some(ranks.send(&passed.left, neighbour(session, 1), number)?),
    };
    Ok(Underway { micro, number, passed, sent, before })
}

/// Returns the gradient on its way to the stage before.
fn backward(
    session: &mut Session,
    underway: Underway,
    last: bool,
    window: &mut Window,
) -> Result<Option<Work>> {
    let Underway { micro, number, passed, sent, before } = underway;
    let kept = || native::memory::allocated_bytes().saturating_sub(before);
    let mut most = kept();
    let context = context(session, &micro.batch);
    if let Some(sent) = sent {
        sent.wait()?;
    }
    let mut back = None;
    if session.stage.goes_back {
        let grad = match session.stage.last {
            true => None,
            false => {
                let grad = passed.left.empty_like();
                session.ranks.receive(&grad, neighbour(session, 1), number)?;
                Some(grad)
            }
        };
        session.ranks.before_backward(&passed.left, last)?;
        let look = || most = most.max(kept());
        let grad = session.stage.backward(session.model.as_ref(), passed, grad, &context, look)?;
        back = grad.map(|grad| session.ranks.send(&grad, neighbour(session, -1), number)).transpose()?;
    }
    // On a CPU alone: elsewhere it is not counted.
    window.count(micro, most);
    session.state.samples += micro.all.len() as u64;
    session.state.tokens += micro.tokens;
    Ok(back)
}

/// What the stage before sends of a micro-batch; `None` in the first.
fn receive(session: &Session, batch: &Batch, kind: Kind, number: usize) -> Result<Option<Tensor>> {
    if session.stage.first {
        return Ok(None);
    }
    let states = Tensor::empty([batch.computed() as i64, session.stage.width], (kind, session.device));
    session.ranks.receive(&states, neighbour(session, -1), number)?;
    Ok(Some(states))
}

/// The process that has the same share of a stage before or after.
fn neighbour(session: &Session, further: isize) -> usize {
    let place = session.ranks.place();
    session.ranks.grid().rank(Place { stage: place.stage.saturating_add_signed(further), ..place })
}

/// What the head gives of a batch, computed in this kind, without gradients; `None` in all stages but the last.
pub fn top(session: &Session, batch: &Batch, kind: Kind) -> Result<Option<Tensor>> {
    let context = Context { kind, ..Context::evaluation(&batch.inputs.packing) };
    let Session { model, stage, .. } = session;
    let states = match receive(session, batch, context.kind, 0)? {
        Some(states) => states,
        None => model.embed(&batch.inputs, &context),
    };
    let states = stage.layers.clone().fold(states, |states, number| model.layer(number, &states, &context));
    if stage.last {
        return Ok(Some(model.head(&states, &context)));
    }
    session.ranks.send(&states, neighbour(session, 1), 0)?.wait()?;
    Ok(None)
}
