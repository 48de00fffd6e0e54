//! An agent takes a job and keeps it.

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;

use crate::StoredFile;
use crate::event::{Level, note};
use crate::ids::{AgentId, JobId};
use crate::job::{self, Asked, Job};
use crate::spec::JobSpec;

/// What an agent has to offer at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Free CUDA devices; with none it takes jobs for `cpu` and `auto`.
    pub cuda_devices: i32,
}

/// The right to run a job: what every write of its agent is fenced by.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The job as it was when claimed.
    pub job: Job,
    /// Who holds it.
    pub agent: AgentId,
    /// Number of this claim.
    pub attempt: i32,
    /// Files to lay out, relative to the job's directory: `data/…`, `model/…`.
    pub files: Vec<StoredFile>,
}

impl Lease {
    /// The job's id.
    pub fn job_id(&self) -> JobId {
        self.job.job_id
    }

    /// The settings to write to `spec.json`.
    pub fn spec(&self) -> &JobSpec {
        &self.job.spec
    }
}

/// What an agent learns when it renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The job is someone else's, or over: stop the process, write nothing.
    Lost,
    /// Still held.
    Held {
        /// What someone asked for.
        asked: Option<Asked>,
    },
}

/// Takes the first waiting job that the agent can run: highest priority, then oldest.
///
/// `lease`: how long it stays the agent's without a [`renew`].
pub async fn claim(
    db: &PgPool,
    agent: AgentId,
    can: Capabilities,
    lease: Duration,
) -> sqlx::Result<Option<Lease>> {
    let mut tx = db.begin().await?;
    let claimed = sqlx::query!(
        r#"with next as (
            select job_id from job
            where status = 'queued' and (retry_at is null or retry_at <= now())
                and (needs_device <> 'cuda' or $2::int >= 1)
                and (needs_device = 'cpu' or $2::int = 0 or needs_devices <= $2::int)
            order by priority desc, created_at, job_id
            limit 1
            for update skip locked
        )
        update job set status = 'running', phase = 'leased', agent_id = $1, attempt = attempt + 1, retry_at = null,
            agent_name = (select name from agent where agent_id = $1), device = null,
            lease_until = now() + $3::interval, started_at = coalesce(started_at, now()), last_event_at = now()
        from next where job.job_id = next.job_id
        returning job.job_id as "job_id: JobId", attempt, agent_name"#,
        agent.0,
        can.cuda_devices,
        interval(lease),
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(claimed) = claimed else {
        return Ok(None);
    };
    let name = claimed.agent_name.unwrap_or_default();
    let message = format!("Attempt {} on {name}.", claimed.attempt);
    note(&mut tx, claimed.job_id, Level::Info, &message, &json!({"agent": name})).await?;
    let job = job::get(&mut *tx, claimed.job_id).await?.ok_or(sqlx::Error::RowNotFound)?;
    let files = job::inputs(&mut *tx, claimed.job_id).await?;
    tx.commit().await?;
    Ok(Some(Lease { job, agent, attempt: claimed.attempt, files }))
}

/// Moves the lease's end on and says whether it is still held and what someone asked for.
///
/// `phase`: what the agent knows of it beyond the trainer's own events; `None` leaves it.
pub async fn renew(db: &PgPool, held: &Lease, lease: Duration, phase: Option<&str>) -> sqlx::Result<Renewal> {
    let row = sqlx::query!(
        r#"with seen as (update agent set last_seen = now() where agent_id = $2)
        update job set lease_until = now() + $4::interval, phase = coalesce($5, phase)
        where job_id = $1 and agent_id = $2 and attempt = $3 and status = 'running'
        returning asked as "asked: Asked""#,
        held.job_id().0,
        held.agent.0,
        held.attempt,
        interval(lease),
        phase,
    )
    .fetch_optional(db)
    .await?;
    Ok(match row {
        Some(row) => Renewal::Held { asked: row.asked },
        None => Renewal::Lost,
    })
}

pub(super) fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}
