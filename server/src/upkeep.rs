//! What has to be looked after while nobody asks: lapsed leases, expired files, bytes that nothing needs.

use std::time::Duration;

use store::{Store, file, idempotency, queue};
use tokio_util::sync::CancellationToken;

/// How often files and bytes are looked at.
const CLEAR_EVERY: Duration = Duration::from_secs(3600);

/// Age at which content without a row is removed: longer than any upload takes.
const CONTENT_AGE: Duration = Duration::from_secs(24 * 3600);

/// Age at which idempotency keys are forgotten.
const KEY_AGE: Duration = Duration::from_secs(48 * 3600);

/// Works until `stopping`; what fails is tried again the next time.
pub async fn run(store: Store, lease: Duration, stopping: CancellationToken) {
    let mut leases = tokio::time::interval((lease / 4).max(Duration::from_millis(500)));
    let mut contents = tokio::time::interval(CLEAR_EVERY);
    for timer in [&mut leases, &mut contents] {
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = leases.tick() => match queue::reap(&store.db).await {
                Ok(jobs) => for job in jobs {
                    tracing::warn!(job.id = %job, "a trainer was lost; its job was taken back");
                },
                Err(error) => tracing::warn!(%error, "lapsed leases could not be looked at"),
            },
            _ = contents.tick() => if let Err(error) = clear(&store).await {
                tracing::warn!("old contents could not be cleared: {error:#}");
            },
        }
    }
}

async fn clear(store: &Store) -> anyhow::Result<()> {
    for expired in file::expired(&store.db).await? {
        match file::delete(&store.db, expired).await? {
            file::Deleted::Needed(job) => {
                tracing::info!(file.id = %expired, job.id = %job, "an expired file is still needed")
            }
            file::Deleted::Done | file::Deleted::Missing => {}
        }
    }
    idempotency::forget(&store.db, KEY_AGE).await?;
    let swept = store.sweep(CONTENT_AGE).await?;
    if swept.objects + swept.strays + swept.scratch > 0 {
        tracing::info!(
            objects = swept.objects,
            bytes = swept.bytes,
            strays = swept.strays,
            scratch = swept.scratch,
            "cleared contents"
        );
    }
    Ok(())
}
