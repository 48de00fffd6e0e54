//! Between jobs: registering, staying fit, waiting for something to claim.

use std::time::Duration;

use store::agent::{NewAgent, away, register, seen};
use store::notify::Wake;
use store::queue::{Lease, Membership, called, claim, reap, reclaim, tell_missing};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tracing::Instrument;

use super::backoff::scattered;
use super::db::{is_outage, once};
use super::fitness::{Devices, devices};
use super::member::help;
use super::stopping::Stopping;
use super::supervise::{Over, attempt};
use super::sweep::sweep;
use super::{Agent, AgentId};

/// The queue is looked at this often even without a wake-up.
const POLL: Duration = Duration::from_secs(3);
/// An unfit agent looks again this often whether it has become fit.
const RECHECK: Duration = Duration::from_secs(30);
/// An idle agent says this often that it lives.
const SEEN: Duration = Duration::from_secs(10);

/// Takes one job after another until it is asked to stop.
pub(super) async fn take_jobs(agent: &Agent, stopping: Stopping) {
    let mut asked = stopping.clone();
    let mut known = None;
    loop {
        let fit = tokio::select! {
            fit = ready(agent, &mut known) => fit,
            () = asked.reached(1) => return,
        };
        let over = match fit {
            Some(id) => take_until_doubt(agent, id, &stopping).await,
            None => tokio::select! {
                () = tokio::time::sleep(scattered(RECHECK)) => false,
                () = asked.reached(1) => true,
            },
        };
        if over {
            return;
        }
    }
}

/// What the row of this agent says.
struct Known {
    id: AgentId,
    found: Result<Devices, String>,
}

/// Looks at the machine and says in this agent's row what is there; `None` when it cannot train. The first time it
/// gives back what an earlier process of this agent held.
async fn ready(agent: &Agent, known: &mut Option<Known>) -> Option<AgentId> {
    let found = devices(&agent.settings.program).await;
    let unfit = found.as_ref().err().map(String::as_str);
    let same = known.as_ref().filter(|known| known.found == found);
    let id = match same {
        Some(same) if persist("reporting", || seen(&agent.store.db, same.id, unfit)).await => same.id,
        _ => {
            let new = describe(agent, &found);
            persist("registering", || register(&agent.store.db, &new)).await
        }
    };
    if known.is_none() {
        give_back_earlier(agent, id).await;
        tidy(agent).await;
    }
    *known = Some(Known { id, found: found.clone() });
    match found {
        Ok(devices) => {
            tracing::info!(agent.name = agent.settings.name, agent.device = devices.device, "ready for jobs");
            Some(id)
        }
        Err(reason) => {
            tracing::error!(agent.name = agent.settings.name, "unfit for jobs: {reason}");
            None
        }
    }
}

fn describe(agent: &Agent, found: &Result<Devices, String>) -> NewAgent {
    let mut new = NewAgent {
        name: agent.settings.name.clone(),
        device: "none".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: agent.settings.address.map(|address| address.to_string()),
        memory_bytes: crate::memory::of_machine().and_then(|bytes| bytes.try_into().ok()),
        ..NewAgent::default()
    };
    match found {
        Ok(devices) => {
            let most = agent.settings.devices;
            new.device.clone_from(&devices.device);
            new.cuda_devices = devices.cuda_devices().min(most.unwrap_or(i32::MAX));
            new.devices = most.unwrap_or(devices.threads);
            new.threads = devices.threads;
        }
        Err(reason) => new.unfit = Some(reason.clone()),
    }
    new
}

async fn give_back_earlier(agent: &Agent, id: AgentId) {
    let given = persist("giving back earlier jobs", || reclaim(&agent.store.db, id)).await;
    for job in given {
        tracing::warn!(job.id = %job, "gave back the job of an earlier process of this agent");
    }
}

/// Tries until it works: at the start the server may still be laying out the tables.
async fn persist<T, Call, Answer>(what: &str, mut call: Call) -> T
where
    Call: FnMut() -> Answer,
    Answer: Future<Output = sqlx::Result<T>>,
{
    loop {
        match once(call()).await {
            Ok(answer) => return answer,
            Err(error) => tracing::warn!(what, %error, "the database refuses; trying again"),
        }
        tokio::time::sleep(scattered(Duration::from_secs(1))).await;
    }
}

/// Takes jobs until there is doubt about the machine; true when asked to stop.
async fn take_until_doubt(agent: &Agent, id: AgentId, stopping: &Stopping) -> bool {
    let mut asked = stopping.clone();
    let mut wait = Wait::new(agent);
    loop {
        if asked.times() > 0 {
            if let Err(error) = once(away(&agent.store.db, id)).await {
                tracing::warn!(%error, "the queue could not be told that this agent goes");
            }
            return true;
        }
        match once(look(agent, id)).await {
            Ok(Some(work)) => {
                let over = match work {
                    Work::Job(lease) => run(agent, lease, stopping).await,
                    Work::Help(held) => run_help(agent, held, stopping).await,
                };
                if over == Over::CutShort {
                    return true;
                }
                tidy(agent).await;
                // A trainer that dies may tell of a library that is gone: look before the next job dies of it.
                if over == Over::Retried {
                    return false;
                }
            }
            Ok(None) => tokio::select! {
                () = wait.for_work() => {
                    if !wait.look_after(id).await {
                        return false;
                    }
                }
                () = asked.reached(1) => {}
            },
            Err(error) => {
                wait.outage(&error);
                tokio::select! {
                    () = tokio::time::sleep(scattered(Duration::from_secs(1))) => {}
                    () = asked.reached(1) => return true,
                }
            }
        }
    }
}

/// What the queue has for this agent.
enum Work {
    Job(Lease),
    Help(Membership),
}

async fn look(agent: &Agent, id: AgentId) -> sqlx::Result<Option<Work>> {
    let (db, lease) = (&agent.store.db, agent.settings.lease);
    if let Some(held) = called(db, id, lease).await? {
        return Ok(Some(Work::Help(held)));
    }
    Ok(claim(db, id, lease).await?.map(Work::Job))
}

async fn run_help(agent: &Agent, held: Membership, stopping: &Stopping) -> Over {
    let span = tracing::info_span!("help", job.id = %held.job.job_id, job.attempt = held.attempt);
    async {
        tracing::info!(rank = held.first_rank, "called to help with a job");
        help(agent, held, stopping).await
    }
    .instrument(span)
    .await
}

async fn run(agent: &Agent, lease: Lease, stopping: &Stopping) -> Over {
    let span = tracing::info_span!("job", job.id = %lease.job_id(), job.attempt = lease.attempt);
    async {
        tracing::info!("claimed");
        attempt(agent, lease, stopping).await
    }
    .instrument(span)
    .await
}

async fn tidy(agent: &Agent) {
    if let Err(error) = sweep(&agent.store.db, &agent.hold.work).await {
        tracing::warn!(error = format!("{error:#}"), "work folders could not be swept");
    }
}

/// What an idle agent does between looks at the queue.
struct Wait<'a> {
    agent: &'a Agent,
    wakes: broadcast::Receiver<Wake>,
    seen: Instant,
    /// Lapsed leases are left alone until then: after an outage everyone gets the time to renew first.
    reap_from: Instant,
}

impl<'a> Wait<'a> {
    fn new(agent: &'a Agent) -> Self {
        Wait { agent, wakes: agent.wakes.subscribe(), seen: Instant::now(), reap_from: Instant::now() }
    }

    /// Returns at a wake-up of the queue, and now and then without one.
    async fn for_work(&mut self) {
        let woken = async {
            loop {
                match self.wakes.recv().await {
                    Ok(Wake::Job(_)) => {}
                    Ok(Wake::Queue | Wake::Missed) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let _polled = tokio::time::timeout(scattered(POLL), woken).await;
    }

    /// Says that this agent lives, and takes lapsed jobs away from agents that do not, so that a queue without a
    /// server moves too. False when this agent must register anew.
    async fn look_after(&mut self, id: AgentId) -> bool {
        let now = Instant::now();
        if now >= self.reap_from {
            match once(reap(&self.agent.store.db)).await {
                Ok(reaped) => {
                    for job in reaped {
                        tracing::warn!(job.id = %job, "took a job back whose lease had lapsed");
                    }
                }
                Err(error) => self.outage(&error),
            }
        }
        match once(tell_missing(&self.agent.store.db)).await {
            Ok(lacking) => {
                for job in lacking {
                    tracing::warn!(job.id = %job, "a job waits for more devices than there are");
                }
            }
            Err(error) => self.outage(&error),
        }
        if now.duration_since(self.seen) < SEEN {
            return true;
        }
        self.seen = now;
        match once(seen(&self.agent.store.db, id, None)).await {
            Ok(known) => known,
            Err(error) => {
                self.outage(&error);
                true
            }
        }
    }

    fn outage(&mut self, error: &sqlx::Error) {
        tracing::warn!(%error, outage = is_outage(error), "the queue cannot be looked at; trying again");
        self.reap_from = Instant::now() + self.agent.settings.lease;
    }
}
