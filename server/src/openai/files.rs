//! Files: what jobs read and write.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::{TimeDelta, Utc};
use formats::inspect::Inspection;
use serde_json::{Value, json};
use store::FileId;
use store::file::{self, Deleted, File, FileStatus, Inspected, NewFile};
use store::objects::Scratch;

use super::parallel::{self, Upload};
use super::report::Report;
use super::views::file_json;
use super::{retries, upload};
use crate::extract::{Query, id_of};
use crate::{AppState, Error, Result};

/// What a file may be for; only `fine-tune` is looked into.
const PURPOSES: [&str; 6] = ["fine-tune", "assistants", "batch", "vision", "user_data", "evals"];

/// The parts of an upload.
#[derive(Default)]
struct Parts {
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
    file: Option<(String, Scratch)>,
}

/// `POST /v1/files`
pub async fn create_file(
    State(state): State<AppState>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>> {
    let parts = read_parts(&state, request).await?;
    let purpose = parts.purpose.as_deref().unwrap_or("fine-tune");
    if !PURPOSES.contains(&purpose) {
        return Err(Error::invalid(
            "purpose",
            format!("\"{purpose}\" is not known; known are {}", PURPOSES.join(", ")),
        ));
    }
    let expires_at = expiry(parts.anchor.as_deref(), parts.seconds.as_deref())?;
    let (name, scratch) = parts.file.ok_or_else(|| Error::invalid("file", "the part `file` is missing"))?;
    let upload = match purpose {
        "fine-tune" => parallel::table_of(&state, name, scratch).await?,
        _ => Upload::AsSent(name, scratch),
    };
    let (name, scratch, inspected) = match upload {
        Upload::AsSent(name, scratch) | Upload::Table(name, scratch) => {
            let inspected = look_into(&scratch, &name, purpose).await?;
            (name, scratch, inspected)
        }
        Upload::Unfit(name, scratch, report) => (name, scratch, inspected(&report)?),
    };
    let new = NewFile {
        inspected: Some(inspected),
        content: state.store.keep(&scratch).await?,
        name,
        purpose: purpose.to_owned(),
        expires_at,
    };
    let file = retries::create_file_once(&state.store.db, &new, retries::key_of(&headers)?).await?;
    Ok(Json(file_json(&file)))
}

/// `GET /v1/files`
pub async fn list_files(State(state): State<AppState>, query: Query) -> Result<Json<Value>> {
    let ascending = match query.get("order") {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(other) => {
            return Err(Error::invalid("order", format!("expected asc or desc, found \"{other}\"")));
        }
    };
    let filter =
        file::Filter { after: query.after()?, purpose: query.get("purpose").map(str::to_owned), ascending };
    let page = file::list(&state.store.db, &filter, query.limit(10_000, 10_000)?).await?;
    Ok(Json(super::list(&page, file_json)))
}

/// `GET /v1/files/{id}`
pub async fn retrieve_file(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>> {
    Ok(Json(file_json(&find_file(&state, id_of(&id)?).await?)))
}

/// `DELETE /v1/files/{id}`
pub async fn delete_file(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>> {
    let file: FileId = id_of(&id)?;
    match file::delete(&state.store.db, file).await? {
        Deleted::Done => Ok(Json(json!({"id": file, "object": "file", "deleted": true}))),
        Deleted::Missing => Err(missing(file)),
        Deleted::Needed(job) => Err(Error::bad_request(
            "in_use",
            format!("the file {file} is needed by the job {job}, which has not ended"),
        )),
    }
}

/// `GET /v1/files/{id}/content`
///
/// Always a download of unknown type: what a stranger uploaded must not run as a page of this server.
pub async fn retrieve_content(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let file = find_file(&state, id_of(&id)?).await?;
    let content = state.store.objects.read(&file.hash, None).await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(file.bytes)),
        (header::CONTENT_DISPOSITION, attachment(&file.name)),
    ];
    Ok((headers, Body::from_stream(content)).into_response())
}

/// Finds a file or says which is missing.
pub async fn find_file(state: &AppState, id: FileId) -> Result<File> {
    file::get(&state.store.db, id).await?.ok_or_else(|| missing(id))
}

/// `Content-Disposition` that makes a browser save under `name`.
pub(super) fn attachment(name: &str) -> HeaderValue {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_graphic() && !"\"\\/;%".contains(c) { c } else { '_' }).collect();
    let escaped: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let value = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", escaped.replace('+', "%20"));
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

fn missing(id: FileId) -> Error {
    Error::not_found(format!("there is no file {id}"))
}

async fn read_parts(state: &AppState, request: Request) -> Result<Parts> {
    let limit = state.config.max_file_bytes;
    let mut body = upload::open(request, limit).await?;
    let mut parts = Parts::default();
    while let Some(field) = upload::next(&mut body).await? {
        match field.name().unwrap_or_default() {
            "file" => {
                let name = file_name(field.file_name());
                parts.file = Some((name, upload::receive(state, field, limit).await?));
            }
            "purpose" => parts.purpose = Some(upload::text(field).await?),
            "expires_after[anchor]" => parts.anchor = Some(upload::text(field).await?),
            "expires_after[seconds]" => parts.seconds = Some(upload::text(field).await?),
            other => {
                return Err(Error::invalid(other, "unknown part; known are purpose, file, expires_after"));
            }
        }
    }
    Ok(parts)
}

/// The last part of the name that the sender gave, or a plain one.
fn file_name(sent: Option<&str>) -> String {
    let last = sent.unwrap_or_default().rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let short: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
    if short.is_empty() { "upload".to_owned() } else { short }
}

fn expiry(anchor: Option<&str>, seconds: Option<&str>) -> Result<Option<chrono::DateTime<Utc>>> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    if anchor != Some("created_at") {
        return Err(Error::invalid("expires_after.anchor", "expected \"created_at\""));
    }
    match seconds.parse::<i64>() {
        Ok(seconds @ 3600..=2_592_000) => Ok(Some(Utc::now() + TimeDelta::seconds(seconds))),
        _ => Err(Error::invalid(
            "expires_after.seconds",
            format!("expected 3600 to 2592000, found \"{seconds}\""),
        )),
    }
}

/// Reads a file from end to end; files for other purposes are taken as they are.
async fn look_into(scratch: &Scratch, name: &str, purpose: &str) -> Result<Inspected> {
    if purpose != "fine-tune" {
        return Ok(Inspected { status: FileStatus::Processed, details: None, report: None });
    }
    let (path, name) = (scratch.path().to_owned(), name.to_owned());
    let report = tokio::task::spawn_blocking(move || Report::of(&path, &name))
        .await
        .map_err(|error| Error::Internal(error.into()))?;
    inspected(&report)
}

/// What a report says of a file. Conversations are judged by the job that wants them: the same rows may be a table to another.
fn inspected(report: &Report) -> Result<Inspected> {
    Ok(Inspected {
        status: if report.table.is_usable() { FileStatus::Processed } else { FileStatus::Error },
        details: why_unusable(&report.table),
        report: Some(serde_json::to_value(report).map_err(anyhow::Error::from)?),
    })
}

fn why_unusable(inspection: &Inspection) -> Option<String> {
    match inspection.is_usable() {
        true => None,
        false if inspection.problems.is_empty() => {
            Some(format!("{}: no rows that can be used", inspection.name))
        }
        false => Some(inspection.problems.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        assert_eq!(file_name(Some("../../etc/passwd")), "passwd");
        assert_eq!(file_name(Some("C:\\data\\rows.csv")), "rows.csv");
        assert_eq!(file_name(Some("a\nb.csv")), "ab.csv");
        assert_eq!(file_name(Some("/")), "upload");
        assert_eq!(file_name(None), "upload");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        let value = attachment("a\"; x=\"y\r\nSet-Cookie: z; naïve.csv");
        let text = value.to_str().unwrap();
        assert!(
            text.starts_with("attachment; filename=\"a__ x=_y__Set-Cookie: z_ na_ve.csv\"")
                || !text.contains('\n')
        );
        assert!(text.contains("na%C3%AFve.csv"), "{text}");
    }
}
