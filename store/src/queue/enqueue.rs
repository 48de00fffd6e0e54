//! A job comes in.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use crate::event::{Level, note};
use crate::ids::{ExportId, FileId, JobId};
use crate::job::{self, Job};
use crate::model::tuned_id;
use crate::spec::{Device, JobSpec, Work};
use crate::text::{clean, clean_json};

/// A job that was checked and may start.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// All settings; `spec.data` names the files as they will lie under `data/`.
    pub spec: JobSpec,
    /// The part of the model's name that the person chose.
    pub suffix: Option<String>,
    /// The base.
    pub model_id: String,
    /// Rows to learn from; training needs them.
    pub training_file: Option<FileId>,
    /// Rows to evaluate on; goes with `spec.data.validation`.
    pub validation_file: Option<FileId>,
    /// Rows for the final test; goes with `spec.data.test`.
    pub test_file: Option<FileId>,
    /// The person's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// Higher ones are claimed first.
    pub priority: i32,
    /// Failures by our fault after which it is given up; 3 is usual.
    pub max_attempts: i32,
    /// The body of the request as it came.
    pub request: Value,
    /// What is known of the manifest.
    pub manifest: Value,
    /// First lines of its log: what "auto" became.
    pub notes: Vec<String>,
}

/// How a request that comes twice is known.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// The client's own key.
    pub key: Option<String>,
    /// Hash of the body.
    pub request_hash: String,
    /// Without a key: the same body within this time is the same job. Only for requests that say that they are a
    /// retry; two plain requests are two jobs.
    pub retry_within: Option<Duration>,
}

/// A job that came in, or that was there already.
#[derive(Clone, Debug)]
pub struct Enqueued {
    /// The job.
    pub job: Job,
    /// False when an earlier request had made it.
    pub created: bool,
}

/// Why a job did not come in.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// A file or model is gone.
    #[error("{param}: there is no {id}")]
    Missing {
        /// The field that names it.
        param: &'static str,
        /// What it names.
        id: String,
    },
    /// The key was used for another request.
    #[error("the idempotency key \"{key}\" was used for another request, which made {job}; choose a new key")]
    KeyReused {
        /// The key.
        key: String,
        /// What the other request made.
        job: String,
    },
    /// The database's own error.
    #[error(transparent)]
    Db(#[from] sqlx::Error),
}

/// Takes a job in and wakes an agent.
pub async fn enqueue(db: &PgPool, new: &NewJob) -> Result<Job, EnqueueError> {
    let mut tx = db.begin().await?;
    let job = insert(&mut tx, new, None).await?;
    tx.commit().await?;
    Ok(job)
}

/// Takes a job in, unless the same request has already made one; then gives that one.
pub async fn enqueue_once(db: &PgPool, new: &NewJob, dedup: &Dedup) -> Result<Enqueued, EnqueueError> {
    let mut tx = db.begin().await?;
    if let Some(key) = &dedup.key {
        use crate::idempotency::{Claim, claim};
        match claim(&mut tx, "job", key, &dedup.request_hash).await? {
            Claim::New => {}
            Claim::Seen(resource) => return seen(&mut tx, &resource).await,
            Claim::Other(job) => {
                let key = key.clone();
                return Err(EnqueueError::KeyReused { key, job });
            }
        }
    } else {
        // One at a time for the same body: a retry can arrive while the first request is still at work.
        sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", dedup.request_hash)
            .execute(&mut *tx)
            .await?;
        if let Some(within) = dedup.retry_within
            && let Some(id) = crate::idempotency::recent_same(&mut *tx, &dedup.request_hash, within).await?
        {
            return seen(&mut tx, &id.to_string()).await;
        }
    }
    let job = insert(&mut tx, new, Some(&dedup.request_hash)).await?;
    if let Some(key) = &dedup.key {
        crate::idempotency::settle(&mut tx, "job", key, &job.job_id.to_string()).await?;
    }
    tx.commit().await?;
    Ok(Enqueued { job, created: true })
}

async fn seen(conn: &mut PgConnection, resource: &str) -> Result<Enqueued, EnqueueError> {
    let missing = || EnqueueError::Missing { param: "idempotency_key", id: resource.to_owned() };
    let id: JobId = resource.parse().map_err(|_| missing())?;
    let job = job::get(conn, id).await?.ok_or_else(missing)?;
    Ok(Enqueued { job, created: false })
}

/// Makes the rows of a job, and its first words.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    new: &NewJob,
    hash: Option<&str>,
) -> Result<Job, EnqueueError> {
    let id = JobId::new();
    let makes = match new.spec.work {
        Work::Train => tuned_id(&new.model_id, new.suffix.as_deref(), id),
        Work::Export(_) => ExportId::of(id).to_string(),
    };
    let spec = &new.spec;
    sqlx::query!(
        "insert into job (job_id, name, suffix, task, priority, needs_device, needs_devices, spec, request,
            request_hash, manifest, metadata, model_id, training_file, validation_file, test_file, output_model,
            max_attempts, kind)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        id.0,
        clean(&spec.name),
        new.suffix.as_deref().map(clean),
        spec.task.as_str(),
        new.priority,
        match spec.resources.device {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
        },
        i32::try_from(spec.resources.devices).unwrap_or(i32::MAX),
        clean_json(&json!(spec)),
        clean_json(&new.request),
        hash,
        clean_json(&new.manifest),
        Json(&new.metadata) as _,
        new.model_id,
        new.training_file.map(|file| file.0),
        new.validation_file.map(|file| file.0),
        new.test_file.map(|file| file.0),
        makes,
        new.max_attempts,
        spec.work.as_str(),
    )
    .execute(&mut *conn)
    .await?;
    copy_model(conn, id, &new.model_id).await?;
    copy_file(conn, id, "training_file", new.training_file, Some(&spec.data.train)).await?;
    let validation = spec.data.validation.as_deref();
    copy_file(conn, id, "validation_file", new.validation_file, validation).await?;
    copy_file(conn, id, "test_file", new.test_file, spec.data.test.as_deref()).await?;
    note(conn, id, Level::Info, "The job is queued.", &json!({})).await?;
    for line in &new.notes {
        note(conn, id, Level::Info, line, &json!({})).await?;
    }
    Ok(job::get(conn, id).await?.ok_or(sqlx::Error::RowNotFound)?)
}

/// Writes down the base's files; holds its row, so that a deletion at this moment waits and then sees the job.
async fn copy_model(conn: &mut PgConnection, job: JobId, model: &str) -> Result<(), EnqueueError> {
    let found = sqlx::query!("select model_id from model where model_id = $1 for share", model)
        .fetch_optional(&mut *conn)
        .await?;
    if found.is_none() {
        let id = model.to_owned();
        return Err(EnqueueError::Missing { param: "model", id });
    }
    sqlx::query!(
        "insert into job_input (job_id, path, hash, bytes)
        select $1, 'model/' || path, hash, bytes from model_file where model_id = $2",
        job.0,
        model
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn copy_file(
    conn: &mut PgConnection,
    job: JobId,
    param: &'static str,
    file: Option<FileId>,
    name: Option<&str>,
) -> Result<(), EnqueueError> {
    let (Some(file), Some(name)) = (file, name) else {
        return Ok(());
    };
    let row = sqlx::query!("select hash, bytes from file where file_id = $1 for share", file.0)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or_else(|| EnqueueError::Missing { param, id: file.to_string() })?;
    sqlx::query!(
        "insert into job_input (job_id, path, hash, bytes) values ($1, 'data/' || $2::text, $3, $4)",
        job.0,
        name,
        row.hash,
        row.bytes
    )
    .execute(conn)
    .await?;
    Ok(())
}
