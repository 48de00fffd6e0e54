//! Linear layers, alone or beside each other, in the kind of their input.

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
}

impl Linear {
    /// Takes `weight` `[out, in]` and `bias` `[out]` below `path`; new weights are N(0, `std`), new biases 0.
    pub fn new(path: &Path, inputs: i64, outputs: i64, std: f64) -> Self {
        Self::joined(&[path], inputs, outputs, std)
    }

    /// Layers of one size below each of `paths`, computed as one: `[n, in]` → `[n, paths · out]`.
    pub fn joined(paths: &[&Path], inputs: i64, outputs: i64, std: f64) -> Self {
        let count = paths.len() as i64;
        let weight = paths[0].room(&[count * outputs, inputs]);
        let bias = paths[0].room(&[count * outputs]);
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (at, path) in (0..).zip(paths) {
            let place = |all: &Tensor| all.narrow(0, at * outputs, outputs);
            weights.push(path.param_at("weight", place(&weight), Init::Normal(std)));
            biases.push(path.param_at("bias", place(&bias), Init::Zeros));
        }
        Self::of(paths[0], weights, biases, weight, bias)
    }

    /// The last layer of a head, whose rows belong to labels by name.
    pub fn of_labels(path: &Path, inputs: i64, labels: i64, std: f64) -> Self {
        let weight = path.label_param("weight", &[labels, inputs], Init::Normal(std));
        let bias = path.label_param("bias", &[labels], Init::Zeros);
        let (all, biases) = (weight.detach(), bias.detach());
        Self::of(path, vec![weight], vec![bias], all, biases)
    }

    fn of(path: &Path, weights: Vec<Tensor>, biases: Vec<Tensor>, weight: Tensor, bias: Tensor) -> Self {
        let low = path.low(&weight).map(|low| (low, path.low(&bias).expect("one kind for both")));
        let count = weights.len();
        Linear { params: weights.into_iter().chain(biases).collect(), weights: count, weight, bias, low }
    }

    /// `[n, in]` → `[n, out]`, in the kind of `x`: fp32 by the parameters, else by what is kept in fewer bits.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &self.low {
            Some((weight, bias)) if x.kind() != Kind::Float => {
                native::linear(x, weight, Some(bias), &self.params, self.weights)
            }
            _ => {
                let weight = self.weight.to_kind(Kind::Float);
                native::linear(x, &weight, Some(&self.bias), &self.params, self.weights)
            }
        }
    }
}
