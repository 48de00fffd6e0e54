//! Checkpoints: weights and training state of a step, with every event up to it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::event::{AppendError, EventLine, append_held};
use crate::ids::{CheckpointId, JobId};
use crate::model::{self, ModelKind, NewModel, checkpoint_id, columns};
use crate::objects::Hash;
use crate::queue::Lease;
use crate::text::clean_json;
use crate::{Page, StoredFile};

/// Files under this folder are for going on, not for using the model.
pub const TRAINING_STATE: &str = "training_state/";

/// A checkpoint whose files are in the object store already.
#[derive(Clone, Debug)]
pub struct NewCheckpoint {
    /// Optimizer steps done.
    pub step: i64,
    /// All its files, relative to its folder.
    pub files: Vec<StoredFile>,
    /// Its evaluation, an object.
    pub metrics: Value,
    /// Whether it is the best one so far.
    pub best: bool,
    /// Newest checkpoints kept beside the best one; at least 1.
    pub keep: u32,
    /// `BertForSequenceClassification`, …
    pub architecture: Option<String>,
    /// Number of weights.
    pub parameters: Option<i64>,
}

/// A checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Checkpoint {
    /// Its id.
    pub checkpoint_id: CheckpointId,
    /// The job.
    pub job_id: JobId,
    /// Optimizer steps done.
    pub step: i64,
    /// The attempt that wrote it.
    pub attempt: i32,
    /// Whether it is the best one so far.
    pub best: bool,
    /// Its evaluation.
    pub metrics: Value,
    /// Size of all its files.
    pub bytes: i64,
    /// Its weights as a model by name, until someone deletes that.
    pub model_id: Option<String>,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// Keeps a checkpoint together with the events up to its step, and lets old ones go, in one transaction.
///
/// From here on another agent can go on from it without a gap in the curves. A step that is committed again replaces
/// what was there.
pub async fn commit(
    db: &PgPool,
    held: &Lease,
    new: &NewCheckpoint,
    events: &[EventLine],
) -> Result<CheckpointId, AppendError> {
    let mut tx = db.begin().await?;
    append_held(&mut tx, held, events).await?;
    let id = insert(&mut tx, held, new).await?;
    prune(&mut tx, held.job_id(), new.keep).await?;
    tx.commit().await?;
    Ok(id)
}

async fn insert(conn: &mut PgConnection, held: &Lease, new: &NewCheckpoint) -> sqlx::Result<CheckpointId> {
    let job = held.job_id();
    let name = checkpoint_id(&held.job.output_model, new.step);
    if new.best {
        sqlx::query!("update job_checkpoint set best = false where job_id = $1 and best", job.0)
            .execute(&mut *conn)
            .await?;
    }
    sqlx::query!("delete from model where model_id = $1 and kind = 'checkpoint'", name)
        .execute(&mut *conn)
        .await?;
    let usable = |file: &&StoredFile| !file.path.starts_with(TRAINING_STATE);
    let as_model = NewModel {
        model_id: name,
        kind: ModelKind::Checkpoint,
        task: Some(held.job.task.clone()),
        architecture: new.architecture.clone(),
        parameters: new.parameters,
        base_model: Some(held.job.model_id.clone()),
        job_id: Some(job),
        step: Some(new.step),
        metrics: new.metrics.clone(),
        report: Value::Object(Default::default()),
        files: new.files.iter().filter(usable).cloned().collect(),
    };
    model::insert(conn, &as_model).await?;
    let id = sqlx::query_scalar!(
        r#"insert into job_checkpoint (checkpoint_id, job_id, step, attempt, best, metrics, bytes, model_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (job_id, step) do update set attempt = excluded.attempt, metrics = excluded.metrics,
            best = excluded.best, bytes = excluded.bytes, model_id = excluded.model_id, created_at = now()
        returning checkpoint_id as "checkpoint_id: CheckpointId""#,
        CheckpointId::new().0,
        job.0,
        new.step,
        held.attempt,
        new.best,
        clean_json(&new.metrics),
        new.files.iter().map(|file| file.bytes).sum::<i64>(),
        as_model.model_id,
    )
    .fetch_one(&mut *conn)
    .await?;
    let (paths, hashes, sizes) = columns(&new.files);
    sqlx::query!("delete from checkpoint_file where checkpoint_id = $1", id.0).execute(&mut *conn).await?;
    sqlx::query!(
        "insert into checkpoint_file (checkpoint_id, path, hash, bytes)
        select $1, path, hash, bytes from unnest($2::text[], $3::text[], $4::bigint[]) as f (path, hash, bytes)",
        id.0,
        &paths,
        &hashes,
        &sizes
    )
    .execute(conn)
    .await?;
    Ok(id)
}

/// Lets all checkpoints go but the best one and the newest `keep` (at least 1); gives their steps.
pub async fn prune(conn: &mut PgConnection, job: JobId, keep: u32) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        "with gone as (
            delete from job_checkpoint where job_id = $1 and not best and step not in (
                select step from job_checkpoint where job_id = $1 order by step desc limit $2)
            returning step, model_id
        ),
        gone_model as (
            delete from model using gone where model.model_id = gone.model_id and model.kind = 'checkpoint'
        )
        select step from gone order by step",
        job.0,
        i64::from(keep.max(1))
    )
    .fetch_all(conn)
    .await
}

/// A job's checkpoints, newest first; `before`: those of smaller steps.
pub async fn list(
    db: impl PgExecutor<'_>,
    job: JobId,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Page<Checkpoint>> {
    let found = sqlx::query_as!(
        Checkpoint,
        r#"select checkpoint_id as "checkpoint_id: CheckpointId", job_id as "job_id: JobId", step, attempt, best,
            metrics, bytes, model_id, created_at
        from job_checkpoint where job_id = $1 and ($2::bigint is null or step < $2)
        order by step desc limit $3"#,
        job.0,
        before,
        limit + 1
    )
    .fetch_all(db)
    .await?;
    Ok(Page::of(found, limit))
}

/// Finds a checkpoint.
pub async fn get(db: impl PgExecutor<'_>, checkpoint: CheckpointId) -> sqlx::Result<Option<Checkpoint>> {
    sqlx::query_as!(
        Checkpoint,
        r#"select checkpoint_id as "checkpoint_id: CheckpointId", job_id as "job_id: JobId", step, attempt, best,
            metrics, bytes, model_id, created_at
        from job_checkpoint where checkpoint_id = $1"#,
        checkpoint.0
    )
    .fetch_optional(db)
    .await
}

/// The newest checkpoint, from which another attempt goes on.
pub async fn latest(db: impl PgExecutor<'_>, job: JobId) -> sqlx::Result<Option<Checkpoint>> {
    sqlx::query_as!(
        Checkpoint,
        r#"select checkpoint_id as "checkpoint_id: CheckpointId", job_id as "job_id: JobId", step, attempt, best,
            metrics, bytes, model_id, created_at
        from job_checkpoint where job_id = $1 order by step desc limit 1"#,
        job.0
    )
    .fetch_optional(db)
    .await
}

/// The best checkpoint so far.
pub async fn best(db: impl PgExecutor<'_>, job: JobId) -> sqlx::Result<Option<Checkpoint>> {
    sqlx::query_as!(
        Checkpoint,
        r#"select checkpoint_id as "checkpoint_id: CheckpointId", job_id as "job_id: JobId", step, attempt, best,
            metrics, bytes, model_id, created_at
        from job_checkpoint where job_id = $1 and best"#,
        job.0
    )
    .fetch_optional(db)
    .await
}

/// A checkpoint's files, by path, the training state included.
pub async fn files(db: impl PgExecutor<'_>, checkpoint: CheckpointId) -> sqlx::Result<Vec<StoredFile>> {
    sqlx::query_as!(
        StoredFile,
        r#"select path, hash as "hash: Hash", bytes from checkpoint_file where checkpoint_id = $1 order by path"#,
        checkpoint.0
    )
    .fetch_all(db)
    .await
}
