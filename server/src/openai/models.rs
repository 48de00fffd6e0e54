//! Models: checkpoints that people bring, and those that jobs make.

use std::path::{Path as FsPath, PathBuf};

use axum::Json;
use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use formats::archive::Limits;
use formats::checkpoint::CheckpointInfo;
use serde_json::{Value, json};
use store::model::{self, CreateError, Deleted, Model, ModelKind, NewModel};
use store::{ExportId, JobId, StoredFile, export, spec::Task};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::archive::Archive;
use super::content::send_archive;
use super::prepare::{code_of, of_problem};
use super::views::{loaded_json, model_json};
use super::{exports, gguf, upload};
use crate::extract::{JsonObject, Query};
use crate::{AppState, Error, Result};

/// `POST /v1/models`: an archive or a GGUF as `file`, or several `files` with relative names; `id` is optional.
pub async fn create_model(State(state): State<AppState>, request: Request) -> Result<Json<Value>> {
    let sent = receive(&state, request).await?;
    let (root, wanted) = match sent.archive {
        Some((name, scratch)) => unpack(&state, &sent.folder, &name, scratch).await?,
        None => without_wrapper(sent.folder.path(), &sent.files)?,
    };
    let root = match gguf::alone_in(&root) {
        None => root,
        Some(file) => {
            let folder = sent.folder.path().join("of-gguf");
            gguf::unpack(&state, file, folder.clone()).await?;
            folder
        }
    };
    let id =
        sent.id.or(wanted).ok_or_else(|| Error::invalid("id", "`id` is missing: give the model a name"))?;
    model::check_id(&id).map_err(|wrong| Error::invalid("id", wrong.to_string()))?;
    let info = look_into(&root).await?;
    let files = keep(&state, &root).await?;
    let made = insert(&state, &id, &info, files.clone()).await?;
    Ok(Json(model_json(&made, Some(&files))))
}

/// `GET /v1/models`
pub async fn list_models(State(state): State<AppState>, query: Query) -> Result<Json<Value>> {
    let filter = model::Filter { after: query.get("after").map(str::to_owned), ..model::Filter::default() };
    let page = model::list(&state.store.db, &filter, query.limit(10_000, 10_000)?).await?;
    Ok(Json(super::list(&page, |model| model_json(model, None))))
}

/// `GET /v1/models/{id}`, `GET /v1/models/{id}/content` and `GET /v1/models/{id}/exports`
pub async fn retrieve_model(
    State(state): State<AppState>,
    Path(path): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response> {
    if let Some(id) = path.strip_suffix("/content") {
        return content(&state, id, &query, &headers).await;
    }
    if let Some(id) = path.strip_suffix("/exports") {
        return Ok(exports::list_exports(&state, id, &query).await?.into_response());
    }
    Ok(Json(whole_json(&state, &find_model(&state, &path).await?).await?).into_response())
}

/// `POST /v1/models/{id}/unload` and `POST /v1/models/{id}/exports`
pub async fn order_model(
    State(state): State<AppState>,
    Path(path): Path<String>,
    request: Request,
) -> Result<Json<Value>> {
    if let Some(id) = path.strip_suffix("/exports") {
        let JsonObject(body) = JsonObject::from_request(request, &state).await?;
        return exports::create_export(&state, id, &body).await;
    }
    let id = path.strip_suffix("/unload").ok_or_else(|| {
        Error::Method(format!(
            "this address does not answer POST requests; /v1/models/{path}/exports and /v1/models/{path}/unload do"
        ))
    })?;
    unload_model(&state, id).await
}

/// A language model that is kept loaded is let go of.
async fn unload_model(state: &AppState, id: &str) -> Result<Json<Value>> {
    let model = find_model(state, id).await?;
    state.workers.unload(id);
    Ok(Json(whole_json(state, &model).await?))
}

/// A model with its files, and what has it loaded.
async fn whole_json(state: &AppState, model: &Model) -> Result<Value> {
    let files = model::files(&state.store.db, &model.model_id).await?;
    let mut shown = model_json(model, Some(&files));
    shown["loaded"] = json!(state.workers.loaded_of(&model.model_id).as_ref().map(loaded_json));
    Ok(shown)
}

/// `DELETE /v1/models/{id}`
pub async fn delete_model(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>> {
    match model::delete(&state.store.db, &id).await? {
        Deleted::Done => Ok(Json(json!({"id": id, "object": "model", "deleted": true}))),
        Deleted::Missing => Err(missing(&id)),
        Deleted::Needed(job) => Err(Error::bad_request(
            "in_use",
            format!("the model {id} is needed by {}, which has not ended", needing(&state, job).await?),
        )),
    }
}

/// What needs a model, in words.
pub async fn needing(state: &AppState, job: JobId) -> Result<String> {
    let export = export::get(&state.store.db, ExportId::of(job)).await?;
    Ok(export.map_or_else(|| format!("the job {job}"), |export| format!("its export {}", export.export_id)))
}

/// Finds a model or says which is missing.
pub async fn find_model(state: &AppState, id: &str) -> Result<Model> {
    model::get(&state.store.db, id).await?.ok_or_else(|| missing(id))
}

/// What a model is there for: a language model generates, an encoder classifies or makes vectors, as its files say.
pub fn task_of(model: &Model) -> Task {
    model.task.as_deref().and_then(Task::of).unwrap_or(Task::TextClassification)
}

/// What a model that writes one text from another was made for, as far as its class or its type tells.
fn writing_task(info: &CheckpointInfo) -> Task {
    match info.model_type.as_deref() {
        Some("marian" | "mbart") => Task::Translation,
        _ => Task::TextToText,
    }
}

fn missing(id: &str) -> Error {
    Error::not_found(format!("there is no model \"{id}\""))
}

/// All files as a tar, which can be taken up again, or as a zip.
async fn content(state: &AppState, id: &str, query: &Query, headers: &HeaderMap) -> Result<Response> {
    let model = find_model(state, id).await?;
    let folder: String = id.chars().map(|c| if c == ':' { '-' } else { c }).collect();
    let files = model::files(&state.store.db, id).await?;
    let archive = Archive { time: model.created_at.timestamp().unsigned_abs(), files, folder };
    send_archive(archive, query.get("format"), state.store.objects.clone(), headers)
}

/// What came in; it goes with the folder unless it is kept.
struct Sent {
    folder: TempDir,
    id: Option<String>,
    archive: Option<(String, store::objects::Scratch)>,
    /// Relative names of single files.
    files: Vec<String>,
}

async fn receive(state: &AppState, request: Request) -> Result<Sent> {
    let mut left = state.config.max_model_bytes;
    let mut body = upload::open(request, left).await?;
    let folder = TempDir::with_prefix_in("upload-", state.config.data.join("cache"))?;
    let mut sent = Sent { folder, id: None, archive: None, files: Vec::new() };
    while let Some(field) = upload::next(&mut body).await? {
        let name = field.file_name().unwrap_or_default().to_owned();
        match field.name().unwrap_or_default() {
            "id" => sent.id = Some(upload::text(field).await?).filter(|id| !id.is_empty()),
            "file" => sent.archive = Some((name, upload::receive(state, field, left).await?)),
            "files" | "files[]" => {
                let relative = relative(&name)?;
                if sent.files.contains(&relative) {
                    return Err(Error::invalid("files", format!("`{relative}` was sent twice")));
                }
                let written = write(field, &sent.folder.path().join("root").join(&relative), left).await?;
                left = left
                    .checked_sub(written)
                    .ok_or_else(|| upload::too_large(state.config.max_model_bytes))?;
                sent.files.push(relative);
            }
            other => return Err(Error::invalid(other, "unknown part; known are id, file, files")),
        }
    }
    match (&sent.archive, sent.files.is_empty()) {
        (None, true) => Err(Error::invalid(
            "file",
            "send an archive or a GGUF as `file`, or the files of a checkpoint as `files`",
        )),
        (Some(_), false) => Err(Error::invalid("files", "send an archive or single files, not both")),
        _ => Ok(sent),
    }
}

/// Writes a part to a new file; gives its size.
async fn write(mut field: Field<'_>, path: &FsPath, most: u64) -> Result<u64> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let mut file = tokio::fs::File::create_new(path).await?;
    let mut written = 0;
    while let Some(chunk) =
        field.chunk().await.map_err(|error| Error::bad_request("unreadable_body", error.body_text()))?
    {
        written += chunk.len() as u64;
        if written > most {
            return Err(upload::too_large(most));
        }
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    Ok(written)
}

/// A relative name with `/`, or why it is none.
fn relative(name: &str) -> Result<String> {
    let refused = |why: &str| Err(Error::invalid("files", format!("the name {name:?} {why}")));
    if name.is_empty() {
        return refused("is empty: each of the files needs one");
    }
    if name.len() > 400 {
        return refused("is longer than 400 bytes");
    }
    if name.starts_with('/') || name.contains('\\') || name.chars().any(char::is_control) {
        return refused("is not a plain relative one");
    }
    if name.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return refused("leads out of its folder");
    }
    Ok(name.to_owned())
}

/// Unpacks an archive; gives the folder and a name for the model.
async fn unpack(
    state: &AppState,
    folder: &TempDir,
    name: &str,
    scratch: store::objects::Scratch,
) -> Result<(PathBuf, Option<String>)> {
    let limits = Limits { max_unpacked_bytes: state.config.max_unpacked_bytes, ..Limits::default() };
    let (target, shown) = (folder.path().join("root"), name.to_owned());
    if gguf::is_gguf(scratch.path()) {
        tokio::fs::create_dir_all(&target).await?;
        tokio::fs::copy(scratch.path(), target.join("model.gguf")).await?;
        return Ok((target, Some(name.trim_end_matches(".gguf").to_owned())));
    }
    let root = target.clone();
    let unpacked = tokio::task::spawn_blocking(move || {
        formats::archive::unpack(scratch.path(), &shown, &target, &limits)
    })
    .await
    .map_err(|error| Error::Internal(error.into()))?
    .map_err(|problem| match problem.kind {
        formats::ProblemKind::LimitExceeded => Error::TooLarge(problem.to_string()),
        _ => of_problem("file", &problem),
    })?;
    let plain = name
        .trim_end_matches(".gz")
        .trim_end_matches(".tar")
        .trim_end_matches(".tgz")
        .trim_end_matches(".zip");
    Ok((root, unpacked.wrapper.or_else(|| Some(plain.to_owned()))))
}

/// The folder that all files are in, where there is one: browsers send a folder with its own name in front.
fn without_wrapper(folder: &FsPath, files: &[String]) -> Result<(PathBuf, Option<String>)> {
    let first = |path: &String| path.split_once('/').map(|(first, _)| first.to_owned());
    let wrapper = files.first().and_then(first);
    let root = folder.join("root");
    match wrapper.filter(|wrapper| files.iter().all(|path| first(path).as_ref() == Some(wrapper))) {
        Some(wrapper) => Ok((root.join(&wrapper), Some(wrapper))),
        None => Ok((root, None)),
    }
}

/// What is in the checkpoint; one that cannot be trained is refused here and not in its first job.
async fn look_into(root: &FsPath) -> Result<CheckpointInfo> {
    let folder = root.to_owned();
    let info = tokio::task::spawn_blocking(move || formats::checkpoint::inspect_checkpoint(&folder))
        .await
        .map_err(|error| Error::Internal(error.into()))?;
    match info.problems.listed.first() {
        None => Ok(info),
        Some(first) => {
            let shown: Vec<String> = info.problems.listed.iter().take(5).map(ToString::to_string).collect();
            let code = code_of(first.kind).into();
            Err(Error::Invalid { message: shown.join("\n"), param: Some("file".to_owned()), code })
        }
    }
}

/// Files that operating systems add to folders.
fn is_companion(name: &str) -> bool {
    matches!(name, ".DS_Store" | "Thumbs.db" | "desktop.ini" | "__MACOSX")
}

async fn keep(state: &AppState, root: &FsPath) -> Result<Vec<StoredFile>> {
    let mut paths = Vec::new();
    list_files(root, "", &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let stored = state.store.put_path(&root.join(&path)).await?;
        files.push(StoredFile { path, hash: stored.hash, bytes: stored.bytes });
    }
    Ok(files)
}

fn list_files(folder: &FsPath, prefix: &str, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.file_type()?.is_dir() {
            _ if is_companion(&name) => {}
            true => list_files(&entry.path(), &format!("{prefix}{name}/"), found)?,
            false => found.push(format!("{prefix}{name}")),
        }
    }
    Ok(())
}

/// Makes the row; the same content under the same id is the same model.
async fn insert(state: &AppState, id: &str, info: &CheckpointInfo, files: Vec<StoredFile>) -> Result<Model> {
    let architecture = info.architectures.first().cloned();
    let has_head = |end: &str| architecture.as_ref().is_some_and(|name| name.ends_with(end));
    let task = match info.is_language_model() {
        _ if has_head("ForTokenClassification") => Some(Task::TokenClassification),
        true => Some(Task::TextGeneration),
        false if info.is_encoder_decoder() => Some(writing_task(info)),
        false if info.is_sentence_model() => Some(Task::SentenceSimilarity),
        false if has_head("ForQuestionAnswering") => Some(Task::QuestionAnswering),
        false => has_head("ForSequenceClassification").then_some(Task::TextClassification),
    };
    let new = NewModel {
        model_id: id.to_owned(),
        kind: ModelKind::Base,
        task: task.map(|task| task.as_str().to_owned()),
        architecture,
        parameters: i64::try_from(info.parameters).ok(),
        base_model: None,
        job_id: None,
        step: None,
        metrics: json!({}),
        report: serde_json::to_value(info).map_err(anyhow::Error::from)?,
        files,
    };
    match model::create(&state.store.db, &new).await {
        Ok(made) => Ok(made),
        Err(CreateError::Db(cause)) => Err(cause.into()),
        Err(taken @ CreateError::Taken(_)) => {
            if model::files(&state.store.db, id).await? == new.files {
                return find_model(state, id).await;
            }
            Err(Error::Invalid {
                message: taken.to_string(),
                param: Some("id".to_owned()),
                code: "taken".into(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        assert_eq!(relative("minilm/config.json").unwrap(), "minilm/config.json");
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", "./a", "a/", "a\nb"] {
            assert!(relative(bad).is_err(), "{bad:?}");
        }
    }
}
