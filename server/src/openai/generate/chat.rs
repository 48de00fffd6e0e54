//! `POST /v1/chat/completions`

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use store::spec::{Reader, SpecError};

use super::answers::{self, Choice, reason};
use super::messages::read_messages;
use super::settings::{MOST_LOGPROBS, Sending, read_sending, read_settings, whole};
use super::stream::{Chunks, Frame, send};
use super::{fingerprint, finish, language_model, logprobs, model_id, usage};
use crate::extract::JsonObject;
use crate::inference::protocol::{Answer, Generate, Input};
use crate::{AppState, Result};

/// `POST /v1/chat/completions`
pub async fn create_chat_completion(
    State(state): State<AppState>,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let Asked { model, mut question, sending } = read(&body)?;
    let served = language_model(&state, &model).await?;
    question.template = question.template.or_else(|| served.template.clone());
    let (n, with_logprobs) = (question.n, question.logprobs.is_some());
    let object = if sending.stream { "chat.completion.chunk" } else { "chat.completion" };
    let frame = Frame::new("chatcmpl", object, &model, fingerprint(&served));
    let parts = answers::ask(state, served, vec![question]);
    if sending.stream {
        return send(parts, frame, sending, ChatChunks { n, with_logprobs }).await;
    }
    let (choices, counts) = answers::gather(parts, 1, n).await?;
    let choices: Vec<Value> = choices
        .iter()
        .enumerate()
        .map(|(index, choice)| whole_choice(index, choice, with_logprobs))
        .collect();
    let mut answer = frame.around(json!(choices));
    answer["usage"] = usage(counts);
    Ok(Json(answer).into_response())
}

struct Asked {
    model: String,
    question: Generate,
    sending: Sending,
}

fn read(body: &Map<String, Value>) -> Result<Asked> {
    let mut reader = Reader::new("", body);
    let model = model_id(&mut reader)?;
    let messages = read_messages(reader.value("messages"))?;
    let mut question = Generate::new(Input::Messages(messages));
    read_settings(&mut reader, &mut question)?;
    question.template = reader.text("chat_template")?.map(str::to_owned);
    question.max_tokens = longest(&mut reader)?;
    question.logprobs = logprobs_of(&mut reader)?;
    refuse_what_is_not_served(&mut reader)?;
    let sending = read_sending(&mut reader)?;
    finish(reader)?;
    Ok(Asked { model, question, sending })
}

/// The newer name and the older one.
fn longest(reader: &mut Reader) -> Result<Option<u64>, SpecError> {
    let bounds = 1..=u64::from(u32::MAX);
    let newer = whole(reader, "max_completion_tokens", bounds.clone())?;
    let older = whole(reader, "max_tokens", bounds)?;
    match (newer, older) {
        (Some(newer), Some(older)) if newer != older => {
            Err(reader.error("max_tokens", "is the older name of max_completion_tokens; give one of them"))
        }
        _ => Ok(newer.or(older)),
    }
}

fn logprobs_of(reader: &mut Reader) -> Result<Option<u64>, SpecError> {
    let wanted = reader.flag("logprobs")?.unwrap_or_default();
    match whole(reader, "top_logprobs", 0..=MOST_LOGPROBS)? {
        Some(_) if !wanted => Err(reader.error("top_logprobs", "needs `logprobs` to be true")),
        others => Ok(wanted.then(|| others.unwrap_or_default())),
    }
}

/// Fields that would change the answer, if there was what they ask for.
fn refuse_what_is_not_served(reader: &mut Reader) -> Result<(), SpecError> {
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let unserved = |reader: &Reader, name: &str, what: &str| {
        Err(reader.error(name, format!("{what} not served yet; leave it out")))
    };
    for name in ["tools", "functions"] {
        if reader.value(name).is_some_and(|tools| !is_empty(tools)) {
            return unserved(reader, name, "tool calls are");
        }
    }
    for name in ["tool_choice", "function_call"] {
        let choice = reader.value(name);
        if choice.is_some_and(|choice| !["none", "auto"].contains(&choice.as_str().unwrap_or_default())) {
            return unserved(reader, name, "tool calls are");
        }
    }
    if reader.value("modalities").is_some_and(|kinds| *kinds != json!(["text"]) && !is_empty(kinds)) {
        return Err(reader.error("modalities", "the models here write text alone; leave it out"));
    }
    for (name, what) in [("audio", "sound is"), ("web_search_options", "searches are")] {
        if reader.value(name).is_some() {
            return unserved(reader, name, what);
        }
    }
    Ok(())
}

fn whole_choice(index: usize, choice: &Choice, with_logprobs: bool) -> Value {
    json!({
        "index": index,
        "message": {"role": "assistant", "content": choice.text, "refusal": null},
        "logprobs": with_logprobs.then(|| logprobs::of_chat(&choice.tokens)),
        "finish_reason": reason(choice.finish),
    })
}

struct ChatChunks {
    n: u64,
    with_logprobs: bool,
}

impl Chunks for ChatChunks {
    fn of(&mut self, _: usize, answer: Answer) -> Vec<Value> {
        let chunk = |index: u64, delta: Value, logprobs: Value, finish: Value| json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        match answer {
            Answer::Started { .. } => (0..self.n)
                .map(|index| {
                    let delta = json!({"role": "assistant", "content": "", "refusal": null});
                    chunk(index, delta, Value::Null, Value::Null)
                })
                .collect(),
            Answer::Text { choice, text, tokens } => {
                let logprobs = self.with_logprobs.then(|| logprobs::of_chat(&tokens));
                vec![chunk(choice, json!({"content": text}), json!(logprobs), Value::Null)]
            }
            Answer::Finished { choice, finish } => {
                vec![chunk(choice, json!({}), Value::Null, reason(Some(finish)).into())]
            }
            _ => Vec::new(),
        }
    }
}
