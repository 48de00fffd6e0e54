//! Optimizers as `torch.optim` defines them, schedules as transformers does.

use serde::{Deserialize, Serialize};

/// The update rule and its settings; defaults are `torch.optim`'s.
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
    },
    /// Adam with weight decay apart from the gradient (Loshchilov and Hutter, 2019).
    Adamw {
        /// Decay of the averages of the gradient and of its square.
        #[serde(default = "betas")]
        betas: (f64, f64),
        /// Added to the denominator.
        #[serde(default = "eps")]
        eps: f64,
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
        Optimizer::Adamw { betas: betas(), eps: eps() }
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
