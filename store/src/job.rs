//! Jobs as they are: read, listed, deleted. What moves one is in [`crate::queue`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgExecutor, PgPool};

use crate::ids::{AgentId, FileId, JobId};
use crate::spec::JobSpec;
use crate::{Page, StoredFile};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Status {
    /// Waits for an agent.
    Queued,
    /// An agent holds it.
    Running,
    /// Waits for a person.
    Paused,
    /// Ended with a model.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended because someone asked for it.
    Cancelled,
}

impl Status {
    /// The word used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    /// Whether nothing moves it any more.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Succeeded | Status::Failed | Status::Cancelled)
    }
}

/// What someone asked of a running job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Asked {
    /// Stop at a checkpoint and wait.
    Pause,
    /// Stop for good.
    Cancel,
}

/// What a job is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum JobKind {
    /// A fine-tune.
    #[default]
    Train,
    /// A model in another format; see [`crate::export`].
    Export,
}

impl JobKind {
    /// The word used in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            JobKind::Train => "train",
            JobKind::Export => "export",
        }
    }
}

/// A fine-tune, or other work of a trainer, and how far it is.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// Its id.
    pub job_id: JobId,
    /// What it is there for.
    pub kind: JobKind,
    /// A name for people; may be empty.
    pub name: String,
    /// The part of the model's name that the person chose.
    pub suffix: Option<String>,
    /// The task's tag.
    pub task: String,
    /// Where it stands.
    pub status: Status,
    /// What someone asked of it while it runs.
    pub asked: Option<Asked>,
    /// What the trainer is at: leased, loading, training, evaluating, exporting.
    pub phase: Option<String>,
    /// Higher ones are claimed first.
    pub priority: i32,
    /// All settings.
    pub spec: Json<JobSpec>,
    /// The body of the request as it came.
    pub request: Value,
    /// Content hashes, settings, versions and hardware from which it can be run again.
    pub manifest: Value,
    /// The person's own pairs.
    pub metadata: Json<BTreeMap<String, String>>,
    /// The base.
    pub model_id: String,
    /// Rows to learn from; work of other kinds may read none.
    pub training_file: Option<FileId>,
    /// Rows to evaluate on.
    pub validation_file: Option<FileId>,
    /// Rows for the final test.
    pub test_file: Option<FileId>,
    /// The name that what it makes has or will have.
    pub output_model: String,
    /// The model, once there is one.
    pub fine_tuned_model: Option<String>,
    /// The curves as CSV, once it ended well.
    pub result_file: Option<FileId>,
    /// Claims so far.
    pub attempt: i32,
    /// Attempts that ended badly by our fault.
    pub failures: i32,
    /// Failures after which it is given up.
    pub max_attempts: i32,
    /// Who holds it.
    pub agent_id: Option<AgentId>,
    /// Who held it last.
    pub agent_name: Option<String>,
    /// What it runs or ran on.
    pub device: Option<String>,
    /// When it is taken away unless the agent renews.
    pub lease_until: Option<DateTime<Utc>>,
    /// Not claimed before.
    pub retry_at: Option<DateTime<Utc>>,
    /// Devices that a waiting job in several processes lacks even if all live agents were free; none before a look.
    pub missing_devices: Option<i32>,
    /// Fields of the newest training event: `step`, `total_steps`, `epoch`, `eta_seconds`, …; empty before the first.
    pub progress: Value,
    /// The newest evaluation, or the result's metrics once it ended.
    pub metrics: Value,
    /// Why it failed: `code`, `message`, `param`, `step`, `log`, `attempt`.
    pub error: Option<Value>,
    /// One for each attempt that ended badly: the fields of `error`, `fault`, `agent`, `at`.
    pub errors: Vec<Value>,
    /// Tokens that gradients were computed for.
    pub trained_tokens: Option<i64>,
    /// Optimizer steps done at the end.
    pub steps: Option<i64>,
    /// Step of the weights that became the model.
    pub best_step: Option<i64>,
    /// Number of the newest event.
    pub last_event: i64,
    /// When the trainer was last heard of.
    pub last_event_at: Option<DateTime<Utc>>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was first claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Finds a job.
pub async fn get(db: impl PgExecutor<'_>, job: JobId) -> sqlx::Result<Option<Job>> {
    sqlx::query_as!(
        Job,
        r#"select job_id as "job_id: JobId", kind as "kind: JobKind", name, suffix, task, status as "status: Status", asked as "asked: Asked",
            phase, priority, spec as "spec: Json<JobSpec>", request, manifest,
            metadata as "metadata: Json<BTreeMap<String, String>>", model_id,
            training_file as "training_file: FileId", validation_file as "validation_file: FileId",
            test_file as "test_file: FileId", output_model, fine_tuned_model, result_file as "result_file: FileId",
            attempt, failures, max_attempts, agent_id as "agent_id: AgentId", agent_name, device, lease_until, retry_at,
            missing_devices, progress, metrics, error, errors, trained_tokens, steps, best_step, last_event, last_event_at, created_at,
            started_at, finished_at
        from job where job_id = $1"#,
        job.0
    )
    .fetch_optional(db)
    .await
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those older than this one.
    pub after: Option<JobId>,
    /// Those in this state.
    pub status: Option<Status>,
    /// Those with all of these pairs.
    pub metadata: BTreeMap<String, String>,
    /// Those without any pair.
    pub without_metadata: bool,
    /// Those of this kind: fine-tunes where nothing is said.
    pub kind: JobKind,
    /// Those that begin with this model.
    pub model_id: Option<String>,
}

/// Lists jobs, newest first.
pub async fn list(db: impl PgExecutor<'_>, filter: &Filter, limit: i64) -> sqlx::Result<Page<Job>> {
    let jobs = sqlx::query_as!(
        Job,
        r#"select job_id as "job_id: JobId", kind as "kind: JobKind", name, suffix, task, status as "status: Status", asked as "asked: Asked",
            phase, priority, spec as "spec: Json<JobSpec>", request, manifest,
            metadata as "metadata: Json<BTreeMap<String, String>>", model_id,
            training_file as "training_file: FileId", validation_file as "validation_file: FileId",
            test_file as "test_file: FileId", output_model, fine_tuned_model, result_file as "result_file: FileId",
            attempt, failures, max_attempts, agent_id as "agent_id: AgentId", agent_name, device, lease_until, retry_at,
            missing_devices, progress, metrics, error, errors, trained_tokens, steps, best_step, last_event, last_event_at, created_at,
            started_at, finished_at
        from job
        where ($1::uuid is null or job_id < $1)
            and ($2::text is null or status = $2)
            and metadata @> $3
            and (not $4 or metadata = '{}')
            and ($5::text is null or model_id = $5)
            and kind = $7
        order by job_id desc
        limit $6"#,
        filter.after.map(|job| job.0),
        filter.status.map(Status::as_str),
        Json(&filter.metadata) as _,
        filter.without_metadata,
        filter.model_id.as_deref(),
        limit + 1,
        filter.kind.as_str(),
    )
    .fetch_all(db)
    .await?;
    Ok(Page::of(jobs, limit))
}

/// The files that a job reads, relative to its directory: `data/…`, `model/…`.
pub async fn inputs(db: impl PgExecutor<'_>, job: JobId) -> sqlx::Result<Vec<StoredFile>> {
    sqlx::query_as!(
        StoredFile,
        r#"select path, hash as "hash: crate::Hash", bytes from job_input where job_id = $1 order by path"#,
        job.0
    )
    .fetch_all(db)
    .await
}

/// Writes down, at creation or later, from what a job can be run again.
pub async fn set_manifest(db: impl PgExecutor<'_>, job: JobId, manifest: &Value) -> sqlx::Result<bool> {
    let manifest = crate::text::clean_json(manifest);
    sqlx::query!("update job set manifest = $2 where job_id = $1", job.0, manifest)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Deletes a job that has ended, with its events and checkpoints; its model stays. False: there is none, or it lives.
pub async fn delete(db: &PgPool, job: JobId) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    let ended = sqlx::query_scalar!(
        r#"select status in ('succeeded', 'failed', 'cancelled') as "ended!" from job where job_id = $1 for update"#,
        job.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    if ended != Some(true) {
        return Ok(false);
    }
    // Weights of a checkpoint are a model by name only as long as the checkpoint is there.
    sqlx::query!("delete from model where kind = 'checkpoint' and job_id = $1", job.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from job where job_id = $1", job.0).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}
