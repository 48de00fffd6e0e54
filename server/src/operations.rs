//! For whoever runs the server: whether it works, how much it does, who trains.

use std::fmt::Write;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use store::agent::{self, Agent};
use store::queue::{self, Stats};

use crate::{AppState, Error, Result, openapi};

/// Time that the database has to answer whether it is there.
const LONGEST_LOOK: Duration = Duration::from_secs(3);

/// Silence after which an agent counts as gone.
pub const SILENCE: TimeDelta = TimeDelta::seconds(90);

/// Routes about the server itself.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/readyz", get(show_readiness))
        .route("/metrics", get(show_metrics))
        .route("/v1/agents", get(list_agents))
        .route("/openapi.json", get(openapi::show_document))
        .route("/docs", get(openapi::show_docs))
}

/// `GET /readyz`
async fn show_readiness(State(state): State<AppState>) -> Result<Json<Value>> {
    let away = || Error::Unavailable("the database does not answer".to_owned());
    if state.stopping.is_cancelled() {
        return Err(Error::Unavailable("the server is stopping".to_owned()));
    }
    tokio::time::timeout(LONGEST_LOOK, store::is_ready(&state.store.db)).await.map_err(|_| away())??;
    Ok(Json(json!({"status": "ready"})))
}

/// `GET /metrics`
async fn show_metrics(State(state): State<AppState>) -> Response {
    let mut text = String::new();
    let found = tokio::time::timeout(LONGEST_LOOK, async {
        Ok::<_, sqlx::Error>((queue::stats(&state.store.db).await?, agent::list(&state.store.db).await?))
    });
    let found = found.await.ok().and_then(Result::ok);
    gauge(
        &mut text,
        "luthier_database_up",
        "Whether the database answers.",
        f64::from(u8::from(found.is_some())),
    );
    if let Some((stats, agents)) = &found {
        write_queue(&mut text, stats);
        write_agents(&mut text, agents);
    }
    state.requests.write(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn gauge(text: &mut String, name: &str, about: &str, value: f64) {
    let _ = writeln!(text, "# HELP {name} {about}\n# TYPE {name} gauge\n{name} {value}");
}

fn write_queue(text: &mut String, stats: &Stats) {
    text.push_str("# HELP luthier_jobs Jobs by status.\n# TYPE luthier_jobs gauge\n");
    for (status, count) in [
        ("queued", stats.queued),
        ("running", stats.running),
        ("paused", stats.paused),
        ("succeeded", stats.succeeded),
        ("failed", stats.failed),
        ("cancelled", stats.cancelled),
    ] {
        let _ = writeln!(text, "luthier_jobs{{status=\"{status}\"}} {count}");
    }
    let about = "Age of the job that has waited longest.";
    gauge(text, "luthier_queue_oldest_seconds", about, stats.oldest_queued_seconds);
}

fn write_agents(text: &mut String, agents: &[Agent]) {
    let seen = |agent: &&Agent| Utc::now() - agent.last_seen < SILENCE;
    let live = agents.iter().filter(seen);
    let (fit, unfit): (Vec<&Agent>, Vec<&Agent>) = live.partition(|agent| agent.unfit.is_none());
    text.push_str("# HELP luthier_agents Trainers that were heard of lately.\n# TYPE luthier_agents gauge\n");
    let _ = writeln!(text, "luthier_agents{{fit=\"true\"}} {}", fit.len());
    let _ = writeln!(text, "luthier_agents{{fit=\"false\"}} {}", unfit.len());
}

/// `GET /v1/agents`
async fn list_agents(State(state): State<AppState>) -> Result<Json<Value>> {
    let agents: Vec<Value> = agent::list(&state.store.db).await?.iter().map(agent_json).collect();
    let id = |agent: Option<&Value>| agent.map(|agent| agent["id"].clone());
    Ok(Json(json!({
        "object": "list", "first_id": id(agents.first()), "last_id": id(agents.last()), "has_more": false, "data": agents,
    })))
}

fn agent_json(agent: &Agent) -> Value {
    json!({
        "id": agent.agent_id,
        "object": "agent",
        "name": agent.name,
        "device": agent.device,
        "cuda_devices": agent.cuda_devices,
        "devices": agent.devices,
        "address": agent.address,
        "threads": agent.threads,
        "memory_bytes": agent.memory_bytes,
        "version": agent.version,
        "unfit": agent.unfit,
        "started_at": agent.started_at.timestamp(),
        "last_seen_at": agent.last_seen.timestamp(),
        "running": agent.running,
    })
}
