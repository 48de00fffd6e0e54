//! Requests and answers of a process that writes, as lines of JSON.
//!
//! ```text
//! > {"id": 1, "generate": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "temperature": 0}}
//! < {"id": 1, "started": {"prompt_tokens": 9}}
//! < {"id": 1, "choice": 0, "text": "Hello"}
//! < {"id": 1, "choice": 0, "finish": "stop"}
//! < {"id": 1, "done": {"prompt_tokens": 9, "completion_tokens": 2}}
//! > {"id": 4, "embed": {"inputs": ["a text", [1, 2, 3]], "normalize": true}}
//! < {"id": 4, "embeddings": [[0.1, …], …], "tokens": 6}
//! > {"id": 2, "unload": {"adapter": "/folder"}}
//! < {"id": 2, "unloaded": true}
//! > {"cancel": 3}
//! < {"dropped": {"adapter": "/folder"}}
//! ```
//! `dropped` tells of an adapter that gave way to another one; asked for again, it is loaded again. Lines of requests that are at work together are interleaved. `error` ends a request, and names the field at fault.

use std::path::PathBuf;

use formats::chat::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::Event;
use super::grammar::Format;
use super::sample::Sampling;
use crate::failure::Failure;

/// A line of request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    #[serde(default)]
    pub id: u64,
    pub generate: Option<Generate>,
    pub embed: Option<Embed>,
    pub unload: Option<Unload>,
    pub cancel: Option<u64>,
}

/// Texts that are to become vectors.
#[derive(Debug, Deserialize)]
pub(super) struct Embed {
    pub adapter: Option<PathBuf>,
    pub inputs: Vec<Prompt>,
    /// Whether each vector is to have length 1.
    #[serde(default)]
    pub normalize: bool,
}

/// An adapter that is not needed any more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unload {
    pub adapter: PathBuf,
}

/// What is to be written.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Generate {
    pub adapter: Option<PathBuf>,
    pub messages: Option<Vec<Value>>,
    pub prompt: Option<Prompt>,
    pub template: Option<String>,
    pub n: usize,
    pub max_tokens: Option<usize>,
    pub stop: Vec<String>,
    pub seed: Option<u64>,
    pub logprobs: Option<usize>,
    pub echo: bool,
    pub format: Option<Value>,
    #[serde(flatten)]
    pub sampling: Sampling,
}

impl Default for Generate {
    fn default() -> Self {
        Generate {
            adapter: None,
            messages: None,
            prompt: None,
            template: None,
            n: 1,
            max_tokens: None,
            stop: Vec::new(),
            seed: None,
            logprobs: None,
            echo: false,
            format: None,
            sampling: Sampling::default(),
        }
    }
}

/// A prompt as it is.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl Generate {
    /// What the answer has to be.
    pub fn format(&self) -> Result<Option<Format>, Failure> {
        match &self.format {
            None => Ok(None),
            Some(Value::String(name)) if name == "json" => Ok(Some(Format::Json)),
            Some(schema @ Value::Object(_)) => Ok(Some(Format::Schema(schema.clone()))),
            Some(_) => {
                let message = "The format is neither \"json\" nor a JSON schema.";
                Err(Failure::user("bad_schema", message).at("response_format"))
            }
        }
    }

    /// Each number in its range.
    pub fn check(&self) -> Result<(), Failure> {
        let Sampling { temperature, top_p, min_p, repetition_penalty, .. } = self.sampling;
        let rules = [
            ("temperature", (0.0..=100.0).contains(&temperature), "0 to 100"),
            ("top_p", (0.0..=1.0).contains(&top_p), "0 to 1"),
            ("min_p", (0.0..=1.0).contains(&min_p), "0 to 1"),
            ("repetition_penalty", repetition_penalty > 0.0 && repetition_penalty < 100.0, "above 0 to 100"),
            ("n", (1..=128).contains(&self.n), "1 to 128"),
            ("stop", self.stop.iter().all(|stop| !stop.is_empty()), "texts that are not empty"),
        ];
        match rules.iter().find(|(_, holds, _)| !holds) {
            None => Ok(()),
            Some((name, _, range)) => {
                Err(Failure::user("out_of_range", format!("`{name}` has to be {range}.")).at(name))
            }
        }
    }

    /// The conversation, if it is one.
    pub fn conversation(&self) -> Result<Option<Vec<Message>>, Failure> {
        let Some(list) = &self.messages else { return Ok(None) };
        let messages = formats::chat::messages_of(list, "messages").map_err(|problems| {
            let first = &problems.listed[0];
            let place = first.column.as_deref().unwrap_or("messages");
            let hint = first.hint.as_deref().map_or(String::new(), |hint| format!("; {hint}"));
            Failure::user("bad_messages", format!("{place}: {}{hint}.", first.message)).at(place)
        })?;
        match messages.is_empty() {
            true => Err(Failure::user("bad_messages", "There are no messages.").at("messages")),
            false => Ok(Some(messages)),
        }
    }
}

/// A line of answer.
pub(super) fn line(id: u64, event: &Event) -> Value {
    match event {
        Event::Text { choice, text, told } if told.is_empty() => {
            json!({"id": id, "choice": choice, "text": text})
        }
        Event::Text { choice, text, told } => {
            json!({"id": id, "choice": choice, "text": text, "tokens": told})
        }
        Event::Finished(choice, finish) => json!({"id": id, "choice": choice, "finish": finish}),
        Event::Done(prompt, written) => {
            json!({"id": id, "done": {"prompt_tokens": prompt, "completion_tokens": written}})
        }
        Event::Failed(failure) => failed(id, failure),
    }
}

/// What ends a request that cannot be answered.
pub(super) fn failed(id: u64, failure: &Failure) -> Value {
    json!({"id": id, "error": {"message": failure.message, "code": failure.code, "param": failure.param}})
}
