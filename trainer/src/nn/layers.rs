//! Layers with the parameter names and the arithmetic of `torch.nn`.

use anyhow::{Result, bail};
use native::c10d::{Group, autograd};
use native::{Heads, Projections};
use tch::{Device, Kind, Tensor};

use super::{Context, Init, Path, Vocabulary};

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

/// Root-mean-square norm over the last dimension, without a bias.
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
    add: f64,
    /// The processes that norm the other heads.
    others: Option<Group>,
}

impl RmsNorm {
    /// Takes `weight` `[size]` below `path`.
    pub fn new(path: &Path, size: i64, eps: f64) -> Self {
        RmsNorm { weight: path.param("weight", &[size], Init::Ones), eps, add: 0.0, others: None }
    }

    /// The same in a family whose weights are what is beyond 1.
    pub fn beyond_one(path: &Path, size: i64, eps: f64) -> Self {
        RmsNorm { weight: path.param("weight", &[size], Init::Zeros), eps, add: 1.0, others: None }
    }

    /// `[n, size]` → `[n, size]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        native::rms_norm(x, None, &self.weight, self.eps, self.add).0
    }

    /// The norm of `residual + x`, and that sum.
    pub fn residual(&self, x: &Tensor, residual: &Tensor) -> (Tensor, Tensor) {
        let (normed, sum) = native::rms_norm(x, Some(residual), &self.weight, self.eps, self.add);
        (normed, sum.expect("a sum where there is a residual"))
    }

    /// The same of heads, of which each process that shares the layer has some: the weight's gradient is the sum of theirs.
    pub fn of_heads(self, path: &Path) -> Self {
        RmsNorm { others: path.group(), ..self }
    }

    /// The norm of each head: `[n, heads · size]` → the same.
    pub fn heads(&self, x: &Tensor) -> Tensor {
        let own = match &self.others {
            None => self.weight.shallow_clone(),
            Some(group) => autograd::copy(group, &self.weight).unwrap(),
        };
        let rows = x.reshape([-1, own.size()[0]]);
        native::rms_norm(&rows, None, &own, self.eps, self.add).0.view_as(x)
    }
}

/// `torch.nn.Embedding`; the row of `padding` gets no gradient.
///
/// The gradient of a large table is kept as the rows that a batch has used: the rest of it would be zeros. Not so where the
/// table is what the vocabulary is told apart by as well, of which every row is used.
pub struct Embedding {
    weight: Tensor,
    padding: Option<i64>,
    by_row: bool,
}

/// Rows from which on a table is large against the tokens of a batch.
const LARGE: i64 = 4096;

impl Embedding {
    /// Takes `weight` `[rows, size]` below `path`.
    pub fn new(path: &Path, rows: i64, size: i64, padding: Option<i64>, std: f64) -> Self {
        let weight = path.param("weight", &[rows, size], Init::Normal(std));
        let by_row = rows >= LARGE && weight.device() == Device::Cpu;
        if by_row {
            path.comes_by_row("weight");
        }
        Embedding { weight, padding, by_row }
    }

    /// The table of `vocabulary`.
    pub fn tied(vocabulary: &Vocabulary, padding: Option<i64>) -> Self {
        Embedding { weight: vocabulary.table(), padding, by_row: false }
    }

    /// The same table once more.
    pub fn again(&self) -> Self {
        Embedding { weight: self.weight.shallow_clone(), ..*self }
    }

    /// Int64 `[n]` → `[n, size]`, in the kind of the weights; in fp32 where the context is.
    pub fn forward(&self, ids: &Tensor, context: &Context) -> Tensor {
        let states = Tensor::embedding(&self.weight, ids, self.padding.unwrap_or(-1), false, self.by_row);
        if context.kind == Kind::Float { states.to_kind(Kind::Float) } else { states }
    }
}

/// Counter-based dropout: its mask is a function of seed, step, place and example.
pub struct Dropout {
    p: f64,
    site: u64,
    /// Which share of the columns this is, and of how many: draws are those of the whole.
    share: (i64, i64),
}

impl Dropout {
    /// A new place to draw at.
    pub fn new(path: &Path, p: f64) -> Self {
        Dropout { p, site: path.next_site(), share: (0, 1) }
    }

    /// The same within a block whose inner columns processes share.
    pub fn within(path: &Path, p: f64) -> Self {
        Dropout { share: path.own_share(), ..Dropout::new(path, p) }
    }

    /// Tokens `[n, d]` → the same, scaled by 1 / (1 − p) where they are kept.
    pub fn forward(&self, x: Tensor, context: &Context) -> Tensor {
        let Some(keys) = self.keys(context) else { return x };
        let offsets = &context.packing.offsets;
        let (number, shares) = self.share;
        if shares == 1 {
            return native::dropout_packed(&x, self.p, &keys, offsets);
        }
        let (rows, width) = x.size2().expect("tokens as rows");
        let ones = Tensor::ones([rows, width * shares], (x.kind(), x.device()));
        x * native::dropout_packed(&ones, self.p, &keys, offsets).narrow(1, number * width, width)
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

    /// The same with what scores get by the distance of tokens.
    pub fn distance_attention(
        &self,
        projections: Projections,
        heads: Heads,
        by_distance: &Tensor,
        context: &Context,
    ) -> Tensor {
        let keys = self.keys(context);
        let drop = keys.as_ref().map(|keys| (self.p, keys));
        native::distance_attention(projections, heads, &context.packing.offsets, by_distance, drop)
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
