//! The course of the learning rate.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, named, or_empty, word};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "lr_scheduler.name",
        "Schedule",
        "The course of the learning rate after the warm-up, as transformers has it.",
        Kind::Choice(&[
            ("linear", "Linear to 0"),
            ("cosine", "Cosine"),
            ("polynomial", "Polynomial"),
            ("constant", "Constant"),
        ]),
    ),
    field(
        "lr_scheduler.warmup_ratio",
        "Warm-up, as a share",
        "Share of all steps in which the learning rate climbs from 0. 0.06 to 0.1 is usual.",
        Kind::Number,
    )
    .empty("none"),
    field(
        "lr_scheduler.warmup_steps",
        "Warm-up, in steps",
        "The same as a number of steps; give one of the two.",
        Kind::Number,
    )
    .empty("none"),
    field("lr_scheduler.power", "Power", "Exponent of the polynomial.", Kind::Number)
        .when("lr_scheduler.name=polynomial"),
    field(
        "lr_scheduler.end_learning_rate",
        "Ends at",
        "Learning rate at the end of the polynomial.",
        Kind::Number,
    )
    .when("lr_scheduler.name=polynomial"),
    field("lr_scheduler.cycles", "Cycles", "Periods of the cosine; 0.5 falls to 0 once.", Kind::Number)
        .when("lr_scheduler.name=cosine"),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let schedule = &spec.training.lr_scheduler;
    named([
        ("lr_scheduler.name", word(schedule.name)),
        ("lr_scheduler.warmup_ratio", schedule.warmup_ratio.map(setting).unwrap_or_default()),
        ("lr_scheduler.warmup_steps", or_empty(schedule.warmup_steps)),
        ("lr_scheduler.power", setting(schedule.power)),
        ("lr_scheduler.end_learning_rate", setting(schedule.end_learning_rate)),
        ("lr_scheduler.cycles", setting(schedule.cycles)),
    ])
}
