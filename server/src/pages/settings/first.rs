//! What is shown first.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, named, or_empty};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field("name", "Name", "What this run is called in lists.", Kind::Text).empty("optional"),
    field("n_epochs", "Epochs", "Passes over the training rows. With auto 3, or more where rows are few.", Kind::Auto),
    field(
        "batch_size",
        "Batch size",
        "Rows that are looked at together. With auto 32, or fewer where rows are few. Halve it when memory runs out.",
        Kind::Auto,
    )
    .unit("rows"),
    field(
        "learning_rate",
        "Learning rate",
        "How far each step goes, at the peak of the schedule. With auto 5e-5, and 2e-4 for an adapter.",
        Kind::Auto,
    ),
    field(
        "max_length",
        "Longest text",
        "Longer ones are cut. Empty for the model's own limit, at most 512, or 1,024 for a language model. Shorter is faster.",
        Kind::Number,
    )
    .unit("tokens")
    .empty("as the model"),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let training = &spec.training;
    named([
        ("n_epochs", setting(training.epochs)),
        ("batch_size", training.batch_size.to_string()),
        ("learning_rate", setting(training.learning_rate)),
        ("max_length", or_empty(training.max_length)),
    ])
}
