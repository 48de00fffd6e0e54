//! Linear layers, alone or beside each other, in the kind of their input.

use std::ops::Range;
use std::rc::Rc;

use native::Nf4;
use native::c10d::{Group, autograd};
use tch::{Kind, Tensor};

use super::low_rank::{Frozen, LowRank};
use super::{Context, Init, Path};

/// `torch.nn.Linear`: `x Wᵀ + b`, `[n, in]` → `[n, out]`; or several of them on one input, side by side.
pub struct Linear {
    kept: Kept,
    /// The biases' memory as one `[out]`; `None` where there are none.
    bias: Option<Tensor>,
    /// The processes that have the other rows or columns.
    shared: Option<(Cut, Group)>,
    /// Beside each of the layers; none where no adapters are trained.
    adapters: Vec<Adapted>,
}

/// The weights of layers beside each other.
enum Kept {
    /// As parameters.
    Whole {
        /// Weights, then as many biases, or none.
        params: Vec<Tensor>,
        weights: usize,
        /// Whether the one weight is `[in, out]`, as its file has it.
        by_column: bool,
        /// The weights' memory as one `[out, in]`.
        weight: Tensor,
        /// Weights and biases in the kind of mixed precision, written anew after each update of the parameters.
        low: Option<(Tensor, Option<Tensor>)>,
    },
    /// Frozen, in 4 bits, a layer each.
    Nf4(Vec<Rc<Nf4>>),
}

/// One of the layers beside each other, and its adapter if it has one.
struct Adapted {
    /// Its place among their outputs.
    outputs: Range<i64>,
    frozen: Frozen,
    low_rank: Option<Rc<LowRank>>,
}

/// Which of its weights a process has, where several share a layer (M. Shoeybi et al., "Megatron-LM", 2019, section 3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// All of them, as every other process.
    Whole,
    /// Some of the outputs: the input is whole, the output is a share.
    Columns,
    /// Some of the inputs: the input is a share, the output is whole, as the sum over the processes.
    Rows,
}

impl Cut {
    /// The dimension along which weight and bias are cut.
    fn dims(self) -> (Option<i64>, Option<i64>) {
        match self {
            Cut::Whole => (None, None),
            Cut::Columns => (Some(0), Some(0)),
            Cut::Rows => (Some(1), None),
        }
    }
}

impl Linear {
    /// Takes `weight` `[out, in]` and `bias` `[out]` below `path`; new weights are N(0, `std`), new biases 0.
    pub fn new(path: &Path, inputs: i64, outputs: i64, std: f64) -> Self {
        Self::cut(&[path], inputs, &[outputs], std, Cut::Whole)
    }

    /// The first layer of a block, whose outputs the processes of a tensor parallel job share: `[n, in]` → `[n, out /
    /// processes]`. One process has all.
    pub fn columns(path: &Path, inputs: i64, outputs: i64, std: f64) -> Self {
        Self::cut(&[path], inputs, &[outputs], std, Cut::Columns)
    }

    /// The last layer of a block, whose inputs they share: `[n, in / processes]` → `[n, out]`.
    pub fn rows(path: &Path, inputs: i64, outputs: i64, std: f64) -> Self {
        Self::cut(&[path], inputs, &[outputs], std, Cut::Rows)
    }

    /// Layers of one size below each of `paths`, computed as one: `[n, in]` → `[n, paths · out]`, of each of which the
    /// processes share the outputs as in [`Linear::columns`].
    pub fn joined(paths: &[&Path], inputs: i64, outputs: i64, std: f64) -> Self {
        Self::beside(paths, inputs, &vec![outputs; paths.len()], std)
    }

    /// The same of layers with so many outputs each.
    pub fn beside(paths: &[&Path], inputs: i64, outputs: &[i64], std: f64) -> Self {
        Self::cut(paths, inputs, outputs, std, Cut::Columns)
    }

    /// The layer of a family whose files hold its weight as `[in, out]` (transformers' `Conv1D`). The parameter stays so.
    pub fn by_column(path: &Path, inputs: i64, outputs: i64, std: f64) -> Self {
        let path = &path.by_column();
        path.not_shared("weights are kept by column");
        if path.is_quantized() {
            return Self::quantized(&[path], inputs, &[outputs], std);
        }
        let weight = path.param("weight", &[inputs, outputs], Init::Normal(std));
        let bias = path.is_biased().then(|| path.param("bias", &[outputs], Init::Zeros));
        let own = weight.detach().transpose(0, 1);
        let of_bias = bias.as_ref().map(Tensor::detach);
        let mut made = Self::of(path, vec![weight], bias.into_iter().collect(), own, of_bias);
        if let Kept::Whole { by_column, .. } = &mut made.kept {
            *by_column = true;
        }
        made.adapted(&[path], &[outputs])
    }

    fn cut(paths: &[&Path], inputs: i64, outputs: &[i64], std: f64, cut: Cut) -> Self {
        if paths.iter().all(|path| path.is_quantized()) {
            return Self::quantized(paths, inputs, outputs, std);
        }
        let share = |outputs: &i64| if cut == Cut::Columns { paths[0].share(*outputs) } else { *outputs };
        let outputs: Vec<i64> = outputs.iter().map(share).collect();
        let all: i64 = outputs.iter().sum();
        let inputs = if cut == Cut::Rows { paths[0].share(inputs) } else { inputs };
        let weight = paths[0].room("weight", &[all, inputs]);
        let bias = paths[0].is_biased().then(|| paths[0].room("bias", &[all]));
        let (of_weight, of_bias) = cut.dims();
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (path, place) in paths.iter().zip(places(&outputs)) {
            weights.push(path.param_at("weight", rows(&weight, &place), Init::Normal(std), of_weight));
            if let Some(bias) = &bias {
                biases.push(path.param_at("bias", rows(bias, &place), Init::Zeros, of_bias));
            }
        }
        let shared = paths[0].group().filter(|_| cut != Cut::Whole).map(|group| (cut, group));
        Linear { shared, ..Self::of(paths[0], weights, biases, weight, bias) }.adapted(paths, &outputs)
    }

    /// Layers whose weights are kept in 4 bits. No other process has a share of them.
    fn quantized(paths: &[&Path], inputs: i64, outputs: &[i64], std: f64) -> Self {
        let bias = paths[0].is_biased().then(|| paths[0].room("bias", &[outputs.iter().sum()]));
        let mut kept = Vec::new();
        for (path, place) in paths.iter().zip(places(outputs)) {
            kept.push(path.quantized(&[place.end - place.start, inputs], Init::Normal(std)));
            if let Some(bias) = &bias {
                _ = path.param_at("bias", rows(bias, &place), Init::Zeros, None);
            }
        }
        Linear { kept: Kept::Nf4(kept), bias, shared: None, adapters: Vec::new() }.adapted(paths, outputs)
    }

    /// The same with adapters beside the layers, where they are to have some.
    fn adapted(mut self, paths: &[&Path], outputs: &[i64]) -> Self {
        let places = places(outputs);
        let layers: Vec<Frozen> = match &self.kept {
            Kept::Nf4(kept) => kept.iter().map(|kept| Frozen::Nf4(kept.clone())).collect(),
            Kept::Whole { weight, low, .. } => {
                let layer = |place: &Range<i64>| Frozen::Whole {
                    weight: rows(weight, place),
                    low: low.as_ref().map(|(low, _)| rows(low, place)),
                };
                places.iter().map(layer).collect()
            }
        };
        let inputs = match &self.kept {
            Kept::Whole { weight, .. } => weight.size()[1],
            Kept::Nf4(kept) => kept[0].columns(),
        };
        let adapted = paths.iter().zip(layers).zip(places).map(|((path, frozen), outputs)| Adapted {
            low_rank: path.low_rank(frozen.shallow_clone(), inputs, outputs.end - outputs.start),
            frozen,
            outputs,
        });
        let adapters: Vec<Adapted> = adapted.collect();
        if adapters.iter().any(|adapted| adapted.low_rank.is_some()) {
            self.adapters = adapters;
        }
        self
    }

    /// The last layer of a head, whose rows belong to labels by name.
    pub fn of_labels(path: &Path, inputs: i64, labels: i64, std: f64) -> Self {
        let weight = path.label_param("weight", &[labels, inputs], Init::Normal(std));
        let bias = path.is_biased().then(|| path.label_param("bias", &[labels], Init::Zeros));
        let (all, biases) = (weight.detach(), bias.as_ref().map(Tensor::detach));
        Self::of(path, vec![weight], bias.into_iter().collect(), all, biases)
    }

    fn of(
        path: &Path,
        weights: Vec<Tensor>,
        biases: Vec<Tensor>,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> Self {
        let low = path.low("weight", &weight);
        let low = low.map(|low| (low, bias.as_ref().and_then(|bias| path.low("bias", bias))));
        let count = weights.len();
        let params = weights.into_iter().chain(biases).collect();
        let kept = Kept::Whole { params, weights: count, by_column: false, weight, low };
        Linear { kept, bias, shared: None, adapters: Vec::new() }
    }

    /// `[n, in]` → `[n, out]`, in the kind of `x`: fp32 by the parameters, else by what is kept in fewer bits.
    ///
    /// # Panics
    /// Where shapes do not fit or another process is gone.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        match &self.shared {
            None if self.adapters.is_empty() => self.own(x, true, context),
            None => self.with_adapters(self.own(x, true, context), x, context),
            Some((Cut::Rows, group)) => {
                // The sum has the bias once; its gradient is the same on all.
                autograd::sum(group, &self.own(x, group.rank() == 0, context)).unwrap()
            }
            Some((_, group)) => self.own(&autograd::copy(group, x).unwrap(), true, context),
        }
    }

    /// By the weights of this process; the bias counts or is only there for its gradient.
    fn own(&self, x: &Tensor, biased: bool, context: &Context) -> Tensor {
        let biased = |bias: &Option<Tensor>| {
            bias.as_ref().map(|bias| if biased { bias.shallow_clone() } else { bias.zeros_like() })
        };
        match &self.kept {
            Kept::Whole { params, weights, by_column, low: Some((weight, bias)), .. }
                if x.kind() != Kind::Float =>
            {
                multiply(x, weight, biased(bias), params, *weights, *by_column)
            }
            // A model that writes has no gradients, and the bits of a row are the same in any company.
            Kept::Whole { weight, .. } if context.kept.is_some() => {
                native::linear_of_few(x, weight, biased(&self.bias).as_ref())
            }
            Kept::Whole { params, weights, by_column, weight, .. } => {
                let weight = weight.to_kind(Kind::Float);
                multiply(x, &weight, biased(&self.bias), params, *weights, *by_column)
            }
            Kept::Nf4(kept) => {
                let ends: Vec<i64> = kept.iter().map(|kept| kept.rows()).collect();
                let part = |(kept, place): (&Rc<Nf4>, Range<i64>)| {
                    let bias = self.bias_of(&place).map(|bias| bias.to_kind(x.kind()));
                    match context.kept {
                        Some(_) => native::linear_of_few(x, &kept.dequantize().unwrap(), bias.as_ref()),
                        None => kept.f_linear(x, bias.as_ref()).unwrap(),
                    }
                };
                beside(kept.iter().zip(places(&ends)).map(part).collect())
            }
        }
    }

    /// What the adapters make of `base`, that is what the layers give without them.
    fn with_adapters(&self, base: Tensor, x: &Tensor, context: &Context) -> Tensor {
        let adapters: Vec<(i64, &LowRank)> = self
            .adapters
            .iter()
            .filter_map(|adapted| Some((adapted.outputs.start, adapted.low_rank.as_deref()?)))
            .collect();
        if adapters.iter().all(|(_, low_rank)| low_rank.only_adds(context)) {
            return LowRank::add_all(&adapters, base, x, context);
        }
        let part = |adapted: &Adapted| {
            let Range { start, end } = adapted.outputs;
            let base = base.narrow(1, start, end - start);
            match &adapted.low_rank {
                None => base,
                Some(low_rank) => {
                    let bias = self.bias_of(&adapted.outputs);
                    low_rank.add(&base, x, context, &adapted.frozen, bias.as_ref())
                }
            }
        };
        beside(self.adapters.iter().map(part).collect())
    }

    fn bias_of(&self, place: &Range<i64>) -> Option<Tensor> {
        self.bias.as_ref().map(|bias| rows(bias, place))
    }
}

/// [`native::linear`], with the one weight among `params` turned where it is kept as `[in, out]`.
fn multiply(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<Tensor>,
    params: &[Tensor],
    weights: usize,
    by_column: bool,
) -> Tensor {
    if !by_column {
        return native::linear(x, weight, bias.as_ref(), params, weights);
    }
    let mut turned: Vec<Tensor> = params.iter().map(Tensor::shallow_clone).collect();
    turned[0] = turned[0].transpose(0, 1);
    native::linear(x, weight, bias.as_ref(), &turned, weights)
}

/// Where layers of so many outputs lie beside each other.
fn places(outputs: &[i64]) -> Vec<Range<i64>> {
    let ends = outputs.iter().scan(0, |end, outputs| {
        *end += outputs;
        Some(*end - outputs..*end)
    });
    ends.collect()
}

fn rows(all: &Tensor, place: &Range<i64>) -> Tensor {
    all.narrow(0, place.start, place.end - place.start)
}

/// `[n, out]` each, as one.
fn beside(mut parts: Vec<Tensor>) -> Tensor {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 1) }
}
