//! Stored bytes as downloads that can be taken up again.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::ops::Range;
use store::{Objects, StoredFile};

use super::archive::Archive;
use super::files::attachment;
use super::range;
use crate::{Error, Result};

/// Sends an archive as a tar, which has a length and parts, or as a zip, which has neither.
pub fn send_archive(
    archive: Archive,
    format: Option<&str>,
    objects: Objects,
    headers: &HeaderMap,
) -> Result<Response> {
    match format {
        None | Some("tar") => {
            let (tag, tar) = (archive.tag(), archive.tar()?);
            let (name, size) = (format!("{}.tar", archive.folder), tar.len());
            let part = range::of(headers, size, &tag)?;
            let bytes = part.clone().unwrap_or(0..size);
            let body = Body::from_stream(tar.stream(objects, bytes));
            Ok(answer(body, "application/x-tar", &name, size, &tag, part))
        }
        Some("zip") => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/zip")),
                (header::CONTENT_DISPOSITION, attachment(&format!("{}.zip", archive.folder))),
            ];
            Ok((headers, Body::from_stream(archive.zip(objects))).into_response())
        }
        Some(other) => Err(Error::invalid("format", format!("expected tar or zip, found \"{other}\""))),
    }
}

/// Sends one file under its own name.
pub async fn send_file(file: &StoredFile, objects: &Objects, headers: &HeaderMap) -> Result<Response> {
    let (size, tag) = (file.bytes.unsigned_abs(), format!("\"{}\"", file.hash));
    let part = range::of(headers, size, &tag)?;
    let content = objects.read(&file.hash, part.clone()).await?;
    let name = file.path.rsplit('/').next().unwrap_or(&file.path);
    Ok(answer(Body::from_stream(content), "application/octet-stream", name, size, &tag, part))
}

/// An answer with all of `size` bytes, or with a part.
fn answer(
    body: Body,
    kind: &'static str,
    name: &str,
    size: u64,
    tag: &str,
    part: Option<Range<u64>>,
) -> Response {
    let mut response = body.into_response();
    let bytes = part.clone().unwrap_or(0..size);
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    head.insert(header::CONTENT_DISPOSITION, attachment(name));
    head.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.end - bytes.start));
    head.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    head.extend(HeaderValue::from_str(tag).ok().map(|tag| (header::ETAG, tag)));
    if part.is_some() {
        let range = format!("bytes {}-{}/{size}", bytes.start, bytes.end.saturating_sub(1));
        head.extend(HeaderValue::from_str(&range).ok().map(|range| (header::CONTENT_RANGE, range)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}
