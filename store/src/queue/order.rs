//! What people ask of a job; asking twice is asking once.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::event::{Level, note};
use crate::ids::JobId;
use crate::job::{self, Asked, Job, JobKind, Status};

/// Why a job does not do what was asked; `Display` is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has ended.
    #[error("the job has already {}", ended(*.0))]
    Ended(Status),
    /// It has no checkpoint to wait at.
    #[error("an export has no checkpoint that it could go on from; cancel it, and ask for it again later")]
    Unpausable,
    /// It is about to end.
    #[error("the job is being cancelled")]
    Cancelling,
}

fn ended(status: Status) -> &'static str {
    match status {
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        _ => "been cancelled",
    }
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no such job.
    #[error("there is no job {0}")]
    Missing(JobId),
    /// The job cannot do it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The database's own error.
    #[error(transparent)]
    Db(#[from] sqlx::Error),
}

/// Cancels: a waiting job at once, a running one by a mark.
pub async fn cancel(db: &PgPool, id: JobId) -> Result<Job, OrderError> {
    order(db, id, Order::Cancel).await
}

/// Pauses: a queued job at once, a running one by a mark.
pub async fn pause(db: &PgPool, id: JobId) -> Result<Job, OrderError> {
    order(db, id, Order::Pause).await
}

/// Queues a paused job again, or withdraws the mark of one that has not stopped yet.
pub async fn resume(db: &PgPool, id: JobId) -> Result<Job, OrderError> {
    order(db, id, Order::Resume).await
}

/// Changes the order in which waiting jobs are claimed; false when there is no such job or it has ended.
pub async fn set_priority(db: &PgPool, id: JobId, priority: i32) -> sqlx::Result<bool> {
    sqlx::query!("update job set priority = $2 where job_id = $1 and finished_at is null", id.0, priority)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Cancel,
    Pause,
    Resume,
}

/// What an order does to a job in a given state.
enum Step {
    /// It is so already.
    Nothing,
    /// Moves at once.
    Move(Status, &'static str),
    /// Sets or withdraws a mark.
    Mark(Option<Asked>, &'static str),
}

fn step(order: Order, status: Status, asked: Option<Asked>) -> Result<Step, Refused> {
    use Status::*;
    Ok(match (order, status, asked) {
        (Order::Cancel, Cancelled, _) | (Order::Cancel, Running, Some(Asked::Cancel)) => Step::Nothing,
        (Order::Cancel, Queued | Paused, _) => Step::Move(Cancelled, "The job is cancelled."),
        (Order::Cancel, Running, _) => Step::Mark(Some(Asked::Cancel), "Asked to cancel."),
        (Order::Pause, Paused, _) | (Order::Pause, Running, Some(Asked::Pause)) => Step::Nothing,
        (Order::Pause, Queued, _) => Step::Move(Paused, "The job is paused."),
        (Order::Pause, Running, None) => Step::Mark(Some(Asked::Pause), "Asked to pause."),
        (Order::Resume, Queued, _) | (Order::Resume, Running, None) => Step::Nothing,
        (Order::Resume, Paused, _) => Step::Move(Queued, "The job is queued again."),
        (Order::Resume, Running, Some(Asked::Pause)) => Step::Mark(None, "Asked to go on."),
        (_, Running, Some(Asked::Cancel)) => return Err(Refused::Cancelling),
        (_, Succeeded | Failed | Cancelled, _) => return Err(Refused::Ended(status)),
    })
}

async fn order(db: &PgPool, id: JobId, order: Order) -> Result<Job, OrderError> {
    let mut tx = db.begin().await?;
    let now = sqlx::query!(
        r#"select status as "status: Status", asked as "asked: Asked", kind as "kind: JobKind"
        from job where job_id = $1 for update"#,
        id.0
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(OrderError::Missing(id))?;
    if order == Order::Pause && now.kind == JobKind::Export && !now.status.is_final() {
        return Err(Refused::Unpausable.into());
    }
    match step(order, now.status, now.asked)? {
        Step::Nothing => {}
        Step::Move(to, message) => {
            move_to(&mut tx, id, to).await?;
            note(&mut tx, id, Level::Info, message, &json!({})).await?;
        }
        Step::Mark(asked, message) => {
            mark(&mut tx, id, asked).await?;
            note(&mut tx, id, Level::Info, message, &json!({})).await?;
        }
    }
    let job = job::get(&mut *tx, id).await?.ok_or(OrderError::Missing(id))?;
    tx.commit().await?;
    Ok(job)
}

async fn move_to(conn: &mut PgConnection, id: JobId, to: Status) -> sqlx::Result<()> {
    sqlx::query!(
        "update job set status = $2, retry_at = null, finished_at = case when $2 = 'cancelled' then now() end
        where job_id = $1",
        id.0,
        to.as_str()
    )
    .execute(conn)
    .await
    .map(drop)
}

async fn mark(conn: &mut PgConnection, id: JobId, asked: Option<Asked>) -> sqlx::Result<()> {
    let asked = asked.map(|asked| match asked {
        Asked::Pause => "pause",
        Asked::Cancel => "cancel",
    });
    sqlx::query!("update job set asked = $2 where job_id = $1", id.0, asked).execute(conn).await.map(drop)
}
