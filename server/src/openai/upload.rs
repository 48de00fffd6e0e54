//! Multipart bodies, read part by part: files go to disk as they come, fields stay small.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::header;
use futures::{Stream, StreamExt};
use store::ObjectsError;
use store::objects::Scratch;

use crate::{AppState, Error, Result};

/// Bytes of boundaries, headers and fields around the content.
const OVERHEAD: u64 = 1 << 20;

/// Bytes of one field that is not a file.
const LONGEST_FIELD: usize = 16 << 10;

/// What a sender may go on sending after it was refused, so that it gets to read the answer.
const DRAINED_BYTES: u64 = 1 << 30;

/// How long it may do so.
const DRAINED_TIME: Duration = Duration::from_secs(60);

/// Opens a multipart body of at most `limit` bytes of content. One that states more is refused before it is read.
pub async fn open(request: Request, limit: u64) -> Result<Multipart> {
    let stated: Option<u64> =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let request = request.map(|body| Body::from_stream(Drained(Some(body.into_data_stream()))));
    if stated.is_some_and(|stated| stated > limit.saturating_add(OVERHEAD)) {
        return Err(too_large(limit));
    }
    Multipart::from_request(request, &()).await.map_err(|error| {
        Error::bad_request(
            "invalid_multipart",
            format!("expected multipart/form-data: {}", error.body_text()),
        )
    })
}

/// The next part; none at the end of the body.
pub async fn next(body: &mut Multipart) -> Result<Option<Field<'_>>> {
    body.next_field().await.map_err(unreadable)
}

/// The text of a small field.
pub async fn text(mut field: Field<'_>) -> Result<String> {
    let name = field.name().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(unreadable)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_FIELD {
            return Err(Error::invalid(name, format!("has more than {LONGEST_FIELD} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid(name, "is not UTF-8 text"))
}

/// Receives a part into a scratch file that goes when it is dropped; memory stays constant.
pub async fn receive(state: &AppState, field: Field<'_>, limit: u64) -> Result<Scratch> {
    let stream = field.map(|chunk| chunk.map_err(|error| error.body_text()));
    state.store.objects.receive(stream, Some(limit)).await.map_err(|error| match error {
        ObjectsError::TooLarge { limit } => too_large(limit),
        ObjectsError::Source(why) => {
            Error::bad_request("unreadable_body", format!("the upload broke off: {why}"))
        }
        other => Error::Internal(other.into()),
    })
}

/// The refusal of a body that is too long; it names the limit.
pub fn too_large(limit: u64) -> Error {
    Error::TooLarge(format!("the upload has more than the {limit} bytes that this server takes at once"))
}

fn unreadable(error: MultipartError) -> Error {
    Error::bad_request("invalid_multipart", format!("the body cannot be read: {}", error.body_text()))
}

/// A body that is read on in the background when nobody wants the rest: a sender that is cut off while it sends does
/// not get to see why.
struct Drained(Option<BodyDataStream>);

impl Stream for Drained {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let chunk = ready!(body.poll_next_unpin(context));
        if !matches!(chunk, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(chunk)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let (Some(mut rest), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(tokio::time::timeout(DRAINED_TIME, async move {
            let mut read = 0;
            while let Some(Ok(chunk)) = rest.next().await {
                read += chunk.len() as u64;
                if read > DRAINED_BYTES {
                    break;
                }
            }
        }));
    }
}
