//! An answer that is sent piece by piece.

use std::collections::VecDeque;
use std::time::Duration;

use axum::response::Response;
use chrono::Utc;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};

use super::answers::Parts;
use super::settings::Sending;
use super::{answer_id, usage};
use crate::inference::protocol::{Answer, Counts};
use crate::openai::sse;
use crate::{Error, Result};

/// Time in which a refusal is an answer with its own status. Later it is a message of the stream: a model that takes long
/// to load must not keep the connection silent.
const PATIENCE: Duration = Duration::from_secs(8);

/// What all chunks of an answer have, and whole answers too.
#[derive(Clone, Debug)]
pub struct Frame {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    fingerprint: String,
}

impl Frame {
    /// A new answer of a model.
    pub fn new(kind: &str, object: &'static str, model: &str, fingerprint: String) -> Self {
        Frame {
            id: answer_id(kind),
            object,
            created: Utc::now().timestamp(),
            model: model.to_owned(),
            fingerprint,
        }
    }

    /// The frame around choices.
    pub fn around(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }
}

/// Makes the choices of chunks of what a worker says; each value is the choice of one chunk.
pub trait Chunks: Send + 'static {
    /// The chunks of a part.
    fn of(&mut self, question: usize, answer: Answer) -> Vec<Value>;
}

/// Sends parts as they come, each in a frame, and at the end the counts where they are wanted.
pub async fn send(parts: Parts, frame: Frame, sending: Sending, chunks: impl Chunks) -> Result<Response> {
    let mut parts = Box::pin(parts.peekable());
    let first = tokio::time::timeout(PATIENCE, parts.as_mut().peek()).await;
    if let Ok(Some(Err(_))) = first {
        let refused = parts.next().await;
        return Err(refused
            .and_then(Result::err)
            .unwrap_or_else(|| Error::Unavailable("no answer".to_owned())));
    }
    let sender = Sender {
        parts: parts.boxed(),
        ready: VecDeque::new(),
        counts: Counts::default(),
        frame,
        usage: sending.usage,
        chunks,
        done: false,
    };
    Ok(sse::answer(stream::unfold(sender, |mut sender| async move {
        let message = sender.next().await?;
        Some((message, sender))
    })))
}

struct Sender<C> {
    parts: Parts,
    /// Messages that are made and not sent.
    ready: VecDeque<String>,
    counts: Counts,
    frame: Frame,
    usage: bool,
    chunks: C,
    done: bool,
}

impl<C: Chunks> Sender<C> {
    async fn next(&mut self) -> Option<String> {
        while self.ready.is_empty() && !self.done {
            match self.parts.next().await {
                Some(Ok((_, Answer::Done { done }))) => self.counts += done,
                Some(Ok((question, answer))) => {
                    for choice in self.chunks.of(question, answer) {
                        self.push(json!([choice]), Value::Null);
                    }
                }
                Some(Err(error)) => self.fail(&error),
                None => self.end(),
            }
        }
        self.ready.pop_front()
    }

    fn push(&mut self, choices: Value, usage: Value) {
        let mut chunk = self.frame.around(choices);
        if self.usage {
            chunk["usage"] = usage;
        }
        self.ready.push_back(chunk.to_string());
    }

    fn end(&mut self) {
        if self.usage {
            self.push(json!([]), usage(self.counts));
        }
        self.ready.push_back(sse::DONE.to_owned());
        self.done = true;
    }

    fn fail(&mut self, error: &Error) {
        if let Error::Internal(cause) = error {
            tracing::error!(error = format!("{cause:#}"), "an answer broke off");
        }
        self.ready.push_back(error.to_json().to_string());
        self.done = true;
    }
}
