//! One optimizer step: gradients of every micro-batch, one update.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::setup::Session;
use super::train::Window;
use super::{evaluate, pipeline};
use crate::data::Prefetch;
use crate::failure::Failure;
use crate::optim::clip_coefficient;

/// What a step gave.
pub struct Step {
    /// Mean loss over all rows of the step.
    pub loss: f64,
    /// The 2-norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// The share of tokens that were foretold, where that is looked at.
    pub accuracy: Option<f64>,
}

/// Gradients of every micro-batch, one update. The weights stay as they were where loss or gradients are not finite.
pub fn one_step(session: &mut Session, batches: &Prefetch, window: &mut Window) -> Result<Step> {
    let step = session.state.step;
    let micros = batches.next()?;
    let all: Vec<usize> = micros.iter().flat_map(|micro| &micro.all).copied().collect();
    let weight = session.objective.weight(&session.data.train, &all);
    look_ahead(session, &all)?;
    session.optimizer.zero_grad()?;
    let loss = pipeline::gradients(session, &micros, weight, window)?;
    session.ranks.after_backward()?;
    let grad_norm = own_norm(session)?;
    let learning_rate = session.optimizer.learning_rate(step, session.total_steps);
    let right = session.objective.right();
    let looks = right.is_some();
    let right = right.unwrap_or_else(|| Tensor::zeros([], (Kind::Float, Device::Cpu)));
    // All at once: on a GPU each reading waits.
    let found = [loss, grad_norm, right].map(|number| number.to_device(session.device));
    let read = Vec::<f32>::try_from(Tensor::f_stack(&found, 0)?)?;
    let mut sums = [read[0], read[2]].map(|sum| if session.ranks.speaks() { f64::from(sum) } else { 0.0 });
    session.ranks.sum(&mut sums)?;
    let scaled_norm = norm_of_model(session, read[1])?;
    let scale = session.state.scaler.factor();
    let grad_norm = scaled_norm / scale;
    let accuracy = looks.then(|| sums[1] / weight);
    let made = Step { loss: sums[0], grad_norm: grad_norm.into(), learning_rate, accuracy };
    if session.state.scaler.skips(grad_norm) {
        return Ok(made);
    }
    refuse_non_finite(session, &made, &all)?;
    let coefficient = clip_coefficient(grad_norm, session.spec.training.max_grad_norm) / scale;
    session.optimizer.step(learning_rate, coefficient)?;
    session.ranks.spread(session.optimizer.owners())?;
    session.copies.refresh()?;
    Ok(made)
}

/// Where the loss of a row depends on all rows of the step, what the model says of their prompts with each other's answers.
fn look_ahead(session: &Session, rows: &[usize]) -> Result<()> {
    let Session { data, spec, precision, objective, .. } = session;
    let Some(mismatched) = &data.train.mismatched else { return Ok(()) };
    let said = evaluate::of_rows(session, mismatched, rows, spec.training.batch_size, precision.kind())?;
    objective.ahead(&data.train, rows, &said.outputs);
    Ok(())
}

/// The norm of the gradients that this process counts for.
fn own_norm(session: &Session) -> Result<Tensor> {
    let Session { ranks, parts, files, optimizer, .. } = session;
    if ranks.grid().shares > 1 {
        let whole = files.params.iter().filter(|(name, _)| parts.is_whole(name));
        ranks.level(&whole.map(|(_, param)| param.shallow_clone()).collect::<Vec<_>>())?;
    }
    optimizer.grad_norm_of(|name| parts.counts(name))
}

/// The norm over all parts of the model.
fn norm_of_model(session: &Session, own: f32) -> Result<f32> {
    if session.ranks.grid().model() == 1 {
        return Ok(own);
    }
    let mut square = [f64::from(own).powi(2)];
    session.ranks.sum_of_model(&mut square)?;
    Ok(square[0].sqrt() as f32)
}

/// Stops before the update that would ruin the weights.
fn refuse_non_finite(session: &Session, made: &Step, rows: &[usize]) -> Result<()> {
    let what = match (made.loss.is_finite(), made.grad_norm.is_finite()) {
        (true, true) => return Ok(()),
        (false, _) => format!("The loss is {}", made.loss),
        _ => format!("The gradient's norm is {}", made.grad_norm),
    };
    let shown: Vec<String> =
        rows.iter().take(8).map(|&row| session.data.train.numbers[row].to_string()).collect();
    Err(Failure::user(
        "loss_not_finite",
        format!(
            "{what} at step {}, with a learning rate of {:.3e}. The weights were left as they were before it. Try a \
             lower learning_rate, a longer warm-up or max_grad_norm 1, and look at the rows of this step (counted \
             from 0: {}{}).",
            session.state.step + 1,
            made.learning_rate,
            shown.join(", "),
            if rows.len() > shown.len() { ", …" } else { "" },
        ),
    )
    .at("learning_rate")
    .into())
}
