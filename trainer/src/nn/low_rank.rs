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
    /// The numbers that are multiplied in this kind, without gradients.
    fn numbers(&self, kind: Kind) -> Tensor {
        match &self.low {
            Some(low) if kind != Kind::Float => low.shallow_clone(),
            _ => self.param.detach().to_kind(kind),
        }
    }

    /// A model that writes has no gradients, and the bits of a row are the same in any company.
    fn product(&self, x: &Tensor, context: &Context) -> Tensor {
        let numbers = self.numbers(x.kind());
        match context.kept {
            Some(_) => native::linear_of_few(x, &numbers, None),
            None => product(x, &numbers, &self.param),
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

    /// Whether what it gives is a sum that can be written into what the layer gives.
    pub(super) fn only_adds(&self, context: &Context) -> bool {
        self.magnitude.is_none() && context.kept.is_none()
    }

    /// What layers beside each other give with their adapters, each of which only adds and begins at its place among the
    /// outputs, of what they give without: `base` `[n, out]` for `x` `[n, in]`, which is written over.
    pub(super) fn add_all(
        adapters: &[(i64, &LowRank)],
        base: Tensor,
        x: &Tensor,
        context: &Context,
    ) -> Tensor {
        let numbers: Vec<[Tensor; 2]> =
            adapters.iter().map(|(_, it)| [&it.a, &it.b].map(|factor| factor.numbers(x.kind()))).collect();
        let described: Vec<native::Adapter> = adapters
            .iter()
            .zip(&numbers)
            .map(|(&(start, it), [a, b])| native::Adapter {
                start,
                numbers: [a, b],
                params: [&it.a.param, &it.b.param],
            })
            .collect();
        // What is dropped is each adapter's own.
        match adapters.iter().any(|(_, it)| it.drops(context)) {
            false => native::low_rank(base, x, &described, adapters[0].1.scale),
            true => adapters.iter().zip(&described).fold(base, |base, ((_, it), described)| {
                native::low_rank(base, &it.dropped(x, context), std::slice::from_ref(described), it.scale)
            }),
        }
    }

    fn drops(&self, context: &Context) -> bool {
        self.dropout.is_some() && context.draw.is_some()
    }

    /// `x` as the adapter sees it.
    fn dropped(&self, x: &Tensor, context: &Context) -> Tensor {
        match &self.dropout {
            Some(dropout) if context.draw.is_some() => {
                // Heads, and a last layer of first tokens, have a row a sequence.
                match x.size()[0] == context.packing.tokens() {
                    true => dropout.forward(x.shallow_clone(), context),
                    false => dropout.rows(x.shallow_clone(), context),
                }
            }
            _ => x.shallow_clone(),
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
        let dropped = self.dropped(x, context);
        let inner = self.a.product(&dropped, context) * self.scale;
        let low = self.b.product(&inner, context);
        let Some(magnitude) = &self.magnitude else { return base + low };
        let own = match self.drops(context) {
            true => frozen.product(&dropped),
            false => bias.map_or_else(|| base.shallow_clone(), |bias| base - bias.to_kind(base.kind())),
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
