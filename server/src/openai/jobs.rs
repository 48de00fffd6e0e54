//! Fine-tuning jobs: made, looked at, told what to do.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use store::JobId;
use store::job::{self, Job, JobKind};
use store::queue::{self, Dedup, EnqueueError, NewJob, OrderError};

use super::views::job_json;
use super::{dry_run, prepare, rerun, retries};
use crate::extract::{JsonObject, Query, id_of};
use crate::{AppState, Error, Result};

/// `POST /v1/fine_tuning/jobs`; with `dry_run` nothing is made, and the answer says what the job would take.
pub async fn create_job(
    State(state): State<AppState>,
    headers: HeaderMap,
    JsonObject(mut body): JsonObject,
) -> Result<Json<Value>> {
    if dry_run::taken_from(&mut body)? {
        let new = checked(&state, &body).await?;
        return Ok(Json(dry_run::dry_run(&state, &new).await?.to_json(&new)));
    }
    let dedup = retries::dedup_of(&headers, &body)?;
    Ok(Json(job_json(&create(&state, &body, &dedup).await?)))
}

/// Makes a job of a request, unless the same request has made one already; every check of the API is here.
pub async fn create(state: &AppState, body: &Map<String, Value>, dedup: &Dedup) -> Result<Job> {
    let new = checked(state, body).await?;
    Ok(queue::enqueue_once(&state.store.db, &new, dedup).await?.job)
}

/// The job that a request asks for, with every check passed and nothing made.
pub async fn checked(state: &AppState, body: &Map<String, Value>) -> Result<NewJob> {
    match body.get("manifest") {
        None | Some(Value::Null) => prepare::prepare(state, body).await,
        Some(_) => rerun::prepare(state, body).await,
    }
}

/// `GET /v1/fine_tuning/jobs`
pub async fn list_jobs(State(state): State<AppState>, query: Query) -> Result<Json<Value>> {
    let filter = job::Filter {
        after: query.after()?,
        metadata: metadata_of(&query)?,
        without_metadata: query.get("metadata") == Some("null"),
        ..job::Filter::default()
    };
    let page = job::list(&state.store.db, &filter, query.limit(20, 100)?).await?;
    Ok(Json(super::list(&page, job_json)))
}

/// `GET /v1/fine_tuning/jobs/{id}`
pub async fn retrieve_job(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>> {
    Ok(Json(job_json(&find_job(&state, &id).await?)))
}

/// `POST /v1/fine_tuning/jobs/{id}/cancel`
pub async fn cancel_job(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let id = find_job(&state, &id).await?.job_id;
    answer(queue::cancel(&state.store.db, id).await)
}

/// `POST /v1/fine_tuning/jobs/{id}/pause`
pub async fn pause_job(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let id = find_job(&state, &id).await?.job_id;
    answer(queue::pause(&state.store.db, id).await)
}

/// `POST /v1/fine_tuning/jobs/{id}/resume`
pub async fn resume_job(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let id = find_job(&state, &id).await?.job_id;
    answer(queue::resume(&state.store.db, id).await)
}

/// Finds a job by the id in an address.
pub async fn find_job(state: &AppState, id: &str) -> Result<Job> {
    let id: JobId = id_of(id)?;
    let job = job::get(&state.store.db, id).await?;
    // Other work has addresses of its own.
    job.filter(|job| job.kind == JobKind::Train).ok_or_else(|| missing(id))
}

fn missing(id: JobId) -> Error {
    Error::not_found(format!("there is no job {id}"))
}

/// The job after an order, or why it does not obey: a 400, since clients would repeat a 409.
fn answer(done: Result<Job, OrderError>) -> Result<Response> {
    match done {
        Ok(job) => Ok((StatusCode::OK, Json(job_json(&job))).into_response()),
        Err(OrderError::Missing(id)) => Err(missing(id)),
        Err(OrderError::Refused(why)) => Err(Error::bad_request("job_has_ended", why.to_string())),
        Err(OrderError::Db(cause)) => Err(cause.into()),
    }
}

/// `metadata[k]=v`, any number of times.
fn metadata_of(query: &Query) -> Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    for (name, value) in query.pairs() {
        let key = name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']'));
        if let Some(key) = key {
            pairs.insert(key.to_owned(), value.to_owned());
        } else if name == "metadata" && value != "null" {
            return Err(Error::invalid(
                "metadata",
                "expected metadata[key]=value, or metadata=null for jobs without any",
            ));
        }
    }
    Ok(pairs)
}

impl From<EnqueueError> for Error {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Missing { param, .. } => {
                Error::NotFound { message: error.to_string(), param: Some(param.to_owned()) }
            }
            EnqueueError::KeyReused { .. } => Error::bad_request("idempotency_key_reused", error.to_string()),
            EnqueueError::Db(cause) => cause.into(),
        }
    }
}
