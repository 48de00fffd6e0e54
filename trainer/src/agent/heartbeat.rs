//! Keeps a lease alive and learns from each renewal whether it still is, and what someone asked for.

use std::sync::Arc;
use std::time::Duration;

use store::job::Asked;
use store::notify::Wake;
use store::queue::{Lease, Renewal, renew};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::backoff::scattered;
use super::db::once;

/// Renewals on a wake-up are at least this far apart: each event that the agent stores wakes it too.
const WAKE_GAP: Duration = Duration::from_secs(1);

/// Where the agent stands with its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Held(Option<Asked>),
    /// Someone else's now, or over: nothing may be written, the process must end.
    Lost,
}

/// Renews until the lease is lost. An outage is no loss: whoever could take the job away is cut off as well, and the
/// fence decides afterwards.
pub(super) async fn keep(
    db: store::PgPool,
    lease: Arc<Lease>,
    length: Duration,
    standing: watch::Sender<Standing>,
    mut wakes: broadcast::Receiver<Wake>,
) {
    let regular = length / 3;
    loop {
        let asked_at = Instant::now();
        let pause = match once(renew(&db, &lease, length, None)).await {
            Ok(Renewal::Held { asked }) => {
                standing.send_if_modified(|now| set(now, Standing::Held(asked)));
                regular
            }
            Ok(Renewal::Lost) => {
                standing.send_if_modified(|now| set(now, Standing::Lost));
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the lease could not be renewed; trying again");
                scattered(regular.min(Duration::from_secs(1)))
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(asked_at + pause) => {}
            () = told_of(lease.job_id(), &mut wakes) => tokio::time::sleep_until(asked_at + WAKE_GAP.min(pause)).await,
        }
    }
}

/// Sets the standing; once lost it stays so.
pub(super) fn set(now: &mut Standing, next: Standing) -> bool {
    let changed = *now != Standing::Lost && *now != next;
    if changed {
        *now = next;
    }
    changed
}

async fn told_of(job: store::JobId, wakes: &mut broadcast::Receiver<Wake>) {
    loop {
        match wakes.recv().await {
            Ok(Wake::Job(told)) if told == job => return,
            Ok(Wake::Missed) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Ok(Wake::Job(_) | Wake::Queue) => {}
            // Without the listener the regular renewals go on.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
