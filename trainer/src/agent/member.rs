//! Helping with a job that another agent holds: its processes on this machine.
//!
//! This agent lays the same folder out, waits until it is told where the processes meet, and starts its own. Events,
//! checkpoints and the result are the other agent's; here there is only an end, good or bad, to tell.

use std::sync::Arc;
use std::time::Duration;

use store::PgPool;
use store::notify::Wake;
use store::queue::{Failure, Fault, Joined, Lease, Membership, leave, renew_member};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backoff::scattered;
use super::db::{once, until_answered};
use super::heartbeat::{Standing, regular, set, told_of};
use super::oom::OomCounter;
use super::outcome::{End, Reason, Seen, decide, internal, read_result};
use super::prepare::lay_out;
use super::process::JobProcess;
use super::run::{Run, Stop};
use super::supervise::{Over, Wish, allocation_failed, control, cut_short, wished};
use super::workdir::WorkDir;
use super::{Agent, Stopping, gang};
use crate::job::plan::Plan;

/// Does this agent's part. Whatever happens, no process of it is left when this returns.
pub(super) async fn help(agent: &Agent, held: Membership, stopping: &Stopping) -> Over {
    let held = Arc::new(held);
    // Writes of this lease would be refused: the job's row names another agent.
    let lease = Lease {
        job: held.job.clone(),
        agent: held.agent,
        attempt: held.attempt,
        files: held.files.clone(),
        members: Vec::new(),
    };
    let dir = WorkDir::new(&agent.hold.work, &lease.job_id().to_string());
    let (standing, mut standing_seen) = watch::channel(Standing::Held(None));
    let (place, meeting) = watch::channel(None);
    let mut heartbeat = JoinSet::new();
    heartbeat.spawn(keep(
        agent.store.db.clone(),
        held.clone(),
        agent.settings.lease,
        standing.clone(),
        place,
        agent.wakes.subscribe(),
    ));
    let run = Run::new(agent, Arc::new(lease), dir, standing);
    let over = tokio::select! {
        over = work(&run, &held, meeting, stopping) => over,
        _ = standing_seen.wait_for(|now| *now == Standing::Lost) => Over::Lost,
        () = cut_short(&run, stopping) => Over::CutShort,
    };
    heartbeat.abort_all();
    if over == Over::Lost {
        // Nobody waits for it; the row only must not look as if this agent were still at work.
        tell(&run, &held, None).await;
    }
    tracing::info!(outcome = ?over, "the help is over");
    over
}

async fn work(
    run: &Run<'_>,
    held: &Membership,
    meeting: watch::Receiver<Option<String>>,
    stopping: &Stopping,
) -> Over {
    let ended = go(run, held, meeting, stopping).await;
    let failure = match ended {
        Ok(End::Succeeded(_) | End::Paused | End::Cancelled) => None,
        Ok(End::Failed(reason)) => Some(reason),
        Err(Stop::Failed(reason)) => Some(reason),
        Err(Stop::Lost) => return Over::Lost,
    };
    let failed = failure.is_some();
    tell(run, held, failure).await;
    if failed { Over::Retried } else { Over::Released }
}

async fn tell(run: &Run<'_>, held: &Membership, failure: Option<Reason>) {
    let failure = failure.map(|reason| {
        tracing::warn!(code = reason.code, "{}", reason.message);
        Failure {
            fault: if reason.last { Fault::User } else { Fault::Internal },
            code: reason.code,
            message: reason.message,
            param: reason.param,
            step: reason.step,
            log: Vec::new(),
        }
    });
    let told =
        until_answered("telling of an end", || leave(&run.agent.store.db, held, failure.as_ref())).await;
    if let Err(error) = told {
        // Its lease lapses, and the agent that holds the job gives a reason.
        tracing::error!(%error, "the end could not be told");
    }
}

async fn go(
    run: &Run<'_>,
    held: &Membership,
    mut meeting: watch::Receiver<Option<String>>,
    stopping: &Stopping,
) -> Result<End, Stop> {
    let stopped = || Stop::Failed(internal(gang::STOPPING, "The agent goes down.".to_owned(), None));
    let place = async {
        lay_out(run).await?;
        match meeting.wait_for(Option::is_some).await.ok().and_then(|place| place.clone()) {
            Some(place) => Ok(place),
            None => Err(Stop::Lost),
        }
    };
    let place = tokio::select! {
        place = place => place?,
        _ = wished(run, stopping) => return Err(stopped()),
    };
    let settings = &run.agent.settings;
    let Some(address) = settings.address else {
        let message = "This agent has no address at which others reach it.".to_owned();
        return Err(Stop::Failed(internal("no_address", message, None)));
    };
    let size: i32 = held.sizes.iter().sum();
    let mut environment = gang::environment(&held.sizes, address);
    environment.extend([
        ("LUTHIER_RANK", held.first_rank.to_string()),
        ("LUTHIER_WORLD_SIZE", size.to_string()),
        ("LUTHIER_RENDEZVOUS", place),
    ]);
    let counter = OomCounter::now();
    let (program, dir) = (&settings.program, run.dir.path());
    let mut process = JobProcess::start(program, dir, held.attempt, &environment, run.grown.clone())
        .map_err(|error| Stop::failed("trainer_start", "The trainer could not be started", error))?;
    tracing::info!(job.pid = process.id(), rank = held.first_rank, "started the job's processes");
    let (exit, forced) = control(run, &mut process, stopping).await?;
    if forced == Some(Wish::Pause) {
        return Err(stopped());
    }
    let seen = Seen {
        exit,
        out_of_memory: counter.raised(),
        step: None,
        allocation_failed: allocation_failed(&process.last_lines.get()),
        plan: Plan::read(&run.dir.out()),
    };
    Ok(decide(seen, read_result(&run.dir.result())))
}

/// Renews until the attempt is over, and hands on where the processes meet.
async fn keep(
    db: PgPool,
    held: Arc<Membership>,
    length: Duration,
    standing: watch::Sender<Standing>,
    place: watch::Sender<Option<String>>,
    mut wakes: broadcast::Receiver<Wake>,
) {
    let regular = regular(length);
    loop {
        let asked_at = Instant::now();
        let pause = match once(renew_member(&db, &held, length)).await {
            Ok(Joined::Held { rendezvous }) => {
                place.send_if_modified(|now| {
                    let changed = *now != rendezvous;
                    *now = rendezvous;
                    changed
                });
                regular
            }
            Ok(Joined::Lost) => {
                standing.send_if_modified(|now| set(now, Standing::Lost));
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the lease could not be renewed; trying again");
                scattered(regular.min(Duration::from_secs(1)))
            }
        };
        let gap = super::heartbeat::WAKE_GAP.min(pause);
        tokio::select! {
            () = tokio::time::sleep_until(asked_at + pause) => {}
            () = told_of(held.job.job_id, &mut wakes) => tokio::time::sleep_until(asked_at + gap).await,
        }
    }
}
