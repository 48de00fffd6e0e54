//! What has to be looked after while nobody asks: lapsed leases, expired files, bytes that nothing needs, idle processes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use store::{Store, file, idempotency, queue};
use tokio::time::{Instant, MissedTickBehavior};

use crate::AppState;

/// How often files and bytes are looked at.
const CLEAR_EVERY: Duration = Duration::from_secs(3600);

/// How often idle processes with a loaded model are looked at.
const COOL_EVERY: Duration = Duration::from_secs(30);

/// Age at which content without a row is removed: longer than any upload takes.
const CONTENT_AGE: Duration = Duration::from_secs(24 * 3600);

/// Age at which idempotency keys are forgotten.
const KEY_AGE: Duration = Duration::from_secs(48 * 3600);

/// Works until the server stops; what fails is tried again the next time.
pub async fn run(state: AppState) {
    let lease = state.config.lease();
    let mut watch = Watch::new(lease);
    let mut leases = tokio::time::interval(watch.every);
    let mut contents = tokio::time::interval(CLEAR_EVERY);
    let mut models = tokio::time::interval(COOL_EVERY);
    for timer in [&mut leases, &mut contents, &mut models] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            () = state.stopping.cancelled() => return,
            _ = leases.tick() => {
                if watch.sees_a_lease_of_calm(&state.store).await {
                    take_back(&state.store).await;
                }
            }
            _ = contents.tick() => {
                if let Err(error) = clear(&state.store).await {
                    tracing::warn!("old contents could not be cleared: {error:#}");
                }
                if let Err(error) = clear_cache(&state.config.data.join("cache")) {
                    tracing::warn!(%error, "the cache could not be cleared");
                }
            },
            _ = models.tick() => {
                state.predictors.cool_down();
                state.workers.cool_down();
            }
        }
    }
}

/// Tells a trainer that is silent from a database that nobody could reach.
///
/// After an outage every lease has lapsed, and no trainer is to blame: each gets the length of a lease to renew before
/// its job is taken back. The same holds at the start, and after this machine has slept.
struct Watch {
    lease: Duration,
    every: Duration,
    calm_since: Instant,
    last_look: Instant,
}

impl Watch {
    fn new(lease: Duration) -> Self {
        let now = Instant::now();
        Watch { lease, every: (lease / 4).max(Duration::from_millis(500)), calm_since: now, last_look: now }
    }

    /// Looks at the database; true when it has answered all along for the length of a lease.
    async fn sees_a_lease_of_calm(&mut self, store: &Store) -> bool {
        let answers = tokio::time::timeout(self.every, store::is_ready(&store.db))
            .await
            .is_ok_and(|found| found.is_ok());
        self.note(Instant::now(), answers)
    }

    fn note(&mut self, now: Instant, answers: bool) -> bool {
        if !answers || now.duration_since(self.last_look) > self.every * 2 {
            self.calm_since = now;
        }
        self.last_look = now;
        now.duration_since(self.calm_since) >= self.lease
    }
}

/// Takes jobs back whose trainer was lost, and says of waiting ones what they lack.
async fn take_back(store: &Store) {
    match queue::reap(&store.db).await {
        Ok(jobs) => {
            for job in jobs {
                tracing::warn!(job.id = %job, "a trainer was lost; its job was taken back");
            }
        }
        Err(error) => tracing::warn!(%error, "lapsed leases could not be looked at"),
    }
    if let Err(error) = queue::tell_missing(&store.db).await {
        tracing::warn!(%error, "waiting jobs could not be looked at");
    }
}

/// Removes what a server that was killed left of uploads and checks, and models that nobody has asked lately.
fn clear_cache(cache: &Path) -> std::io::Result<()> {
    let old = SystemTime::now() - CONTENT_AGE;
    for folder in [cache.to_owned(), cache.join("models")] {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name() != "models" && entry.metadata()?.modified()? < old {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_blamed_for_an_outage() {
        let mut watch = Watch::new(Duration::from_secs(8));
        let start = watch.calm_since;
        let mut look =
            |seconds: u64, answers: bool| watch.note(start + Duration::from_secs(seconds), answers);
        assert!(
            ![2, 4, 6].map(|time| look(time, true)).contains(&true),
            "at the start there is a lease of patience"
        );
        assert!(look(8, true));
        assert!(!look(10, false));
        assert!(![12, 14, 16].map(|time| look(time, true)).contains(&true), "after an outage again");
        assert!(look(18, true));
        assert!(!look(60, true), "nobody has looked for long: this machine slept");
        assert!(![62, 64, 66].map(|time| look(time, true)).contains(&true));
        assert!(look(68, true));
    }
}
