//! Jobs that are larger than one machine: several agents at once, or none.
//!
//! Nobody holds anything while it waits. An idle agent promises with every look at the queue to look again soon
//! (`agent.idle_until`); the statement that claims a large job calls as many of those as it needs, in the same
//! transaction, and finds enough or changes nothing. Two large jobs can therefore not each hold a half of what both need.
//! Smaller jobs pass a large one that waits for agents to become free, for [`PATIENCE`]; then free agents keep still until
//! there are enough of them, for the first such job in the queue's order.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::claim::interval;
use super::{Failure, Fault, Lease};
use crate::StoredFile;
use crate::event::{Level, note};
use crate::ids::{AgentId, JobId};
use crate::job::{self, Job};
use crate::text::{clean, clean_json};

/// How long smaller jobs pass one that waits for several agents to be free.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What an agent beside the one that holds the job does for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// Its first process.
    pub first_rank: i32,
    /// Its processes.
    pub ranks: i32,
}

/// A call to help with a job: what a helper's writes are fenced by.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The job as it was when this agent came.
    pub job: Job,
    /// Who helps.
    pub agent: AgentId,
    /// The attempt.
    pub attempt: i32,
    /// Its first process.
    pub first_rank: i32,
    /// The processes of each machine, in the order of their ranks; those of the holder come first.
    pub sizes: Vec<i32>,
    /// Files to lay out, relative to the job's directory: `data/…`, `model/…`.
    pub files: Vec<StoredFile>,
}

/// What a helper learns when it renews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The attempt is over, or was never this agent's: stop the processes.
    Lost,
    /// It goes on.
    Held {
        /// Where the processes meet, once that is known.
        rendezvous: Option<String>,
    },
}

/// A helper that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Absent {
    /// Its name.
    pub name: String,
    /// Whether it had come at all.
    pub joined: bool,
    /// Whether it said itself that it ended badly, rather than falling silent.
    pub said: bool,
}

/// Picks idle agents that together have `missing` devices of one kind with those of `agent`, the largest first; `None`
/// when there are not enough.
pub(super) async fn pick(
    conn: &mut PgConnection,
    agent: AgentId,
    needs_device: &str,
    own: i32,
    needs: i32,
) -> sqlx::Result<Option<Vec<Member>>> {
    // Locked ones are just taking something themselves.
    let idle = sqlx::query!(
        r#"select other.agent_id as "agent_id: AgentId", other.name, offer.devices as "devices!"
        from offer own
        join offer on offer.needs_device = own.needs_device and offer.cuda = own.cuda
            and offer.loopback = own.loopback and offer.agent_id <> own.agent_id and offer.idle
        join agent other on other.agent_id = offer.agent_id
        where own.agent_id = $1 and own.needs_device = $2
        order by offer.devices desc, other.name
        for update of other skip locked"#,
        agent.0,
        needs_device,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut first_rank = own;
    let mut members = Vec::new();
    for found in idle {
        if first_rank >= needs {
            break;
        }
        let ranks = found.devices.min(needs - first_rank);
        members.push(Member { agent: found.agent_id, name: found.name, first_rank, ranks });
        first_rank += ranks;
    }
    Ok((first_rank >= needs).then_some(members))
}

/// Calls the agents that were picked, as a part of the claim.
pub(super) async fn call(
    conn: &mut PgConnection,
    job: JobId,
    attempt: i32,
    members: &[Member],
    lease: Duration,
) -> sqlx::Result<()> {
    for member in members {
        sqlx::query!(
            "insert into job_member (job_id, attempt, agent_id, first_rank, ranks, lease_until)
            values ($1, $2, $3, $4, $5, now() + $6::interval)",
            job.0,
            attempt,
            member.agent.0,
            member.first_rank,
            member.ranks,
            interval(lease),
        )
        .execute(&mut *conn)
        .await?;
        sqlx::query!("update agent set idle_until = null where agent_id = $1", member.agent.0)
            .execute(&mut *conn)
            .await?;
    }
    if !members.is_empty() {
        sqlx::query!("select pg_notify('luthier_queue', '')").execute(conn).await?;
    }
    Ok(())
}

/// Whether this agent was called to help with a job; says that it has come. To be asked before each [`super::claim`].
pub async fn called(db: &PgPool, agent: AgentId, lease: Duration) -> sqlx::Result<Option<Membership>> {
    let mut tx = db.begin().await?;
    let found = sqlx::query!(
        r#"update job_member member
        set joined_at = coalesce(joined_at, now()), lease_until = now() + $2::interval
        from job
        where member.agent_id = $1 and member.ended_at is null
            and job.job_id = member.job_id and job.attempt = member.attempt and job.status = 'running'
        returning job.job_id as "job_id: JobId", member.attempt, member.first_rank"#,
        agent.0,
        interval(lease),
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(found) = found else {
        return Ok(None);
    };
    let others = sqlx::query!(
        "select first_rank, ranks from job_member where job_id = $1 and attempt = $2 order by first_rank",
        found.job_id.0,
        found.attempt,
    )
    .fetch_all(&mut *tx)
    .await?;
    let holder = others.first().map(|first| first.first_rank);
    let job = job::get(&mut *tx, found.job_id).await?.ok_or(sqlx::Error::RowNotFound)?;
    let files = job::inputs(&mut *tx, found.job_id).await?;
    tx.commit().await?;
    Ok(Some(Membership {
        job,
        agent,
        attempt: found.attempt,
        first_rank: found.first_rank,
        sizes: holder.into_iter().chain(others.iter().map(|other| other.ranks)).collect(),
        files,
    }))
}

/// Says that a helper lives; learns whether the attempt goes on and where the processes meet.
pub async fn renew_member(db: &PgPool, held: &Membership, lease: Duration) -> sqlx::Result<Joined> {
    let row = sqlx::query!(
        "with seen as (update agent set last_seen = now() where agent_id = $2)
        update job_member member set lease_until = now() + $4::interval
        from job
        where member.job_id = $1 and member.agent_id = $2 and member.attempt = $3 and member.ended_at is null
            and job.job_id = member.job_id and job.attempt = member.attempt and job.status = 'running'
        returning job.rendezvous",
        held.job.job_id.0,
        held.agent.0,
        held.attempt,
        interval(lease),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map_or(Joined::Lost, |row| Joined::Held { rendezvous: row.rendezvous }))
}

/// Says where the job's processes meet, `HOST:PORT`. False: the lease is lost.
pub async fn set_rendezvous(db: &PgPool, held: &Lease, place: &str) -> sqlx::Result<bool> {
    sqlx::query!(
        "update job set rendezvous = $4
        where job_id = $1 and agent_id = $2 and attempt = $3 and status = 'running'",
        held.job_id().0,
        held.agent.0,
        held.attempt,
        place,
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Says that a helper's processes have ended, and why, if badly; the job's log tells of it while the attempt goes on.
pub async fn leave(db: &PgPool, held: &Membership, failure: Option<&Failure>) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    // In the order of every other transaction: the job first.
    let running = sqlx::query!(
        "select 1 as one from job where job_id = $1 and attempt = $2 and status = 'running' for update",
        held.job.job_id.0,
        held.attempt,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let name = sqlx::query_scalar!(
        "update job_member member set ended_at = now(), failure = $4
        from agent
        where agent.agent_id = member.agent_id and job_id = $1 and member.agent_id = $2 and attempt = $3
            and ended_at is null
        returning agent.name",
        held.job.job_id.0,
        held.agent.0,
        held.attempt,
        failure.map(|failure| clean_json(&json!(failure))),
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let (Some(failure), Some(_), Some(name)) = (failure, running, name) {
        let message = format!("The job's processes on {name} ended: {}", clean(&failure.message));
        let data = json!({"agent": name, "code": failure.code});
        note(&mut tx, held.job.job_id, Level::Warn, &message, &data).await?;
    }
    tx.commit().await
}

/// What helpers of this attempt said of their bad ends, by name.
pub async fn failures(db: &PgPool, held: &Lease) -> sqlx::Result<Vec<(String, Failure)>> {
    let rows = sqlx::query!(
        r#"select agent.name, failure as "failure!: Json<Failure>"
        from job_member join agent using (agent_id)
        where job_id = $1 and attempt = $2 and failure is not null
        order by ended_at"#,
        held.job_id().0,
        held.attempt,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.failure.0)).collect())
}

/// Ends what the earlier process of a restarted agent helped with, so that those jobs learn of it at once.
pub(super) async fn end_memberships(conn: &mut PgConnection, agent: AgentId) -> sqlx::Result<()> {
    let ended = sqlx::query!(
        r#"select member.job_id as "job_id: JobId", member.attempt, agent.name,
            job.status = 'running' and job.attempt = member.attempt as "running!"
        from job_member member join agent using (agent_id) join job on job.job_id = member.job_id
        where member.agent_id = $1 and member.ended_at is null
        order by member.job_id for update of job"#,
        agent.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    for member in ended {
        let message = format!("The agent {} was lost: its process ended and was started again.", member.name);
        let failure = Failure {
            fault: Fault::Internal,
            code: "agent_lost".to_owned(),
            message: message.clone(),
            param: None,
            step: None,
            log: Vec::new(),
        };
        sqlx::query!(
            "update job_member set ended_at = now(), failure = $4
            where job_id = $1 and attempt = $2 and agent_id = $3",
            member.job_id.0,
            member.attempt,
            agent.0,
            json!(failure),
        )
        .execute(&mut *conn)
        .await?;
        if member.running {
            note(conn, member.job_id, Level::Warn, &message, &json!({"agent": member.name})).await?;
        }
    }
    Ok(())
}
