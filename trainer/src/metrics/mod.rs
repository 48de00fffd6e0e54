//! What an evaluation says, in plain Rust on slices.
//!
//! The numbers are scikit-learn's and scipy's, undefined cases included (`tests/fixtures/make_metrics.py` writes what they
//! give). Where scikit-learn warns and puts 0 for 0/0, the value here is 0; where it gives nan, the value is `None`; both
//! are explained in [`Metrics::undefined`].
//!
//! - [`SingleLabel`], [`MultiLabel`], [`Regression`], [`LanguageModel`], [`Preferences`], [`Answers`], [`Squad`], [`Tagging`] turn
//!   predictions into [`Metrics`].
//! - [`best`] picks the best checkpoint and decides when to stop early.
//! - [`examples`] picks the predictions to show.

mod answers;
pub mod best;
mod counts;
mod direction;
pub mod examples;
mod language_model;
mod multi_label;
mod preferences;
mod rank;
mod regression;
mod retrieval;
mod single_label;
mod squad;
mod tagging;
mod values;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use answers::Answers;
pub use direction::higher_is_better;
pub use language_model::LanguageModel;
pub use multi_label::MultiLabel;
pub use preferences::Preferences;
pub use regression::Regression;
pub use retrieval::{Retrieval, Scores};
pub use single_label::SingleLabel;
pub use squad::{Squad, exact_match, f1};
pub use tagging::Tagging;
pub use values::Values;

/// The outcome of one evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Metrics by name, in the order in which they are shown; `None` where a metric is undefined for these rows.
    pub values: Values,
    /// One entry per label, in the order of the label map; empty for a regression.
    pub per_class: Vec<PerClass>,
    /// Rows are gold labels, columns predicted ones; for single-label classification only.
    pub confusion_matrix: Option<Vec<Vec<u64>>>,
    /// Why a value is `None`, or 0 by convention, one sentence each.
    pub undefined: Vec<String>,
}

impl Metrics {
    /// The value of a metric; `None` when it is undefined or not among the metrics of this task.
    ///
    /// The prefixes `eval_` and `test_` are optional.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name)
    }

    /// A value that a task has beside these.
    pub fn add(&mut self, name: &str, value: f64) {
        self.put(name, value);
    }

    fn put(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.values.set(name, Some(value));
        } else {
            self.values.set(name, None);
            self.undefined.push(format!("{name} is not finite."));
        }
    }

    fn put_undefined(&mut self, name: &str, why: String) {
        self.values.set(name, None);
        self.undefined.push(why);
    }

    fn put_loss(&mut self, loss: Option<f64>) {
        if let Some(loss) = loss {
            self.put("loss", loss);
        }
    }
}

/// The scores of one label, taken against all others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerClass {
    /// The label's name.
    pub label: String,
    /// Share of the rows predicted as this label that have it; 0 where no row was predicted as it.
    pub precision: f64,
    /// Share of the rows with this label that were predicted as it; 0 where no row has it.
    pub recall: f64,
    /// `2·tp / (2·tp + fp + fn)`; 0 where the label is neither in the data nor predicted.
    pub f1: f64,
    /// Area under the ROC curve of this label's score; `None` where the rows all have it or all lack it.
    pub roc_auc: Option<f64>,
    /// Rows that have this label.
    pub support: u64,
    /// Rows that were predicted as it.
    pub predicted: u64,
}

/// The inputs of an evaluation do not fit together: a fault of the caller.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InputError {
    /// A slice has another length than the rows demand.
    #[error("{what}: {found} values where {expected} are needed")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A label id beyond the label map.
    #[error("{what}: row {row} has label id {id}, but there are {labels} labels")]
    Label {
        /// Which slice.
        what: &'static str,
        /// Index into the slice.
        row: usize,
        /// The id found there.
        id: usize,
        /// How many labels there are.
        labels: usize,
    },
}

fn expect_length(what: &'static str, found: usize, expected: usize) -> Result<(), InputError> {
    if found == expected { Ok(()) } else { Err(InputError::Length { what, found, expected }) }
}

/// Index of the largest value of each row (the first of equals).
///
/// `scores` is `[rows, labels]`, row by row; logits and probabilities give the same answer.
pub fn argmax_rows(scores: &[f32], labels: usize) -> Vec<usize> {
    let largest = |row: &[f32]| (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    scores.chunks_exact(labels.max(1)).map(largest).collect()
}

/// Probabilities of each row, `[rows, labels]` as the logits; computed in f64, so that saturated rows keep their order.
pub fn softmax_rows(logits: &[f32], labels: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(labels.max(1)) {
        let top = row.iter().fold(f64::NEG_INFINITY, |top, &x| top.max(f64::from(x)));
        let exp = row.iter().map(|&x| (f64::from(x) - top).exp());
        let sum: f64 = exp.clone().sum();
        out.extend(exp.map(|e| e / sum));
    }
    out
}

/// `1 / (1 + exp(−x))` of every logit.
pub fn sigmoid(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&x| 1.0 / (1.0 + (-f64::from(x)).exp())).collect()
}

/// Which labels a multi-label model assigns: those with a probability above one half.
///
/// Taken from the logits, where "above one half" is "above zero" and nothing is lost by rounding.
pub fn above_half(logits: &[f32]) -> Vec<bool> {
    logits.iter().map(|&x| x > 0.0).collect()
}
