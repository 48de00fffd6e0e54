//! What a job in several processes waits for, said plainly.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::event::{Level, note};
use crate::ids::JobId;

/// Looks at waiting jobs in several processes: how many devices each lacks even if all live agents were free. Where that
/// has changed, the job's row and log say so. Gives the jobs that lack some and did not before.
///
/// Safe to call from several processes at once.
pub async fn tell_missing(db: &PgPool) -> sqlx::Result<Vec<JobId>> {
    let mut tx = db.begin().await?;
    let changed = sqlx::query!(
        r#"select job.job_id as "job_id: JobId", job.needs_devices, job.needs_device, job.missing_devices,
            live.devices as "live!", live.names as "names!"
        from job cross join lateral (
            select coalesce(max(devices), 0)::int as devices,
                coalesce((array_agg(names order by devices desc))[1], '') as names
            from (
                select sum(devices)::int as devices, string_agg(name || ' ' || devices, ', ' order by name) as names
                from offer where offer.needs_device = job.needs_device
                -- Only these can work together.
                group by cuda, loopback, case when address is null then agent_id end
            ) together
        ) live
        where status = 'queued' and needs_devices > 1
            and missing_devices is distinct from greatest(needs_devices - live.devices, 0)
        order by job.job_id
        for update of job skip locked"#
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut lacking = Vec::new();
    for job in changed {
        let (needs, live) = (job.needs_devices, job.live);
        let missing = (needs - live).max(0);
        set(&mut tx, job.job_id, missing).await?;
        let kind = if job.needs_device == "cuda" { "GPUs" } else { "devices" };
        let message = match (missing, job.missing_devices) {
            (0, Some(before)) if before > 0 => {
                format!(
                    "All {needs} {kind} are there now ({}); it starts as soon as they are free.",
                    job.names
                )
            }
            (0, _) => continue,
            _ => {
                lacking.push(job.job_id);
                let have = match live {
                    0 => "no trainer offers any".to_owned(),
                    _ => format!("the trainers at hand offer {live} ({})", job.names),
                };
                let more = if missing == 1 { kind.trim_end_matches('s') } else { kind };
                format!(
                    "Waits for {missing} more {more}: it needs {needs}, and {have}. Start a trainer on another \
                     machine, or ask for less by resources.devices."
                )
            }
        };
        let data = json!({"needs": needs, "live": live, "missing": missing});
        note(&mut tx, job.job_id, Level::Info, &message, &data).await?;
    }
    tx.commit().await?;
    Ok(lacking)
}

async fn set(conn: &mut PgConnection, job: JobId, missing: i32) -> sqlx::Result<()> {
    sqlx::query!(
        "update job set missing_devices = $2, enough_since = case when $2 = 0 then now() end where job_id = $1",
        job.0,
        missing,
    )
    .execute(conn)
    .await
    .map(drop)
}
