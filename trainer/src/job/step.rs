//! One optimizer step: gradients of every micro-batch, one update.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::setup::Session;
use super::train::Window;
use crate::data::{Batch, MicroBatch, Prefetch};
use crate::failure::Failure;
use crate::models::TextModel;
use crate::nn::{Context, Draw};
use crate::optim::clip_coefficient;

/// What a step gave.
pub struct Step {
    /// Mean loss over all rows of the step.
    pub loss: f64,
    /// The 2-norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
}

/// Gradients of every micro-batch, one update. The weights stay as they were where loss or gradients are not finite.
pub fn one_step(session: &mut Session, batches: &Prefetch, window: &mut Window) -> Result<Step> {
    let step = session.state.step;
    let micros = batches.next()?;
    let all: Vec<usize> = micros.iter().flat_map(|micro| &micro.all).copied().collect();
    let weight = session.objective.weight(&session.data.train.targets, &all);
    let mut loss = Tensor::zeros([], (Kind::Float, session.device));
    session.optimizer.zero_grad()?;
    for (at, micro) in micros.iter().enumerate() {
        session.ranks.before_forward(at + 1 == micros.len())?;
        let (share, activations) = gradients(session, micro, weight)?;
        loss += share;
        window.count(micro, activations);
        session.state.samples += micro.all.len() as u64;
        session.state.tokens += micro.tokens;
    }
    session.ranks.after_backward()?;
    let grad_norm = session.optimizer.grad_norm()?;
    let learning_rate = session.optimizer.learning_rate(step, session.total_steps);
    // Both at once: on a GPU each reading waits.
    let read = Vec::<f32>::try_from(Tensor::f_stack(&[loss, grad_norm.to_device(session.device)], 0)?)?;
    let (mut loss, scaled_norm) = ([f64::from(read[0])], read[1]);
    session.ranks.sum(&mut loss)?;
    let scale = session.state.scaler.factor();
    let grad_norm = scaled_norm / scale;
    let made = Step { loss: loss[0], grad_norm: grad_norm.into(), learning_rate };
    if session.state.scaler.skips(grad_norm) {
        return Ok(made);
    }
    refuse_non_finite(session, &made, &all)?;
    let coefficient = clip_coefficient(grad_norm, session.spec.training.max_grad_norm) / scale;
    session.optimizer.step(learning_rate, coefficient)?;
    session.copies.refresh()?;
    Ok(made)
}

/// Adds a micro-batch's share to the gradients; returns its share of the loss, and the bytes that were kept for the
/// backward pass (on a CPU).
fn gradients(session: &mut Session, micro: &MicroBatch, weight: f64) -> Result<(Tensor, u64)> {
    let before = native::memory::allocated_bytes();
    let kept = || native::memory::allocated_bytes().saturating_sub(before);
    let draw = Draw {
        seed: u64::from(session.spec.seed),
        step: session.state.step,
        examples: &micro.batch.examples,
    };
    let context =
        Context { packing: &micro.batch.inputs.packing, kind: session.precision.kind(), draw: Some(draw) };
    let Session { objective, data, ranks, model, .. } = session;
    // The exchange gives the mean over ranks, and what is wanted is the sum.
    let factor = f64::from(session.state.scaler.factor()) * ranks.size() as f64;
    let share_of = |logits: &Tensor| {
        // A rank that has no row of this batch computes one for the exchange, and it counts for nothing.
        let counted = if micro.idle { 0.0 } else { 1.0 };
        objective.row_losses(logits, &data.train.targets, &micro.rows).sum(Kind::Float) * (counted / weight)
    };
    let (share, activations) = match session.spec.training.gradient_checkpointing {
        false => {
            let share = share_of(&model.forward(&micro.batch.inputs, &context));
            let scaled = &share * factor;
            let activations = kept();
            ranks.before_backward(&scaled)?;
            scaled.f_backward()?;
            (share, activations)
        }
        true => {
            let passed = forward_in_segments(model.as_ref(), &micro.batch, &context);
            let last = passed.states.detach().set_requires_grad(true);
            let share = share_of(&model.classify(&last, &context));
            let scaled = &share * factor;
            ranks.before_backward(&scaled)?;
            scaled.f_backward()?;
            let activations = backward_in_segments(model.as_ref(), passed, last.grad(), &context, kept)?;
            (share, activations)
        }
    };
    Ok((share.detach(), activations))
}

/// A forward pass of which only what enters each layer is kept (T. Chen et al., "Training deep nets with sublinear memory
/// cost", 2016).
struct Passed {
    /// What entered the first layer, with its graph.
    embedded: Tensor,
    /// What entered each layer.
    entered: Vec<Tensor>,
    /// What left the last one.
    states: Tensor,
}

fn forward_in_segments(model: &dyn TextModel, batch: &Batch, context: &Context) -> Passed {
    let embedded = model.embed(&batch.inputs, context);
    let mut entered = vec![embedded.detach()];
    let states = tch::no_grad(|| {
        for number in 0..model.layers() {
            let left = model.layer(number, &entered[number], context);
            entered.push(left);
        }
        entered.pop()
    });
    Passed { states: states.unwrap_or_else(|| embedded.detach()), embedded, entered }
}

/// Computes each layer again, from the last to the first, for its gradients. Draws are functions of their place, so that
/// the second pass drops what the first did. Returns the most that was kept at once.
fn backward_in_segments(
    model: &dyn TextModel,
    mut passed: Passed,
    mut grad: Tensor,
    context: &Context,
    kept: impl Fn() -> u64,
) -> Result<u64> {
    let mut most = 0;
    for number in (0..passed.entered.len()).rev() {
        let entered = passed.entered.swap_remove(number).set_requires_grad(true);
        let left = model.layer(number, &entered, context);
        most = kept().max(most);
        native::gradients::backward(&left, &grad)?;
        grad = entered.grad();
    }
    // Frozen embeddings have no graph.
    if passed.embedded.requires_grad() {
        native::gradients::backward(&passed.embedded, &grad)?;
    }
    Ok(most)
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
