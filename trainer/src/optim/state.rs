//! What an optimizer remembers of each parameter, and how it is saved and taken up again.

use std::collections::BTreeMap;

use store::spec::Optimizer as Rule;
use tch::{Device, Kind, Tensor};

/// A parameter and what its rule remembers of it, in the order of [`parts`].
pub(super) struct Param {
    name: String,
    pub(super) tensor: Tensor,
    pub(super) state: Vec<Tensor>,
}

/// A part of a parameter's state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: &'static str,
    size: Size,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Shape, kind and device of the parameter.
    Like,
    /// One Float on the parameter's device, where the fused kernels read it.
    Count,
    /// One Float on the CPU, where we read it.
    CountHere,
}

/// The parts that `rule` keeps, in the names of torch.optim.
///
/// SGD with momentum also counts steps: its first step fills the buffer in another way, and a state of zeros with no
/// count could not tell a fresh start from a resumed one.
pub(super) fn parts(rule: &Rule) -> Vec<Part> {
    let like = |name| Part { name, size: Size::Like };
    match *rule {
        Rule::Sgd { momentum: 0.0, .. } => Vec::new(),
        Rule::Sgd { .. } => vec![like("momentum_buffer"), Part { name: "step", size: Size::CountHere }],
        Rule::Adam { .. } | Rule::Adamw { .. } => {
            vec![like("exp_avg"), like("exp_avg_sq"), Part { name: "step", size: Size::Count }]
        }
        Rule::Rmsprop { momentum, centered, .. } => {
            let mut parts = vec![like("square_avg")];
            parts.extend(centered.then(|| like("grad_avg")));
            parts.extend((momentum > 0.0).then(|| like("momentum_buffer")));
            parts
        }
    }
}

impl Param {
    /// A state of zeros, made at once so that memory does not grow at the first step.
    pub(super) fn new(rule: &Rule, name: String, tensor: Tensor) -> Self {
        let zeros = |part: Part| match part.size {
            Size::Like => tensor.detach().zeros_like(),
            Size::Count => Tensor::zeros([], (Kind::Float, tensor.device())),
            Size::CountHere => Tensor::zeros([], (Kind::Float, Device::Cpu)),
        };
        let state = parts(rule).into_iter().map(zeros).collect();
        Param { name, tensor, state }
    }

    pub(super) fn state(&self, rule: &Rule) -> Vec<(String, Tensor)> {
        let named = |(part, tensor): (Part, &Tensor)| {
            (format!("{}.{}", self.name, part.name), tensor.shallow_clone())
        };
        parts(rule).into_iter().zip(&self.state).map(named).collect()
    }
}

/// A saved state that is not this optimizer's.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Names that one side has and the other has not.
    #[error(
        "the saved optimizer state belongs to another optimizer or other parameters: missing {missing:?}, not expected {unexpected:?}"
    )]
    Names {
        /// Names that were not saved.
        missing: Vec<String>,
        /// Names that this optimizer has no place for.
        unexpected: Vec<String>,
    },
    /// A tensor of another shape or kind.
    #[error("the saved optimizer state `{name}` is {found}, it must be {expected}")]
    Tensor {
        /// Name in the state.
        name: String,
        /// Kind and shape that were saved.
        found: String,
        /// Kind and shape of this optimizer's.
        expected: String,
    },
    /// libtorch could not copy.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}

/// Copies `saved` into `own` after all of it was checked.
pub(super) fn load(own: &[(String, Tensor)], saved: Vec<(String, Tensor)>) -> Result<(), StateError> {
    let mut saved: BTreeMap<String, Tensor> = saved.into_iter().collect();
    let mut pairs = Vec::with_capacity(own.len());
    let mut missing = Vec::new();
    for (name, tensor) in own {
        match saved.remove(name) {
            Some(found) => pairs.push((name, tensor, found)),
            None => missing.push(name.clone()),
        }
    }
    if !missing.is_empty() || !saved.is_empty() {
        return Err(StateError::Names { missing, unexpected: saved.into_keys().collect() });
    }
    let describe = |tensor: &Tensor| format!("{:?} {:?}", tensor.kind(), tensor.size());
    for (name, tensor, found) in &pairs {
        let (expected, found) = (describe(tensor), describe(found));
        if expected != found {
            return Err(StateError::Tensor { name: (*name).clone(), found, expected });
        }
    }
    for (_, tensor, found) in pairs {
        tensor.shallow_clone().f_copy_(&found)?;
    }
    Ok(())
}
