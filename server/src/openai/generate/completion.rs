//! `POST /v1/completions`

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use store::spec::{Reader, SpecError};

use super::answers::{self, Choice, reason};
use super::settings::{MOST_LOGPROBS, Sending, read_sending, read_settings, whole};
use super::stream::{Chunks, Frame, send};
use super::{fingerprint, finish, language_model, logprobs, model_id, usage};
use crate::extract::JsonObject;
use crate::inference::protocol::{Answer, Finish, Generate, Input};
use crate::{AppState, Result};

/// Tokens of an answer where nothing is said, as OpenAI has it.
const TOKENS: u64 = 16;

/// Answers of one request, to all its prompts.
const MOST_ANSWERS: u64 = 1024;

/// `POST /v1/completions`
pub async fn create_completion(
    State(state): State<AppState>,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let Asked { model, questions, logprobs, best_of, sending } = read(&body)?;
    let served = language_model(&state, &model).await?;
    let (prompts, n) = (questions.len(), questions[0].n);
    let frame = Frame::new("cmpl", "text_completion", &model, fingerprint(&served));
    let asked = questions.into_iter().map(|question| best_of.map_or(question.clone(), |of| of.ask(question)));
    let parts = answers::ask(state, served, asked.collect());
    if sending.stream {
        let offsets = vec![0; prompts * n as usize];
        return send(parts, frame, sending, CompletionChunks { n, with_logprobs: logprobs, offsets }).await;
    }
    let (mut choices, counts) = answers::gather(parts, prompts, best_of.map_or(n, |of| of.0)).await?;
    if let Some(of) = best_of {
        choices = of.best(choices, n);
    }
    let choices: Vec<Value> =
        choices.iter().enumerate().map(|(index, choice)| whole_choice(index, choice, logprobs)).collect();
    let mut answer = frame.around(json!(choices));
    answer["usage"] = usage(counts);
    Ok(Json(answer).into_response())
}

struct Asked {
    model: String,
    /// One for each prompt.
    questions: Vec<Generate>,
    logprobs: bool,
    best_of: Option<BestOf>,
    sending: Sending,
}

fn read(body: &Map<String, Value>) -> Result<Asked> {
    let mut reader = Reader::new("", body);
    let model = model_id(&mut reader)?;
    let prompts = read_inputs(&mut reader, "prompt", MOST_ANSWERS as usize)?;
    let mut question = Generate::new(Input::Prompt(Value::Null));
    read_settings(&mut reader, &mut question)?;
    question.echo = reader.flag("echo")?.unwrap_or_default();
    let least = if question.echo { 0 } else { 1 };
    question.max_tokens = whole(&mut reader, "max_tokens", least..=u64::from(u32::MAX))?.or(Some(TOKENS));
    question.logprobs = whole(&mut reader, "logprobs", 0..=MOST_LOGPROBS)?;
    if reader.value("suffix").is_some_and(|suffix| suffix.as_str() != Some("")) {
        let message = "filling in between a prompt and a suffix is not served; leave it out";
        return Err(reader.error("suffix", message).into());
    }
    let sending = read_sending(&mut reader)?;
    let best_of = best_of(&mut reader, question.n, sending)?;
    if prompts.len() as u64 * best_of.map_or(question.n, |of| of.0) > MOST_ANSWERS {
        let message = format!("prompts times answers to each must be at most {MOST_ANSWERS}");
        return Err(reader.error("prompt", message).into());
    }
    finish(reader)?;
    let logprobs = question.logprobs.is_some();
    let of_prompt = |prompt| Generate { input: Input::Prompt(prompt), ..question.clone() };
    let questions = prompts.into_iter().map(of_prompt).collect();
    Ok(Asked { model, questions, logprobs, best_of, sending })
}

/// A text, texts, token ids, or lists of token ids.
pub fn read_inputs(reader: &mut Reader, name: &'static str, most: usize) -> Result<Vec<Value>, SpecError> {
    let expected = "a text, a list of texts, a list of token ids, or a list of lists of token ids";
    let Some(value) = reader.value(name) else {
        return Err(reader.error(name, format!("is missing: give {expected}")));
    };
    let is_ids = |value: &Value| {
        value.as_array().is_some_and(|ids| !ids.is_empty() && ids.iter().all(|id| id.as_u64().is_some()))
    };
    let inputs = match value {
        Value::String(_) => vec![value.clone()],
        ids if is_ids(ids) => vec![ids.clone()],
        Value::Array(list) if !list.is_empty() => list.clone(),
        _ => return Err(reader.wrong(name, expected, value)),
    };
    let place = inputs.iter().position(|input| !input.is_string() && !is_ids(input));
    match place {
        Some(place) => {
            Err(SpecError::new(format!("{name}[{place}]"), "is neither a text nor a list of token ids"))
        }
        None if inputs.len() > most => {
            Err(reader.error(name, format!("at most {most} at once, found {}", inputs.len())))
        }
        None => Ok(inputs),
    }
}

/// How many answers are made of which the likeliest are given.
#[derive(Clone, Copy)]
struct BestOf(u64);

fn best_of(reader: &mut Reader, n: u64, sending: Sending) -> Result<Option<BestOf>, SpecError> {
    match whole(reader, "best_of", 1..=128)? {
        Some(best_of) if best_of < n => {
            Err(reader.error("best_of", format!("must be at least `n`, which is {n}")))
        }
        Some(best_of) if best_of > n && sending.stream => {
            Err(reader.error("best_of", "cannot be streamed: which answers are best is known at the end"))
        }
        best_of => Ok(best_of.filter(|best_of| *best_of > n).map(BestOf)),
    }
}

impl BestOf {
    fn ask(self, question: Generate) -> Generate {
        Generate { n: self.0, logprobs: question.logprobs.or(Some(0)), ..question }
    }

    /// The likeliest `n` of each prompt, by the mean logarithm of their tokens.
    fn best(self, choices: Vec<Choice>, n: u64) -> Vec<Choice> {
        let mean = |choice: &Choice| {
            let all = choice.tokens.iter().filter_map(|token| token.logprob);
            all.sum::<f64>() / choice.tokens.len().max(1) as f64
        };
        let of_prompt = |of_prompt: &[Choice]| {
            let mut of_prompt = of_prompt.to_vec();
            of_prompt.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
            of_prompt.truncate(n as usize);
            of_prompt
        };
        choices.chunks(self.0 as usize).flat_map(of_prompt).collect()
    }
}

fn whole_choice(index: usize, choice: &Choice, with_logprobs: bool) -> Value {
    let logprobs = with_logprobs.then(|| logprobs::of_completion(&choice.tokens, &mut 0));
    json!({
        "index": index,
        "text": choice.text,
        "logprobs": logprobs,
        "finish_reason": reason(choice.finish),
    })
}

struct CompletionChunks {
    n: u64,
    with_logprobs: bool,
    /// Characters that were sent of each answer.
    offsets: Vec<usize>,
}

impl CompletionChunks {
    fn chunk(
        &mut self,
        question: usize,
        choice: u64,
        text: &str,
        tokens: &[crate::inference::protocol::Token],
        finish: Option<Finish>,
    ) -> Vec<Value> {
        let index = question * self.n as usize + choice.min(self.n - 1) as usize;
        let logprobs = (self.with_logprobs && finish.is_none())
            .then(|| logprobs::of_completion(tokens, &mut self.offsets[index]));
        let finish = finish.map(|finish| reason(Some(finish)));
        vec![json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})]
    }
}

impl Chunks for CompletionChunks {
    fn of(&mut self, question: usize, answer: Answer) -> Vec<Value> {
        match answer {
            Answer::Text { choice, text, tokens } => self.chunk(question, choice, &text, &tokens, None),
            Answer::Finished { choice, finish } => self.chunk(question, choice, "", &[], Some(finish)),
            _ => Vec::new(),
        }
    }
}
