//! `POST /v1/embeddings`

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use store::spec::Reader;

use super::completion::read_inputs;
use super::settings::whole;
use super::{find, finish, model_id};
use crate::extract::JsonObject;
use crate::inference::protocol::Answer;
use crate::inference::{Answers, Served};
use crate::{AppState, Error, Result};

/// Inputs of one request.
const MOST_INPUTS: usize = 2048;

/// `POST /v1/embeddings`: encoders and language models both have vectors.
pub async fn create_embedding(
    State(state): State<AppState>,
    JsonObject(body): JsonObject,
) -> Result<Json<Value>> {
    let asked = read(&body)?;
    let model = find(&state, &asked.model).await?;
    let served = Served::of(&state.store, &model).await?;
    let (vectors, tokens) = vectors_of(state.workers.embed(&served, &asked.inputs).await?).await?;
    if vectors.len() != asked.inputs.len() {
        let (found, asked) = (vectors.len(), asked.inputs.len());
        return Err(anyhow::anyhow!("{found} vectors for {asked} inputs").into());
    }
    let data: Vec<Value> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| {
            let vector = shorten(vector, asked.dimensions)?;
            let shown = if asked.base64 { json!(packed(&vector)) } else { json!(vector) };
            Ok(json!({"object": "embedding", "index": index, "embedding": shown}))
        })
        .collect::<Result<_>>()?;
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(Json(json!({"object": "list", "data": data, "model": asked.model, "usage": usage})))
}

struct Asked {
    model: String,
    inputs: Vec<Value>,
    base64: bool,
    dimensions: Option<u64>,
}

fn read(body: &Map<String, Value>) -> Result<Asked> {
    let mut reader = Reader::new("", body);
    let model = model_id(&mut reader)?;
    let inputs = read_inputs(&mut reader, "input", MOST_INPUTS)?;
    let base64 = reader.word("encoding_format", &[("float", false), ("base64", true)])?.unwrap_or_default();
    let dimensions = whole(&mut reader, "dimensions", 1..=u64::from(u32::MAX))?;
    finish(reader)?;
    Ok(Asked { model, inputs, base64, dimensions })
}

/// The vectors of an answer, and how many tokens their texts had.
pub async fn vectors_of(mut answers: Answers) -> Result<(Vec<Vec<f64>>, u64)> {
    match answers.next().await {
        Some(Ok(Answer::Embedded { embeddings, tokens })) => Ok((embeddings, tokens)),
        // What the worker has against an input is here against `input`, however it calls it.
        Some(Err(Error::Invalid { message, .. })) => Err(Error::invalid("input", message)),
        Some(Err(error)) => Err(error),
        other => Err(anyhow::anyhow!("{other:?} in place of vectors").into()),
    }
}

/// The first numbers of a vector, at length 1 again.
fn shorten(mut vector: Vec<f64>, dimensions: Option<u64>) -> Result<Vec<f64>> {
    let Some(wanted) = dimensions else {
        return Ok(vector);
    };
    if wanted > vector.len() as u64 {
        let message =
            format!("the model's vectors have {} numbers, and {wanted} were asked for", vector.len());
        return Err(Error::invalid("dimensions", message));
    }
    vector.truncate(wanted as usize);
    let length = vector.iter().map(|number| number * number).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|number| *number /= length);
    }
    Ok(vector)
}

/// Numbers of 32 bits, little end first, as OpenAI's clients ask for them.
fn packed(vector: &[f64]) -> String {
    STANDARD.encode(vector.iter().flat_map(|number| (*number as f32).to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_vector_has_length_one() {
        assert_eq!(shorten(vec![0.6, 0.0, 0.8], Some(1)).unwrap(), [1.0]);
        assert_eq!(shorten(vec![0.6, 0.8], None).unwrap(), [0.6, 0.8]);
        assert!(shorten(vec![1.0], Some(2)).is_err());
    }
}
