//! How full the queue is.

use sqlx::PgExecutor;

use crate::ids::JobId;

/// Fine-tunes by state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Waiting.
    pub queued: i64,
    /// Held by an agent.
    pub running: i64,
    /// Waiting for a person.
    pub paused: i64,
    /// Ended with a model.
    pub succeeded: i64,
    /// Ended with an error.
    pub failed: i64,
    /// Ended because someone asked.
    pub cancelled: i64,
    /// Age of the job that has waited longest, in seconds; 0 when none waits.
    pub oldest_queued_seconds: f64,
}

/// Counts fine-tunes by state.
pub async fn stats(db: impl PgExecutor<'_>) -> sqlx::Result<Stats> {
    sqlx::query_as!(
        Stats,
        r#"select count(*) filter (where status = 'queued') as "queued!",
            count(*) filter (where status = 'running') as "running!",
            count(*) filter (where status = 'paused') as "paused!",
            count(*) filter (where status = 'succeeded') as "succeeded!",
            count(*) filter (where status = 'failed') as "failed!",
            count(*) filter (where status = 'cancelled') as "cancelled!",
            coalesce(extract(epoch from now() - min(created_at) filter (where status = 'queued')), 0)::float8
                as "oldest_queued_seconds!"
        from job where kind = 'train'"#
    )
    .fetch_one(db)
    .await
}

/// How many jobs would be claimed before this one; `None` when it does not wait in the queue.
pub async fn position(db: impl PgExecutor<'_>, job: JobId) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"select (
            select count(*) from job before
            where before.status = 'queued'
                and (-before.priority, before.created_at, before.job_id) < (-job.priority, job.created_at, job.job_id)
        ) as "before!"
        from job where job_id = $1 and status = 'queued'"#,
        job.0
    )
    .fetch_optional(db)
    .await
}
