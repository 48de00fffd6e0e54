//! How questions are answered.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, named};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "question_answering.doc_stride",
        "Overlap of windows",
        "A context that is too long for the model is cut into windows, which have so many tokens in common: an answer that one \
         of them cuts is whole in another.",
        Kind::Number,
    )
    .unit("tokens"),
    field(
        "question_answering.max_answer_length",
        "Longest answer",
        "Longer parts of a context are not taken for an answer.",
        Kind::Number,
    )
    .unit("tokens"),
    field(
        "question_answering.n_best",
        "Answers ranked",
        "How many of the likeliest starts and ends of each window are looked at.",
        Kind::Number,
    ),
    field(
        "question_answering.null_score_difference_threshold",
        "Threshold of no answer",
        "How much higher \"no answer\" has to score than the best answer to be chosen, where questions may have none.",
        Kind::Number,
    ),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let settings = spec.question_answering();
    named([
        ("question_answering.doc_stride", settings.doc_stride.to_string()),
        ("question_answering.max_answer_length", settings.max_answer_length.to_string()),
        ("question_answering.n_best", settings.n_best.to_string()),
        (
            "question_answering.null_score_difference_threshold",
            setting(settings.null_score_difference_threshold),
        ),
    ])
}
