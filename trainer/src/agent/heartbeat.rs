//! Keeps a lease alive and learns from each renewal whether it still is, and what someone asked for.

use std::sync::Arc;
use std::time::Duration;

use store::job::Asked;
use store::notify::Wake;
use store::queue::{Absent, Lease, Renewal, renew};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::backoff::scattered;
use super::db::once;

/// Renewals on a wake-up are at least this far apart: each event that the agent stores wakes it too.
pub(super) const WAKE_GAP: Duration = Duration::from_secs(1);

/// Others tell by the time of the last renewal whether this agent lives.
const LONGEST_GAP: Duration = Duration::from_secs(20);

/// How often a lease is renewed.
pub(super) fn regular(length: Duration) -> Duration {
    (length / 3).min(LONGEST_GAP)
}

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
    gone: watch::Sender<Option<Absent>>,
    mut wakes: broadcast::Receiver<Wake>,
) {
    let regular = regular(length);
    // After an outage, or when this machine slept, every lease has lapsed: helpers get the time to renew first.
    let (mut calm_since, mut last) = (Instant::now(), Instant::now());
    loop {
        let asked_at = Instant::now();
        let pause = match once(renew(&db, &lease, length, None)).await {
            Ok(Renewal::Held { asked, absent }) => {
                if asked_at.duration_since(last) > length {
                    calm_since = asked_at;
                }
                last = asked_at;
                if let Some(absent) = absent.filter(|absent| absent.said || calm_since.elapsed() >= length) {
                    gone.send_if_modified(|now| now.is_none() && now.replace(absent).is_none());
                }
                standing.send_if_modified(|now| set(now, Standing::Held(asked)));
                regular
            }
            Ok(Renewal::Lost) => {
                standing.send_if_modified(|now| set(now, Standing::Lost));
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the lease could not be renewed; trying again");
                calm_since = Instant::now();
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

pub(super) async fn told_of(job: store::JobId, wakes: &mut broadcast::Receiver<Wake>) {
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
