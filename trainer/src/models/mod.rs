//! The model families: one file each, in the names of its upstream.

mod bert;
mod distilbert;
mod roberta;

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tch::Tensor;

use crate::failure::Failure;
use crate::nn::{Context, Loader, Packing};

/// The inputs of a text model: the tokens of all sequences, end to end.
pub struct Inputs {
    /// Int64 `[n]`.
    pub input_ids: Tensor,
    /// Which text of a pair, Int64 `[n]`.
    pub token_type_ids: Tensor,
    /// Where each sequence lies.
    pub packing: Packing,
}

/// Where a parameter lies between input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Embeddings.
    Embeddings,
    /// Encoder layer, counted from 0 at the input.
    Layer(usize),
    /// Pooler and head.
    Head,
}

/// An encoder of text with a sequence-classification head.
///
/// The steps are apart so that each can be run, and run again for its gradients, on its own.
pub trait TextModel {
    /// What enters the first layer: `[n, d]` in the context's kind.
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor;
    /// One encoder layer, counted from 0 at the input: `[n, d]` → `[n, d]`. The last one gives the states of first
    /// tokens alone, `[b, d]`: no other is read.
    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor;
    /// States of first tokens `[b, d]` → logits `[b, labels]`, fp32.
    fn classify(&self, states: &Tensor, context: &Context) -> Tensor;
    /// Number of encoder layers.
    fn layers(&self) -> usize;
    /// Where the parameter of this name lies.
    fn depth(&self, name: &str) -> Depth;

    /// All of it: logits `[b, labels]`, fp32.
    fn forward(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let states = self.embed(inputs, context);
        let states = (0..self.layers()).fold(states, |states, number| self.layer(number, &states, context));
        self.classify(&states, context)
    }
}

/// What any `config.json` says.
#[derive(Debug, Deserialize)]
pub struct Family {
    /// transformers' name of the architecture.
    pub model_type: String,
}

/// The families that can be trained, by `model_type`.
pub const SUPPORTED: [&str; 4] = ["bert", "roberta", "xlm-roberta", "distilbert"];

/// The prefix below which a family's encoder lives.
pub fn base_of(model_type: &str) -> Result<&'static str> {
    match model_type {
        "bert" => Ok("bert"),
        "roberta" | "xlm-roberta" => Ok("roberta"),
        "distilbert" => Ok("distilbert"),
        other => Err(Failure::user(
            "unsupported_model",
            format!(
                "config.json: model_type `{other}` is not supported; supported are {}.",
                SUPPORTED.join(", ")
            ),
        )
        .into()),
    }
}

/// Builds the model that `config.json` describes, with a head of `labels` outputs.
///
/// `dropout` takes the place of the configured dropout everywhere.
pub fn build(
    config: &serde_json::Value,
    loader: &Loader,
    labels: i64,
    dropout: Option<f64>,
) -> Result<Box<dyn TextModel>> {
    let family: Family = parse(config)?;
    Ok(match family.model_type.as_str() {
        "bert" => Box::new(bert::Bert::new(&loader.root(), parse(config)?, labels, dropout)?),
        "roberta" | "xlm-roberta" => {
            Box::new(roberta::Roberta::new(&loader.root(), parse(config)?, labels, dropout)?)
        }
        "distilbert" => {
            Box::new(distilbert::DistilBert::new(&loader.root(), parse(config)?, labels, dropout)?)
        }
        other => return Err(base_of(other).expect_err("known families are built above")),
    })
}

/// Tokens that the model's positions leave room for.
pub fn max_positions(config: &serde_json::Value) -> Option<usize> {
    let field = |name| config.get(name).and_then(serde_json::Value::as_u64);
    let positions = usize::try_from(field("max_position_embeddings")?).ok()?;
    match config.get("model_type").and_then(serde_json::Value::as_str) {
        // Positions start after the padding index.
        Some("roberta" | "xlm-roberta") => {
            let padding = usize::try_from(field("pad_token_id").unwrap_or(1)).ok()?;
            positions.checked_sub(padding + 1)
        }
        _ => Some(positions),
    }
}

/// Reads a checkpoint's `config.json`.
pub fn read_config(model: &Path) -> Result<serde_json::Value> {
    let path = model.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::user("no_config", format!("The checkpoint's config.json cannot be read: {error}."))
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::user("bad_config", format!("config.json is not valid JSON: {error}.")).into()
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
