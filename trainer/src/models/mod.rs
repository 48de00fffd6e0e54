//! The model families: one file each, in the names of its upstream.

mod bart;
mod bert;
mod classifier;
mod decoder;
mod distilbert;
mod encoder_decoder;
mod gemma;
mod gpt2;
mod gpt_neox;
mod llama;
mod roberta;
mod span;
mod t5;
mod tagger;

use anyhow::{Context as _, Result};
use formats::checkpoint::{DECODERS, ENCODER_DECODERS, ENCODERS};
use serde::Deserialize;
use tch::Tensor;

use crate::failure::Failure;
use crate::nn::{Context, Loader, Packing, Path, Vocabulary};

pub use encoder_decoder::{Answering, Sources};

/// The inputs of a text model: the tokens of all sequences, end to end.
pub struct Inputs {
    /// Int64 `[n]`.
    pub input_ids: Tensor,
    /// Which text of a pair, Int64 `[n]`.
    pub token_type_ids: Tensor,
    /// What a decoder reads, Int64 `[m]`, where `packing` has answers.
    pub answer_ids: Option<Tensor>,
    /// Where each sequence lies.
    pub packing: Packing,
}

/// Where a parameter lies between input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Embeddings.
    Embeddings,
    /// Layer, counted from 0 at the input.
    Layer(usize),
    /// Pooler and head; the last norm and the output layer.
    Head,
}

/// A model of text: an encoder with a head, a language model, or an encoder with a decoder.
///
/// The steps are apart so that each can be run, and run again for its gradients, on its own. Of an encoder with a decoder the
/// states are those of all sources and, below them, of all answers, `[n + m, d]`; the last layer gives those of answers alone.
pub trait TextModel {
    /// What enters the first layer: `[n, d]` in the context's kind.
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor;
    /// One layer, counted from 0 at the input: `[n, d]` → `[n, d]`. The last one of a classifier of texts gives the states of
    /// first tokens alone, `[b, d]`: no other is read.
    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor;
    /// What the loss is made of: a classifier's logits, `[b, d]` → `[b, labels]` in fp32, or a tagger's, `[n, d]` → `[n, labels]`;
    /// those of starts and ends, `[n, d]` → `[n, 2]`; a language model's normed states, `[n, d]` → `[n, d]`, for its
    /// [`TextModel::vocabulary`]; the states themselves where there is no head.
    fn head(&self, states: &Tensor, context: &Context) -> Tensor;
    /// By what tokens are told apart, in a language model.
    fn vocabulary(&self) -> Option<&Vocabulary> {
        None
    }
    /// Number of layers.
    fn layers(&self) -> usize;
    /// Where the parameter of this name lies.
    fn depth(&self, name: &str) -> Depth;
    /// The same model as one that answers sources, where it has an encoder and a decoder.
    fn answering(&self) -> Option<&dyn Answering> {
        None
    }
    /// Whether the first and the last step share a parameter.
    fn is_tied(&self) -> bool {
        false
    }

    /// All of it, up to the head.
    fn forward(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let states = self.embed(inputs, context);
        let states = (0..self.layers()).fold(states, |states, number| self.layer(number, &states, context));
        self.head(&states, context)
    }
}

/// What a model is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Logits of so many labels.
    Labels(i64),
    /// The next token.
    Tokens,
    /// The next token of an answer, by an encoder with a decoder.
    Answers,
    /// The states of all tokens, as they are.
    States,
    /// For each token how likely a part of the text begins and ends there.
    Span,
    /// Logits of so many labels for each token.
    TokenLabels(i64),
}

impl Head {
    fn labels(self) -> Option<i64> {
        match self {
            Head::Labels(labels) => Some(labels),
            Head::Tokens | Head::Answers | Head::States | Head::Span | Head::TokenLabels(_) => None,
        }
    }
}

/// What any `config.json` says.
#[derive(Debug, Deserialize)]
pub struct Family {
    /// transformers' name of the architecture.
    pub model_type: String,
}

/// The prefix below which a family's layers live.
pub fn base_of(model_type: &str) -> Result<&'static str> {
    match model_type {
        "bert" => Ok("bert"),
        "roberta" | "xlm-roberta" => Ok("roberta"),
        "distilbert" => Ok("distilbert"),
        "gpt2" => Ok("transformer"),
        "gpt_neox" => Ok("gpt_neox"),
        // Nothing of theirs lies below a name of the whole.
        "t5" | "mt5" => Ok(""),
        name if ENCODER_DECODERS.contains(&name) => Ok("model"),
        name if DECODERS.contains(&name) => Ok("model"),
        other => {
            let all = [ENCODERS.as_slice(), &DECODERS, &ENCODER_DECODERS].concat();
            Err(unsupported(other, &all, ""))
        }
    }
}

fn unsupported(model_type: &str, supported: &[&str], what: &str) -> anyhow::Error {
    let message = format!(
        "config.json: model_type `{model_type}` is not supported{what}; supported are {}.",
        supported.join(", ")
    );
    Failure::user("unsupported_model", message).into()
}

/// Whether the family of `config.json` has a head that finds parts of a text.
///
/// # Errors
/// A [`Failure`] of the user for one that has none.
pub fn check_spans(config: &serde_json::Value) -> Result<()> {
    let Family { model_type } = parse(config)?;
    match ENCODERS.contains(&model_type.as_str()) {
        true => Ok(()),
        false => Err(unsupported(&model_type, &ENCODERS, " for question answering")),
    }
}

/// Builds the model that `config.json` describes, with this head.
///
/// `dropout` takes the place of the configured dropout everywhere.
///
/// # Errors
/// A [`Failure`] of the user for a family that has no such head, or a configuration that is not supported.
pub fn build(
    config: &serde_json::Value,
    loader: &Loader,
    head: Head,
    dropout: Option<f64>,
) -> Result<Box<dyn TextModel>> {
    let family: Family = parse(config)?;
    let (name, root) = (family.model_type.as_str(), loader.root());
    let bad = |error: anyhow::Error| match error.downcast_ref::<Failure>() {
        Some(_) => error,
        None => Failure::user("bad_config", format!("{error}.")).into(),
    };
    if let Head::TokenLabels(labels) = head {
        let inner = build(config, loader, Head::States, dropout)?;
        return Ok(Box::new(tagger::Tagger::new(&root, config, inner, labels, dropout).map_err(bad)?));
    }
    match (name, head) {
        ("bert", Head::Labels(_) | Head::States) => {
            Ok(Box::new(bert::Bert::new(&root, parse(config)?, head.labels(), dropout).map_err(bad)?))
        }
        ("roberta" | "xlm-roberta", Head::Labels(_) | Head::States) => {
            Ok(Box::new(roberta::Roberta::new(&root, parse(config)?, head.labels(), dropout).map_err(bad)?))
        }
        ("distilbert", Head::Labels(_) | Head::States) => {
            let labels = head.labels();
            Ok(Box::new(distilbert::DistilBert::new(&root, parse(config)?, labels, dropout).map_err(bad)?))
        }
        (name, Head::Tokens) if DECODERS.contains(&name) => {
            decoder(config, name, &root, true, dropout).map_err(bad)
        }
        (name, Head::States) if DECODERS.contains(&name) => {
            decoder(config, name, &root, false, dropout).map_err(bad)
        }
        (name, Head::Labels(labels)) if DECODERS.contains(&name) => {
            let inner = decoder(config, name, &root, false, dropout).map_err(bad)?;
            let fields = decoder::Fields(config);
            let width = fields.some("hidden_size").map_or_else(|| fields.size("n_embd"), Ok).map_err(bad)?;
            let std = fields.number("initializer_range", 0.02);
            Ok(Box::new(classifier::Classifier::new(&root, inner, width, labels, std)))
        }
        ("t5" | "mt5", Head::Answers) => Ok(Box::new(t5::build(&root, config, dropout).map_err(bad)?)),
        (name, Head::Answers) if ENCODER_DECODERS.contains(&name) => {
            Ok(Box::new(bart::build(&root, config, dropout).map_err(bad)?))
        }
        (name, Head::Answers) => Err(unsupported(name, &ENCODER_DECODERS, " for text to text")),
        (name, Head::Span) if ENCODERS.contains(&name) => {
            let encoder = build(config, loader, Head::States, dropout)?;
            let fields = decoder::Fields(config);
            let width = fields.some("hidden_size").map_or_else(|| fields.size("dim"), Ok).map_err(bad)?;
            // transformers' default of DistilBERT; the others have none there.
            let own =
                (name == "distilbert").then(|| dropout.unwrap_or_else(|| fields.number("qa_dropout", 0.1)));
            let std = fields.number("initializer_range", 0.02);
            Ok(Box::new(span::Span::new(&root, encoder, width, own, std)))
        }
        (name, Head::Span) => Err(unsupported(name, &ENCODERS, " for question answering")),
        (name, Head::Tokens) => Err(unsupported(name, &DECODERS, " for text generation")),
        (name, _) => Err(unsupported(name, &[ENCODERS.as_slice(), &DECODERS].concat(), "")),
    }
}

/// A decoder up to its last norm, and the output layer where it `foretells` tokens.
fn decoder(
    config: &serde_json::Value,
    name: &str,
    root: &Path<'_>,
    foretells: bool,
    dropout: Option<f64>,
) -> Result<Box<dyn TextModel>> {
    let shape = match name {
        "gpt2" => return Ok(Box::new(gpt2::Gpt2::new(root, config, foretells, dropout)?)),
        "gpt_neox" => return Ok(Box::new(gpt_neox::GptNeoX::new(root, config, foretells, dropout)?)),
        "gemma2" | "gemma3_text" => gemma::shape(config)?,
        _ => llama::shape(config)?,
    };
    Ok(Box::new(decoder::Decoder::new(root, shape, foretells, dropout)))
}

/// Tokens that the model's positions leave room for.
pub fn max_positions(config: &serde_json::Value) -> Option<usize> {
    let field = |name| config.get(name).and_then(serde_json::Value::as_u64);
    let positions = field("max_position_embeddings").or_else(|| field("n_positions"))?;
    let positions = usize::try_from(positions).ok()?;
    match config.get("model_type").and_then(serde_json::Value::as_str) {
        // Positions start after the padding index.
        Some("roberta" | "xlm-roberta") => {
            let padding = usize::try_from(field("pad_token_id").unwrap_or(1)).ok()?;
            positions.checked_sub(padding + 1)
        }
        // Tokens know their distance, not their place: `n_positions` is what the first of them was trained on.
        Some("t5" | "mt5") => None,
        _ => Some(positions),
    }
}

/// Reads a checkpoint's `config.json`.
pub fn read_config(model: &std::path::Path) -> Result<serde_json::Value> {
    let path = model.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::user("no_config", format!("The checkpoint's config.json cannot be read: {error}."))
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::user("bad_config", format!("config.json is not valid JSON: {error}.")).into()
    })
}

/// Reads how a checkpoint says that it writes, where it does: `generation_config.json`.
pub fn generation_config(model: &std::path::Path) -> Result<serde_json::Value> {
    let path = model.join("generation_config.json");
    if !path.is_file() {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_str(&std::fs::read_to_string(&path)?).map_err(|error| {
        Failure::user("bad_config", format!("generation_config.json is not valid JSON: {error}.")).into()
    })
}

fn parse<T: serde::de::DeserializeOwned>(config: &serde_json::Value) -> Result<T> {
    T::deserialize(config)
        .map_err(|error| Failure::user("bad_config", format!("config.json: {error}.")))
        .context("reading config.json")
}

/// The number in `{prefix}{number}.…`.
fn layer_number(name: &str, prefix: &str) -> Option<usize> {
    name.strip_prefix(prefix)?.split('.').next()?.parse().ok()
}
