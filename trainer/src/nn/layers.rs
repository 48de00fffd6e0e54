//! Layers with the parameter names and the arithmetic of `torch.nn`.

use anyhow::{Result, bail};
use native::{Heads, Projections};
use tch::{Device, Kind, Tensor};

use super::{Context, Init, Path};

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
        native::norm_residual(x, None, &self.weight, &self.bias, self.eps, None)
    }

    /// The norm of `residual + dropout(x)`, tokens `[n, size]` each.
    pub fn residual(
        &self,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<&Dropout>,
        context: &Context,
    ) -> Tensor {
        let keys = dropout.and_then(|dropout| Some((dropout.p, dropout.keys(context)?)));
        let drop = keys.as_ref().map(|(p, keys)| (*p, keys, Some(&context.packing.offsets)));
        native::norm_residual(x, Some(residual), &self.weight, &self.bias, self.eps, drop)
    }
}

/// `torch.nn.Embedding`; the row of `padding` gets no gradient.
///
/// The gradient of a large table is kept as the rows that a batch has used: the rest of it would be zeros.
pub struct Embedding {
    weight: Tensor,
    padding: Option<i64>,
}

/// Rows from which on a table is large against the tokens of a batch.
const LARGE: i64 = 4096;

impl Embedding {
    /// Takes `weight` `[rows, size]` below `path`.
    pub fn new(path: &Path, rows: i64, size: i64, padding: Option<i64>, std: f64) -> Self {
        Embedding { weight: path.param("weight", &[rows, size], Init::Normal(std)), padding }
    }

    /// Whether the gradient of this parameter comes as rows, if it is a table's.
    pub fn gives_rows(weight: &Tensor) -> bool {
        weight.dim() == 2 && weight.size()[0] >= LARGE && weight.device() == Device::Cpu
    }

    /// Int64 `[n]` → `[n, size]`, in the kind of the weights; in fp32 where the context is.
    pub fn forward(&self, ids: &Tensor, context: &Context) -> Tensor {
        let sparse = Self::gives_rows(&self.weight);
        let states = Tensor::embedding(&self.weight, ids, self.padding.unwrap_or(-1), false, sparse);
        if context.kind == Kind::Float { states.to_kind(Kind::Float) } else { states }
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

    /// Tokens `[n, d]` → the same, scaled by 1 / (1 − p) where they are kept.
    pub fn forward(&self, x: Tensor, context: &Context) -> Tensor {
        match self.keys(context) {
            Some(keys) => native::dropout_packed(&x, self.p, &keys, &context.packing.offsets),
            None => x,
        }
    }

    /// The same for one row a sequence, `[b, d]`.
    pub fn rows(&self, x: Tensor, context: &Context) -> Tensor {
        match self.keys(context) {
            Some(keys) => native::dropout(&x, self.p, &keys),
            None => x,
        }
    }

    /// Attention within each sequence, with this dropout on its weights; shapes as in [`native::attention`].
    pub fn attention(&self, projections: Projections, heads: Heads, context: &Context) -> Tensor {
        let keys = self.keys(context);
        let drop = keys.as_ref().map(|keys| (self.p, keys));
        native::attention(projections, heads, &context.packing.offsets, drop)
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
