//! Evaluation and checkpoints.

use serde_json::{Map, Value};
use store::spec::{Every, JobSpec};

use super::{Kind, Setting, Values, field, named, or_empty};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field("eval_every.count", "Evaluate every", "The validation rows are looked at this often, and at the end.", Kind::Number),
    field(
        "eval_every.unit",
        "Counted in",
        "What the interval counts.",
        Kind::Choice(&[("epochs", "Epochs"), ("steps", "Steps")]),
    ),
    field(
        "best_metric",
        "Best checkpoint by",
        "The metric that chooses the weights you get: loss, accuracy, f1, f1_macro, matthews_correlation, r2, …; of a language model loss, perplexity or mean_token_accuracy; of vectors ndcg_at_10, mrr_at_10, accuracy_at_1, or spearman where pairs have scores; of answers f1 or exact_match; of targets bleu, chrf, ter, rouge1, rougeL, exact_match.",
        Kind::Text,
    )
    .empty("loss; of vectors ndcg_at_10 or spearman, of answers f1, of translations bleu, of summaries rougeL"),
    field(
        "early_stopping.patience",
        "Stop early after",
        "Ends the run when so many evaluations in a row bring nothing better.",
        Kind::Number,
    )
    .unit("evaluations")
    .empty("never"),
    field("early_stopping.metric", "Early stopping by", "The metric that it watches.", Kind::Text).empty("as above"),
    field("early_stopping.min_delta", "Smallest improvement", "A change below this does not count as better.", Kind::Number),
    field("keep_checkpoints", "Checkpoints kept", "The newest ones that are kept beside the best.", Kind::Number),
    field(
        "checkpoint_every",
        "Checkpoint every",
        "Beside those at evaluations and after ten minutes. A run that is cut off goes on from the newest.",
        Kind::Number,
    )
    .unit("steps")
    .empty("as needed"),
    field("log_every", "Point of the curve every", "Steps between two points of the training curve.", Kind::Number)
        .unit("steps")
        .empty("1, or more in long runs"),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let training = &spec.training;
    let (count, unit) = match training.eval_every {
        Every::Steps(steps) => (steps.to_string(), "steps"),
        Every::Epochs(epochs) => (setting(epochs), "epochs"),
    };
    let early = training.early_stopping.as_ref();
    named([
        ("eval_every.count", count),
        ("eval_every.unit", unit.to_owned()),
        ("early_stopping.patience", early.map(|early| early.patience.to_string()).unwrap_or_default()),
        ("early_stopping.metric", early.and_then(|early| early.metric.clone()).unwrap_or_default()),
        ("early_stopping.min_delta", early.map_or("0".to_owned(), |early| setting(early.min_delta))),
        ("best_metric", training.best_metric.clone().unwrap_or_default()),
        ("keep_checkpoints", training.keep_checkpoints.to_string()),
        ("checkpoint_every", or_empty(training.checkpoint_every)),
        ("log_every", or_empty(training.log_every)),
    ])
}

/// Makes the API's fields of those that the form has in pieces.
pub(super) fn join(fields: &mut Map<String, Value>) {
    if let Some(mut every) = fields.remove("eval_every") {
        let unit = every["unit"].as_str().unwrap_or("epochs").to_owned();
        if let Some(count) = every.get_mut("count").map(Value::take) {
            fields.insert("eval_every".to_owned(), Value::Object(Map::from_iter([(unit, count)])));
        }
    }
    if fields.get("early_stopping").is_some_and(|early| early.get("patience").is_none()) {
        fields.remove("early_stopping");
    }
}
