//! Exports: a model in another format, with a certificate of what that is worth.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use formats::checkpoint::CheckpointInfo;
use formats::gguf;
use serde_json::{Map, Value, json};
use store::export::{self, Deleted, Export};
use store::model::Model;
use store::queue::{self, OrderError};
use store::spec::{self, Format, NumberKind, Reader, Task};
use store::{ExportId, StoredFile};

use super::archive::Archive;
use super::content::{send_archive, send_file};
use super::models::{find_model, task_of};
use super::views::export_json;
use crate::extract::{Query, id_of};
use crate::{AppState, Error, Result};

/// `POST /v1/models/{id}/exports`; the same export of the same model is made once.
pub async fn create_export(state: &AppState, model: &str, body: &Map<String, Value>) -> Result<Json<Value>> {
    let mut reader = Reader::new("", body);
    let format = reader.text("format")?;
    let kind = reader.text("kind")?;
    let wanted = wanted(format, kind)?;
    reader.finish()?;
    let model = find_model(state, model).await?;
    let export = create(state, &model, wanted).await?;
    shown(state, &export).await
}

/// Asks for an export, after a look at whether the model can be written so.
pub async fn create(state: &AppState, model: &Model, wanted: spec::Export) -> Result<Export> {
    if let Some(why) = obstacle(model, wanted.format) {
        return Err(Error::invalid("format", why));
    }
    Ok(export::create(&state.store.db, model, wanted, task_of(model)).await?.export)
}

/// A format and a kind of numbers by their names.
pub fn wanted(format: Option<&str>, kind: Option<&str>) -> Result<spec::Export> {
    let known = || Format::ALL.map(Format::as_str).join(", ");
    let format = format
        .ok_or_else(|| Error::invalid("format", format!("`format` is missing; known are {}", known())))?;
    let format = Format::named(format).ok_or_else(|| {
        Error::invalid("format", format!("\"{format}\" is not known; known are {}", known()))
    })?;
    let named = |name: &str| {
        let known = NumberKind::ALL.map(NumberKind::name).join(", ");
        NumberKind::named(name)
            .ok_or_else(|| Error::invalid("kind", format!("\"{name}\" is not known; known are {known}")))
    };
    Ok(spec::Export::new(format, kind.map(named).transpose()?)?)
}

/// Why a model cannot be written in a format; `None` where nothing is in the way.
pub fn obstacle(model: &Model, format: Format) -> Option<String> {
    let info: CheckpointInfo = serde_json::from_value(model.report.clone()).unwrap_or_default();
    let id = &model.model_id;
    if model.task.is_none() {
        return Some(format!(
            "the model {id} is an encoder without a head, which has no answers to compare: download it as it is"
        ));
    }
    if model.task.as_deref() == Some(Task::SentenceSimilarity.as_str()) {
        return Some(format!(
            "the model {id} makes vectors: download it as it is, which sentence-transformers loads"
        ));
    }
    if model.task.as_deref() == Some(Task::QuestionAnswering.as_str()) {
        return Some(format!(
            "the model {id} answers questions: download it as it is, which transformers loads"
        ));
    }
    if task_of(model).is_text_to_text() {
        return Some(format!(
            "the model {id} has an encoder and a decoder, which no export holds yet: download it as it is, which transformers loads"
        ));
    }
    if model.task.as_deref() == Some(Task::TokenClassification.as_str()) {
        return Some(format!("the model {id} tags words: download it as it is, which transformers loads"));
    }
    match format {
        Format::Safetensors => None,
        Format::Adapter if info.adapter.is_some() => None,
        Format::Adapter => {
            Some(format!("the model {id} is no adapter, but a whole model: export it as safetensors"))
        }
        Format::Gguf if task_of(model) != Task::TextGeneration => Some(format!(
            "the model {id} is a classifier, and a GGUF holds a language model: export it as safetensors"
        )),
        Format::Gguf => {
            let family = info.model_type.unwrap_or_default();
            let known = gguf::model_types();
            (!known.contains(&family.as_str())).then(|| {
                format!("models of type `{family}` cannot be written as GGUF; known are {}", known.join(", "))
            })
        }
    }
}

/// `GET /v1/models/{id}/exports`
pub async fn list_exports(state: &AppState, model: &str, query: &Query) -> Result<Json<Value>> {
    let model = find_model(state, model).await?;
    let (after, limit) = (query.after::<ExportId>()?, query.limit(20, 100)?);
    let page = export::list(&state.store.db, &model.model_id, after, limit).await?;
    Ok(Json(super::list(&page, |export| export_json(export, None))))
}

/// `GET /v1/exports/{id}`
pub async fn retrieve_export(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>> {
    shown(&state, &find_export(&state, &id).await?).await
}

/// `POST /v1/exports/{id}/cancel`
pub async fn cancel_export(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>> {
    let export = find_export(&state, &id).await?.export_id;
    match queue::cancel(&state.store.db, export.job()).await {
        Ok(_) => shown(&state, &find_export(&state, &id).await?).await,
        Err(OrderError::Missing(_)) => Err(missing(export)),
        Err(OrderError::Refused(why)) => {
            Err(Error::bad_request("export_has_ended", why.to_string().replace("the job", "the export")))
        }
        Err(OrderError::Db(cause)) => Err(cause.into()),
    }
}

/// `DELETE /v1/exports/{id}`
pub async fn delete_export(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>> {
    let id: ExportId = id_of(&id)?;
    delete(&state, id).await?;
    Ok(Json(json!({"id": id, "object": "model.export", "deleted": true})))
}

/// Deletes an export that has ended.
pub async fn delete(state: &AppState, id: ExportId) -> Result<()> {
    match export::delete(&state.store.db, id).await? {
        Deleted::Done => Ok(()),
        Deleted::Missing => Err(missing(id)),
        Deleted::Alive => {
            Err(Error::bad_request("in_use", format!("the export {id} has not ended; cancel it first")))
        }
    }
}

/// `GET /v1/exports/{id}/content`: a file as itself, a folder as a tar or a zip; all but the zip by `Range`.
pub async fn retrieve_content(
    State(state): State<AppState>,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response> {
    let export = find_export(&state, &id).await?;
    let files = export::files(&state.store.db, export.export_id).await?;
    if files.is_empty() {
        let status = export.status.as_str();
        return Err(Error::bad_request(
            "no_content",
            format!("the export {id} is {status} and has no files"),
        ));
    }
    let objects = state.store.objects.clone();
    match (query.get("format"), alone(&export, &files)) {
        (None, Some(file)) => send_file(file, &objects, &headers).await,
        (format, _) => {
            let time = export.finished_at.unwrap_or(export.created_at).timestamp().unsigned_abs();
            let archive = Archive { time, folder: folder_of(&export), files };
            send_archive(archive, format, objects, &headers)
        }
    }
}

/// The file that is all of an export but its certificate.
pub fn alone<'a>(export: &Export, files: &'a [StoredFile]) -> Option<&'a StoredFile> {
    let is_file = export.format == Format::Gguf.as_str();
    files.iter().find(|file| is_file && file.path.ends_with(".gguf"))
}

/// The folder that an archive unpacks to.
fn folder_of(export: &Export) -> String {
    let model: String = export.model_id.chars().map(|c| if c == ':' { '-' } else { c }).collect();
    let kind = export.number_kind.as_ref().map(|kind| format!("-{kind}")).unwrap_or_default();
    format!("{model}-{}{kind}", export.format)
}

async fn find_export(state: &AppState, id: &str) -> Result<Export> {
    let id: ExportId = id_of(id)?;
    export::get(&state.store.db, id).await?.ok_or_else(|| missing(id))
}

fn missing(id: ExportId) -> Error {
    Error::not_found(format!("there is no export {id}"))
}

async fn shown(state: &AppState, export: &Export) -> Result<Json<Value>> {
    let files = export::files(&state.store.db, export.export_id).await?;
    Ok(Json(export_json(export, Some(&files))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_told_by_its_names() {
        assert_eq!(wanted(Some("gguf"), Some("Q4_K_M")).unwrap().to_string(), "gguf q4_k_m");
        assert_eq!(wanted(Some("safetensors"), None).unwrap().to_string(), "safetensors f32");
        for (format, kind, words) in [
            (None, None, "known are safetensors, adapter, gguf"),
            (Some("onnx"), None, "\"onnx\" is not known"),
            (Some("gguf"), Some("q2_k"), "\"q2_k\" is not known"),
            (Some("safetensors"), Some("q8_0"), "numbers of safetensors can be f32, f16, bf16, found q8_0"),
            (Some("adapter"), Some("f16"), "leave it out"),
        ] {
            let error = wanted(format, kind).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
