//! The tasks: one file each, with its loss, its metrics, and what is shown and written of it.

pub mod preference;
pub mod question_answering;
pub mod sentence_similarity;
pub mod spans;
pub mod text_classification;
pub mod text_generation;
pub mod text_to_text;
pub mod token_classification;
pub mod unpaired;

use std::path::Path;

use anyhow::Result;
use formats::tokenizer::Tokenizer;
use serde_json::Value;
use tch::Tensor;

use crate::data::{Batch, Split, Tagged};
use crate::generate::Writing;
use crate::metrics::Metrics;
use crate::models::{Head, TextModel};

/// What the rows of a split are to be taken for.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// A label id a row.
    Classes(Vec<usize>),
    /// Whether a row has each label, `[rows, labels]` row by row.
    Flags(Vec<bool>),
    /// A number a row.
    Numbers(Vec<f64>),
    /// Its own tokens, each foretold by those before it.
    Tokens,
    /// The same, of answers each of which is desirable or not.
    Answers(Vec<bool>),
    /// Near or far by the places of its texts, or a number a row that says how near two texts are.
    Nearness(Vec<f64>),
    /// Where the answer to a question stands; a row is a window over its context.
    Spans(spans::Spans),
    /// Words with a tag each.
    Tags(Vec<Tagged>),
}

impl Targets {
    /// Those of some of `all` rows.
    pub fn of_rows(&self, rows: &[usize], all: usize) -> Targets {
        match self {
            Targets::Classes(ids) => Targets::Classes(rows.iter().map(|&row| ids[row]).collect()),
            Targets::Flags(flags) => {
                let labels = flags.len() / all.max(1);
                Targets::Flags(
                    rows.iter().flat_map(|row| &flags[row * labels..][..labels]).copied().collect(),
                )
            }
            Targets::Numbers(numbers) => Targets::Numbers(rows.iter().map(|&row| numbers[row]).collect()),
            Targets::Tokens => Targets::Tokens,
            Targets::Answers(answers) => Targets::Answers(rows.iter().map(|&row| answers[row]).collect()),
            Targets::Tags(tagged) => Targets::Tags(rows.iter().map(|&row| tagged[row].clone()).collect()),
            // Near by their places, where no number says how near.
            Targets::Nearness(scores) if scores.is_empty() => Targets::Nearness(Vec::new()),
            Targets::Spans(spans) => Targets::Spans(spans.of_windows(rows)),
            Targets::Nearness(scores) => Targets::Nearness(rows.iter().map(|&row| scores[row]).collect()),
        }
    }
}

/// What the model said of a split.
#[derive(Clone, Debug, Default)]
pub struct Predictions {
    /// `[rows, outputs]`, row by row: a classifier's logits; how many tokens of a row count, and how many were right; the
    /// vectors of a row's texts; the likeliest starts and ends of an answer.
    pub outputs: Vec<f32>,
    /// Loss of each row, not divided by anything.
    pub losses: Vec<f64>,
    /// `[rows, outputs]` of each row's prompt with the answer of another; none where nobody asks.
    pub mismatched: Vec<f32>,
    /// What was written, where the task writes.
    pub written: Option<Written>,
}

/// Texts that the model wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// The rows that they are for, in their order.
    pub rows: Vec<usize>,
    /// The texts.
    pub texts: Vec<String>,
    /// Tokens of each.
    pub tokens: Vec<usize>,
}

/// What a model gave for a batch.
pub struct Given<'a> {
    /// The model.
    pub model: &'a dyn TextModel,
    /// What its head gave.
    pub top: &'a Tensor,
    /// Where the rows are from.
    pub split: &'a Split,
    /// The rows.
    pub rows: &'a [usize],
    /// The same as tensors.
    pub batch: &'a Batch,
}

/// What a model is trained for.
///
/// A loss is summed over rows (or tokens) and divided once by the weight of all rows of the optimizer step, so that
/// accumulation and unequal batches give the mean over the rows (or tokens).
pub trait Objective {
    /// What the model is to give.
    fn head(&self) -> Head;

    /// Names of what is told apart; none where that has no names.
    fn labels(&self) -> &[String] {
        &[]
    }

    /// Whether rows are compared with what the model said of them when training began.
    fn has_reference(&self) -> bool {
        false
    }

    /// Whether the loss of a row depends on the other rows of its batch, which is then never cut.
    fn couples_rows(&self) -> bool {
        false
    }

    /// What the summed loss of these rows is divided by; asked of all rows of a step before its passes.
    fn weight(&self, split: &Split, rows: &[usize]) -> f64;

    /// Takes what the model says, before the passes of a step, of its rows' prompts with the answers of others,
    /// `[rows, outputs]`; asked for where the split has such.
    fn ahead(&self, _split: &Split, _rows: &[usize], _said: &[f32]) {}

    /// What a step told beside its loss.
    fn told(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// How much of what [`Objective::weight`] counts this process had right in the passes since it was last asked; `None` where
    /// that is not looked at.
    fn right(&self) -> Option<Tensor> {
        None
    }

    /// The summed loss of a batch, times `by`.
    fn loss(&self, of: &Given, by: f64) -> Tensor;

    /// How texts are written at an evaluation, by which tokenizer, and of how many rows at most while the model is in training;
    /// `None` where nothing is written.
    fn writes(&self) -> Option<(&Writing, &Tokenizer, usize)> {
        None
    }

    /// How many numbers an evaluation keeps of a row.
    fn outputs(&self) -> usize;

    /// Those numbers, and the loss of each row.
    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)>;

    /// The metrics of a split.
    fn metrics(&self, split: &Split, predictions: &Predictions) -> Result<Metrics>;

    /// Some rows with what the model said of them, as the event `examples` has them; none where they would say little.
    fn examples(&self, _split: &Split, _predictions: &Predictions, _seed: u64) -> Option<Value> {
        None
    }

    /// What the model said of each row, as CSV.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String>;

    /// For each label its row in the head of a checkpoint with this `config.json`, where that head is kept.
    fn kept_head(&self, _config: &Value) -> Option<Vec<i64>> {
        None
    }

    /// The base model's `config.json`, as the tuned model has it.
    fn tuned_config(&self, base: &Value) -> Result<Value>;

    /// Tensors of the base that are no part of what is trained, and go with the tuned model as they are, by the start of
    /// their names below the encoder.
    fn carries(&self) -> &'static [&'static str] {
        &[]
    }

    /// Files beside the checkpoint, by name, beside those that every task has.
    fn files(&self, _base: &Path, _config: &Value) -> Vec<(String, Value)> {
        Vec::new()
    }

    /// The library that the model is used with, and its tags, for the card.
    fn library(&self) -> (&'static str, &'static [&'static str]) {
        ("transformers", &[])
    }

    /// peft's name of the task.
    fn peft_task(&self) -> &'static str;

    /// How the finished model is used from Python, for its card: an adapter beside its base, or a checkpoint.
    fn usage(&self, adapter: bool) -> &'static str;
}
