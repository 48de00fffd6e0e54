//! Low-rank adapters beside the frozen weights of linear layers.

use std::rc::Rc;

use native::Nf4;
use store::spec::Adapter;
use tch::{Kind, Tensor};

use super::{Context, Dropout, Path};

/// The frozen weights `[out, in]` of a layer, as they are kept.
pub(super) enum Frozen {
    /// As numbers, and a copy in the kind of mixed precision.
    Whole { weight: Tensor, low: Option<Tensor> },
    /// In 4 bits.
    Nf4(Rc<Nf4>),
}

impl Frozen {
    /// All of them, fp32.
    pub(super) fn weight(&self) -> Tensor {
        match self {
            Frozen::Whole { weight, .. } => weight.to_kind(Kind::Float),
            Frozen::Nf4(kept) => kept.dequantize().unwrap(),
        }
    }

    /// `x Wᵀ`, in the kind of `x`, with a gradient for `x`.
    fn product(&self, x: &Tensor) -> Tensor {
        match self {
            Frozen::Whole { low: Some(low), .. } if x.kind() != Kind::Float => product(x, low, low),
            Frozen::Whole { weight, .. } => product(x, &weight.to_kind(x.kind()), weight),
            Frozen::Nf4(kept) => kept.f_linear(x, None).unwrap(),
        }
    }

    pub(super) fn shallow_clone(&self) -> Self {
        match self {
            Frozen::Whole { weight, low } => {
                Frozen::Whole { weight: weight.shallow_clone(), low: low.as_ref().map(Tensor::shallow_clone) }
            }
            Frozen::Nf4(kept) => Frozen::Nf4(kept.clone()),
        }
    }
}

fn product(x: &Tensor, weight: &Tensor, param: &Tensor) -> Tensor {
    native::linear(x, weight, None, &[param], 1)
}

/// One of the two matrices: fp32, and a copy in the kind of mixed precision.
pub(super) struct Factor {
    pub(super) param: Tensor,
    pub(super) low: Option<Tensor>,
}

impl Factor {
    fn product(&self, x: &Tensor, context: &Context) -> Tensor {
        match &self.low {
            // A model that writes: the bits of a row are the same in any company.
            _ if context.kept.is_some() => native::linear_of_few(x, &self.param.detach(), None),
            Some(low) if x.kind() != Kind::Float => product(x, low, &self.param),
            _ => product(x, &self.param.detach().to_kind(x.kind()), &self.param),
        }
    }
}

/// The adapter of one layer.
pub(super) struct LowRank {
    /// `[rank, in]` and `[out, rank]`.
    a: Factor,
    b: Factor,
    /// The length of each row of the layer's weights, `[out]`, where it is trained on its own.
    magnitude: Option<Tensor>,
    scale: f64,
    dropout: Option<Dropout>,
}

impl LowRank {
    /// Makes an adapter below `path`, the layer's own, whose weights `[out, in]` are `frozen`: `A` is drawn as
    /// `torch.nn.Linear` draws, `B` is 0, so that it begins without a say.
    pub(super) fn new(path: &Path, frozen: &Frozen, inputs: i64, outputs: i64, settings: &Adapter) -> Self {
        let rank = i64::from(settings.rank);
        LowRank {
            a: path.factor("lora_A.weight", &[rank, inputs], Some((inputs as f64).sqrt().recip())),
            b: path.factor("lora_B.weight", &[outputs, rank], None),
            magnitude: settings
                .dora
                .then(|| path.adapter_param("lora_magnitude_vector", lengths(&frozen.weight()))),
            scale: settings.scale(),
            dropout: (settings.dropout > 0.0).then(|| Dropout::new(path, settings.dropout)),
        }
    }

    /// What the layer gives with the adapter, of what it gives without: `base` `[n, out]` for `x` `[n, in]`.
    pub(super) fn add(
        &self,
        base: &Tensor,
        x: &Tensor,
        context: &Context,
        frozen: &Frozen,
        bias: Option<&Tensor>,
    ) -> Tensor {
        let dropped = self.dropout.as_ref().filter(|_| context.draw.is_some()).map(|dropout| {
            // Heads, and a last layer of first tokens, have a row a sequence.
            match x.size()[0] == context.packing.tokens() {
                true => dropout.forward(x.shallow_clone(), context),
                false => dropout.rows(x.shallow_clone(), context),
            }
        });
        let inner = self.a.product(dropped.as_ref().unwrap_or(x), context) * self.scale;
        let low = self.b.product(&inner, context);
        let Some(magnitude) = &self.magnitude else { return base + low };
        let own = match &dropped {
            Some(dropped) => frozen.product(dropped),
            None => bias.map_or_else(|| base.shallow_clone(), |bias| base - bias.to_kind(base.kind())),
        };
        // The length is a constant to the gradient, as section 4.3 of the paper has it.
        let length = tch::no_grad(|| lengths(&(frozen.weight() + self.product())));
        let factor = magnitude / length;
        base + (&(&factor - 1.0) * own + &factor * low).to_kind(base.kind())
    }

    /// The layer's weights with the adapter in them, fp32.
    pub(super) fn merged(&self, frozen: &Frozen) -> Tensor {
        let sum = frozen.weight() + self.product();
        match &self.magnitude {
            None => sum,
            Some(magnitude) => (magnitude.detach() / lengths(&sum)).unsqueeze(1) * sum,
        }
    }

    /// `scale · B A`.
    fn product(&self) -> Tensor {
        self.b.param.detach().matmul(&self.a.param.detach()) * self.scale
    }
}

/// The 2-norm of each row.
fn lengths(weight: &Tensor) -> Tensor {
    weight.norm_scalaropt_dim(2.0, [1], false)
}
