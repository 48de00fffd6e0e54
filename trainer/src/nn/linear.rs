//! Linear layers, alone or beside each other, in the kind of their input.

use native::c10d::{Group, autograd};
use tch::{Kind, Tensor};

use super::{Init, Path};

/// `torch.nn.Linear`: `x Wᵀ + b`, `[n, in]` → `[n, out]`; or several of them on one input, side by side.
pub struct Linear {
    /// Weights, then as many biases.
    params: Vec<Tensor>,
    weights: usize,
    /// The weights' memory as one `[out, in]`, and the biases' as one `[out]`.
    weight: Tensor,
    bias: Tensor,
    /// The same in the kind of mixed precision, written anew after each update of the parameters.
    low: Option<(Tensor, Tensor)>,
    /// The processes that have the other rows or columns.
    shared: Option<(Cut, Group)>,
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
        Self::cut(&[path], inputs, outputs, std, Cut::Whole)
    }

    /// The first layer of a block, whose outputs the processes of a tensor parallel job share: `[n, in]` → `[n, out /
    /// processes]`. One process has all.
    pub fn columns(path: &Path, inputs: i64, outputs: i64, std: f64) -> Self {
        Self::cut(&[path], inputs, outputs, std, Cut::Columns)
    }

    /// The last layer of a block, whose inputs they share: `[n, in / processes]` → `[n, out]`.
    pub fn rows(path: &Path, inputs: i64, outputs: i64, std: f64) -> Self {
        Self::cut(&[path], inputs, outputs, std, Cut::Rows)
    }

    /// Layers of one size below each of `paths`, computed as one: `[n, in]` → `[n, paths · out]`, of each of which the
    /// processes share the outputs as in [`Linear::columns`].
    pub fn joined(paths: &[&Path], inputs: i64, outputs: i64, std: f64) -> Self {
        Self::cut(paths, inputs, outputs, std, Cut::Columns)
    }

    fn cut(paths: &[&Path], inputs: i64, outputs: i64, std: f64, cut: Cut) -> Self {
        let count = paths.len() as i64;
        let outputs = if cut == Cut::Columns { paths[0].share(outputs) } else { outputs };
        let inputs = if cut == Cut::Rows { paths[0].share(inputs) } else { inputs };
        let weight = paths[0].room("weight", &[count * outputs, inputs]);
        let bias = paths[0].room("bias", &[count * outputs]);
        let (of_weight, of_bias) = cut.dims();
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (at, path) in (0..).zip(paths) {
            let place = |all: &Tensor| all.narrow(0, at * outputs, outputs);
            weights.push(path.param_at("weight", place(&weight), Init::Normal(std), of_weight));
            biases.push(path.param_at("bias", place(&bias), Init::Zeros, of_bias));
        }
        let shared = paths[0].group().filter(|_| cut != Cut::Whole).map(|group| (cut, group));
        Linear { shared, ..Self::of(paths[0], weights, biases, weight, bias) }
    }

    /// The last layer of a head, whose rows belong to labels by name.
    pub fn of_labels(path: &Path, inputs: i64, labels: i64, std: f64) -> Self {
        let weight = path.label_param("weight", &[labels, inputs], Init::Normal(std));
        let bias = path.label_param("bias", &[labels], Init::Zeros);
        let (all, biases) = (weight.detach(), bias.detach());
        Self::of(path, vec![weight], vec![bias], all, biases)
    }

    fn of(path: &Path, weights: Vec<Tensor>, biases: Vec<Tensor>, weight: Tensor, bias: Tensor) -> Self {
        let low = path.low("weight", &weight);
        let low = low.map(|low| (low, path.low("bias", &bias).expect("one kind for both")));
        let count = weights.len();
        Linear {
            params: weights.into_iter().chain(biases).collect(),
            weights: count,
            weight,
            bias,
            low,
            shared: None,
        }
    }

    /// `[n, in]` → `[n, out]`, in the kind of `x`: fp32 by the parameters, else by what is kept in fewer bits.
    ///
    /// # Panics
    /// Where shapes do not fit or another process is gone.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &self.shared {
            None => self.own(x, true),
            Some((Cut::Rows, group)) => {
                // The sum has the bias once; its gradient is the same on all.
                autograd::sum(group, &self.own(x, group.rank() == 0)).unwrap()
            }
            Some((_, group)) => self.own(&autograd::copy(group, x).unwrap(), true),
        }
    }

    /// By the weights of this process; the bias counts or is only there for its gradient.
    fn own(&self, x: &Tensor, biased: bool) -> Tensor {
        let biased = |bias: &Tensor| if biased { bias.shallow_clone() } else { bias.zeros_like() };
        match &self.low {
            Some((weight, bias)) if x.kind() != Kind::Float => {
                native::linear(x, weight, Some(&biased(bias)), &self.params, self.weights)
            }
            _ => {
                let weight = self.weight.to_kind(Kind::Float);
                native::linear(x, &weight, Some(&biased(&self.bias)), &self.params, self.weights)
            }
        }
    }
}
