//! A micro-batch's way through the layers that this process has, forward and back.

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use crate::models::{Inputs, TextModel};
use crate::nn::Context;

/// The layers that a process has; all of them where the model is not divided.
pub struct Stage {
    /// Those between embeddings and head.
    pub layers: Range<usize>,
    /// Whether it has the embeddings.
    pub first: bool,
    /// Whether it has the head.
    pub last: bool,
    /// Whether an earlier stage trains anything, and waits for a gradient.
    pub gives_back: bool,
    /// Whether it or an earlier one does.
    pub goes_back: bool,
    /// Numbers of a token's state; 0 where there are no other stages.
    pub width: i64,
    /// Whether layers are computed again for their gradients.
    pub again: bool,
}

/// A forward pass.
///
/// Where layers are computed again only what enters each is kept (T. Chen et al., "Training deep nets with sublinear
/// memory cost", 2016).
pub struct Passed {
    /// What entered the first layer: the embeddings with their graph, or what the stage before sent.
    entered: Tensor,
    /// What entered each layer.
    kept: Vec<Tensor>,
    /// What entered the head.
    top: Option<Tensor>,
    /// What backward begins at: the scaled loss in the last stage, else the states that go on.
    pub left: Tensor,
    /// The share of the loss, in the last stage.
    pub share: Option<Tensor>,
}

impl Stage {
    /// Forward from the inputs, or from what the stage before sent. `loss` takes what the head gives; backward begins at
    /// `factor` times it.
    pub fn forward(
        &self,
        model: &dyn TextModel,
        inputs: &Inputs,
        sent: Option<Tensor>,
        context: &Context,
        loss: impl Fn(&Tensor) -> Tensor,
        factor: f64,
    ) -> Passed {
        let entered = match sent {
            Some(states) => states.set_requires_grad(self.gives_back),
            None => model.embed(inputs, context),
        };
        let (mut kept, mut states) = (Vec::new(), entered.shallow_clone());
        for number in self.layers.clone() {
            states = match self.again {
                false => model.layer(number, &states, context),
                true => {
                    kept.push(states.detach());
                    tch::no_grad(|| model.layer(number, &states, context))
                }
            };
        }
        if !self.last {
            return Passed { entered, kept, top: None, left: states, share: None };
        }
        let top = self.again.then(|| states.detach().set_requires_grad(true));
        let share = loss(&model.head(top.as_ref().unwrap_or(&states), context));
        Passed {
            entered,
            kept,
            top,
            left: if factor == 1.0 { share.shallow_clone() } else { &share * factor },
            share: Some(share.detach()),
        }
    }

    /// Backward from the loss, or from the gradient of what was sent on. Returns the gradient for the stage before, if it
    /// waits for one. `look` is called where the most is kept.
    ///
    /// Draws are functions of their place, so that a layer that is computed again drops what it did the first time.
    pub fn backward(
        &self,
        model: &dyn TextModel,
        passed: Passed,
        sent: Option<Tensor>,
        context: &Context,
        mut look: impl FnMut(),
    ) -> Result<Option<Tensor>> {
        let Passed { entered, mut kept, top, left, .. } = passed;
        let grad = match sent {
            None => {
                left.f_backward()?;
                top.map(|top| top.grad())
            }
            Some(grad) if self.again => Some(grad),
            Some(grad) => {
                native::gradients::backward(&left, &grad)?;
                None
            }
        };
        drop(left);
        // Without a gradient here the graph of one piece went all the way.
        let Some(mut grad) = grad else { return Ok(self.gives_back.then(|| entered.grad())) };
        for number in self.layers.clone().rev() {
            let Some(before) = kept.pop() else { break };
            let before = before.set_requires_grad(true);
            let left = model.layer(number, &before, context);
            look();
            native::gradients::backward(&left, &grad)?;
            grad = before.grad();
        }
        if !self.first {
            return Ok(self.gives_back.then_some(grad));
        }
        // Frozen embeddings have no graph.
        if entered.requires_grad() {
            native::gradients::backward(&entered, &grad)?;
        }
        Ok(None)
    }
}
