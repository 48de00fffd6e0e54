//! Optimizers with a state that can be saved by name, parameter groups, and learning-rate schedules.
//!
//! [`Optimizer`] owns the state; the arithmetic is in `native::optim`. [`groups`] decides which parameters are trained,
//! with which weight decay and share of the learning rate; [`schedule`] how the rate moves.

pub mod groups;
pub mod schedule;
mod shard;
mod state;
mod update;

pub use groups::Group;
pub use native::gradients::clip_coefficient;
pub use state::StateError;

use anyhow::{Context as _, Result};
use store::spec::{self, Schedule, Training};
use tch::Tensor;

use crate::data::Share;
use crate::models::TextModel;
use shard::{Owners, shard};
use state::Param;

/// The update rule with its state, the schedule, and the parameters that they move.
pub struct Optimizer {
    rule: spec::Optimizer,
    schedule: Schedule,
    learning_rate: f64,
    groups: Vec<Members>,
    seed: u64,
    /// Parameters that are trained here and updated by another copy of the model.
    others: Vec<(String, Tensor)>,
    /// Which copy updates each trained parameter, in one order on all; empty where each does all.
    owners: Owners,
}

/// A [`Group`] whose parameters have their state.
struct Members {
    params: Vec<Param>,
    lr_scale: f64,
    weight_decay: f64,
}

impl Optimizer {
    /// Groups the trainable ones of `params` (names and tensors of all parameters of `model`), switches gradients off for
    /// the rest, and makes a state of zeros.
    ///
    /// # Errors
    /// A [`crate::failure::Failure`] of the user when the freezing asked for does not fit the model.
    pub fn new(training: &Training, params: &[(String, Tensor)], model: &dyn TextModel) -> Result<Self> {
        Self::of_part(training, params, &[], Share { rank: 0, size: 1 }, model)
    }

    /// [`Optimizer::new`] of a part of the model: `absent` are what other processes have, which decide with the others
    /// what fits and get no state here. Of the rest this process has the state of `share`'s parameters alone (ZeRO stage 1:
    /// S. Rajbhandari et al., "ZeRO: Memory optimizations toward training trillion parameter models", 2020).
    ///
    /// # Errors
    /// As [`Optimizer::new`].
    pub fn of_part(
        training: &Training,
        params: &[(String, Tensor)],
        absent: &[(String, Tensor)],
        share: Share,
        model: &dyn TextModel,
    ) -> Result<Self> {
        let all = params.iter().chain(absent).map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let all: Vec<_> = all.collect();
        let mut groups = groups::build(training, &all, model.layers(), |name| model.depth(name))?;
        for group in &mut groups {
            group.params.retain(|(name, _)| absent.iter().all(|(other, _)| other != name));
        }
        let (others, owners) = shard(&mut groups, share);
        let (rule, schedule) = (training.optimizer.clone(), training.lr_scheduler.clone());
        let whole = Self::of_groups(rule, groups, schedule, training.learning_rate);
        Ok(Optimizer { others, owners, ..whole })
    }

    /// An optimizer of these groups; `learning_rate` is the schedule's peak.
    pub fn of_groups(
        rule: spec::Optimizer,
        groups: Vec<Group>,
        schedule: Schedule,
        learning_rate: f64,
    ) -> Self {
        let mut numbers = 0..;
        let mut members = |group: Group| Members {
            params: group
                .params
                .into_iter()
                .zip(&mut numbers)
                .map(|((name, tensor), number)| Param::new(&rule, name, tensor, group.hidden, number))
                .collect(),
            lr_scale: group.lr_scale,
            weight_decay: group.weight_decay,
        };
        let groups = groups.into_iter().map(&mut members).collect();
        let (others, owners) = (Vec::new(), Vec::new());
        Optimizer { rule, schedule, learning_rate, groups, seed: 0, others, owners }
    }

    /// Draws the rounding of parameters in bf16 by this seed.
    pub fn seeded(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The learning rate of `step` (counted from 0) of `total`, before a group's share.
    pub fn learning_rate(&self, step: u64, total: u64) -> f64 {
        self.learning_rate * schedule::factor(&self.schedule, self.learning_rate, step, total)
    }

    /// Makes all gradients undefined and frees them.
    ///
    /// # Errors
    /// libtorch's.
    pub fn zero_grad(&self) -> Result<()> {
        let tensors: Vec<&Tensor> = self.trained().map(|(_, tensor)| tensor).collect();
        Ok(native::gradients::clear_grads(&tensors)?)
    }

    /// The 2-norm of all gradients taken as one vector, a Float scalar on their device, which is not waited for.
    ///
    /// Gradients of rows are summed by row first, in place. The gradients stay as they are otherwise: what clips them is
    /// the `scale` of [`Optimizer::step`], for which [`clip_coefficient`] makes the norm a number. So a caller can look
    /// at loss and norm, both read at once, before anything moves.
    ///
    /// # Errors
    /// libtorch's.
    pub fn grad_norm(&self) -> Result<Tensor> {
        self.grad_norm_of(|_| true)
    }

    /// [`Optimizer::grad_norm`] over the parameters whose names count.
    ///
    /// # Errors
    /// libtorch's.
    pub fn grad_norm_of(&self, counts: impl Fn(&str) -> bool) -> Result<Tensor> {
        let params: Vec<&Tensor> = self.trained().map(|(_, tensor)| tensor).collect();
        native::gradients::coalesce_grads(&params)?;
        let counted = self.trained().filter(|(name, _)| counts(name));
        let grads: Vec<Tensor> = counted.map(|(_, tensor)| tensor.grad()).filter(Tensor::defined).collect();
        Ok(native::gradients::grad_norm(&grads)?)
    }

    /// One update with learning rate `lr`, scaled for each group, and gradients times `scale` (1 for as they are);
    /// parameters without a gradient stay as they are. The gradients are used up: some rules scale them in place.
    ///
    /// # Errors
    /// libtorch's.
    pub fn step(&mut self, lr: f64, scale: f32) -> Result<()> {
        for group in &self.groups {
            update::group(&self.rule, group, update::Step { lr, scale, seed: self.seed })
                .context("the optimizer's step")?;
        }
        Ok(())
    }

    /// Whether the rule gains by gradients of rows, as an embedding's backward gives them when it is asked to: it reads
    /// them as they are, or ([`spec::Optimizer::SparseAdam`]) follows another rule for them. Every other rule makes them
    /// dense.
    pub fn reads_rows(&self) -> bool {
        matches!(
            self.rule,
            spec::Optimizer::Adam { .. }
                | spec::Optimizer::Adamw { .. }
                | spec::Optimizer::Lion { .. }
                | spec::Optimizer::Adamw8bit { .. }
                | spec::Optimizer::SparseAdam { .. }
        )
    }

    /// The state, named `{parameter}.{part}` as in torch.optim and transformers (`exp_avg`, `exp_avg_sq`,
    /// `max_exp_avg_sq`, `step`, `momentum_buffer`, `square_avg`, `grad_avg`, `exp_avg_sq_row`, `exp_avg_sq_col`), and
    /// for 8 bits `exp_avg_absmax`, `exp_avg_sq_absmax`. The tensors share memory with the optimizer.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.params().flat_map(Param::state).collect()
    }

    /// Takes up a saved state: exactly the names, shapes and kinds of [`Optimizer::state`], nothing missing, nothing over.
    ///
    /// # Errors
    /// [`StateError`] with what does not fit; the state is then as it was.
    pub fn load_state(&mut self, saved: Vec<(String, Tensor)>) -> std::result::Result<(), StateError> {
        state::load(&self.state(), saved)
    }

    /// Memory of the state, in bytes: what training needs beside weights and gradients.
    pub fn memory_bytes(&self) -> u64 {
        self.state()
            .iter()
            .map(|(_, tensor)| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64)
            .sum()
    }

    /// Which copy of the model updates each trained parameter, after which the others take it from there; in the same
    /// order on all. Empty where each updates all.
    pub fn owners(&self) -> &[(Tensor, usize)] {
        &self.owners
    }

    /// Whether a parameter's state is in another copy of the model.
    pub fn is_elsewhere(&self, name: &str) -> bool {
        self.others.iter().any(|(other, _)| other == name)
    }

    /// What is trained here, wherever its state is.
    fn trained(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let own = self.params().map(|param| (param.name.as_str(), &param.tensor));
        own.chain(self.others.iter().map(|(name, tensor)| (name.as_str(), tensor)))
    }

    fn params(&self) -> impl Iterator<Item = &Param> {
        self.groups.iter().flat_map(|group| &group.params)
    }
}
