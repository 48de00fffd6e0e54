//! `/v1`: OpenAI's files, fine-tuning jobs, models and answers of models, extended where they stop.

mod archive;
mod checkpoints;
mod content;
pub mod dry_run;
mod events;
pub mod exports;
pub mod files;
pub mod generate;
mod gguf;
pub mod jobs;
pub mod models;
mod parallel;
mod predictions;
mod prepare;
mod range;
pub mod report;
mod request;
mod rerun;
mod retries;
pub mod sample;
mod sse;
mod upload;
mod views;
pub mod writing;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use serde_json::{Value, json};
use store::Page;

use crate::AppState;

/// Routes of the API.
pub fn router() -> Router<AppState> {
    // Uploads count their bytes themselves while these go to disk.
    let uploads = Router::new()
        .route("/v1/files", post(files::create_file).get(files::list_files))
        .route("/v1/models", post(models::create_model).get(models::list_models))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .merge(uploads)
        .route("/v1/files/{id}", get(files::retrieve_file).delete(files::delete_file))
        .route("/v1/files/{id}/content", get(files::retrieve_content))
        .route("/v1/fine_tuning/jobs", post(jobs::create_job).get(jobs::list_jobs))
        .route("/v1/fine_tuning/jobs/{id}", get(jobs::retrieve_job))
        .route("/v1/fine_tuning/jobs/{id}/cancel", post(jobs::cancel_job))
        .route("/v1/fine_tuning/jobs/{id}/pause", post(jobs::pause_job))
        .route("/v1/fine_tuning/jobs/{id}/resume", post(jobs::resume_job))
        .route("/v1/fine_tuning/jobs/{id}/events", get(events::list_events))
        .route("/v1/fine_tuning/jobs/{id}/checkpoints", get(checkpoints::list_checkpoints))
        // Clients send a slash in an id as it is or escaped; either way the rest of the path is the id.
        .route(
            "/v1/models/{*id}",
            get(models::retrieve_model).post(models::order_model).delete(models::delete_model),
        )
        .route("/v1/exports/{id}", get(exports::retrieve_export).delete(exports::delete_export))
        .route("/v1/exports/{id}/cancel", post(exports::cancel_export))
        .route("/v1/exports/{id}/content", get(exports::retrieve_content))
        .route("/v1/predictions", post(predictions::create_prediction))
        .route("/v1/chat/completions", post(generate::create_chat_completion))
        .route("/v1/completions", post(generate::create_completion))
        .route("/v1/embeddings", post(generate::create_embedding))
}

/// OpenAI's envelope of a list.
fn list<T>(page: &Page<T>, view: impl Fn(&T) -> Value) -> Value {
    let data: Vec<Value> = page.items.iter().map(view).collect();
    let id = |item: Option<&Value>| item.and_then(|item| item.get("id")).cloned().unwrap_or(Value::Null);
    json!({
        "object": "list",
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": page.more,
        "data": data,
    })
}
