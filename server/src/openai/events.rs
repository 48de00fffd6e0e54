//! Events of a job: a list, or a stream that ends with the job.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use store::event::{self, Event};
use store::job::{self, Job};
use store::notify::Wake;
use store::{EventId, JobId};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::jobs::find_job;
use super::sse;
use super::views::event_json;
use crate::extract::Query;
use crate::{AppState, Error, Result};

/// Events read at once.
const BATCH: i64 = 200;

/// How often a stream looks though nothing woke it.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Time for which a stream outlives a database that is away.
const LONGEST_OUTAGE: Duration = Duration::from_secs(60);

/// `GET /v1/fine_tuning/jobs/{id}/events`
pub async fn list_events(
    State(state): State<AppState>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response> {
    let job = find_job(&state, &id).await?;
    let after = after_of(&job, &query)?;
    // By the query alone: OpenAI's clients accept JSON and read a stream all the same.
    if query.is_on("stream") {
        return Ok(sse::answer(messages(state, job.job_id, after.unwrap_or(0))));
    }
    let page = event::page(&state.store.db, job.job_id, after, query.limit(20, 1000)?).await?;
    Ok(Json(super::list(&page, event_json)).into_response())
}

/// Number of the event that the reader has.
fn after_of(job: &Job, query: &Query) -> Result<Option<i64>> {
    match query.after::<EventId>()? {
        None => Ok(None),
        Some(id) if id.job == job.job_id => Ok(Some(id.number)),
        Some(id) => Err(Error::invalid("after", format!("the event {id} is of another job"))),
    }
}

fn messages(state: AppState, id: JobId, last: i64) -> impl Stream<Item = String> {
    // Subscribed before the first look, or an event between the two would wait for the next one.
    let wakes = state.listener.subscribe();
    let start = Follower { state, id, last, wakes, ready: Vec::new(), done: false };
    futures::stream::unfold(start, |mut follower| async move {
        let message = follower.next().await?;
        Some((message, follower))
    })
}

/// A reader that is asked for the next message: one that reads slowly holds nothing up, since nothing is made ahead.
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
    async fn next(&mut self) -> Option<String> {
        while self.ready.is_empty() {
            if self.done {
                return None;
            }
            match self.look().await {
                Ok(true) => {
                    self.done = true;
                    return Some(sse::DONE.to_owned());
                }
                Ok(false) if self.ready.is_empty() => {
                    if !self.wait().await {
                        return None;
                    }
                }
                Ok(false) => {}
                Err(error) => {
                    self.done = true;
                    return Some(error.to_json().to_string());
                }
            }
        }
        let event = self.ready.pop()?;
        self.last = event.number;
        Some(event_json(&event).to_string())
    }

    /// Reads what is new; true when there is nothing more to come. Short outages of the database are sat out.
    async fn look(&mut self) -> Result<bool> {
        let since = tokio::time::Instant::now();
        loop {
            match self.read().await {
                Err(error @ Error::Unavailable(_)) if since.elapsed() >= LONGEST_OUTAGE => return Err(error),
                Err(Error::Unavailable(_)) => {}
                other => return other,
            }
            tokio::select! {
                () = self.state.stopping.cancelled() => return Err(Error::Unavailable("the server is stopping".to_owned())),
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    async fn read(&mut self) -> Result<bool> {
        let db = &self.state.store.db;
        // The state first: what was written before the end is then in the events that are read after it.
        let ended = job::get(db, self.id).await?.is_none_or(|job| job.status.is_final());
        self.ready = event::since(db, self.id, self.last, BATCH).await?;
        self.ready.reverse();
        Ok(ended && self.ready.is_empty())
    }

    /// Waits until there may be something new; false when the server stops.
    async fn wait(&mut self) -> bool {
        let timer = tokio::time::sleep(LOOK_EVERY);
        tokio::pin!(timer);
        loop {
            tokio::select! {
                () = self.state.stopping.cancelled() => return false,
                () = &mut timer => return true,
                wake = self.wakes.recv() => match wake {
                    Ok(Wake::Job(id)) if id != self.id => {}
                    Ok(Wake::Queue) => {}
                    Ok(Wake::Job(_) | Wake::Missed) | Err(RecvError::Lagged(_)) => return true,
                    // The listener is gone with the server; until then the timer is enough.
                    Err(RecvError::Closed) => {
                        timer.as_mut().await;
                        return true;
                    }
                },
            }
        }
    }
}
