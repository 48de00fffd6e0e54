//! Answers that are sent as they come.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};

/// Proxies cut a connection that is silent for 30 to 60 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The last message of a stream that ended well.
pub const DONE: &str = "[DONE]";

/// Messages without ids: OpenAI's clients take a comment for a message once they have seen an id.
pub fn answer(messages: impl Stream<Item = String> + Send + 'static) -> Response {
    let headers = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // nginx holds back what it may buffer.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    let messages = messages.map(|data| Ok::<_, Infallible>(Message::default().data(data)));
    (headers, Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response()
}
