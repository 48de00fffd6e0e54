//! What is trained.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, flag, named};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "freeze.except_head",
        "Train the head alone",
        "All other weights stay as they are: fast, and less exact.",
        Kind::Flag,
    ),
    field("freeze.embeddings", "Freeze the embeddings", "Words keep their vectors.", Kind::Flag),
    field(
        "freeze.first_layers",
        "Frozen layers",
        "So many layers, counted from the embeddings, stay as they are.",
        Kind::Number,
    ),
    field(
        "freeze.pattern",
        "Frozen names",
        "A regular expression; weights whose name it matches stay as they are.",
        Kind::Text,
    )
    .empty("none"),
    field(
        "layer_decay",
        "Layer-wise decay",
        "Factor of the learning rate for each layer further from the head. 1 for the same everywhere; 0.9 is a common choice.",
        Kind::Number,
    ),
    field("dropout", "Dropout", "Share of activations left out in training.", Kind::Number)
        .empty("as the checkpoint"),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let training = &spec.training;
    let freeze = &training.freeze;
    named([
        ("freeze.except_head", flag(freeze.except_head)),
        ("freeze.embeddings", flag(freeze.embeddings)),
        ("freeze.first_layers", freeze.first_layers.to_string()),
        ("freeze.pattern", freeze.pattern.clone().unwrap_or_default()),
        ("layer_decay", setting(training.layer_decay)),
        ("dropout", training.dropout.map(setting).unwrap_or_default()),
    ])
}
