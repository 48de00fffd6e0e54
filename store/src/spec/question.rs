//! Answering questions by a part of a text.

use serde::{Deserialize, Serialize};

/// How long contexts are cut, and which part is taken for the answer; the names follow transformers' example for questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuestionAnswering {
    /// Tokens of the context that two windows have in common, where one is too short for all of it.
    pub doc_stride: u32,
    /// Tokens of an answer, at most.
    pub max_answer_length: u32,
    /// How many starts and ends of each window are looked at, and how many answers of a question are ranked.
    pub n_best: u32,
    /// How much higher "no answer" has to score than the best answer to be chosen, where questions may have none.
    pub null_score_difference_threshold: f64,
}

impl Default for QuestionAnswering {
    fn default() -> Self {
        QuestionAnswering {
            doc_stride: 128,
            max_answer_length: 30,
            n_best: 20,
            null_score_difference_threshold: 0.0,
        }
    }
}

impl QuestionAnswering {
    /// Tokens of a window where nothing else is said: question, context and special tokens.
    pub const MAX_LENGTH: u32 = 384;
}
