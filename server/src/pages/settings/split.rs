//! Rows held out, and seeds.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, flag, named};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "validation_split.fraction",
        "Held out for validation",
        "Share of the rows, where no validation data is chosen.",
        Kind::Number,
    ),
    field(
        "validation_split.test_fraction",
        "Held out for the test",
        "Share of the rows that is evaluated once, at the end. 0 for none.",
        Kind::Number,
    ),
    field(
        "validation_split.stratify",
        "Keep the shares of the classes",
        "Each class has the same share in every part.",
        Kind::Flag,
    )
    .when("task=text-classification"),
    field("validation_split.seed", "Seed of the split", "Another seed holds out other rows.", Kind::Number),
    field(
        "seed",
        "Seed of the run",
        "New weights of the head, order of the rows, dropout. The same seed gives the same weights.",
        Kind::Number,
    )
    .empty("drawn"),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    named([
        ("validation_split.fraction", setting(spec.split.fraction)),
        ("validation_split.test_fraction", setting(spec.split.test_fraction)),
        ("validation_split.stratify", flag(spec.split.stratify)),
        ("validation_split.seed", spec.split.seed.to_string()),
        ("seed", spec.seed.to_string()),
    ])
}
