//! Rows to begin with.

use std::time::Duration;

use chrono::Utc;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::agent::NewAgent;
use store::event::{EventLine, Kind, Level};
use store::file::NewFile;
use store::job::Job;
use store::model::{ModelKind, NewModel};
use store::queue::{Failure, Fault, Lease, NewJob};
use store::spec::JobSpec;
use store::{AgentId, FileId, Hash, PgPool, Stored, StoredFile};

/// Long enough for any test.
pub const LEASE: Duration = Duration::from_secs(600);

pub fn hash(content: &str) -> Hash {
    Hash::of_digest(&Sha256::digest(content))
}

/// A row for content whose bytes no test reads.
pub async fn object(db: &PgPool, content: &str) -> Stored {
    let stored = Stored { hash: hash(content), bytes: content.len() as i64 };
    sqlx::query("insert into object (hash, bytes) values ($1, $2) on conflict do nothing")
        .bind(stored.hash.as_str())
        .bind(stored.bytes)
        .execute(db)
        .await
        .unwrap();
    stored
}

pub async fn stored_file(db: &PgPool, path: &str, content: &str) -> StoredFile {
    let stored = object(db, content).await;
    StoredFile { path: path.to_owned(), hash: stored.hash, bytes: stored.bytes }
}

pub async fn file(db: &PgPool, name: &str) -> FileId {
    let content = object(db, &format!("content of {name}")).await;
    let new = NewFile {
        name: name.to_owned(),
        purpose: "fine-tune".to_owned(),
        content,
        expires_at: None,
        inspected: None,
    };
    store::file::create(db, &new).await.unwrap().file_id
}

/// The base model `base`, unless it is there.
pub async fn base(db: &PgPool) {
    let new = NewModel {
        model_id: "base".to_owned(),
        kind: ModelKind::Base,
        task: None,
        architecture: Some("BertModel".to_owned()),
        parameters: Some(7),
        base_model: None,
        job_id: None,
        step: None,
        metrics: json!({}),
        report: json!({}),
        files: vec![
            stored_file(db, "config.json", "{}").await,
            stored_file(db, "model.safetensors", "w").await,
        ],
    };
    match store::model::create(db, &new).await {
        Ok(_) | Err(store::model::CreateError::Taken(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

pub fn spec() -> JobSpec {
    serde_json::from_value(json!({
        "task": "text-classification",
        "columns": {"text": "text", "label": "label"},
        "data": {"train": "train.csv"},
    }))
    .unwrap()
}

pub async fn new_job(db: &PgPool) -> NewJob {
    base(db).await;
    NewJob {
        spec: spec(),
        suffix: None,
        model_id: "base".to_owned(),
        training_file: Some(file(db, "rows.csv").await),
        validation_file: None,
        test_file: None,
        metadata: Default::default(),
        priority: 0,
        max_attempts: 3,
        request: json!({}),
        manifest: json!({}),
        notes: Vec::new(),
    }
}

pub async fn job(db: &PgPool) -> Job {
    store::queue::enqueue(db, &new_job(db).await).await.unwrap()
}

pub async fn agent(db: &PgPool, name: &str) -> AgentId {
    let new = NewAgent { name: name.to_owned(), device: "cpu".to_owned(), ..NewAgent::default() };
    store::agent::register(db, &new).await.unwrap()
}

pub async fn agent_with(db: &PgPool, name: &str, devices: i32, address: &str) -> AgentId {
    let new = NewAgent {
        name: name.to_owned(),
        device: "cpu".to_owned(),
        devices,
        address: Some(address.to_owned()),
        ..NewAgent::default()
    };
    store::agent::register(db, &new).await.unwrap()
}

pub async fn claim(db: &PgPool, agent: AgentId) -> Option<Lease> {
    store::queue::claim(db, agent, LEASE).await.unwrap()
}

/// A job that the agent `one` runs.
pub async fn running(db: &PgPool) -> Lease {
    job(db).await;
    let one = agent(db, "one").await;
    claim(db, one).await.unwrap()
}

/// Lets a lease lapse, as time would.
pub async fn lapse(db: &PgPool, held: &Lease) {
    sqlx::query("update job set lease_until = now() - interval '1 s' where job_id = $1")
        .bind(held.job_id().0)
        .execute(db)
        .await
        .unwrap();
}

/// Lets the pause before a retry pass, as time would.
pub async fn let_retry(db: &PgPool) {
    sqlx::query("update job set retry_at = now() where retry_at is not null").execute(db).await.unwrap();
}

pub async fn now(db: &PgPool, held: &Lease) -> Job {
    store::job::get(db, held.job_id()).await.unwrap().unwrap()
}

pub fn failure(fault: Fault) -> Failure {
    Failure {
        fault,
        code: "loss_not_finite".to_owned(),
        message: "The loss is not finite.".to_owned(),
        param: None,
        step: Some(7),
        log: vec!["last line".to_owned()],
    }
}

pub fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is no object"),
    }
}

/// A point of the training curve.
pub fn train(attempt: i32, line: i64, step: i64, loss: f64) -> EventLine {
    EventLine {
        line,
        attempt,
        kind: Kind::Train,
        step: Some(step),
        at: Utc::now(),
        level: Level::Info,
        message: String::new(),
        values: fields(json!({"loss": loss})),
        data: fields(json!({"total_steps": 100})),
    }
}

pub fn log(attempt: i32, line: i64, message: &str) -> EventLine {
    EventLine {
        kind: Kind::Log,
        step: None,
        message: message.to_owned(),
        values: Map::new(),
        data: Map::new(),
        ..train(attempt, line, 0, 0.0)
    }
}
