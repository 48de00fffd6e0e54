//! How words carry their tags.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, flag, named};

pub(super) const SETTINGS: &[Setting] = &[field(
    "label_all_tokens",
    "Tag every token of a word",
    "A word's later tokens count in the loss as well. Without it the first one alone does, as is usual; scores go by words \
     either way.",
    Kind::Flag,
)];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    named([("label_all_tokens", flag(spec.training.label_all_tokens))])
}
