//! How long is trained, and on how much at once.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, named, or_empty};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field("max_steps", "Steps", "Ends after so many optimizer steps; epochs are then ignored.", Kind::Number)
        .empty("by epochs"),
    field(
        "gradient_accumulation_steps",
        "Batches a step",
        "Gradients of so many batches are summed before the weights move: a larger batch in the memory of a small one.",
        Kind::Number,
    ),
    field(
        "eval_batch_size",
        "Batch size in evaluation",
        "Rows at once where nothing is learnt.",
        Kind::Number,
    )
    .unit("rows")
    .empty("as in training"),
    field(
        "max_grad_norm",
        "Largest gradient norm",
        "Longer gradients are scaled down to this 2-norm. 0 for no clipping.",
        Kind::Number,
    ),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let training = &spec.training;
    named([
        ("max_steps", or_empty(training.max_steps)),
        ("gradient_accumulation_steps", training.gradient_accumulation_steps.to_string()),
        ("eval_batch_size", or_empty(training.eval_batch_size)),
        ("max_grad_norm", setting(training.max_grad_norm)),
    ])
}
