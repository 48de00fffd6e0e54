//! Optimizers as `torch.optim`, transformers and the papers define them, schedules as transformers does.

use serde::{Deserialize, Serialize};

/// The update rule and its settings; defaults are those of the reference that each names, or `torch.optim`'s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Share of the last update kept.
        #[serde(default)]
        momentum: f64,
        /// Damping of the gradient in the momentum buffer.
        #[serde(default)]
        dampening: f64,
        /// Nesterov's look-ahead; needs momentum above 0 and no dampening.
        #[serde(default)]
        nesterov: bool,
    },
    /// Adam, with weight decay added to the gradient.
    Adam {
        /// Decay of the averages of the gradient and of its square.
        #[serde(default = "betas")]
        betas: (f64, f64),
        /// Added to the denominator.
        #[serde(default = "eps")]
        eps: f64,
        /// Divide by the largest average of squares so far (Reddi et al., 2018).
        #[serde(default, skip_serializing_if = "is_false")]
        amsgrad: bool,
    },
    /// Adam with weight decay apart from the gradient (Loshchilov and Hutter, 2019).
    Adamw {
        /// Decay of the averages of the gradient and of its square.
        #[serde(default = "betas")]
        betas: (f64, f64),
        /// Added to the denominator.
        #[serde(default = "eps")]
        eps: f64,
        /// Divide by the largest average of squares so far (Reddi et al., 2018).
        #[serde(default, skip_serializing_if = "is_false")]
        amsgrad: bool,
    },
    /// RMSprop.
    Rmsprop {
        /// Decay of the average of the squared gradient.
        #[serde(default = "alpha")]
        alpha: f64,
        /// Added to the denominator.
        #[serde(default = "eps")]
        eps: f64,
        /// Share of the last update kept.
        #[serde(default)]
        momentum: f64,
        /// Whether the square is centred by the average gradient.
        #[serde(default)]
        centered: bool,
    },
    /// Lion: steps of one size in the direction of a sign (Chen et al., 2023, arXiv:2302.06675). Its learning rate is a
    /// tenth to a third of AdamW's.
    Lion {
        /// Share of the average in the direction, and decay of the average.
        #[serde(default = "lion_betas")]
        betas: (f64, f64),
    },
    /// Adafactor: averages of squares by row and column alone (Shazeer and Stern, 2018, arXiv:1804.04235), as
    /// transformers has it.
    Adafactor {
        /// Added to the squared gradient, and the least size of a parameter.
        #[serde(default = "adafactor_eps")]
        eps: (f64, f64),
        /// The root mean square that an update may have at most.
        #[serde(default = "one")]
        clip_threshold: f64,
        /// Exponent of the decay of the averages over the steps.
        #[serde(default = "decay_rate")]
        decay_rate: f64,
        /// Decay of the average of the updates; `None` for no average.
        #[serde(default)]
        beta1: Option<f64>,
        /// Whether steps are a share of the parameter's size.
        #[serde(default = "yes")]
        scale_parameter: bool,
        /// Whether the rate is 1/sqrt(step), at most 0.01, in place of the learning rate and its schedule.
        #[serde(default = "yes")]
        relative_step: bool,
        /// Whether that rate begins at 1e-6 times the step; needs `relative_step`.
        #[serde(default)]
        warmup_init: bool,
    },
    /// Muon: orthogonal steps for the matrices of layers (Jordan, 2024), as `torch.optim.Muon`; AdamW for embeddings,
    /// head, biases and norms.
    Muon {
        /// Decay of the average of the gradient.
        #[serde(default = "muon_momentum")]
        momentum: f64,
        /// Nesterov's look-ahead.
        #[serde(default = "yes")]
        nesterov: bool,
        /// Steps of the Newton-Schulz iteration.
        #[serde(default = "ns_steps")]
        ns_steps: u32,
        /// How the rate depends on a matrix's shape.
        #[serde(default)]
        adjust_lr: AdjustLr,
        /// AdamW's share of the learning rate.
        #[serde(default = "one")]
        adamw_lr_scale: f64,
        /// AdamW's.
        #[serde(default = "betas")]
        betas: (f64, f64),
        /// AdamW's.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// AdamW whose averages take a byte a number (Dettmers et al., 2022, arXiv:2110.02861); parameters under 4,096
    /// numbers keep theirs in 32 bits.
    #[serde(rename = "adamw_8bit")]
    Adamw8bit {
        /// Decay of the averages of the gradient and of its square.
        #[serde(default = "betas")]
        betas: (f64, f64),
        /// Added to the denominator.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// `torch.optim.SparseAdam` for embeddings whose gradient is of rows: rows that no text of the step uses stay as they
    /// are, without weight decay. AdamW for the rest.
    #[serde(rename = "sparse_adam")]
    SparseAdam {
        /// Decay of the averages of the gradient and of its square.
        #[serde(default = "betas")]
        betas: (f64, f64),
        /// Added to the denominator.
        #[serde(default = "eps")]
        eps: f64,
    },
}

/// The factor of Muon's learning rate for a matrix of `a` rows and `b` columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLr {
    /// `sqrt(max(1, a / b))`.
    #[default]
    Original,
    /// `0.2 * sqrt(max(a, b))`: steps of AdamW's size, for AdamW's learning rate (Liu et al., 2025, arXiv:2502.16982).
    MatchRmsAdamw,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn lion_betas() -> (f64, f64) {
    (0.9, 0.99)
}

fn adafactor_eps() -> (f64, f64) {
    (1e-30, 1e-3)
}

fn decay_rate() -> f64 {
    -0.8
}

fn muon_momentum() -> f64 {
    0.95
}

fn ns_steps() -> u32 {
    5
}

fn betas() -> (f64, f64) {
    (0.9, 0.999)
}

fn eps() -> f64 {
    1e-8
}

fn alpha() -> f64 {
    0.99
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer::Adamw { betas: betas(), eps: eps(), amsgrad: false }
    }
}

/// How the learning rate moves over the steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The curve after warm-up.
    pub name: ScheduleName,
    /// Steps of linear warm-up from 0; excludes `warmup_ratio`.
    pub warmup_steps: Option<u64>,
    /// Share of all steps used for warm-up.
    pub warmup_ratio: Option<f64>,
    /// Exponent of the polynomial.
    pub power: f64,
    /// Learning rate that the polynomial ends at.
    pub end_learning_rate: f64,
    /// Periods of the cosine; 0.5 falls to 0 once.
    pub cycles: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule {
            name: ScheduleName::Linear,
            warmup_steps: None,
            warmup_ratio: None,
            power: 1.0,
            end_learning_rate: 1e-7,
            cycles: 0.5,
        }
    }
}

/// The curves of transformers' `get_scheduler`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    /// Stays at the peak.
    Constant,
    /// Falls to 0 in a straight line.
    #[default]
    Linear,
    /// Falls along a cosine.
    Cosine,
    /// Falls along a polynomial.
    Polynomial,
}
