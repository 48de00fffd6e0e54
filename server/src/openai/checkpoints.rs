//! Checkpoints of a job.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::Value;
use store::{CheckpointId, checkpoint};

use super::jobs::find_job;
use super::views::checkpoint_json;
use crate::extract::Query;
use crate::{AppState, Error, Result};

/// `GET /v1/fine_tuning/jobs/{id}/checkpoints`
pub async fn list_checkpoints(
    State(state): State<AppState>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Json<Value>> {
    let job = find_job(&state, &id).await?;
    let before = match query.after::<CheckpointId>()? {
        None => None,
        Some(after) => Some(step_of(&state, after).await?),
    };
    let page = checkpoint::list(&state.store.db, job.job_id, before, query.limit(10, 100)?).await?;
    Ok(Json(super::list(&page, |found| checkpoint_json(&job, found))))
}

async fn step_of(state: &AppState, id: CheckpointId) -> Result<i64> {
    let found = checkpoint::get(&state.store.db, id).await?;
    found
        .map(|found| found.step)
        .ok_or_else(|| Error::invalid("after", format!("there is no checkpoint {id}")))
}
