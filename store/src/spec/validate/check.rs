//! Problems as they are found, and the ranges that numbers lie in.

use std::fmt::Display;
use std::ops::RangeBounds;

use super::{SpecError, text_to_text};
use crate::spec::reader::unknown;
use crate::spec::{JobSpec, ProblemType, Task};

/// Problems as they are found.
#[derive(Default)]
pub(super) struct Check(Vec<SpecError>);

impl Check {
    /// All that were found.
    pub(super) fn problems(self) -> Vec<SpecError> {
        self.0
    }

    pub(super) fn add(&mut self, param: &str, message: String) {
        self.0.push(SpecError::new(param, message));
    }

    pub(super) fn that(&mut self, right: bool, param: &str, message: impl FnOnce() -> String) {
        if !right {
            self.0.push(SpecError::new(param, message()));
        }
    }

    /// `allowed` says the range in words.
    pub(super) fn range<T: PartialOrd + Display>(
        &mut self,
        param: &str,
        value: T,
        range: impl RangeBounds<T>,
        allowed: &str,
    ) {
        self.that(range.contains(&value), param, || format!("must be {allowed}, found {value}"));
    }

    pub(super) fn some<T: PartialOrd + Display>(
        &mut self,
        param: &str,
        value: Option<T>,
        range: impl RangeBounds<T>,
        allowed: &str,
    ) {
        if let Some(value) = value {
            self.range(param, value, range, allowed);
        }
    }

    pub(super) fn above(&mut self, param: &str, value: f64, low: f64, high: f64) {
        self.that(value > low && value <= high, param, || {
            format!("must be above {low} and at most {high}, found {value}")
        });
    }

    pub(super) fn metric(&mut self, param: &str, name: &str, spec: &JobSpec) {
        let known = match spec.task {
            Task::TextClassification => metric_names(spec.problem_type),
            Task::QuestionAnswering => ANSWERS.to_vec(),
            Task::TextGeneration if spec.training.preference.is_some() => PREFERENCE.to_vec(),
            Task::TextGeneration => vec!["loss", "perplexity", "mean_token_accuracy"],
            Task::TokenClassification => TAGS.to_vec(),
            Task::SentenceSimilarity if spec.embedding().0.is_scored() => SCORED.to_vec(),
            Task::SentenceSimilarity => {
                // Without negatives there are no triplets.
                let triplets = spec.per_row() > 2;
                RANKED.iter().copied().filter(|name| triplets || *name != "triplet_accuracy").collect()
            }
            Task::Translation | Task::Summarization | Task::TextToText => text_to_text::metrics(spec),
        };
        let plain = name.strip_prefix("eval_").unwrap_or(name);
        self.that(known.contains(&plain), param, || unknown(name, &known));
    }
}

/// Metrics of pairs of answers.
const PREFERENCE: [&str; 5] =
    ["loss", "reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward"];

/// Metrics of answers to questions.
const ANSWERS: [&str; 9] = [
    "loss",
    "exact_match",
    "f1",
    "has_answer_exact_match",
    "has_answer_f1",
    "no_answer_exact_match",
    "no_answer_f1",
    "best_exact_match",
    "best_f1",
];

/// Metrics of vectors by retrieval.
const RANKED: [&str; 9] = [
    "loss",
    "accuracy_at_1",
    "accuracy_at_3",
    "accuracy_at_5",
    "accuracy_at_10",
    "mrr_at_10",
    "ndcg_at_10",
    "map_at_100",
    "triplet_accuracy",
];

/// Metrics of tags: of entities by conlleval's rule, by the strict one, and of words.
const TAGS: [&str; 8] =
    ["loss", "precision", "recall", "f1", "strict_precision", "strict_recall", "strict_f1", "accuracy"];

/// Metrics of vectors by scores.
const SCORED: [&str; 3] = ["loss", "pearson", "spearman"];

/// Metrics of an evaluation, by what a label is; `loss` is in all of them.
fn metric_names(problem_type: Option<ProblemType>) -> Vec<&'static str> {
    const SINGLE: &[&str] = &[
        "accuracy",
        "precision",
        "recall",
        "f1",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "f1_micro",
        "precision_weighted",
        "recall_weighted",
        "f1_weighted",
        "matthews_correlation",
        "roc_auc",
    ];
    const MULTI: &[&str] = &[
        "subset_accuracy",
        "precision",
        "recall",
        "f1",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "precision_micro",
        "recall_micro",
        "f1_micro",
        "precision_weighted",
        "recall_weighted",
        "f1_weighted",
        "precision_samples",
        "recall_samples",
        "f1_samples",
        "roc_auc",
    ];
    const NUMBER: &[&str] = &["mse", "rmse", "mae", "r2", "pearson", "spearman"];
    let mut names = vec!["loss"];
    let parts: &[&[&str]] = match problem_type {
        Some(ProblemType::SingleLabel) => &[SINGLE],
        Some(ProblemType::MultiLabel) => &[MULTI],
        Some(ProblemType::Regression) => &[NUMBER],
        None => &[SINGLE, MULTI, NUMBER],
    };
    for name in parts.concat() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
