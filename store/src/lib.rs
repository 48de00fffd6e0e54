//! Everything SQL and every stored byte.
//!
//! A module is a noun; its functions are verbs or questions. Statements of the queue are fenced: an agent whose lease
//! was taken away changes nothing (see [`queue`]).

pub mod agent;
pub mod checkpoint;
pub mod estimate;
pub mod event;
pub mod export;
pub mod file;
pub mod idempotency;
pub mod ids;
pub mod job;
pub mod marker;
pub mod model;
pub mod notify;
pub mod objects;
pub mod queue;
pub mod spec;
mod stored;
mod text;

use std::time::Duration;

pub use ids::{AgentId, BadId, CheckpointId, EventId, ExportId, FileId, JobId};
pub use objects::{Hash, Objects, ObjectsError, Stored};
use serde::{Deserialize, Serialize};
pub use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
pub use stored::{PutError, Swept, stored_bytes};

/// The schema, step by step.
pub static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// The database and the stored bytes that its rows name.
#[derive(Clone, Debug)]
pub struct Store {
    /// Rows.
    pub db: PgPool,
    /// Bytes.
    pub objects: Objects,
}

impl Store {
    /// Joins a database and an object store.
    pub fn new(db: PgPool, objects: Objects) -> Self {
        Store { db, objects }
    }
}

/// Opens a pool of connections; the first one is made now, so that a wrong address is an error here.
///
/// A call that gets no connection within five seconds fails with [`sqlx::Error::PoolTimedOut`]: a visitor of a server
/// whose database is away is told so, instead of waiting.
pub async fn connect(database_url: &str, connections: u32) -> sqlx::Result<PgPool> {
    let options: PgConnectOptions = database_url.parse()?;
    // A process that is frozen within a transaction holds its rows: without an end to that, nobody could take its job.
    let options = options.options([("idle_in_transaction_session_timeout", "5s")]);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options)
        .await
}

/// Brings the schema up to date; safe to call from several processes at once.
pub async fn migrate(db: &PgPool) -> Result<(), MigrateError> {
    MIGRATOR.run(db).await
}

/// Whether the database answers.
pub async fn is_ready(db: &PgPool) -> sqlx::Result<()> {
    sqlx::query_scalar!(r#"select 1 as "one!""#).fetch_one(db).await.map(drop)
}

/// A file of a model, a checkpoint or a job, by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Relative path with `/`.
    pub path: String,
    /// SHA-256 of the content, its name in the object store.
    pub hash: Hash,
    /// Size.
    pub bytes: i64,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Whether there are more behind them.
    pub more: bool,
}

impl<T> Page<T> {
    /// Takes rows that were asked for with one more than `limit`.
    fn of(mut items: Vec<T>, limit: i64) -> Self {
        let more = items.len() as i64 > limit;
        items.truncate(limit.max(0) as usize);
        Page { items, more }
    }
}
