//! An agent takes a job and keeps it.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::gang::{self, Absent, Member, PATIENCE};
use crate::StoredFile;
use crate::event::{Level, note};
use crate::ids::{AgentId, JobId};
use crate::job::{self, Asked, Job};
use crate::spec::JobSpec;

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
    /// The other agents of a job that is larger than this agent's machine.
    pub members: Vec<Member>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The job is someone else's, or over: stop the process, write nothing.
    Lost,
    /// Still held.
    Held {
        /// What someone asked for.
        asked: Option<Asked>,
        /// A member that is gone, so that the attempt cannot go on.
        absent: Option<Absent>,
    },
}

/// How long an agent that found nothing counts as idle: longer than it waits before it looks again.
const IDLE: Duration = Duration::from_secs(10);

/// Those who claim while a job in several processes waits do so one after the other, so that each sees all idle agents.
const CLAIMS: i64 = 0x006c_7574_6869_6572;

/// Takes the first waiting job that the agent can run, alone or with others that are idle: highest priority, then
/// oldest. An agent that gets none counts as idle for a while, and may be [`super::called`] by another.
///
/// `lease`: how long it stays the agent's without a [`renew`].
pub async fn claim(db: &PgPool, agent: AgentId, lease: Duration) -> sqlx::Result<Option<Lease>> {
    let mut tx = db.begin().await?;
    sqlx::query!(
        "select pg_advisory_xact_lock($1)
        where exists (select from job where status = 'queued' and needs_devices > 1)",
        CLAIMS,
    )
    .execute(&mut *tx)
    .await?;
    if !is_free(&mut tx, agent).await? {
        return Ok(None);
    }
    let Some(next) = next(&mut tx, agent).await? else {
        tx.commit().await?;
        return Ok(None);
    };
    let members = match next.alone {
        true => Some(Vec::new()),
        false => gang::pick(&mut tx, agent, &next.needs_device, next.devices, next.needs_devices).await?,
    };
    // Not enough are idle: this agent keeps still for the job.
    let Some(members) = members else {
        tx.commit().await?;
        return Ok(None);
    };
    let lease = take(&mut tx, agent, next.job_id, members, lease).await?;
    tx.commit().await?;
    Ok(Some(lease))
}

/// Notes that the agent looks for work, and locks its row, so that nobody calls it meanwhile; false when someone has.
async fn is_free(conn: &mut PgConnection, agent: AgentId) -> sqlx::Result<bool> {
    sqlx::query!(
        "update agent set last_seen = now(), idle_until = now() + $2::interval where agent_id = $1",
        agent.0,
        interval(IDLE),
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query_scalar!(
        r#"select not exists (
            select from job_member member join job using (job_id)
            where member.agent_id = $1 and member.ended_at is null and job.status = 'running'
                and job.attempt = member.attempt
        ) as "free!""#,
        agent.0,
    )
    .fetch_one(conn)
    .await
}

/// A job that the agent may take.
struct Next {
    job_id: JobId,
    needs_device: String,
    needs_devices: i32,
    /// Devices of the agent.
    devices: i32,
    /// Whether these suffice.
    alone: bool,
}

/// The first job that this agent can run alone or with idle others, or keeps still for.
async fn next(conn: &mut PgConnection, agent: AgentId) -> sqlx::Result<Option<Next>> {
    sqlx::query_as!(
        Next,
        r#"select job.job_id as "job_id: JobId", job.needs_device, job.needs_devices, own.devices as "devices!",
            job.needs_devices <= own.devices as "alone!"
        from job
        join offer own on own.agent_id = $1 and own.needs_device = job.needs_device
        cross join lateral (
            select coalesce(sum(devices), 0) as live, coalesce(sum(devices) filter (where idle), 0) as idle
            from offer
            where offer.needs_device = own.needs_device and offer.cuda = own.cuda
                and offer.loopback = own.loopback and offer.agent_id <> own.agent_id
        ) others
        where status = 'queued' and (retry_at is null or retry_at <= now())
            and (job.needs_devices <= own.devices
                or job.needs_devices <= own.devices + others.idle
                or job.enough_since < now() - $2::interval and job.needs_devices <= own.devices + others.live)
        order by priority desc, created_at, job_id
        limit 1
        for update of job skip locked"#,
        agent.0,
        interval(PATIENCE),
    )
    .fetch_optional(conn)
    .await
}

async fn take(
    conn: &mut PgConnection,
    agent: AgentId,
    job: JobId,
    members: Vec<Member>,
    lease: Duration,
) -> sqlx::Result<Lease> {
    let claimed = sqlx::query!(
        "with busy as (update agent set idle_until = null where agent_id = $1)
        update job set status = 'running', phase = 'leased', agent_id = $1, attempt = attempt + 1, retry_at = null,
            agent_name = (select name from agent where agent_id = $1), device = null, rendezvous = null,
            missing_devices = null, enough_since = null, lease_until = now() + $3::interval,
            started_at = coalesce(started_at, now()), last_event_at = now()
        where job_id = $2
        returning attempt, agent_name, needs_devices",
        agent.0,
        job.0,
        interval(lease),
    )
    .fetch_one(&mut *conn)
    .await?;
    gang::call(conn, job, claimed.attempt, &members, lease).await?;
    let name = claimed.agent_name.unwrap_or_default();
    let (message, data) = told(claimed.attempt, &name, claimed.needs_devices, &members);
    note(conn, job, Level::Info, &message, &data).await?;
    let files = job::inputs(&mut *conn, job).await?;
    let job = job::get(conn, job).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Lease { job, agent, attempt: claimed.attempt, files, members })
}

/// What the job's log says of a claim.
fn told(attempt: i32, name: &str, processes: i32, members: &[Member]) -> (String, Value) {
    if members.is_empty() {
        return (format!("Attempt {attempt} on {name}."), json!({"agent": name}));
    }
    let own = processes - members.iter().map(|member| member.ranks).sum::<i32>();
    let mut all = vec![(name, own)];
    all.extend(members.iter().map(|member| (member.name.as_str(), member.ranks)));
    let words: Vec<String> = all.iter().map(|(name, ranks)| format!("{name} ({ranks})")).collect();
    let message = format!("Attempt {attempt} in {processes} processes on {}.", words.join(", "));
    let agents: Vec<Value> =
        all.iter().map(|(name, ranks)| json!({"agent": name, "processes": ranks})).collect();
    (message, json!({"agent": name, "agents": agents}))
}

/// Moves the lease's end on and says whether it is still held and what someone asked for.
///
/// `phase`: what the agent knows of it beyond the trainer's own events; `None` leaves it.
pub async fn renew(db: &PgPool, held: &Lease, lease: Duration, phase: Option<&str>) -> sqlx::Result<Renewal> {
    let row = sqlx::query!(
        r#"with seen as (update agent set last_seen = now() where agent_id = $2)
        update job set lease_until = now() + $4::interval, phase = coalesce($5, phase)
        where job_id = $1 and agent_id = $2 and attempt = $3 and status = 'running'
        returning asked as "asked: Asked", (
            select jsonb_build_object('name', name, 'joined', joined_at is not null, 'said', failure is not null)
            from job_member member join agent using (agent_id)
            where member.job_id = job.job_id and member.attempt = job.attempt
                and (failure is not null or ended_at is null and member.lease_until < now())
            order by failure is null, name limit 1
        ) as "absent: Json<Absent>""#,
        held.job_id().0,
        held.agent.0,
        held.attempt,
        interval(lease),
        phase,
    )
    .fetch_optional(db)
    .await?;
    Ok(match row {
        Some(row) => Renewal::Held { asked: row.asked, absent: row.absent.map(|absent| absent.0) },
        None => Renewal::Lost,
    })
}

pub(super) fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}
