//! Jobs whose agent is gone.

use sqlx::PgPool;

use super::end::{Failure, Fault, end_badly};
use super::gang::end_memberships;
use crate::ids::{AgentId, JobId};

/// Takes jobs away whose lease has lapsed: queued again, or failed after the last attempt; marks are obeyed.
///
/// Safe to call from several processes at once. Gives the jobs that it moved.
pub async fn reap(db: &PgPool) -> sqlx::Result<Vec<JobId>> {
    let mut reaped = Vec::new();
    loop {
        // One transaction for each job: a long list is no reason to hold locks.
        let mut tx = db.begin().await?;
        let lapsed = sqlx::query!(
            r#"select job_id as "job_id: JobId", agent_name, (progress->>'step')::bigint as step from job
            where status = 'running' and lease_until < now()
            order by lease_until limit 1 for update skip locked"#
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(lapsed) = lapsed else {
            return Ok(reaped);
        };
        let name = lapsed.agent_name.unwrap_or_default();
        let message = format!("The agent {name} was lost: it did not renew its lease in time.");
        let failure = lost(message, lapsed.step);
        end_badly(&mut tx, lapsed.job_id, None, &failure, false).await?;
        tx.commit().await?;
        reaped.push(lapsed.job_id);
    }
}

/// Gives back at once what the earlier process of a restarted agent held or helped with; call it right after
/// registering.
pub async fn reclaim(db: &PgPool, agent: AgentId) -> sqlx::Result<Vec<JobId>> {
    let mut tx = db.begin().await?;
    let held = sqlx::query!(
        r#"select job_id as "job_id: JobId", agent_name, (progress->>'step')::bigint as step from job
        where status = 'running' and agent_id = $1 order by job_id for update"#,
        agent.0
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut given_back = Vec::new();
    for job in held {
        let name = job.agent_name.unwrap_or_default();
        let message = format!("The agent {name} was lost: its process ended and was started again.");
        let failure = lost(message, job.step);
        end_badly(&mut tx, job.job_id, None, &failure, false).await?;
        given_back.push(job.job_id);
    }
    end_memberships(&mut tx, agent).await?;
    tx.commit().await?;
    Ok(given_back)
}

fn lost(message: String, step: Option<i64>) -> Failure {
    Failure {
        fault: Fault::Internal,
        code: "agent_lost".to_owned(),
        message,
        param: None,
        step,
        log: Vec::new(),
    }
}
