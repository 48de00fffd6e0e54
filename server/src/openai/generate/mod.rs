//! Answers of models: chats, completions, embeddings.
//!
//! A request is read into a question for a worker ([`crate::inference`]); what the worker says becomes OpenAI's shapes, at
//! once or piece by piece.

mod answers;
mod chat;
mod completion;
mod embedding;
mod format;
mod logprobs;
mod messages;
mod settings;
mod stream;

pub use chat::create_chat_completion;
pub use completion::create_completion;
pub use embedding::{create_embedding, vectors_of};

use serde_json::{Value, json};
use store::model::{self, Model};
use store::spec::{Reader, Task};

use super::models::task_of;
use crate::inference::Served;
use crate::inference::protocol::Counts;
use crate::warm::content_name;
use crate::{AppState, Error, Result};

/// OpenAI's fields that change nothing here: notes of the caller, and hints to machinery that there is none of.
const WITHOUT_EFFECT: [&str; 11] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "reasoning_effort",
    "verbosity",
];

/// Refuses what nobody has read, and lets pass what has no effect.
fn finish(mut reader: Reader) -> Result<()> {
    for name in WITHOUT_EFFECT {
        reader.value(name);
    }
    Ok(reader.finish()?)
}

/// The id in the field `model`.
fn model_id(reader: &mut Reader) -> Result<String> {
    let id = reader.text("model")?;
    Ok(id.ok_or_else(|| reader.error("model", "is missing: give the id of a model"))?.to_owned())
}

/// A model by its id: uploaded, tuned, or a checkpoint.
async fn find(state: &AppState, id: &str) -> Result<Model> {
    let missing = || Error::NotFound {
        message: format!("there is no model \"{id}\""),
        param: Some("model".to_owned()),
    };
    model::get(&state.store.db, id).await?.ok_or_else(missing)
}

/// The files of a language model.
async fn language_model(state: &AppState, id: &str) -> Result<Served> {
    let model = find(state, id).await?;
    if task_of(&model) != Task::TextGeneration {
        let labels = if model.task.is_some() { ", and POST /v1/predictions for its labels" } else { "" };
        return Err(Error::invalid(
            "model",
            format!("{id} reads text and writes none; ask POST /v1/embeddings for vectors{labels}"),
        ));
    }
    Served::of(&state.store, &model).await
}

/// A name for what answers: the same weights have the same.
fn fingerprint(served: &Served) -> String {
    let files = [served.base.as_slice(), served.adapter.as_deref().unwrap_or_default()].concat();
    format!("fp_{}", &content_name(&files)[..12])
}

/// OpenAI's `usage`.
fn usage(counts: Counts) -> Value {
    json!({
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
    })
}

/// A new id of an answer.
fn answer_id(kind: &str) -> String {
    format!("{kind}-{}", uuid::Uuid::now_v7().simple())
}
