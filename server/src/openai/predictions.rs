//! Predictions of tuned models for tasks without a route of OpenAI's.
//!
//! A classifier takes texts and pairs of texts, a model that answers questions takes questions with their contexts.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use store::model;
use store::spec::{Reader, Task};

use super::models::task_of;
use super::writing::Writing;
use crate::extract::JsonObject;
use crate::{AppState, Error, Result};

/// Inputs of one request.
const MOST_INPUTS: usize = 1000;

/// How a tagger's tokens may become entities.
const AGGREGATIONS: [&str; 2] = ["first", "simple"];

/// `POST /v1/predictions`: `{"model": …, "inputs": ["text", {"text": …, "text_pair": …}, {"question": …, "context": …}, …]}`, and
/// beside that how a model that writes one text from another looks for it, or a tagger's `"aggregation"`.
pub async fn create_prediction(
    State(state): State<AppState>,
    JsonObject(body): JsonObject,
) -> Result<Json<Value>> {
    let mut reader = Reader::new("", &body);
    let id = reader
        .text("model")?
        .ok_or_else(|| Error::invalid("model", "`model` is missing: give the id of a model"))?;
    let inputs = inputs_of(&mut reader)?;
    let writing = Writing::read(&mut reader)?;
    let aggregation = reader.word("aggregation", &AGGREGATIONS.map(|word| (word, word)))?;
    reader.finish()?;
    let missing = || Error::NotFound {
        message: format!("there is no model \"{id}\""),
        param: Some("model".to_owned()),
    };
    let model = model::get(&state.store.db, id).await?.ok_or_else(missing)?;
    if model.task.is_none() {
        let message = format!(
            "{id} has no head that could answer; ask a tuned model, or one that was uploaded with a head"
        );
        return Err(Error::invalid("model", message));
    }
    if task_of(&model) == Task::TextGeneration {
        let message = format!(
            "{id} is a language model and writes text; ask POST /v1/chat/completions, or POST /v1/completions"
        );
        return Err(Error::invalid("model", message));
    }
    if task_of(&model) == Task::SentenceSimilarity {
        let message =
            format!("{id} makes vectors of texts and tells no classes apart; ask POST /v1/embeddings");
        return Err(Error::invalid("model", message));
    }
    check_inputs(task_of(&model), &inputs)?;
    let files = model::files(&state.store.db, id).await?;
    if aggregation.is_some() && task_of(&model) != Task::TokenClassification {
        let message = format!("is for models that tag words, and {id} does not; leave it out");
        return Err(Error::invalid("aggregation", message));
    }
    let predicted = if task_of(&model).is_text_to_text() {
        writing.write(&state, &model, &files, &inputs).await?
    } else {
        writing.refuse(&model)?;
        let settings = aggregation.map_or(Value::Null, |way| json!({"aggregation": way}));
        state.predictors.predict_with(id, &files, &inputs, &settings).await?
    };
    Ok(Json(json!({
        "object": "prediction",
        "model": model.model_id,
        "task": predicted.task,
        "outputs": predicted.outputs,
    })))
}

fn inputs_of(reader: &mut Reader) -> Result<Vec<Value>> {
    let wrong = |message: String| Error::invalid("inputs", message);
    let inputs = match reader.value("inputs") {
        Some(Value::Array(inputs)) if !inputs.is_empty() => inputs.clone(),
        Some(Value::String(text)) => vec![json!(text)],
        Some(input @ Value::Object(_)) => vec![input.clone()],
        _ => {
            return Err(wrong(
                "expected a list of texts, of objects with `text` and `text_pair`, or of objects with `question` and `context`"
                    .to_owned(),
            ));
        }
    };
    if inputs.len() > MOST_INPUTS {
        return Err(wrong(format!("at most {MOST_INPUTS} at once, found {}", inputs.len())));
    }
    Ok(inputs)
}

/// Whether the inputs are what a model of this task takes.
fn check_inputs(task: Task, inputs: &[Value]) -> Result<()> {
    let wrong = |message: String| Error::invalid("inputs", message);
    for (place, input) in inputs.iter().enumerate() {
        if task == Task::QuestionAnswering {
            let has = |name: &str| input[name].as_str().is_some_and(|text| !text.trim().is_empty());
            let known = |fields: &serde_json::Map<String, Value>| {
                fields.keys().all(|name| name == "question" || name == "context")
            };
            if !has("question") || !has("context") || !input.as_object().is_some_and(known) {
                return Err(wrong(format!(
                    "input {place}: this model answers questions; send {{\"question\": …, \"context\": …}}, neither of them empty"
                )));
            }
            continue;
        }
        let is_pair = |fields: &serde_json::Map<String, Value>| {
            fields.get("text").is_some_and(Value::is_string)
                && fields.iter().all(|(name, value)| match name.as_str() {
                    "text" => true,
                    "text_pair" => value.is_string() || value.is_null(),
                    _ => false,
                })
        };
        if !input.is_string() && !input.as_object().is_some_and(is_pair) {
            return Err(wrong(format!(
                "input {place} is neither a text nor {{\"text\": …, \"text_pair\": …}}"
            )));
        }
    }
    Ok(())
}
