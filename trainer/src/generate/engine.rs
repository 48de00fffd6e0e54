//! Many answers at once: each step reads the weights once and writes one token of every answer.
//!
//! A request joins as soon as its prompt has been read, and leaves with its last token (G. Yu et al., "Orca", 2022). Prompts are
//! read between the steps, in parts of their own, several prompts' parts in one pass. What an answer is does not depend on the
//! others: on a CPU their rows do not even change each other's last bits. So where a prompt is cut goes by the prompt alone.

use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Result, ensure};
use tch::{Device, Tensor};

use super::grammar::{Format, Grammar};
use super::model::Voice;
use super::sample::{Sampler, Sampling, log_probabilities};
use super::sequence::{Finish, Grown, Open, Sequence, Told, plainly, told};
use crate::failure::Failure;
use crate::models::Inputs;
use crate::nn::{Context, KeyValues, Packing};
use crate::tensors::floats;

/// Answers that are written at once; further ones wait.
const MOST: usize = 32;

/// Tokens of a prompt that are read in one pass, so that others need not wait for the whole of a long one.
const PART: usize = 128;

/// Tokens of all prompts that are read in one pass: beside answers that are being written, which wait for it, and where there
/// are none.
const READ: (usize, usize) = (PART, 4 * PART);

/// What is to be written.
pub struct Request {
    /// Its number among the requests.
    pub id: u64,
    /// Who answers.
    pub voice: Rc<Voice>,
    /// What is answered.
    pub prompt: Vec<u32>,
    /// Answers.
    pub choices: usize,
    /// Tokens that each may have.
    pub limit: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What draws are made from.
    pub seed: u64,
    /// Texts that end an answer, and are not shown.
    pub stops: Vec<String>,
    /// Tokens that end it, beside those that always do.
    pub ends: Vec<u32>,
    /// Alternatives that are told of each token; `None` to tell nothing.
    pub logprobs: Option<usize>,
    /// Whether the prompt is told of too.
    pub echo: bool,
    /// What an answer has to be.
    pub format: Option<Format>,
}

/// What has happened to a request.
#[derive(Debug)]
pub enum Event {
    /// More of an answer.
    Text {
        /// Which one.
        choice: usize,
        /// Whole characters.
        text: String,
        /// Its tokens, where they are told of.
        told: Vec<Told>,
    },
    /// An answer has ended.
    Finished(usize, Finish),
    /// All of them have; tokens of the prompt, and of the answers.
    Done(usize, usize),
    /// None of them will.
    Failed(Failure),
}

/// A prompt that is being read.
struct Reading {
    open: Rc<Open>,
    kept: KeyValues,
    request: Request,
    /// One for each answer that has to keep to one.
    grammars: Vec<Grammar>,
    told: Vec<Told>,
}

/// All that is being read and written.
pub struct Engine {
    device: Device,
    waiting: VecDeque<Reading>,
    writing: Vec<Sequence>,
}

impl Engine {
    /// Nothing to do yet.
    pub fn new(device: Device) -> Self {
        Engine { device, waiting: VecDeque::new(), writing: Vec::new() }
    }

    /// Takes a request; it is begun by one of the next steps.
    ///
    /// # Errors
    /// A [`Failure`] of the user for a prompt without tokens, or a schema that cannot be kept to.
    pub fn add(&mut self, mut request: Request) -> Result<()> {
        if request.prompt.is_empty() {
            return Err(Failure::user("empty_prompt", "The prompt has no tokens.").into());
        }
        let grammars = (0..request.choices).filter_map(|_| request.format.as_ref());
        let grammars = grammars.map(|format| request.voice.grammar(format)).collect::<Result<_>>()?;
        let open = Open {
            id: request.id,
            voice: request.voice.clone(),
            prompt: std::mem::take(&mut request.prompt),
            limit: request.limit,
            stops: std::mem::take(&mut request.stops),
            ends: std::mem::take(&mut request.ends),
            logprobs: request.logprobs,
            left: request.choices.into(),
            written: 0.into(),
            cancelled: false.into(),
        };
        let (open, kept) = (Rc::new(open), KeyValues::new());
        self.waiting.push_back(Reading { open, kept, request, grammars, told: Vec::new() });
        Ok(())
    }

    /// Ends a request at its next step.
    pub fn cancel(&mut self, id: u64) {
        let reading = self.waiting.iter().map(|reading| &reading.open);
        for open in reading.chain(self.writing.iter().map(|sequence| &sequence.open)) {
            if open.id == id {
                open.cancelled.set(true);
            }
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_empty()
    }

    /// Reads parts of prompts, then writes a token of each answer.
    pub fn step(&mut self) -> Vec<(u64, Event)> {
        let _guard = tch::no_grad_guard();
        let mut events = Vec::new();
        self.read(&mut events);
        let mut writing = std::mem::take(&mut self.writing);
        // Those of one voice go together.
        writing.sort_by_key(|sequence| (Rc::as_ptr(&sequence.open.voice).addr(), sequence.open.id));
        let same = |a: &Sequence, b: &Sequence| Rc::ptr_eq(&a.open.voice, &b.open.voice);
        for group in writing.chunk_by_mut(same) {
            let device = self.device;
            let grown = Failure::contain(|| write(group, device));
            tell(group, grown, &mut events);
        }
        writing.retain(|sequence| sequence.open.left.get() > 0 && !sequence.is_over());
        self.writing = writing;
        events
    }

    /// How many of the first requests that wait are read from in the next pass: those of one voice, as far as there is room for
    /// tokens and for answers.
    fn chosen(&self) -> usize {
        let most = if self.writing.is_empty() { READ.1 } else { READ.0 };
        let (mut count, mut tokens, mut answers) = (0, 0, self.writing.len());
        for reading in &self.waiting {
            tokens += reading.part().len();
            let choices = reading.request.choices;
            let is_beside = count == 0
                || tokens <= most
                    && !reading.is_told()
                    && !self.waiting[0].is_told()
                    && Rc::ptr_eq(&reading.open.voice, &self.waiting[0].open.voice);
            if !is_beside || answers + choices > MOST.max(choices) {
                break;
            }
            answers += choices;
            count += 1;
        }
        count
    }

    /// Reads a part of each of the first prompts that wait; those that have been read begin their answers.
    fn read(&mut self, events: &mut Vec<(u64, Event)>) {
        let (chosen, device) = (self.chosen(), self.device);
        let mut readings: Vec<Reading> = self.waiting.drain(..chosen).collect();
        let read = |readings: &mut [Reading]| Failure::contain(|| read_parts(readings, device));
        let each: Vec<Result<Vec<f32>, Failure>> = match read(&mut readings) {
            Ok(each) => each.into_iter().map(Ok).collect(),
            Err(failure) if readings.len() == 1 => vec![Err(failure)],
            // One of them may be at fault; of the others nothing has been counted.
            Err(_) => readings.chunks_mut(1).map(|one| read(one).map(|mut all| all.remove(0))).collect(),
        };
        let mut unread = Vec::new();
        for (mut reading, logits) in readings.into_iter().zip(each) {
            match logits.and_then(|logits| Failure::contain(|| reading.begin(logits))) {
                Ok(None) => unread.push(reading),
                Ok(Some(begun)) => {
                    for (mut sequence, grown) in begun {
                        tell(std::slice::from_mut(&mut sequence), Ok(vec![grown]), events);
                        if !sequence.is_over() {
                            self.writing.push(sequence);
                        }
                    }
                }
                Err(failure) => events.push((reading.open.id, Event::Failed(failure))),
            }
        }
        for reading in unread.into_iter().rev() {
            self.waiting.push_front(reading);
        }
    }
}

impl Reading {
    /// The tokens that are read next.
    fn part(&self) -> &[u32] {
        let at = self.kept.tokens() as usize;
        let end = if self.open.cancelled.get() { at } else { self.open.prompt.len().min(at + PART) };
        &self.open.prompt[at..end]
    }

    /// Whether the log-probabilities of the prompt are told.
    fn is_told(&self) -> bool {
        self.request.echo && self.open.logprobs.is_some()
    }

    /// The answers with their first tokens, chosen by these logits, once all of the prompt has been read.
    fn begin(&mut self, mut logits: Vec<f32>) -> Result<Option<Vec<(Sequence, Grown)>>> {
        if !self.part().is_empty() {
            return Ok(None);
        }
        let Reading { open, kept, request, grammars, told: told_so_far } = self;
        let mut begun = Vec::new();
        for choice in 0..request.choices {
            let sampler = Sampler::new(request.sampling.clone(), &open.prompt, request.seed, choice as u64);
            let is_last = choice + 1 == request.choices;
            let own = if is_last { std::mem::take(kept) } else { kept.copy() };
            let mut sequence = Sequence::new(open.clone(), choice, own, sampler, grammars.pop());
            let mut grown = Grown { finish: Some(Finish::Length), ..Grown::default() };
            if open.limit > 0 || open.cancelled.get() {
                let mut own = if is_last { std::mem::take(&mut logits) } else { logits.clone() };
                grown = sequence.grow(&mut own)?;
            }
            if request.echo {
                let prompt = open.voice.tokenizer.decode(&open.prompt, false)?;
                grown.text.insert_str(0, &prompt);
                grown.told.splice(0..0, told_so_far.iter().cloned());
            }
            begun.push((sequence, grown));
        }
        Ok(Some(begun))
    }
}

/// Reads the next part of each prompt, all of one voice, in one pass. Gives the logits after each part; none where nothing was
/// left to read.
fn read_parts(readings: &mut [Reading], device: Device) -> Result<Vec<Vec<f32>>> {
    let parts: Vec<&[u32]> = readings.iter().map(Reading::part).collect();
    let lengths: Vec<i64> = parts.iter().map(|part| part.len() as i64).filter(|&length| length > 0).collect();
    if lengths.is_empty() {
        return Ok(vec![Vec::new(); readings.len()]);
    }
    let is_told = readings.len() == 1 && readings[0].is_told();
    let kept: Vec<&KeyValues> =
        readings.iter().filter(|reading| !reading.part().is_empty()).map(|reading| &reading.kept).collect();
    let (at, ids) = (kept[0].tokens() as usize, parts.concat());
    let is_read: Vec<bool> = parts.iter().map(|part| !part.is_empty()).collect();
    let logits = floats(&pass(&readings[0].open.voice, &ids, &lengths, &kept, is_told, device)?)?;
    let width = logits.len() / if is_told { ids.len() } else { lengths.len() };
    if let ([Reading { open, told, .. }], true) = (&mut *readings, is_told) {
        tell_prompt(open, at, ids.len(), &logits, width, told);
        return Ok(vec![logits[logits.len() - width..].to_vec()]);
    }
    let mut rows = logits.chunks(width).map(<[f32]>::to_vec);
    Ok(is_read.iter().map(|&is_read| if is_read { rows.next() } else { None }.unwrap_or_default()).collect())
}

/// Notes what the model thought of a prompt's tokens `at + 1 ..= at + count`, and of the first.
fn tell_prompt(
    open: &Open,
    at: usize,
    count: usize,
    logits: &[f32],
    width: usize,
    told_so_far: &mut Vec<Told>,
) {
    if at == 0 {
        told_so_far.push(plainly(&open.voice, open.prompt[0], None));
    }
    for (row, logits) in logits.chunks(width).enumerate().take(count) {
        if let Some(&next) = open.prompt.get(at + row + 1) {
            let all = log_probabilities(logits);
            told_so_far.push(told(&open.voice, next, &all, open.logprobs.unwrap_or(0)));
        }
    }
}

/// One more token of each sequence of one voice.
fn write(group: &mut [Sequence], device: Device) -> Result<Vec<Grown>> {
    let voice = group[0].open.voice.clone();
    let ids: Vec<u32> = group.iter().map(|sequence| sequence.last).collect();
    let kept: Vec<&KeyValues> = group.iter().map(|sequence| &sequence.kept).collect();
    let mut logits = floats(&pass(&voice, &ids, &vec![1; ids.len()], &kept, false, device)?)?;
    let width = logits.len() / group.len();
    group.iter_mut().zip(logits.chunks_mut(width)).map(|(sequence, logits)| sequence.grow(logits)).collect()
}

/// Tells what has grown, or that it could not.
fn tell(group: &mut [Sequence], grown: Result<Vec<Grown>, Failure>, events: &mut Vec<(u64, Event)>) {
    let grown = match grown {
        Ok(grown) => grown,
        Err(failure) => {
            for sequence in group.iter().filter(|sequence| sequence.open.left.replace(0) > 0) {
                events.push((sequence.open.id, Event::Failed(failure.clone())));
            }
            return;
        }
    };
    for (sequence, grown) in group.iter_mut().zip(grown) {
        let (open, choice) = (sequence.open.clone(), sequence.choice);
        let Grown { text, told, finish } = grown;
        if !text.is_empty() || !told.is_empty() {
            events.push((open.id, Event::Text { choice, text, told }));
        }
        let Some(finish) = finish else { continue };
        sequence.close();
        events.push((open.id, Event::Finished(choice, finish)));
        open.left.set(open.left.get().saturating_sub(1));
        if open.left.get() == 0 {
            events.push((open.id, Event::Done(open.prompt.len(), open.written.get())));
        }
    }
}

/// Runs new tokens of sequences through the model. Gives the logits after each sequence's last token, or after `all` of them.
fn pass(
    voice: &Voice,
    ids: &[u32],
    lengths: &[i64],
    kept: &[&KeyValues],
    all: bool,
    device: Device,
) -> Result<Tensor> {
    let past: Vec<i64> = kept.iter().map(|kept| kept.tokens()).collect();
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let input_ids = Tensor::from_slice(&ids).to_device(device);
    let token_type_ids = input_ids.zeros_like();
    let packing = Packing::continuing(&past, lengths, device);
    let inputs = Inputs { input_ids, token_type_ids, answer_ids: None, packing };
    let top = voice.model.forward(&inputs, &Context::continuing(&inputs.packing, kept)); // [n, d]
    kept.iter().zip(lengths).for_each(|(kept, &length)| kept.count(length));
    let top = if all { top } else { inputs.packing.last(&top) };
    let vocabulary = voice.model.vocabulary();
    ensure!(vocabulary.is_some(), "the model has no vocabulary");
    Ok(vocabulary.expect("it was looked for").logits(&top))
}
