//! The processes that train.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgExecutor;

use crate::ids::AgentId;
use crate::text::clean;

/// What an agent says of itself when it starts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NewAgent {
    /// Its name, unique; one that starts again under the same name is the same agent.
    pub name: String,
    /// For people: `cpu`, `cuda: NVIDIA H100`.
    pub device: String,
    /// CUDA devices that it can use.
    pub cuda_devices: i32,
    /// Processes that it gives a job on a CPU; on GPUs it is `cuda_devices`.
    pub devices: i32,
    /// The address at which processes on other machines reach its own; without one it works alone.
    pub address: Option<String>,
    /// CPU threads.
    pub threads: i32,
    /// Memory of the machine, in bytes.
    pub memory_bytes: Option<i64>,
    /// Version of the program.
    pub version: String,
    /// Why it takes no jobs, if it takes none.
    pub unfit: Option<String>,
}

/// An agent as the database knows it.
#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    /// Its id.
    pub agent_id: AgentId,
    /// Its name, unique.
    pub name: String,
    /// For people: `cpu`, `cuda: NVIDIA H100`.
    pub device: String,
    /// CUDA devices that it can use.
    pub cuda_devices: i32,
    /// Processes that it gives a job on a CPU; on GPUs it is `cuda_devices`.
    pub devices: i32,
    /// The address at which processes on other machines reach its own; without one it works alone.
    pub address: Option<String>,
    /// CPU threads.
    pub threads: i32,
    /// Memory of the machine, in bytes.
    pub memory_bytes: Option<i64>,
    /// Version of the program.
    pub version: String,
    /// Why it takes no jobs, if it takes none.
    pub unfit: Option<String>,
    /// When the process started.
    pub started_at: DateTime<Utc>,
    /// When it last said that it lives.
    pub last_seen: DateTime<Utc>,
    /// Jobs that it holds or helps with.
    pub running: i64,
}

/// Takes an agent in, or takes it up again by its name; gives the same id each time.
///
/// What a predecessor of that name held is given back by [`crate::queue::reclaim`].
pub async fn register(db: impl PgExecutor<'_>, agent: &NewAgent) -> sqlx::Result<AgentId> {
    sqlx::query_scalar!(
        r#"insert into agent (agent_id, name, device, cuda_devices, threads, memory_bytes, version, unfit, devices,
            address)
        values ($1, $2, $3, $4, $5, $6, $7, $8, greatest($9::int, 1), $10::text::inet)
        on conflict (name) do update set device = excluded.device, cuda_devices = excluded.cuda_devices,
            threads = excluded.threads, memory_bytes = excluded.memory_bytes, version = excluded.version,
            unfit = excluded.unfit, devices = excluded.devices, address = excluded.address, idle_until = null,
            started_at = now(), last_seen = now()
        returning agent_id as "agent_id: AgentId""#,
        AgentId::new().0,
        clean(&agent.name),
        clean(&agent.device),
        agent.cuda_devices,
        agent.threads,
        agent.memory_bytes,
        agent.version,
        agent.unfit.as_deref().map(clean),
        agent.devices,
        agent.address,
    )
    .fetch_one(db)
    .await
}

/// Says that an idle agent lives, and whether it is fit; false when its row is gone and it must register anew.
pub async fn seen(db: impl PgExecutor<'_>, agent: AgentId, unfit: Option<&str>) -> sqlx::Result<bool> {
    sqlx::query!(
        "update agent set last_seen = now(), unfit = $2 where agent_id = $1",
        agent.0,
        unfit.map(clean)
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Says that an idle agent goes: it is not counted on any more, and not called.
pub async fn away(db: impl PgExecutor<'_>, agent: AgentId) -> sqlx::Result<()> {
    sqlx::query!("update agent set idle_until = '-infinity' where agent_id = $1", agent.0)
        .execute(db)
        .await
        .map(drop)
}

/// Lists agents by name.
pub async fn list(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Agent>> {
    sqlx::query_as!(
        Agent,
        r#"select agent_id as "agent_id: AgentId", name, device, cuda_devices, devices, host(address) as address, threads,
            memory_bytes, version, unfit, started_at, last_seen,
            (select count(*) from job where job.agent_id = agent.agent_id and status = 'running')
                + (select count(*) from job_member member join job using (job_id)
                    where member.agent_id = agent.agent_id and member.ended_at is null and job.status = 'running'
                        and job.attempt = member.attempt) as "running!"
        from agent order by name"#
    )
    .fetch_all(db)
    .await
}

/// Forgets an agent that holds nothing; false when there is none or it holds a job.
pub async fn delete(db: impl PgExecutor<'_>, agent: AgentId) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from agent where agent_id = $1 and not exists (select from job where agent_id = $1)",
        agent.0
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}
