//! One step of a group: its parameters that have a gradient, in lists that a kernel takes at once.

use anyhow::Result;
use native::optim::{
    self, Adafactor, AdafactorState, Adam, Adam8bitState, AdamState, Extra, Lion, Muon, Rmsprop,
    RmspropState, Rounding, Sgd,
};
use store::spec::{self, Optimizer as Rule};
use tch::{Device, Kind, Tensor};

use super::Members;
use super::state::{Param, Way, amsgrad};

/// What the parameters of a group have in common at this step.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// The schedule's learning rate, before the group's share.
    pub(super) lr: f64,
    /// What gradients are multiplied by.
    pub(super) scale: f32,
    /// What rounding is drawn by.
    pub(super) seed: u64,
}

/// Parameters of one kind and device with their gradients.
#[derive(Default)]
struct Lists<'a> {
    params: Vec<&'a Param>,
    tensors: Vec<&'a Tensor>,
    grads: Vec<Tensor>,
    /// A list for each part of the state.
    state: Vec<Vec<&'a Tensor>>,
}

impl<'a> Lists<'a> {
    fn push(&mut self, param: &'a Param, grad: Tensor) {
        self.params.push(param);
        self.tensors.push(&param.tensor);
        self.grads.push(grad);
        self.state.resize_with(param.state.len(), Vec::new);
        for (list, tensor) in self.state.iter_mut().zip(&param.state) {
            list.push(tensor);
        }
    }

    fn grads(&self) -> Vec<&Tensor> {
        self.grads.iter().collect()
    }
}

/// What a kernel wants alike in one call.
#[derive(Clone, Copy, PartialEq)]
struct Alike {
    kind: Kind,
    device: Device,
    way: Way,
    /// SGD's buffers are all filled or all empty.
    first: bool,
    /// Only rows that have a gradient move.
    lazy: bool,
}

/// Updates the parameters of `group`.
pub(super) fn group(rule: &Rule, group: &Members, step: Step) -> Result<()> {
    let (lr, scale, weight_decay) = (step.lr * group.lr_scale, step.scale, group.weight_decay);
    for (alike, lists) in split(rule, group) {
        match (alike.way, rule) {
            (Way::Sgd, &Rule::Sgd { momentum, dampening, nesterov }) => {
                let first_step = alike.first;
                sgd(&lists, &Sgd { lr, momentum, dampening, weight_decay, scale, nesterov, first_step })?;
            }
            (Way::Rmsprop, &Rule::Rmsprop { alpha, eps, momentum, centered }) => {
                rmsprop(&lists, &Rmsprop { lr, alpha, eps, weight_decay, momentum, scale, centered })?;
            }
            (Way::Lion, &Rule::Lion { betas }) => {
                let options = Lion { lr, betas, weight_decay, scale };
                optim::lion(&lists.tensors, &lists.grads(), part(&lists, 0), &options)?;
            }
            (Way::Adafactor, rule) => adafactor(&lists, rule, group, step)?,
            (Way::Muon, rule) => {
                if let Some(options) = muon(rule, lr, weight_decay, scale) {
                    optim::muon(&lists.tensors, &lists.grads(), part(&lists, 0), &options)?;
                }
            }
            (_, rule) => {
                if let Some(options) = adam_options(rule, lr, weight_decay, scale) {
                    adam(&lists, &options, alike, step.seed)?;
                }
            }
        }
    }
    Ok(())
}

fn split<'a>(rule: &Rule, group: &'a Members) -> Vec<(Alike, Lists<'a>)> {
    let mut split: Vec<(Alike, Lists<'a>)> = Vec::new();
    for param in &group.params {
        let grad = param.tensor.grad();
        if !grad.defined() {
            continue;
        }
        let alike = Alike {
            kind: param.tensor.kind(),
            device: param.tensor.device(),
            way: param.way,
            first: param.way == Way::Sgd
                && param.part("step").is_some_and(|step| step.double_value(&[]) == 0.0),
            lazy: matches!(rule, Rule::SparseAdam { .. }) && grad.is_sparse(),
        };
        let at = split.iter().position(|(other, _)| *other == alike).unwrap_or_else(|| {
            split.push((alike, Lists::default()));
            split.len() - 1
        });
        split[at].1.push(param, grad);
    }
    split
}

fn part<'l, 'a>(lists: &'l Lists<'a>, at: usize) -> &'l [&'a Tensor] {
    lists.state.get(at).map(Vec::as_slice).unwrap_or_default()
}

fn sgd(lists: &Lists, options: &Sgd) -> Result<()> {
    optim::sgd(&lists.tensors, &lists.grads(), part(lists, 0), options)?;
    for step in part(lists, 1) {
        let _ = step.shallow_clone().f_add_scalar_(1.0)?;
    }
    Ok(())
}

/// Adam's settings in the rules that move by it; `None` for the others.
fn adam_options(rule: &Rule, lr: f64, weight_decay: f64, scale: f32) -> Option<Adam> {
    let (betas, eps, share) = match *rule {
        Rule::Adam { betas, eps, .. }
        | Rule::Adamw { betas, eps, .. }
        | Rule::Adamw8bit { betas, eps }
        | Rule::SparseAdam { betas, eps } => (betas, eps, 1.0),
        Rule::Muon { betas, eps, adamw_lr_scale, .. } => (betas, eps, adamw_lr_scale),
        _ => return None,
    };
    Some(Adam { lr: lr * share, betas, eps, weight_decay, scale, amsgrad: amsgrad(rule) })
}

fn adam(lists: &Lists, options: &Adam, alike: Alike, seed: u64) -> Result<()> {
    let (params, grads) = (&lists.tensors, &lists.grads());
    if alike.way == Way::Adamw8bit {
        let state = Adam8bitState {
            exp_avgs: part(lists, 0),
            exp_avg_absmaxs: part(lists, 1),
            exp_avg_sqs: part(lists, 2),
            exp_avg_sq_absmaxs: part(lists, 3),
            steps: part(lists, 4),
        };
        return Ok(optim::adamw_8bit(params, grads, &state, options)?);
    }
    let state = AdamState {
        exp_avgs: part(lists, 0),
        exp_avg_sqs: part(lists, 1),
        steps: part(lists, 2),
        max_exp_avg_sqs: part(lists, 3),
    };
    // To the nearest, bf16 would lose every update below 2⁻⁹ of its parameter: nearly all of them.
    let indices: Vec<u32> = lists.params.iter().map(|param| param.index).collect();
    let rounding = match alike.kind {
        Kind::BFloat16 => Rounding::Stochastic { seed, indices: &indices },
        _ => Rounding::Nearest,
    };
    let extra = Extra { rounding, ..Extra::default() };
    match (alike.lazy, alike.way) {
        (true, _) => optim::sparse_adam(params, grads, &state, options)?,
        (false, Way::Adam) => optim::adam(params, grads, &state, options, &extra)?,
        (false, _) => optim::adamw(params, grads, &state, options, &extra)?,
    }
    Ok(())
}

fn rmsprop(lists: &Lists, options: &Rmsprop) -> Result<()> {
    let state = RmspropState {
        square_avgs: part(lists, 0),
        grad_avgs: if options.centered { part(lists, 1) } else { &[] },
        momentum_buffers: part(lists, if options.centered { 2 } else { 1 }),
    };
    Ok(optim::rmsprop(&lists.tensors, &lists.grads(), &state, options)?)
}

fn muon(rule: &Rule, lr: f64, weight_decay: f64, scale: f32) -> Option<Muon> {
    /// What torch.optim.Muon divides by at least.
    const EPS: f64 = 1e-7;
    let &Rule::Muon { momentum, nesterov, ns_steps, adjust_lr, .. } = rule else { return None };
    let adjust_lr = match adjust_lr {
        spec::AdjustLr::Original => optim::AdjustLr::Original,
        spec::AdjustLr::MatchRmsAdamw => optim::AdjustLr::MatchRmsAdamw,
    };
    Some(Muon { lr, adjust_lr, momentum, nesterov, ns_steps, eps: EPS, weight_decay, scale })
}

fn adafactor(lists: &Lists, rule: &Rule, group: &Members, step: Step) -> Result<()> {
    let &Rule::Adafactor {
        eps,
        clip_threshold,
        decay_rate,
        beta1,
        scale_parameter,
        relative_step,
        warmup_init,
    } = rule
    else {
        return Ok(());
    };
    for (param, grad) in lists.params.iter().zip(&lists.grads) {
        let Some(count) = param.part("step") else { continue };
        let steps = count.double_value(&[]) + 1.0;
        let rate = match relative_step {
            true => (if warmup_init { 1e-6 * steps } else { 1e-2 }).min(1.0 / steps.sqrt()),
            false => step.lr,
        };
        let options = Adafactor {
            lr: rate * group.lr_scale,
            step: steps as u64,
            decay_rate,
            beta1,
            eps,
            clip_threshold,
            weight_decay: group.weight_decay,
            scale_parameter,
            scale: step.scale,
        };
        let state = AdafactorState {
            exp_avg_sq_row: param.part("exp_avg_sq_row"),
            exp_avg_sq_col: param.part("exp_avg_sq_col"),
            exp_avg_sq: param.part("exp_avg_sq"),
            exp_avg: param.part("exp_avg"),
        };
        optim::adafactor(&param.tensor, grad, &state, &options)?;
        let _ = count.shallow_clone().f_add_scalar_(1.0)?;
    }
    Ok(())
}
