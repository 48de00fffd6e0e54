//! What the model in training answers to some prompts, told before the first step and at every evaluation.
//!
//! The model itself writes, in fp32 and without a copy of its weights. Nothing that is drawn here is drawn from training's
//! numbers, so that a job with samples has the bits of one without. How long it takes is bounded by tokens and not by a clock:
//! a step that is made again gives the same answers.

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use formats::chat_template::ChatTemplate;
use formats::tokenizer::Tokenizer;
use serde_json::{Value, json};
use store::spec;

use super::control::Control;
use super::events::{Event, Events};
use super::setup::Session;
use crate::data::Prompt;
use crate::failure::Failure;
use crate::generate::{self, Engine, Finish, Request, Sampling, TurnEnd, Voice};
use crate::models;

/// What is asked, and who answers.
pub struct Samples {
    voice: Rc<Voice>,
    prompts: Vec<Prompt>,
    /// What ends the answer to a conversation.
    turn_end: TurnEnd,
    context: usize,
}

/// An answer.
#[derive(Clone, Debug, Default)]
struct Answer {
    text: String,
    finish: Option<Finish>,
    tokens: usize,
}

/// Prepares to ask the model of a session, whose texts come from the folder `base`; `None` where nothing is asked, or nobody
/// can answer, which is then said.
pub fn prepare(
    session: &Session,
    (base, config): (&Path, &Value),
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    events: &mut Events,
) -> Result<Option<Samples>> {
    let Session { spec, data, model, ranks, .. } = session;
    if spec.task != spec::Task::TextGeneration || spec.training.samples.is_off() {
        return Ok(None);
    }
    if data.prompts.is_empty() {
        let why = match &data.validation {
            None => "there are no validation rows to take prompts from",
            Some(_) => "no validation row has a prompt to take",
        };
        events.log(0, format!("No samples are taken: {why}. Give some in `samples.prompts`."))?;
        return Ok(None);
    }
    if ranks.grid().model() > 1 {
        events.log(
            0,
            "No samples are taken: the model lies in several processes, and answers are written by one that has all of it.",
        )?;
        return Ok(None);
    }
    if !ranks.leads() {
        return Ok(None);
    }
    let context = models::max_positions(config).unwrap_or(generate::DEFAULT_CONTEXT);
    let mut prompts = Vec::new();
    for (number, prompt) in data.prompts.iter().enumerate() {
        let name = match prompt.row {
            Some(row) => format!("The prompt of row {}", row + 1),
            None => format!("samples.prompts[{number}]"),
        };
        match prompt.ids.len() {
            0 => events.warn(0, format!("{name} has no tokens, and is left out."))?,
            tokens if tokens >= context => events.warn(
                0,
                format!("{name} has {tokens} tokens, and the model's context is {context}: it is left out."),
            )?,
            _ => prompts.push(prompt.clone()),
        }
    }
    let turn_end = match &template {
        Some(template) => TurnEnd::of(template, &tokenizer)?,
        None => TurnEnd::default(),
    };
    let voice = Rc::new(Voice::of(model.clone(), &[base], config, tokenizer, template));
    Ok(Some(Samples { voice, prompts, turn_end, context }).filter(|samples| !samples.prompts.is_empty()))
}

/// Asks the model as it is now and tells its answers. Where someone pauses or cancels the job meanwhile, that is said instead.
pub fn tell(session: &Session, control: &Control, events: &mut Events) -> Result<()> {
    let Some(samples) = &session.samples else { return Ok(()) };
    let (step, began) = (session.state.step, Instant::now());
    let settings = &session.spec.training.samples;
    let answers = match samples.ask(settings, session.device, control) {
        Ok(Some(answers)) => answers,
        Ok(None) => return events.log(step, "The samples of this step are left out: the job is to stop."),
        // Training does not end for what is only looked at.
        Err(failure) => return events.warn(step, format!("No samples of this step: {}", failure.message)),
    };
    let (count, tokens) = (answers.len(), answers.iter().map(|answer| answer.tokens).sum::<usize>());
    let told = samples.prompts.iter().zip(answers).map(|(prompt, answer)| {
        json!({
            "prompt": prompt.shown,
            "row": prompt.row,
            "expected": prompt.expected,
            "answer": answer.text,
            "finish": answer.finish,
            "tokens": answer.tokens,
        })
    });
    let values = json!({"samples": told.collect::<Vec<_>>()});
    let data = json!({"tokens": tokens, "seconds": began.elapsed().as_secs_f64()});
    let message = format!("Samples: answers to {count} {}", if count == 1 { "prompt" } else { "prompts" });
    events.emit(Event { kind: "samples", step, message, values, data })
}

impl Samples {
    /// Answers to all prompts at once; `None` where the job is to pause or to end.
    fn ask(
        &self,
        settings: &spec::Samples,
        device: tch::Device,
        control: &Control,
    ) -> Result<Option<Vec<Answer>>, Failure> {
        let mut engine = Engine::new(device);
        for (id, prompt) in self.prompts.iter().enumerate() {
            let TurnEnd { stops, ends } =
                if prompt.is_chat() { self.turn_end.clone() } else { TurnEnd::default() };
            let request = Request {
                id: id as u64,
                voice: self.voice.clone(),
                prompt: prompt.ids.clone(),
                choices: 1,
                limit: (settings.max_tokens as usize).min(self.context - prompt.ids.len()),
                sampling: Sampling { temperature: settings.temperature, ..Sampling::default() },
                seed: u64::from(settings.seed),
                stops,
                ends,
                logprobs: None,
                echo: false,
                format: None,
            };
            engine.add(request).map_err(|error| Failure::of(&error))?;
        }
        let mut answers = vec![Answer::default(); self.prompts.len()];
        while !engine.is_idle() {
            // Whoever waits for a pause gives it a bounded time, and the step's checkpoint comes after this.
            if control.asked().is_some() {
                return Ok(None);
            }
            for (id, event) in engine.step() {
                let answer = &mut answers[id as usize];
                match event {
                    generate::Event::Text { text, .. } => answer.text.push_str(&text),
                    generate::Event::Finished(_, finish) => answer.finish = Some(finish),
                    generate::Event::Done(_, written) => answer.tokens = written,
                    generate::Event::Failed(failure) => return Err(failure),
                }
            }
        }
        Ok(Some(answers))
    }
}
