//! Low-rank adapters: small matrices that are trained beside frozen weights.

use serde::{Deserialize, Serialize};

/// A low-rank adapter (E. J. Hu et al., "LoRA: Low-rank adaptation of large language models", 2021). Beside a frozen
/// `W` `[out, in]` it trains `A` `[rank, in]` and `B` `[out, rank]`, and the layer multiplies by `W + scale · B A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adapter {
    /// Rows of `A`.
    pub rank: u32,
    /// What the adapter is scaled by, before it is divided by the rank.
    pub alpha: f64,
    /// Share of an adapter's inputs that are left out in training.
    pub dropout: f64,
    /// The linear layers that get one.
    pub targets: Targets,
    /// Divides by the root of the rank (D. Kalajdzievski, "A rank stabilization scaling factor for fine-tuning with
    /// LoRA", 2023).
    pub rslora: bool,
    /// Trains the length of each row of `W + scale · B A` on its own (S.-Y. Liu et al., "DoRA: Weight-decomposed
    /// low-rank adaptation", 2024).
    pub dora: bool,
    /// How the frozen weights of linear layers are kept; `None` for as they are.
    pub quantization: Option<Quantization>,
    /// Whether the finished model has the adapter in its weights, instead of beside them.
    pub merge: bool,
}

impl Default for Adapter {
    fn default() -> Self {
        Adapter {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: Targets::All(AllLinear::AllLinear),
            rslora: false,
            dora: false,
            quantization: None,
            merge: false,
        }
    }
}

impl Adapter {
    /// What `B A` is multiplied by.
    pub fn scale(&self) -> f64 {
        let rank = f64::from(self.rank);
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// The linear layers that get an adapter; never those of a new head, which is trained whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `"all-linear"`.
    All(AllLinear),
    /// Those whose names are one of these, or end with a dot and one of these: `["query", "attention.output.dense"]`.
    Named(Vec<String>),
}

impl Targets {
    /// Whether a layer of this name, such as `bert.encoder.layer.0.attention.self.query`, is meant.
    pub fn mean(&self, name: &str) -> bool {
        match self {
            Targets::All(_) => true,
            Targets::Named(names) => names.iter().any(|target| is_named(name, target)),
        }
    }
}

/// Whether `name` is `target` or ends with it after a dot.
pub fn is_named(name: &str, target: &str) -> bool {
    name.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The one word for targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllLinear {
    /// All that the model has.
    AllLinear,
}

/// How frozen weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 4 bits a number and a scale for 64 of them, as bitsandbytes has it (T. Dettmers et al., "QLoRA: Efficient
    /// finetuning of quantized LLMs", 2023).
    Nf4,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_meant_by_the_end_of_their_name() {
        let name = "bert.encoder.layer.0.attention.output.dense";
        let named = |target: &str| Targets::Named(vec![target.to_owned()]).mean(name);
        assert!(named("dense") && named("output.dense") && named(name));
        assert!(!named("put.dense") && !named("query") && !named(""));
        assert!(Targets::All(AllLinear::AllLinear).mean(name));
    }

    #[test]
    fn the_scale_goes_by_the_rank_or_by_its_root() {
        let adapter = Adapter { rank: 16, alpha: 32.0, ..Adapter::default() };
        assert_eq!(adapter.scale(), 2.0);
        assert_eq!(Adapter { rslora: true, ..adapter }.scale(), 8.0);
    }
}
