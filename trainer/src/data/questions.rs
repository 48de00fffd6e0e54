//! The files of a job that answers questions, read, split, and cut into windows.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use formats::dataset::questions::{Asking, Question, overlap, read_questions};
use formats::dataset::{SplitSizes, random_split};
use formats::tokenizer::{Tokenizer, WindowError};
use store::spec::{JobSpec, QuestionAnswering};

use super::{Data, Split, Tokens, parts};
use crate::failure::Failure;
use crate::job::Events;
use crate::tasks::Targets;
use crate::tasks::spans::Spans;

impl Data {
    /// Reads the files under `DIR/data`; what is held out comes from files of their own, or from the training file. A row is
    /// a window.
    pub fn questioned(
        dir: &Path,
        spec: &JobSpec,
        tokenizer: &Tokenizer,
        max_length: usize,
        events: &mut Events,
    ) -> Result<Self> {
        let asking = Asking::of(&spec.columns)
            .ok_or_else(|| Failure::user("invalid_spec", "columns: the roles are missing.").at("columns"))?;
        let read = |file: &String| {
            read_questions(&dir.join("data").join(file), file, &asking).map_err(anyhow::Error::from)
        };
        let optional = |file: &Option<String>| file.as_ref().map(read).transpose();
        let all = read(&spec.data.train)?;
        let (validation, test) = (optional(&spec.data.validation)?, optional(&spec.data.test)?);
        let split = by_context(&all, spec.held_out(), u64::from(spec.split.seed));
        let (train, validation, test) = parts(&all, &split, validation, test);
        for (name, rows) in [("validation", &validation), ("test", &test)] {
            match overlap(&train, rows) {
                0 => {}
                n => events.warn(
                    0,
                    format!("{n} of {} {name} questions are in the training rows as well.", rows.len()),
                )?,
            }
        }
        let settings = spec.question_answering();
        let files = &spec.data;
        let mut cut = |name: &str, file: &Option<String>, rows: Vec<Question>| -> Result<Split> {
            let file = file.as_ref().unwrap_or(&files.train);
            let split = Split::windows(file, rows, tokenizer, max_length, &settings)?;
            tell(name, &split, max_length, events)?;
            Ok(split)
        };
        let train = Arc::new(cut("train", &None, train)?);
        let mut held_out = |name: &str, file: &Option<String>, rows: Vec<Question>| match rows.is_empty() {
            true => Ok(None),
            false => cut(name, file, rows).map(Some),
        };
        let validation = held_out("validation", &files.validation, validation)?;
        let test = held_out("test", &files.test, test)?;
        Ok(Data { train, validation, test, prompts: Vec::new() })
    }
}

/// Holds out whole contexts: with another question on the same text much of the answer would be known.
///
/// Where there are too few contexts for each part, questions are held out one by one.
fn by_context(all: &[Question], sizes: SplitSizes, seed: u64) -> formats::dataset::Split {
    let mut numbers = std::collections::HashMap::new();
    let context_of: Vec<usize> = all
        .iter()
        .map(|question| {
            let next = numbers.len();
            *numbers.entry(question.context.as_ref()).or_insert(next)
        })
        .collect();
    let contexts = random_split(numbers.len(), sizes, seed);
    let lacks = |share: f64, part: &[usize]| share > 0.0 && part.is_empty();
    if lacks(sizes.validation, &contexts.validation) || lacks(sizes.test, &contexts.test) {
        return random_split(all.len(), sizes, seed);
    }
    let rows = |part: &[usize]| {
        (0..all.len()).filter(|&row| part.binary_search(&context_of[row]).is_ok()).collect::<Vec<_>>()
    };
    formats::dataset::Split {
        train: rows(&contexts.train),
        validation: rows(&contexts.validation),
        test: rows(&contexts.test),
    }
}

impl Split {
    /// Cuts each question's context into windows of at most `max_length` tokens.
    ///
    /// # Errors
    /// A [`Failure`] of the user where a question leaves no room for its context, by file and line.
    pub fn windows(
        file: &str,
        questions: Vec<Question>,
        tokenizer: &Tokenizer,
        max_length: usize,
        settings: &QuestionAnswering,
    ) -> Result<Split> {
        let stride = settings.doc_stride as usize;
        let asked: Vec<(&str, &str)> = questions
            .iter()
            .map(|question| (question.question.as_str(), question.context.as_ref()))
            .collect();
        let windows = tokenizer.windows(&asked, max_length, stride).map_err(|error| match error {
            WindowError::Problem(problem) => anyhow::Error::from(problem),
            WindowError::TooLong { at, tokens, room } => {
                let message = format!(
                    "{file}, {}: the question has {tokens} tokens, which leave room for {room} of its context in a \
                     window of max_length {max_length}; that has to be more than doc_stride {stride}. Shorten it, or \
                     choose a greater max_length or a smaller doc_stride.",
                    questions[at].lines
                );
                Failure::user("question_too_long", message).at("max_length").into()
            }
        })?;
        let (spans, encodings) = Spans::new(questions, windows);
        let numbers = spans.windows.iter().map(|window| spans.questions[window.question].row).collect();
        Ok(Split {
            tokens: Tokens::of(&encodings),
            per_row: 1,
            reference: Vec::new(),
            mismatched: None,
            answers: None,
            keys: Vec::new(),
            numbers,
            targets: Targets::Spans(spans),
            texts: Vec::new(),
        })
    }
}

fn tell(name: &str, split: &Split, max_length: usize, events: &mut Events) -> Result<()> {
    let Targets::Spans(spans) = &split.targets else { return Ok(()) };
    let without = spans.questions.iter().filter(|question| question.answers.is_empty()).count();
    let answered = spans.windows.iter().filter(|window| window.start != window.cls).count();
    let unanswerable = if without > 0 { format!(", {without} without an answer") } else { String::new() };
    events.log(
        0,
        format!(
            "{name}: {} questions{unanswerable}, in {} windows of up to {max_length} tokens, {answered} of which hold the answer",
            spans.questions.len(),
            spans.windows.len()
        ),
    )
}
