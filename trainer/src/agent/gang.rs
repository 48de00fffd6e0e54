//! A job on several machines, as the agent that holds it sees the others.

use std::net::IpAddr;
use std::time::Duration;

use store::queue::{Absent, Failure, Fault, Member, failures, set_rendezvous};

use super::db::until_answered;
use super::outcome::{Reason, internal};
use super::run::{Run, Stop};
use crate::job::ranks::PLACE;

/// The place is looked for this often; the job's process writes it within its first seconds.
const POLL: Duration = Duration::from_millis(100);
/// A helper's words may come this much later than its end, which its peers notice at once.
const WORDS: Duration = Duration::from_secs(3);

/// Code of a helper's end that is nobody's fault: it was asked to stop.
pub(super) const STOPPING: &str = "agent_stopping";

/// What a process has to know of the machines of its job, as its environment.
pub(super) fn environment(sizes: &[i32], address: IpAddr) -> Vec<(&'static str, String)> {
    let sizes: Vec<String> = sizes.iter().map(i32::to_string).collect();
    vec![("LUTHIER_MACHINES", sizes.join(",")), ("LUTHIER_ADDRESS", address.to_string())]
}

/// The processes of each machine, those of the agent that holds the job first.
pub(super) fn sizes(members: &[Member]) -> Vec<i32> {
    let own = members.iter().map(|member| member.first_rank).min();
    own.into_iter().chain(members.iter().map(|member| member.ranks)).collect()
}

/// Tells the others where the first process listens, once it does.
pub(super) async fn publish(run: &Run<'_>) -> Result<(), Stop> {
    if run.lease.members.is_empty() {
        return Ok(());
    }
    let mut ended = run.ended.subscribe();
    let place = loop {
        if let Ok(place) = std::fs::read_to_string(run.dir.path().join(PLACE)) {
            break place;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = ended.wait_for(|ended| *ended) => return Ok(()),
        }
    };
    let told = until_answered("telling where the processes meet", || {
        set_rendezvous(&run.agent.store.db, &run.lease, &place)
    });
    match told.await {
        Ok(true) => {
            tracing::info!(job.rendezvous = place, "the job's processes meet");
            Ok(())
        }
        Ok(false) => Err(run.lost()),
        Err(error) => Err(Stop::failed("rendezvous", "The job's rendezvous could not be stored", error)),
    }
}

/// Waits until a helper is gone.
pub(super) async fn gone(run: &Run<'_>) -> Absent {
    let mut absent = run.absent.subscribe();
    match absent.wait_for(Option::is_some).await.ok().and_then(|absent| absent.clone()) {
        Some(absent) => absent,
        None => std::future::pending().await,
    }
}

/// How an attempt ends to which a helper was lost.
pub(super) enum Loss {
    /// Nothing was wrong with the job: it is queued again.
    GivenBack(String),
    /// The attempt has failed.
    Failed(Reason),
}

/// Why an attempt in several machines failed: when one process ends the others only see that it is gone, so that the
/// reason may be another machine's.
pub(super) async fn reason(run: &Run<'_>, own: Reason) -> Loss {
    let absent = run.absent.borrow().clone();
    if run.lease.members.is_empty() || (absent.is_none() && !is_vague(&own.code)) {
        return Loss::Failed(own);
    }
    if let Some(silent) = absent.as_ref().filter(|absent| !absent.said) {
        let name = &silent.name;
        if !silent.joined {
            return Loss::GivenBack(format!("The agent {name} was called for this job and did not come."));
        }
        let message = format!("The agent {name} was lost: it did not renew its lease in time.");
        return Loss::Failed(internal("agent_lost", message, own.step));
    }
    let told = tokio::time::timeout(WORDS, words(run)).await.unwrap_or_default();
    if let Some((name, _)) = told.iter().find(|(_, failure)| failure.code == STOPPING) {
        return Loss::GivenBack(format!("The agent {name} goes down."));
    }
    let clear = told.iter().find(|(_, failure)| !is_vague(&failure.code));
    let found = clear.or(told.first().filter(|_| absent.is_some()));
    Loss::Failed(found.map_or(own.clone(), |(name, failure)| Reason {
        last: failure.fault == Fault::User,
        code: failure.code.clone(),
        message: format!("On {name}: {}", failure.message),
        param: failure.param.clone(),
        step: own.step.or(failure.step),
    }))
}

/// What the others say, once one says something.
async fn words(run: &Run<'_>) -> Vec<(String, Failure)> {
    loop {
        match failures(&run.agent.store.db, &run.lease).await {
            Ok(told) if !told.is_empty() => return told,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the reasons of the other agents could not be read"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a failure may only say that a peer is gone.
fn is_vague(code: &str) -> bool {
    ["internal_error", "panic", "rank_failed"].contains(&code)
}
