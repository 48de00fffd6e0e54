//! Answers to questions.

use std::sync::Arc;

use anyhow::Result;
use formats::dataset::questions::Question;
use formats::problem::LineRange;
use formats::tokenizer::WindowError;
use serde_json::{Value, json};
use store::spec::QuestionAnswering;

use super::{Input, Predictor};
use crate::data::Tokens;
use crate::failure::Failure;
use crate::tasks::question_answering::{self, SETTINGS};
use crate::tasks::spans::{self, Candidate, Choice, Ranking, Spans, rank};

/// Answers that are told of, the chosen one among them.
const TOLD: usize = 5;

/// How questions are answered.
pub(super) struct Answering {
    choice: Choice,
    max_length: usize,
    stride: usize,
}

impl Answering {
    /// As the model was trained to, by its `config.json`; the usual where that says nothing, with an answer to every question.
    /// `most` tokens go through the model at once.
    pub(super) fn of(config: &Value, most: usize) -> Self {
        let stated = config.get(SETTINGS).cloned().unwrap_or(json!({}));
        let usual = QuestionAnswering::default();
        let whole =
            |name: &str, usual: u32| stated[name].as_u64().map_or(u64::from(usual), |number| number.max(1));
        let settings = QuestionAnswering {
            doc_stride: whole("doc_stride", usual.doc_stride) as u32,
            max_answer_length: whole("max_answer_length", usual.max_answer_length) as u32,
            n_best: whole("n_best", usual.n_best) as u32,
            null_score_difference_threshold: stated["null_score_difference_threshold"]
                .as_f64()
                .unwrap_or(usual.null_score_difference_threshold),
        };
        let may_be_null = stated["may_be_unanswerable"].as_bool().unwrap_or(false);
        Answering {
            choice: question_answering::choice(&settings, may_be_null),
            max_length: (whole("max_length", QuestionAnswering::MAX_LENGTH) as usize).min(most),
            stride: settings.doc_stride as usize,
        }
    }

    pub(super) fn answers(&self, predictor: &Predictor, inputs: &[Input]) -> Result<Vec<Value>> {
        let question = |(number, input): (usize, &Input)| match input {
            Input::Question { question, context }
                if !question.trim().is_empty() && !context.trim().is_empty() =>
            {
                Ok(Question {
                    row: number as u64,
                    lines: LineRange::one(1),
                    context: Arc::from(context.as_str()),
                    question: question.trim_start().to_owned(),
                    answers: Vec::new(),
                })
            }
            Input::Question { .. } => {
                Err(Failure::user("empty_input", format!("Input {number} has an empty question or context.")))
            }
            _ => {
                let message = format!(
                    "Input {number}: this model answers questions; send {{\"question\": …, \"context\": …}}."
                );
                Err(Failure::user("other_task", message))
            }
        };
        let questions: Vec<Question> = inputs.iter().enumerate().map(question).collect::<Result<_, _>>()?;
        let asked: Vec<(&str, &str)> = questions
            .iter()
            .map(|question| (question.question.as_str(), question.context.as_ref()))
            .collect();
        let windows =
            predictor.tokenizer.windows(&asked, self.max_length, self.stride).map_err(|error| match error {
                WindowError::Problem(problem) => anyhow::Error::from(problem),
                WindowError::TooLong { at, tokens, room } => {
                    let message = format!(
                        "Input {at}: the question has {tokens} tokens, which leave room for {room} of its context; \
                         that has to be more than {}.",
                        self.stride
                    );
                    Failure::user("question_too_long", message).into()
                }
            })?;
        let (spans, encodings) = Spans::new(questions, windows);
        let mut kept = Vec::with_capacity(spans.windows.len());
        predictor.each_batch(&Tokens::of(&encodings), |logits, lengths| {
            let mut rest = logits;
            for &length in lengths {
                let (own, after) = rest.split_at(2 * length as usize);
                kept.push(spans::keep(own, spans.windows[kept.len()].cls, self.choice.n_best));
                rest = after;
            }
        })?;
        let answer = |(question, windows): (usize, Vec<usize>)| {
            let kept = windows.iter().map(|&at| (&spans.windows[at], kept[at].as_slice()));
            shown(&spans.questions[question].context, &rank(kept, self.choice))
        };
        Ok(spans.by_question().into_iter().map(answer).collect())
    }
}

/// The answer, null for "no answer", with its share of all that were ranked and its place in characters; then the likeliest.
fn shown(context: &str, ranking: &Ranking) -> Value {
    let told = |candidate: &Candidate| {
        json!({
            "answer": spans::part(context, candidate.start, candidate.end),
            "score": candidate.probability,
            "start": candidate.start,
            "end": candidate.end,
        })
    };
    let null_score = ranking.null.map(|(_, probability)| probability);
    let some = ranking.candidates.iter().filter(|candidate| candidate.end > candidate.start);
    let mut shown = match ranking.answer() {
        Some(answer) => told(answer),
        None => json!({"answer": null, "score": null_score, "start": null, "end": null}),
    };
    shown["null_score"] = json!(null_score);
    shown["null_score_difference"] = json!(ranking.difference());
    shown["candidates"] = some.take(TOLD).map(told).collect();
    shown
}
