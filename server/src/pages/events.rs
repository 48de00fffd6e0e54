//! A job's events as a stream that a browser can go on with.
//!
//! Each message carries the event's number as its id: `EventSource` sends the last one back when it connects again, and
//! the table of events is append-only, so nothing is lost or doubled. A browser that has no connection to spare asks for
//! the same events as JSON.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use store::JobId;
use store::event::Event;
use store::notify::Wake;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::job::find_job;
use super::job_view::log_message;
use super::series;
use crate::{AppState, Result};

/// Events read at once.
const BATCH: i64 = 500;

/// How often the database is asked though nothing woke us.
const POLL: Duration = Duration::from_secs(5);

/// Proxies cut a connection that is silent for 30 to 60 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
pub struct FollowQuery {
    #[serde(default)]
    after: i64,
    format: Option<String>,
}

/// `GET /jobs/{id}/events`
pub async fn follow(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let job = find_job(&state, &id).await?;
    let again = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let after = again.unwrap_or(query.after).max(0);
    if query.format.as_deref() == Some("json") {
        let events = store::event::since(&state.store.db, job.job_id, after, BATCH).await?;
        let more = events.len() as i64 == BATCH;
        let ended = job.status.is_final() && !more;
        let events: Vec<Value> = events.iter().map(as_json).collect();
        return Ok(Json(json!({"events": events, "more": more, "ended": ended})).into_response());
    }
    let stream =
        Sse::new(messages(state, job.job_id, after)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let headers = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // nginx holds back what it may buffer.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, stream).into_response())
}

/// Events after `last` as they come, then `end`. A trouble with the database ends the stream; the browser comes back.
fn messages(state: AppState, id: JobId, last: i64) -> impl Stream<Item = Result<Message, Infallible>> {
    // Subscribed before the first look, or an event between the two would wait for the next one.
    let wakes = state.listener.subscribe();
    let start = Follower { state, id, last, wakes, ready: Vec::new(), done: false };
    futures::stream::unfold(start, |mut follower| async move {
        let message = follower.next().await?;
        Some((Ok(message), follower))
    })
}

struct Follower {
    state: AppState,
    id: JobId,
    last: i64,
    wakes: Receiver<Wake>,
    /// Events that are read and not sent, newest first.
    ready: Vec<Event>,
    done: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(event) = self.ready.pop() {
                self.last = event.number;
                return Some(
                    Message::default().id(event.number.to_string()).data(as_json(&event).to_string()),
                );
            }
            if self.done {
                return None;
            }
            // The state first: what is written before the end is then in the events that are read after it.
            let ended = store::job::get(&self.state.store.db, self.id)
                .await
                .ok()?
                .is_none_or(|job| job.status.is_final());
            self.ready = store::event::since(&self.state.store.db, self.id, self.last, BATCH).await.ok()?;
            self.ready.reverse();
            if self.ready.is_empty() && ended {
                self.done = true;
                return Some(Message::default().event("end").data("{}"));
            }
            if self.ready.is_empty() && !self.wait().await {
                return None;
            }
        }
    }

    /// Waits until there may be something new; false when the server stops.
    async fn wait(&mut self) -> bool {
        let timer = tokio::time::sleep(POLL);
        tokio::pin!(timer);
        loop {
            tokio::select! {
                () = self.state.stopping.cancelled() => return false,
                () = &mut timer => return true,
                wake = self.wakes.recv() => match wake {
                    Ok(Wake::Job(id)) if id != self.id => {}
                    Ok(Wake::Queue) => {}
                    Ok(Wake::Job(_) | Wake::Missed) | Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => { timer.as_mut().await; return true; }
                },
            }
        }
    }
}

/// What the page's script reads of an event: the numbers that have a curve under `fields`, the time in milliseconds.
fn as_json(event: &Event) -> Value {
    json!({
        "number": event.number,
        "kind": event.kind.as_str(),
        "step": series::step_of(event),
        "at": event.at.timestamp_millis(),
        "level": event.level.as_str(),
        "message": log_message(event),
        "fields": series::fields_of(event),
    })
}
