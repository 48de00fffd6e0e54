//! One step of a group: its parameters that have a gradient, in lists that a kernel takes at once.

use anyhow::Result;
use native::optim::{Adam, AdamState, Rmsprop, RmspropState, Sgd};
use store::spec::Optimizer as Rule;
use tch::{Device, Kind, Tensor};

use super::Members;
use super::state::Param;

/// Parameters of one kind and device with their gradients.
#[derive(Default)]
struct Lists<'a> {
    params: Vec<&'a Tensor>,
    grads: Vec<Tensor>,
    /// A list for each part of the state.
    state: Vec<Vec<&'a Tensor>>,
}

impl<'a> Lists<'a> {
    fn push(&mut self, param: &'a Param, grad: Tensor) {
        self.params.push(&param.tensor);
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

/// Updates the parameters of `group` with the learning rate `lr`.
pub(super) fn group(rule: &Rule, group: &Members, lr: f64) -> Result<()> {
    for (first_step, lists) in split(rule, group) {
        match *rule {
            Rule::Sgd { momentum, dampening, nesterov } => {
                let weight_decay = group.weight_decay;
                sgd(&lists, &Sgd { lr, momentum, dampening, weight_decay, nesterov, first_step })?;
            }
            Rule::Adam { betas, eps } | Rule::Adamw { betas, eps } => {
                let options = Adam { lr, betas, eps, weight_decay: group.weight_decay, amsgrad: false };
                adam(&lists, &options, matches!(rule, Rule::Adamw { .. }))?;
            }
            Rule::Rmsprop { alpha, eps, momentum, centered } => {
                let weight_decay = group.weight_decay;
                rmsprop(&lists, &Rmsprop { lr, alpha, eps, weight_decay, momentum, centered })?;
            }
        }
    }
    Ok(())
}

/// The kernels want one kind and device a call, and SGD's buffers all filled or all empty.
fn split<'a>(rule: &Rule, group: &'a Members) -> Vec<(bool, Lists<'a>)> {
    let mut split: Vec<((Kind, Device, bool), Lists<'a>)> = Vec::new();
    for param in &group.params {
        let grad = param.tensor.grad();
        if !grad.defined() {
            continue;
        }
        let key = (param.tensor.kind(), param.tensor.device(), is_first(rule, param));
        let at = split.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
            split.push((key, Lists::default()));
            split.len() - 1
        });
        split[at].1.push(param, grad);
    }
    split.into_iter().map(|((_, _, first), lists)| (first, lists)).collect()
}

/// Whether SGD's momentum buffer of this parameter is still empty.
fn is_first(rule: &Rule, param: &Param) -> bool {
    match (rule, param.state.as_slice()) {
        (Rule::Sgd { .. }, [_, step]) => step.double_value(&[]) == 0.0,
        _ => false,
    }
}

fn sgd(lists: &Lists, options: &Sgd) -> Result<()> {
    let (buffers, steps): (&[_], &[_]) = match lists.state.as_slice() {
        [buffers, steps] => (buffers, steps),
        _ => (&[], &[]),
    };
    native::optim::sgd(&lists.params, &lists.grads(), buffers, options)?;
    for step in steps {
        let _ = step.shallow_clone().f_add_scalar_(1.0)?;
    }
    Ok(())
}

fn adam(lists: &Lists, options: &Adam, decoupled: bool) -> Result<()> {
    let [exp_avgs, exp_avg_sqs, steps] = lists.state.as_slice() else {
        unreachable!("`parts` gives Adam these three");
    };
    let state = AdamState { exp_avgs, exp_avg_sqs, max_exp_avg_sqs: &[], steps };
    match decoupled {
        true => native::optim::adamw(&lists.params, &lists.grads(), &state, options)?,
        false => native::optim::adam(&lists.params, &lists.grads(), &state, options)?,
    }
    Ok(())
}

fn rmsprop(lists: &Lists, options: &Rmsprop) -> Result<()> {
    let mut rest = lists.state.iter().map(Vec::as_slice);
    let square_avgs = rest.next().unwrap_or_default();
    let grad_avgs = if options.centered { rest.next().unwrap_or_default() } else { &[] };
    let momentum_buffers = rest.next().unwrap_or_default();
    let state = RmspropState { square_avgs, grad_avgs, momentum_buffers };
    Ok(native::optim::rmsprop(&lists.params, &lists.grads(), &state, options)?)
}
