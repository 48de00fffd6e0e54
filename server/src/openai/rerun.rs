//! A job made again from the manifest of another: the same settings on the same content.
//!
//! Ids in a manifest may be of another server or of things that were deleted, so content is looked for by its hash.

use serde_json::{Map, Value};
use store::file::{self, File};
use store::queue::NewJob;
use store::spec::{JobSpec, Reader};
use store::{FileId, StoredFile, model};

use super::prepare::{MAX_ATTEMPTS, check_device};
use super::request::Labels;
use crate::{AppState, Error, Result};

/// Rows of a list looked through at once.
const BATCH: i64 = 500;

/// Checks a request that holds a manifest and makes a job of it.
pub async fn prepare(state: &AppState, body: &Map<String, Value>) -> Result<NewJob> {
    let mut reader = Reader::new("", body);
    let labels = Labels::read(&mut reader)?;
    let manifest = reader.value("manifest").cloned().unwrap_or_default();
    reader.finish().map_err(|wrong| {
        Error::invalid(wrong.param, format!("{}; the rest of a job is in its manifest", wrong.message))
    })?;
    let mut spec: JobSpec = serde_json::from_value(manifest["spec"].clone())
        .map_err(|error| Error::invalid("manifest.spec", format!("cannot be read: {error}")))?;
    spec.validate()
        .map_err(|wrong| Error::invalid(format!("manifest.spec.{}", wrong.param), wrong.message))?;
    if !spec.work.is_train() {
        return Err(Error::invalid(
            "manifest.spec.work",
            "only a fine-tune can be run again from its manifest",
        ));
    }
    if let Some(name) = labels.name {
        spec.name = name;
    }
    check_device(state, &spec).await?;
    let model_id = find_model(state, &manifest["base_model"]).await?;
    let data = &manifest["data"];
    let training_file = find_data(state, data, &spec.data.train).await?;
    let validation_file = find_optional(state, data, spec.data.validation.as_deref()).await?;
    let test_file = find_optional(state, data, spec.data.test.as_deref()).await?;
    Ok(NewJob {
        spec,
        suffix: labels.suffix,
        model_id,
        training_file: Some(training_file),
        validation_file,
        test_file,
        metadata: labels.metadata,
        priority: labels.priority,
        max_attempts: MAX_ATTEMPTS,
        request: Value::Object(body.clone()),
        manifest: without_the_machine(manifest),
        notes: vec!["Made from a manifest.".to_owned()],
    })
}

/// What the run itself will find out anew.
fn without_the_machine(mut manifest: Value) -> Value {
    if let Some(fields) = manifest.as_object_mut() {
        for field in ["identity", "libtorch", "hardware", "luthier"] {
            fields.remove(field);
        }
    }
    manifest
}

async fn find_optional(state: &AppState, data: &Value, name: Option<&str>) -> Result<Option<FileId>> {
    match name {
        None => Ok(None),
        Some(name) => find_data(state, data, name).await.map(Some),
    }
}

/// An uploaded file with the content that the manifest names.
async fn find_data(state: &AppState, data: &Value, name: &str) -> Result<FileId> {
    let param = format!("manifest.data.{name}");
    let hash = data[name]
        .as_str()
        .ok_or_else(|| Error::invalid(&*param, "the manifest has no hash of this file"))?;
    let mut filter = file::Filter { purpose: Some("fine-tune".to_owned()), ..file::Filter::default() };
    loop {
        let page = file::list(&state.store.db, &filter, BATCH).await?;
        if let Some(File { file_id, .. }) = page.items.iter().find(|file| file.hash.as_str() == hash) {
            return Ok(*file_id);
        }
        filter.after = page.items.last().map(|file| file.file_id);
        if !page.more {
            let message = format!("no uploaded file has the content {hash}; upload it again");
            return Err(Error::NotFound { message, param: Some(param) });
        }
    }
}

/// A model with the content that the manifest names: the one of that name, or another with the same files.
async fn find_model(state: &AppState, base: &Value) -> Result<String> {
    let param = "manifest.base_model";
    let wanted = base["files"]
        .as_object()
        .ok_or_else(|| Error::invalid(param, "the manifest has no files of the base model"))?;
    let same = |files: &[StoredFile]| {
        files.len() == wanted.len()
            && files
                .iter()
                .all(|file| wanted.get(&file.path).and_then(Value::as_str) == Some(file.hash.as_str()))
    };
    let name = base["name"].as_str().unwrap_or_default();
    if same(&model::files(&state.store.db, name).await?) {
        return Ok(name.to_owned());
    }
    let mut filter = model::Filter::default();
    loop {
        let page = model::list(&state.store.db, &filter, BATCH).await?;
        for found in &page.items {
            if same(&model::files(&state.store.db, &found.model_id).await?) {
                return Ok(found.model_id.clone());
            }
        }
        filter.after = page.items.last().map(|model| model.model_id.clone());
        if !page.more {
            let message =
                format!("no model has the content of \"{name}\" that the manifest names; upload it again");
            return Err(Error::NotFound { message, param: Some(param.to_owned()) });
        }
    }
}
