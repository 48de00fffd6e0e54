//! What an optimizer remembers of each parameter, and how it is saved and taken up again.

use std::collections::BTreeMap;

use native::optim::BLOCK;
use store::spec::Optimizer as Rule;
use tch::{Device, Kind, Tensor};

/// A parameter and what its rule remembers of it, in the order of its parts.
pub(super) struct Param {
    pub(super) name: String,
    pub(super) tensor: Tensor,
    pub(super) way: Way,
    /// Its number among the optimizer's parameters: what its rounding is drawn by.
    pub(super) index: u32,
    parts: Vec<&'static str>,
    pub(super) state: Vec<Tensor>,
}

/// How a parameter is moved: some rules move large and small, or hidden and other parameters in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Sgd,
    Adam,
    Adamw,
    Rmsprop,
    Lion,
    Adafactor,
    Muon,
    Adamw8bit,
}

/// Parameters with fewer numbers keep 32-bit moments, as in bitsandbytes: they need little and are often delicate.
const LEAST_8BIT: usize = 4096;

impl Way {
    fn of(rule: &Rule, tensor: &Tensor, hidden: bool) -> Self {
        match rule {
            Rule::Sgd { .. } => Way::Sgd,
            Rule::Adam { .. } => Way::Adam,
            Rule::Rmsprop { .. } => Way::Rmsprop,
            Rule::Lion { .. } => Way::Lion,
            Rule::Adafactor { .. } => Way::Adafactor,
            Rule::Muon { .. } if hidden && tensor.dim() == 2 => Way::Muon,
            Rule::Adamw8bit { .. } if tensor.numel() >= LEAST_8BIT => Way::Adamw8bit,
            Rule::Adamw { .. } | Rule::Muon { .. } | Rule::Adamw8bit { .. } | Rule::SparseAdam { .. } => {
                Way::Adamw
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Shape and device of the parameter, and its kind; 32 bits where that has 16.
    Like,
    /// One Float on the parameter's device, where the fused kernels read it.
    Count,
    /// One Float on the CPU, where we read it.
    CountHere,
    /// Bytes in the parameter's shape.
    Codes,
    /// A Float for each block of codes.
    Blocks,
    /// The parameter's shape without its last dimension.
    Rows,
    /// The parameter's shape without its last but one dimension.
    Columns,
}

impl Size {
    fn zeros(self, param: &Tensor) -> Tensor {
        let (kind, device, mut size) = (param.kind(), param.device(), param.size());
        match self {
            Size::Like if kind == Kind::BFloat16 => Tensor::zeros(size, (Kind::Float, device)),
            Size::Like => param.detach().zeros_like(),
            Size::Count => Tensor::zeros([], (Kind::Float, device)),
            Size::CountHere => Tensor::zeros([], (Kind::Float, Device::Cpu)),
            Size::Codes => Tensor::zeros(size, (Kind::Uint8, device)),
            Size::Blocks => {
                let blocks = (param.numel() as i64 + BLOCK - 1) / BLOCK;
                Tensor::zeros([blocks], (Kind::Float, device))
            }
            Size::Rows => Tensor::zeros(&size[..size.len() - 1], (kind, device)),
            Size::Columns => {
                size.remove(size.len() - 2);
                Tensor::zeros(size, (kind, device))
            }
        }
    }
}

/// The parts that a parameter of `dims` dimensions keeps, in the names of torch.optim and transformers.
///
/// SGD with momentum also counts steps: its first step fills the buffer in another way, and a state of zeros with no
/// count could not tell a fresh start from a resumed one.
fn parts(rule: &Rule, way: Way, dims: usize) -> Vec<(&'static str, Size)> {
    use Size::{Blocks, Codes, Columns, Count, CountHere, Like, Rows};
    match (way, rule) {
        (Way::Sgd, Rule::Sgd { momentum: 0.0, .. }) => Vec::new(),
        (Way::Sgd, _) => vec![("momentum_buffer", Like), ("step", CountHere)],
        (Way::Adam | Way::Adamw, _) => {
            let mut parts = vec![("exp_avg", Like), ("exp_avg_sq", Like), ("step", Count)];
            parts.extend(amsgrad(rule).then_some(("max_exp_avg_sq", Like)));
            parts
        }
        (Way::Rmsprop, rule) => {
            let mut parts = vec![("square_avg", Like)];
            if let Rule::Rmsprop { momentum, centered, .. } = *rule {
                parts.extend(centered.then_some(("grad_avg", Like)));
                parts.extend((momentum > 0.0).then_some(("momentum_buffer", Like)));
            }
            parts
        }
        (Way::Lion, _) => vec![("exp_avg", Like)],
        (Way::Adafactor, rule) => {
            let mut parts = match dims {
                0 | 1 => vec![("exp_avg_sq", Like)],
                _ => vec![("exp_avg_sq_row", Rows), ("exp_avg_sq_col", Columns)],
            };
            let mean = matches!(rule, Rule::Adafactor { beta1: Some(_), .. });
            parts.extend(mean.then_some(("exp_avg", Like)));
            parts.push(("step", CountHere));
            parts
        }
        (Way::Muon, _) => vec![("momentum_buffer", Like)],
        (Way::Adamw8bit, _) => vec![
            ("exp_avg", Codes),
            ("exp_avg_absmax", Blocks),
            ("exp_avg_sq", Codes),
            ("exp_avg_sq_absmax", Blocks),
            ("step", Count),
        ],
    }
}

/// Whether the largest second moment is kept.
pub(super) fn amsgrad(rule: &Rule) -> bool {
    matches!(rule, Rule::Adam { amsgrad: true, .. } | Rule::Adamw { amsgrad: true, .. })
}

impl Param {
    /// A state of zeros, made at once so that memory does not grow at the first step. `hidden`: whether it is a
    /// parameter of a layer.
    pub(super) fn new(rule: &Rule, name: String, tensor: Tensor, hidden: bool, index: u32) -> Self {
        let way = Way::of(rule, &tensor, hidden);
        let (parts, state) = parts(rule, way, tensor.dim())
            .into_iter()
            .map(|(part, size)| (part, size.zeros(&tensor)))
            .unzip();
        Param { name, tensor, way, index, parts, state }
    }

    pub(super) fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        let named =
            |(part, tensor): (&&str, &Tensor)| (format!("{}.{part}", self.name), tensor.shallow_clone());
        self.parts.iter().zip(&self.state).map(named)
    }

    /// A part of the state; `None` where the rule keeps none of this name.
    pub(super) fn part(&self, name: &str) -> Option<&Tensor> {
        self.parts.iter().position(|part| *part == name).and_then(|at| self.state.get(at))
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
