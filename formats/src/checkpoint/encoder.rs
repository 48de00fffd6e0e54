//! The tensors that an encoder of a supported model type must have, and their shapes.
//!
//! Names and shapes are those of transformers' `modeling_bert.py`, `modeling_roberta.py`, `modeling_xlm_roberta.py` and
//! `modeling_distilbert.py`. Heads and poolers are not looked at: they may be made anew.

use super::config::Config;
use super::weights::Weights;
use crate::problem::{Problem, ProblemKind};

/// Names, below the encoder's prefix, and shapes of the tensors that an encoder of this configuration has.
///
/// # Errors
/// [`ProblemKind::Config`] where a size is not given.
pub fn encoder_tensors(config: &Config) -> Result<Vec<(String, Vec<u64>)>, Problem> {
    let distilbert = config.model_type.as_deref() == Some("distilbert");
    let names = if distilbert { &DISTILBERT } else { &BERT };
    Ok(names.expected(&Sizes::of(config, distilbert)?))
}

/// Tensors that are absent, or have another shape than the configuration says.
pub(super) fn check(config: &Config, weights: &Weights) -> Vec<Problem> {
    let model_type = config.model_type.as_deref().unwrap_or_default();
    let names = if model_type == "distilbert" { &DISTILBERT } else { &BERT };
    let sizes = match Sizes::of(config, model_type == "distilbert") {
        Ok(sizes) => sizes,
        Err(problem) => return vec![problem],
    };
    let sought = |(name, shape): (String, Vec<u64>)| {
        // Layer norms have other names in checkpoints of old.
        let old =
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        let under = |prefix: &&str| [format!("{prefix}{name}"), format!("{prefix}{old}")];
        Sought { names: names.prefixes.iter().flat_map(under).collect(), name, shape }
    };
    lacking(weights, names.expected(&sizes).into_iter().map(sought))
}

/// A tensor that must be there.
pub(super) struct Sought {
    /// Its name.
    pub name: String,
    /// The names that it may have in a file.
    pub names: Vec<String>,
    pub shape: Vec<u64>,
}

/// What is wrong with those that are sought.
pub(super) fn lacking(weights: &Weights, sought: impl Iterator<Item = Sought>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for Sought { name, names, shape } in sought {
        let found = names.into_iter().find_map(|name| {
            let shape = weights.info(&name).map(|info| info.shape.clone())?;
            Some((name, shape))
        });
        match found {
            None => problems.push(problem(weights, format!("the tensor `{name}` is missing"))),
            Some((found, has)) if has != shape => {
                let message =
                    format!("the tensor `{found}` has the shape {has:?}, config.json says {shape:?}");
                problems.push(problem(weights, message));
            }
            Some(_) => {}
        }
    }
    problems
}

fn problem(weights: &Weights, message: String) -> Problem {
    let file = weights.files().next().map_or("checkpoint", |(name, _)| name);
    Problem::new(ProblemKind::Tensor, file, message)
        .hint("upload the config.json that belongs to these weights")
}

/// A size that has to be given.
pub(super) fn need(size: Option<u64>, name: &str) -> Result<u64, Problem> {
    size.filter(|size| *size > 0).ok_or_else(|| {
        Problem::new(ProblemKind::Config, "config.json", format!("the size `{name}` is not given"))
            .in_column(name)
            .hint("upload the original config.json")
    })
}

struct Sizes {
    hidden: u64,
    layers: u64,
    intermediate: u64,
    vocab: u64,
    positions: u64,
    types: Option<u64>,
}

impl Sizes {
    fn of(config: &Config, distilbert: bool) -> Result<Self, Problem> {
        let names = if distilbert {
            ["dim", "n_layers", "hidden_dim", "n_heads"]
        } else {
            ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"]
        };
        let hidden = need(config.hidden_size, names[0])?;
        let heads = need(config.num_attention_heads, names[3])?;
        if hidden % heads != 0 {
            let message = format!("{heads} attention heads do not divide the width of {hidden}");
            return Err(Problem::new(ProblemKind::Config, "config.json", message).in_column(names[3]));
        }
        Ok(Self {
            hidden,
            layers: need(config.num_hidden_layers, names[1])?,
            intermediate: need(config.intermediate_size, names[2])?,
            vocab: need(config.vocab_size, "vocab_size")?,
            positions: need(config.max_position_embeddings, "max_position_embeddings")?,
            types: if distilbert { None } else { Some(need(config.type_vocab_size, "type_vocab_size")?) },
        })
    }
}

/// Where a family keeps its tensors.
struct Names {
    prefixes: &'static [&'static str],
    layer: &'static str,
    /// Linear layers of the width of the hidden states, below a layer.
    square: &'static [&'static str],
    widening: &'static str,
    narrowing: &'static str,
    norms: &'static [&'static str],
}

const BERT: Names = Names {
    prefixes: &["", "bert.", "roberta."],
    layer: "encoder.layer",
    square: &["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"],
    widening: "intermediate.dense",
    narrowing: "output.dense",
    norms: &["attention.output.LayerNorm", "output.LayerNorm"],
};

const DISTILBERT: Names = Names {
    prefixes: &["", "distilbert."],
    layer: "transformer.layer",
    square: &["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"],
    widening: "ffn.lin1",
    narrowing: "ffn.lin2",
    norms: &["sa_layer_norm", "output_layer_norm"],
};

impl Names {
    fn expected(&self, sizes: &Sizes) -> Vec<(String, Vec<u64>)> {
        let Sizes { hidden, layers, intermediate, vocab, positions, types } = *sizes;
        let mut expected = vec![
            ("embeddings.word_embeddings.weight".to_owned(), vec![vocab, hidden]),
            ("embeddings.position_embeddings.weight".to_owned(), vec![positions, hidden]),
            ("embeddings.LayerNorm.weight".to_owned(), vec![hidden]),
            ("embeddings.LayerNorm.bias".to_owned(), vec![hidden]),
        ];
        expected.extend(
            types.map(|types| ("embeddings.token_type_embeddings.weight".to_owned(), vec![types, hidden])),
        );
        for layer in 0..layers.min(10_000) {
            let at = |part: &str, leaf: &str| format!("{}.{layer}.{part}.{leaf}", self.layer);
            let mut linear = |part: &str, output: u64, input: u64| {
                expected.push((at(part, "weight"), vec![output, input]));
                expected.push((at(part, "bias"), vec![output]));
            };
            self.square.iter().for_each(|part| linear(part, hidden, hidden));
            linear(self.widening, intermediate, hidden);
            linear(self.narrowing, hidden, intermediate);
            for part in self.norms {
                expected.push((at(part, "weight"), vec![hidden]));
                expected.push((at(part, "bias"), vec![hidden]));
            }
        }
        expected
    }
}
