//! How a run ends: finished, failed, given back.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use super::Lease;
use crate::event::{Level, note};
use crate::ids::{FileId, JobId};
use crate::job::{Asked, JobKind, Status};
use crate::model::{self, ModelKind, NewModel};
use crate::objects::Stored;
use crate::text::{clean, clean_json};
use crate::{StoredFile, file};

/// What a job leaves behind when it ends well; all files are in the object store already.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// The finished model, relative to its folder.
    pub files: Vec<StoredFile>,
    /// The curves as CSV.
    pub result_file: Option<ResultFile>,
    /// Final metrics: of the best checkpoint on validation, and under `test` on the test rows.
    pub metrics: Value,
    /// Optimizer steps done.
    pub steps: Option<i64>,
    /// Step of the weights that became the model.
    pub best_step: Option<i64>,
    /// Tokens that gradients were computed for.
    pub trained_tokens: Option<i64>,
    /// From what the job can be run again; `None` leaves what is there.
    pub manifest: Option<Value>,
    /// `BertForSequenceClassification`, …
    pub architecture: Option<String>,
    /// Number of weights.
    pub parameters: Option<i64>,
    /// What pages say of the model: labels, problem type, …
    pub report: Value,
}

/// The curves as a file.
#[derive(Clone, Debug)]
pub struct ResultFile {
    /// `step_metrics.csv`
    pub name: String,
    /// Its content.
    pub content: Stored,
}

/// Ends a job well: its model, its results and its status in one transaction. False: the lease is lost, nothing is kept.
pub async fn finish(db: &PgPool, held: &Lease, end: &Finished) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    // Asked to cancel at the last moment: the work is done, and its result is kept.
    let ended = sqlx::query!(
        "update job set status = 'succeeded', phase = null, asked = null, agent_id = null, lease_until = null,
            finished_at = now(), last_event_at = now(), steps = $4, best_step = $5, trained_tokens = $6, metrics = $7,
            manifest = coalesce($8, manifest)
        where job_id = $1 and agent_id = $2 and attempt = $3 and status = 'running'
        returning output_model, model_id, task",
        held.job_id().0,
        held.agent.0,
        held.attempt,
        end.steps,
        end.best_step,
        end.trained_tokens,
        object(&end.metrics),
        end.manifest.as_ref().map(clean_json),
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(ended) = ended else {
        return Ok(false);
    };
    let made = NewModel {
        model_id: ended.output_model,
        kind: ModelKind::Tuned,
        task: Some(ended.task),
        architecture: end.architecture.clone(),
        parameters: end.parameters,
        base_model: Some(ended.model_id),
        job_id: Some(held.job_id()),
        step: end.best_step.or(end.steps),
        metrics: object(&end.metrics),
        report: object(&end.report),
        files: end.files.clone(),
    };
    model::insert(&mut tx, &made).await?;
    let result_file = keep_results(&mut tx, end).await?;
    sqlx::query!(
        "update job set fine_tuned_model = $2, result_file = $3 where job_id = $1",
        held.job_id().0,
        made.model_id,
        result_file.map(|file| file.0),
    )
    .execute(&mut *tx)
    .await?;
    let message = format!("The job succeeded; its model is {}.", made.model_id);
    note(&mut tx, held.job_id(), Level::Info, &message, &json!({"model": made.model_id})).await?;
    tx.commit().await?;
    Ok(true)
}

async fn keep_results(conn: &mut PgConnection, end: &Finished) -> sqlx::Result<Option<FileId>> {
    let Some(results) = &end.result_file else {
        return Ok(None);
    };
    let new = file::NewFile {
        name: results.name.clone(),
        purpose: "fine-tune-results".to_owned(),
        content: results.content.clone(),
        expires_at: None,
        inspected: Some(file::Inspected { status: file::FileStatus::Processed, details: None, report: None }),
    };
    Ok(Some(file::create(conn, &new).await?.file_id))
}

/// Whose fault a failure is, which decides whether it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// Data, settings or model: the same would happen again.
    User,
    /// Ours: another attempt may go well.
    Internal,
}

/// Why an attempt ended badly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault.
    pub fault: Fault,
    /// A stable word for programs: `loss_not_finite`, `killed_by_signal`, …
    pub code: String,
    /// Sentences for people: what, where, what to do.
    pub message: String,
    /// The setting or column that it is about.
    #[serde(default)]
    pub param: Option<String>,
    /// The step reached.
    #[serde(default)]
    pub step: Option<i64>,
    /// The last lines of the trainer's log.
    #[serde(default)]
    pub log: Vec<String>,
}

/// What became of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lease was lost before; nothing was written.
    Lost,
    /// It is queued again.
    Retried,
    /// It waits for a person, as someone had asked.
    Paused,
    /// It is over: failed, or cancelled as someone had asked.
    Final,
}

/// Ends an attempt badly. The user's fault is final; ours is tried again until the last attempt.
pub async fn fail(db: &PgPool, held: &Lease, failure: &Failure) -> sqlx::Result<Outcome> {
    let mut tx = db.begin().await?;
    let backoff = failure.fault == Fault::Internal;
    let moved = end_badly(&mut tx, held.job_id(), Some(held), failure, backoff).await?;
    let Some(status) = moved else {
        return Ok(Outcome::Lost);
    };
    tx.commit().await?;
    Ok(match status {
        Status::Queued => Outcome::Retried,
        Status::Paused => Outcome::Paused,
        _ => Outcome::Final,
    })
}

/// The one statement behind [`fail`], [`super::reap`] and [`super::reclaim`]; `held` is the fence of an agent.
///
/// Marks are obeyed: a job that was asked to cancel is cancelled rather than tried again.
pub(super) async fn end_badly(
    conn: &mut PgConnection,
    job: JobId,
    held: Option<&Lease>,
    failure: &Failure,
    backoff: bool,
) -> sqlx::Result<Option<Status>> {
    let failure_json = clean_json(&json!(failure));
    let row = sqlx::query!(
        r#"with held as (
            select job_id, case
                when asked = 'cancel' then 'cancelled'
                when $5 or failures + 1 >= max_attempts then 'failed'
                when asked = 'pause' then 'paused'
                else 'queued' end as next
            from job
            where job_id = $1 and status = 'running'
                and ($2::uuid is null or (agent_id = $2 and attempt = $3))
            for update
        )
        update job set status = next, phase = null, asked = null, agent_id = null, lease_until = null,
            failures = case when $5 then failures else failures + 1 end,
            retry_at = case when next = 'queued' and $6 then now() + interval '2 s' * power(2, failures) end,
            finished_at = case when next in ('failed', 'cancelled') then now() end,
            error = case when next = 'failed' then ($4::jsonb - 'fault') || jsonb_build_object('attempt', attempt) end,
            errors = errors || ($4::jsonb || jsonb_build_object('attempt', attempt, 'agent', agent_name, 'at', now()))
        from held where job.job_id = held.job_id
        returning status as "status: Status", attempt, failures, max_attempts"#,
        job.0,
        held.map(|held| held.agent.0),
        held.map(|held| held.attempt),
        failure_json,
        failure.fault == Fault::User,
        backoff,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let what = clean(&failure.message);
    let (level, message) = match row.status {
        Status::Queued => {
            let left = row.max_attempts - row.failures;
            (
                Level::Warn,
                format!("Attempt {} ended: {what} It is tried again; attempts left: {left}.", row.attempt),
            )
        }
        Status::Paused => {
            (Level::Warn, format!("Attempt {} ended: {what} It is paused, as asked.", row.attempt))
        }
        Status::Cancelled => {
            (Level::Info, format!("The job is cancelled. Its attempt {} had ended: {what}", row.attempt))
        }
        _ => (Level::Error, format!("The job failed: {what}")),
    };
    let data = json!({"code": failure.code, "param": failure.param, "step": failure.step});
    note(conn, job, level, &message, &data).await?;
    Ok(Some(row.status))
}

/// How a run that did not end is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// Stopped at a checkpoint because someone asked; queued again if the wish was withdrawn meanwhile.
    Paused,
    /// Stopped because the agent goes down.
    Queued,
    /// Stopped for good because someone asked.
    Cancelled,
}

/// Gives a job back without using up an attempt. False: the lease is lost.
///
/// What was asked in the meantime wins over `as_`: a mark is never lost.
pub async fn release(db: &PgPool, held: &Lease, as_: Released) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    let row = sqlx::query!(
        r#"with held as (
            select job_id, kind, asked as mark, case
                when asked = 'cancel' or $4 then 'cancelled'
                when asked = 'pause' then 'paused'
                else 'queued' end as next
            from job
            where job_id = $1 and agent_id = $2 and attempt = $3 and status = 'running'
            for update
        )
        update job set status = next, phase = null, asked = null, agent_id = null, lease_until = null,
            finished_at = case when next = 'cancelled' then now() end
        from held where job.job_id = held.job_id
        returning status as "status: Status", mark as "mark: Asked", held.kind as "kind: JobKind""#,
        held.job_id().0,
        held.agent.0,
        held.attempt,
        as_ == Released::Cancelled,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else {
        return Ok(false);
    };
    let message = match row.status {
        Status::Cancelled => "The job is cancelled.",
        Status::Paused => "The job is paused.",
        _ if row.kind == JobKind::Export => "The export is queued again, and begins anew.",
        _ => "The job is queued again; it goes on from its last checkpoint.",
    };
    note(&mut tx, held.job_id(), Level::Info, message, &json!({})).await?;
    tx.commit().await?;
    Ok(true)
}

/// `value` where the table wants an object.
fn object(value: &Value) -> Value {
    match value {
        Value::Object(_) => clean_json(value),
        _ => json!({}),
    }
}
