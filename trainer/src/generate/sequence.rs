//! An answer that is being written.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::Result;
use serde::Serialize;

use super::grammar::Grammar;
use super::model::Voice;
use super::sample::{Sampler, log_probabilities};
use super::text::Writer;
use crate::nn::KeyValues;

/// A token, as the log-probabilities of an answer tell of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Its text, where its bytes are one.
    pub token: String,
    /// Its id.
    pub id: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of the probability that the model gave it; none for the first token of a prompt.
    pub logprob: Option<f64>,
    /// The likeliest tokens in its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<Told>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// By itself, or at a stop string.
    Stop,
    /// At the number of tokens that it may have.
    Length,
    /// On request.
    Cancelled,
}

/// What all answers to one request have in common.
pub(super) struct Open {
    pub id: u64,
    pub voice: Rc<Voice>,
    pub prompt: Vec<u32>,
    /// Tokens that an answer may have.
    pub limit: usize,
    pub stops: Vec<String>,
    pub ends: Vec<u32>,
    /// Alternatives that are told of each token.
    pub logprobs: Option<usize>,
    /// Answers that have not ended.
    pub left: Cell<usize>,
    /// Tokens written by all of them.
    pub written: Cell<usize>,
    pub cancelled: Cell<bool>,
}

/// One answer.
pub(super) struct Sequence {
    pub open: Rc<Open>,
    pub choice: usize,
    pub kept: KeyValues,
    /// The token that was chosen last, which the model has not seen.
    pub last: u32,
    sampler: Sampler,
    grammar: Option<Grammar>,
    writer: Writer,
    written: usize,
    untold: Vec<Told>,
    over: bool,
}

/// What one more token has brought.
#[derive(Default)]
pub(super) struct Grown {
    pub text: String,
    pub told: Vec<Told>,
    pub finish: Option<Finish>,
}

impl Sequence {
    pub fn new(
        open: Rc<Open>,
        choice: usize,
        kept: KeyValues,
        sampler: Sampler,
        grammar: Option<Grammar>,
    ) -> Self {
        let writer = Writer::new(&open.prompt, open.stops.clone());
        Sequence {
            open,
            choice,
            kept,
            last: 0,
            sampler,
            grammar,
            writer,
            written: 0,
            untold: Vec::new(),
            over: false,
        }
    }

    /// Notes that it has ended.
    pub fn close(&mut self) {
        self.over = true;
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Goes on by the token that is chosen by these logits.
    pub fn grow(&mut self, logits: &mut [f32]) -> Result<Grown> {
        if self.open.cancelled.get() {
            return self.end(String::new(), Finish::Cancelled);
        }
        let tokenizer = self.open.voice.tokenizer.clone();
        // Of the model's own distribution, before anything changes it.
        let probabilities = self.open.logprobs.map(|_| log_probabilities(logits));
        let allowed = self.grammar.as_mut().map(Grammar::allowed).transpose()?;
        let id = match &allowed {
            Some(allowed) => self.sampler.choose(logits, Some(&|id| allowed.is_allowed(id))),
            None => self.sampler.choose(logits, None),
        };
        self.last = id;
        self.written += 1;
        self.open.written.set(self.open.written.get() + 1);
        if self.open.voice.ends.contains(&id) || self.open.ends.contains(&id) {
            return self.end(String::new(), Finish::Stop);
        }
        if let (Some(all), Some(count)) = (probabilities, self.open.logprobs) {
            self.untold.push(told(&self.open.voice, id, &all, count));
        }
        let (text, stopped) = self.writer.push(id, &tokenizer)?;
        if stopped {
            // What was held back with the stop string is not part of the answer.
            let told = std::mem::take(&mut self.untold);
            return Ok(Grown { text, told, finish: Some(Finish::Stop) });
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.advance(id)?;
            if grammar.is_complete() {
                return self.end(text, Finish::Stop);
            }
        }
        if self.written >= self.open.limit {
            return self.end(text, Finish::Length);
        }
        let told = if self.writer.is_clear() { std::mem::take(&mut self.untold) } else { Vec::new() };
        Ok(Grown { text, told, finish: None })
    }

    fn end(&mut self, mut text: String, finish: Finish) -> Result<Grown> {
        text.push_str(&self.writer.finish(&self.open.voice.tokenizer.clone())?);
        Ok(Grown { text, told: std::mem::take(&mut self.untold), finish: Some(finish) })
    }
}

/// What is told of a token in the place of these log-probabilities.
pub(super) fn told(voice: &Voice, id: u32, all: &[f64], count: usize) -> Told {
    let mut best: Vec<usize> = (0..all.len()).collect();
    let descending = |a: &usize, b: &usize| all[*b].total_cmp(&all[*a]).then(a.cmp(b));
    let count = count.min(best.len());
    if count < best.len() && count > 0 {
        best.select_nth_unstable_by(count - 1, descending);
    }
    best.truncate(count);
    best.sort_unstable_by(descending);
    let top = best.into_iter().map(|id| plainly(voice, id as u32, Some(all[id]))).collect();
    Told { top, ..plainly(voice, id, all.get(id as usize).copied()) }
}

/// A token without alternatives.
pub(super) fn plainly(voice: &Voice, id: u32, logprob: Option<f64>) -> Told {
    let bytes = voice.tokenizer.token_bytes(id);
    let token = match bytes.is_empty() {
        // Special tokens have no text; their names say which they are.
        true => voice.tokenizer.token(id).unwrap_or_default(),
        false => String::from_utf8_lossy(&bytes).into_owned(),
    };
    Told { token, id, bytes, logprob, top: Vec::new() }
}
