//! Layers with the parameter names and the arithmetic of `torch.nn`.

use anyhow::{Result, bail};
use tch::Tensor;

use super::{Context, Init, Path};

/// `torch.nn.Linear`: `x Wᵀ + b`, `[…, in]` → `[…, out]`.
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Takes `weight` `[out, in]` and `bias` `[out]` below `path`; new weights are N(0, `std`), new biases 0.
    pub fn new(path: &Path, inputs: i64, outputs: i64, std: f64) -> Self {
        Linear {
            weight: path.param("weight", &[outputs, inputs], Init::Normal(std)),
            bias: path.param("bias", &[outputs], Init::Zeros),
        }
    }

    /// The last layer of a head, whose rows belong to labels by name.
    pub fn of_labels(path: &Path, inputs: i64, labels: i64, std: f64) -> Self {
        Linear {
            weight: path.label_param("weight", &[labels, inputs], Init::Normal(std)),
            bias: path.label_param("bias", &[labels], Init::Zeros),
        }
    }

    /// `[…, in]` → `[…, out]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// `torch.nn.LayerNorm` over the last dimension.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Takes `weight` and `bias`, each `[size]`, below `path`.
    pub fn new(path: &Path, size: i64, eps: f64) -> Self {
        LayerNorm {
            weight: path.param("weight", &[size], Init::Ones),
            bias: path.param("bias", &[size], Init::Zeros),
            eps,
        }
    }

    /// `[…, size]` → `[…, size]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// `torch.nn.Embedding`; the row of `padding` gets no gradient.
pub struct Embedding {
    weight: Tensor,
    padding: Option<i64>,
}

impl Embedding {
    /// Takes `weight` `[rows, size]` below `path`.
    pub fn new(path: &Path, rows: i64, size: i64, padding: Option<i64>, std: f64) -> Self {
        Embedding { weight: path.param("weight", &[rows, size], Init::Normal(std)), padding }
    }

    /// Int64 `[b, t]` → `[b, t, size]`.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, self.padding.unwrap_or(-1), false, false)
    }
}

/// Counter-based dropout: its mask is a function of seed, step, place and example.
pub struct Dropout {
    p: f64,
    site: u64,
}

impl Dropout {
    /// A new place to draw at.
    pub fn new(path: &Path, p: f64) -> Self {
        Dropout { p, site: path.next_site() }
    }

    /// `[b, …, d]` → the same shape, scaled by 1 / (1 − p) where it is kept.
    pub fn forward(&self, x: Tensor, context: &Context) -> Tensor {
        match self.keys(context) {
            Some(keys) => native::dropout(&x, self.p, &keys),
            None => x,
        }
    }

    /// Multi-head attention, `[b, h, t, d]` each, with this dropout on its probabilities.
    pub fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor, context: &Context) -> Tensor {
        match self.keys(context) {
            Some(keys) => native::attention(q, k, v, Some(mask), self.p, Some(&keys)),
            None => native::attention(q, k, v, Some(mask), 0.0, None),
        }
    }

    fn keys(&self, context: &Context) -> Option<Tensor> {
        let draw = context.draw.as_ref().filter(|_| self.p > 0.0)?;
        Some(native::keys(draw.seed, draw.step, self.site, draw.examples))
    }
}

/// Activation functions by their names in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU.
    Gelu,
    /// GELU by tanh.
    GeluTanh,
    /// ReLU.
    Relu,
    /// SiLU.
    Silu,
    /// tanh.
    Tanh,
}

impl Activation {
    /// Reads transformers' name of an activation (`ACT2FN`).
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            "tanh" => Activation::Tanh,
            _ => bail!(
                "config.json: the activation `{name}` is not supported; known are gelu, gelu_new, relu, silu and tanh"
            ),
        })
    }

    /// Applies the function to each element.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Gelu => x.gelu("none"),
            Activation::GeluTanh => x.gelu("tanh"),
            Activation::Relu => x.relu(),
            Activation::Silu => x.silu(),
            Activation::Tanh => x.tanh(),
        }
    }
}
