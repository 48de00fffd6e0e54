//! Exports of a model: the section of its page, and what can be done there.

mod certificate;

use axum::Form;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use serde::Deserialize;
use serde_json::Value;
use store::ExportId;
use store::export::Export;
use store::job::{Asked, Status as JobState};
use store::model::Model;
use store::queue;
use store::spec::{Format, NumberKind};

use super::find_model;
use crate::openai::exports::{alone, create, delete, obstacle, wanted};
use crate::pages::job::ask;
use crate::pages::view::ConfirmQuestion;
use crate::pages::view::export::{ExportChoice, ExportRow, ExportsCard};
use crate::pages::view::home::Status;
use crate::pages::view::text::{self, Moment};
use crate::pages::{convert, html, is_fragment, sentence};
use crate::{AppState, Error, Result};

/// Exports of a model that are shown.
const SHOWN: i64 = 50;

/// What can be asked for, in the order of the form, and what it is for.
const OFFERED: [(Format, Option<NumberKind>, &str); 9] = [
    (
        Format::Gguf,
        Some(NumberKind::Q4KM),
        "One file for llama.cpp and what is built on it, in 4 to 6 bits a number: the smallest. Answers differ somewhat.",
    ),
    (
        Format::Gguf,
        Some(NumberKind::Q8_0),
        "One file for llama.cpp in 8 bits a number: half of f16, with nearly the same answers.",
    ),
    (
        Format::Gguf,
        Some(NumberKind::F16),
        "One file for llama.cpp in 16 bits: where there is room, or to be quantized further by its tools.",
    ),
    (
        Format::Gguf,
        Some(NumberKind::Bf16),
        "The same with the wider range of bf16, for models trained in it.",
    ),
    (Format::Gguf, Some(NumberKind::F32), "One file for llama.cpp with every bit of the weights."),
    (
        Format::Safetensors,
        Some(NumberKind::F32),
        "A folder that transformers and vLLM load, with every bit of the weights; an adapter is merged into its base.",
    ),
    (Format::Safetensors, Some(NumberKind::Bf16), "The same in half the size, as GPUs of today compute."),
    (
        Format::Safetensors,
        Some(NumberKind::F16),
        "The same in half the size, finer than bf16 and with less range.",
    ),
    (
        Format::Adapter,
        None,
        "The adapter alone as peft saves it: a few megabytes, to be put onto the base that it was trained on.",
    ),
];

/// The section of a model's page.
pub async fn card(state: &AppState, model: &Model, error: String) -> Result<ExportsCard> {
    let href = format!("{}/exports", convert::model_href(&model.model_id));
    let page = store::export::list(&state.store.db, &model.model_id, None, SHOWN).await?;
    let can = |format: Format| obstacle(model, format).is_none();
    let mut choices: Vec<ExportChoice> =
        OFFERED.iter().filter(|(format, ..)| can(*format)).map(|offer| choice(model, offer)).collect();
    if let Some(first) = choices.first_mut() {
        first.chosen = true;
    }
    let mut rows = Vec::with_capacity(page.items.len());
    for export in &page.items {
        let files = match export.status {
            JobState::Succeeded => store::export::files(&state.store.db, export.export_id).await?,
            _ => Vec::new(),
        };
        rows.push(row(export, alone(export, &files).is_some(), &href));
    }
    let refused = obstacle(model, Format::Safetensors).map(|why| sentence(&why)).unwrap_or_default();
    let is_live = page.items.iter().any(|export| !export.status.is_final());
    Ok(ExportsCard { href, choices, refused, rows, is_live, error })
}

fn choice(model: &Model, (format, kind, about): &(Format, Option<NumberKind>, &'static str)) -> ExportChoice {
    let bytes = match (format, kind) {
        (Format::Adapter, _) | (_, None) => None,
        (_, Some(kind)) => {
            model.parameters.filter(|count| *count > 0).map(|count| count as f64 * bytes_of(*kind))
        }
    };
    let value = kind
        .map_or_else(|| format.as_str().to_owned(), |kind| format!("{}:{}", format.as_str(), kind.name()));
    ExportChoice {
        value,
        name: name_of(format.as_str(), kind.map(NumberKind::name)),
        about,
        size: bytes.map(|bytes| format!("about {}", text::bytes(bytes as u64))).unwrap_or_default(),
        chosen: false,
    }
}

/// Bytes of a number; of `q4_k_m` as most models have it, whose larger tensors take 4.5 bits and some of them 6.6.
fn bytes_of(kind: NumberKind) -> f64 {
    match kind {
        NumberKind::F32 => 4.0,
        NumberKind::F16 | NumberKind::Bf16 => 2.0,
        NumberKind::Q8_0 => 8.5 / 8.0,
        NumberKind::Q4KM => 5.0 / 8.0,
    }
}

/// "GGUF, q4_k_m".
fn name_of(format: &str, kind: Option<&str>) -> String {
    let format = match format {
        "gguf" => "GGUF",
        "adapter" => "Adapter (PEFT)",
        _ => "Safetensors",
    };
    kind.map_or_else(|| format.to_owned(), |kind| format!("{format}, {kind}"))
}

fn row(export: &Export, is_file: bool, href: &str) -> ExportRow {
    let id = export.export_id.to_string();
    let (is_made, is_over) = (export.status == JobState::Succeeded, export.status.is_final());
    let ready = export.ready == Some(true);
    let content = format!("/v1/exports/{id}/content");
    let downloads = match (is_made, is_file) {
        (false, _) => Vec::new(),
        (true, true) => vec![(content, "Download")],
        (true, false) => {
            vec![(format!("{content}?format=zip"), "Download zip"), (format!("{content}?format=tar"), "tar")]
        }
    };
    let here = format!("{href}/{id}");
    let asked = export.asked.map(|asked| if asked == Asked::Cancel { "cancel" } else { "pause" });
    let (progress, share) = progress(export);
    let error = export.error.as_ref().and_then(|error| error["message"].as_str()).unwrap_or_default();
    ExportRow {
        name: name_of(&export.format, export.number_kind.as_deref()),
        status: (!is_made).then(|| Status::of(export.status.as_str(), asked)),
        ready,
        reasons: reasons(export),
        progress,
        share,
        error: error.to_owned(),
        size: export.bytes.map(|bytes| text::bytes(bytes.max(0) as u64)).unwrap_or_default(),
        downloads: if ready { downloads } else { Vec::new() },
        warn: if is_made && !ready { format!("{here}/download") } else { String::new() },
        cancel: if is_over { String::new() } else { format!("{here}/cancel") },
        delete: if is_over { format!("{here}/delete") } else { String::new() },
        created: Moment::at(export.created_at, Utc::now()),
        certificate: export.certificate.as_ref().map(certificate::view),
        id,
    }
}

/// What it is at, and the share of it that is done.
fn progress(export: &Export) -> (String, Option<f64>) {
    if export.status != JobState::Running {
        return (String::new(), None);
    }
    let what = match export.phase.as_deref() {
        Some("writing") => "writing it",
        Some("replaying") => "asking the model",
        Some("checking") => "asking the export",
        _ => "getting ready",
    };
    let number = |name: &str| export.progress.get(name).and_then(Value::as_f64);
    match (number("done"), number("of").filter(|of| *of > 0.0)) {
        (Some(done), Some(of)) if matches!(export.phase.as_deref(), Some("replaying" | "checking")) => {
            (format!("{what}: {done} of {of} rows"), Some(done / of))
        }
        _ => (what.to_owned(), None),
    }
}

fn reasons(export: &Export) -> Vec<String> {
    let told = export.certificate.as_ref().and_then(|told| told["reasons"].as_array());
    told.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[derive(Deserialize)]
pub struct Asking {
    what: String,
}

/// `GET /models/{id}/exports`: the section alone, or the page that it is a part of.
pub async fn show_exports(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let model = find_model(&state, &id).await?;
    match is_fragment(&headers) {
        true => html(&card(&state, &model, String::new()).await?),
        false => Ok(back(&id).into_response()),
    }
}

/// `POST /models/{id}/exports`
pub async fn create_export(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Form(asking): Form<Asking>,
) -> Result<Response> {
    let model = find_model(&state, &id).await?;
    let (format, kind) = match asking.what.split_once(':') {
        Some((format, kind)) => (format, Some(kind)),
        None => (asking.what.as_str(), None),
    };
    let made = match wanted(Some(format), kind) {
        Ok(wanted) => create(&state, &model, wanted).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(_) => Ok(back(&id).into_response()),
        Err(error) if error.status().is_client_error() => {
            let error_text = sentence(&error.to_string());
            let page = super::detail_with(&state, &id, None, error_text).await?;
            Ok((StatusCode::BAD_REQUEST, html(&page)?).into_response())
        }
        Err(error) => Err(error),
    }
}

/// `POST /models/{id}/exports/{export}/cancel`
pub async fn cancel_export(
    State(state): State<AppState>,
    Path((id, export)): Path<(String, String)>,
) -> Result<Redirect> {
    let export = find(&state, &id, &export).await?;
    match queue::cancel(&state.store.db, export.export_id.job()).await {
        // One that has ended meanwhile shows it.
        Ok(_) | Err(queue::OrderError::Refused(_) | queue::OrderError::Missing(_)) => Ok(back(&id)),
        Err(queue::OrderError::Db(cause)) => Err(cause.into()),
    }
}

/// `GET /models/{id}/exports/{export}/delete`
pub async fn confirm_delete(
    State(state): State<AppState>,
    Path((id, export)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response> {
    let export = find(&state, &id, &export).await?;
    let name = name_of(&export.format, export.number_kind.as_deref());
    let question = ConfirmQuestion {
        heading: format!("Delete the export {name}?"),
        message:
            "Its files and its certificate are gone for good. The model stays, and it can be exported again."
                .to_owned(),
        action: format!("{}/exports/{}/delete", convert::model_href(&id), export.export_id),
        yes: "Delete it",
        back: format!("{}#exports", convert::model_href(&id)),
    };
    ask(question, &headers)
}

/// `POST /models/{id}/exports/{export}/delete`
pub async fn delete_export(
    State(state): State<AppState>,
    Path((id, export)): Path<(String, String)>,
) -> Result<Redirect> {
    let export = find(&state, &id, &export).await?;
    delete(&state, export.export_id).await?;
    Ok(back(&id))
}

/// `GET /models/{id}/exports/{export}/download`: what stands against it.
pub async fn confirm_download(
    State(state): State<AppState>,
    Path((id, export)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response> {
    let export = find(&state, &id, &export).await?;
    if export.status != JobState::Succeeded {
        return Err(Error::bad_request(
            "no_content",
            format!("the export {} has no files", export.export_id),
        ));
    }
    let question = ConfirmQuestion {
        heading: "This export is not ready".to_owned(),
        message: reasons(&export).join(" "),
        action: format!("{}/exports/{}/download", convert::model_href(&id), export.export_id),
        yes: "Download it all the same",
        back: format!("{}#exports", convert::model_href(&id)),
    };
    ask(question, &headers)
}

/// `POST /models/{id}/exports/{export}/download`
pub async fn download(
    State(state): State<AppState>,
    Path((id, export)): Path<(String, String)>,
) -> Result<Redirect> {
    let export = find(&state, &id, &export).await?;
    Ok(Redirect::to(&format!("/v1/exports/{}/content", export.export_id)))
}

/// An export of this model.
async fn find(state: &AppState, model: &str, export: &str) -> Result<Export> {
    let missing = || Error::not_found(format!("there is no export {export} of {model} on this server"));
    let id: ExportId = export.parse().map_err(|_| missing())?;
    let found = store::export::get(&state.store.db, id).await?;
    found.filter(|found| found.model_id == model).ok_or_else(missing)
}

fn back(model: &str) -> Redirect {
    Redirect::to(&format!("{}#exports", convert::model_href(model)))
}
