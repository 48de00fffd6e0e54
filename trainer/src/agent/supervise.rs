//! One attempt, from the claim to its end.

use std::process::ExitStatus;
use std::sync::Arc;

use store::event::Level;
use store::job::Asked;
use store::queue::{Failure, Fault, Lease, Outcome, Released, fail, release};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::checkpoints::Stager;
use super::db::until_answered;
use super::events::send;
use super::gang::{self, Loss};
use super::heartbeat::{Standing, keep};
use super::oom::OomCounter;
use super::outcome::{End, Reason, Seen, decide, read_result};
use super::prepare::prepare;
use super::process::JobProcess;
use super::run::{Run, Stop};
use super::workdir::{Note, WorkDir};
use super::{Agent, Settings, Stopping};
use crate::job::plan::Plan;

/// How an attempt left the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Succeeded,
    /// Failed for good, or cancelled while failing.
    Failed,
    Cancelled,
    /// Tried again later, here or elsewhere.
    Retried,
    /// Given back: paused, or queued because this agent goes down.
    Released,
    /// Someone else's.
    Lost,
    /// This agent had to go before it could give the job back.
    CutShort,
}

/// What the job was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    Pause,
    Cancel,
}

/// Runs the job that was claimed. Whatever happens, no process of it is left when this returns.
pub(super) async fn attempt(agent: &Agent, lease: Lease, stopping: &Stopping) -> Over {
    let lease = Arc::new(lease);
    let dir = WorkDir::new(&agent.hold.work, &lease.job_id().to_string());
    let (standing, mut standing_seen) = watch::channel(Standing::Held(None));
    let run = Run::new(agent, lease.clone(), dir, standing.clone());
    let mut heartbeat = JoinSet::new();
    heartbeat.spawn(keep(
        agent.store.db.clone(),
        lease,
        agent.settings.lease,
        standing,
        run.absent.clone(),
        agent.wakes.subscribe(),
    ));
    let over = tokio::select! {
        over = work(&run, stopping) => over,
        _ = standing_seen.wait_for(|now| *now == Standing::Lost) => Over::Lost,
        () = cut_short(&run, stopping) => Over::CutShort,
    };
    tracing::info!(outcome = ?over, job.step = run.step(), "the attempt is over");
    over
}

async fn work(run: &Run<'_>, stopping: &Stopping) -> Over {
    let stop = match go(run, stopping).await {
        Ok(over) => return over,
        Err(stop) => stop,
    };
    match stop {
        Stop::Lost => Over::Lost,
        Stop::Failed(reason) => give_up(run, reason, Vec::new()).await.unwrap_or(Over::Lost),
    }
}

async fn go(run: &Run<'_>, stopping: &Stopping) -> Result<Over, Stop> {
    let note = tokio::select! {
        note = prepare(run) => note?,
        _ = wished(run, stopping) => return give_back(run, Released::Queued).await,
    };
    let counter = OomCounter::now();
    let Settings { program, address, .. } = &run.agent.settings;
    let environment = match (run.lease.members.as_slice(), address) {
        ([], _) | (_, None) => Vec::new(),
        (members, Some(address)) => gang::environment(&gang::sizes(members), *address),
    };
    let (dir, attempt) = (run.dir.path(), run.lease.attempt);
    let mut process =
        JobProcess::start(program, dir, attempt, &environment, run.grown.clone()).map_err(|error| {
            Stop::failed("trainer_start", &format!("{} could not be started", program.display()), error)
        })?;
    tracing::info!(job.pid = process.id(), "started the job's process");
    let (exit, forced) = follow(run, &mut process, note, stopping).await?;
    if forced.is_some() {
        tell_forced(run).await?;
    }
    let last_lines = process.last_lines.get();
    let seen = Seen {
        exit,
        out_of_memory: counter.raised(),
        step: run.step(),
        allocation_failed: allocation_failed(&last_lines),
        plan: Plan::read(&run.dir.out()),
    };
    let end = match forced {
        Some(Wish::Cancel) => End::Cancelled,
        Some(Wish::Pause) => End::Paused,
        None => decide(seen, read_result(&run.dir.result())),
    };
    let end = match end {
        End::Failed(reason) => match gang::reason(run, reason).await {
            Loss::Failed(reason) => End::Failed(reason),
            Loss::GivenBack(why) => {
                tell(run, format!("{why} The job goes on from its last checkpoint.")).await?;
                return give_back(run, Released::Queued).await;
            }
        },
        end => end,
    };
    conclude(run, end, last_lines).await
}

/// Whether a process's last words were those of Rust's allocator.
pub(super) fn allocation_failed(last_lines: &[String]) -> bool {
    last_lines.iter().any(|line| line.starts_with("memory allocation of ") && line.ends_with(" failed"))
}

/// Says in the job's log that it was ended by force, and from where it goes on.
async fn tell_forced(run: &Run<'_>) -> Result<(), Stop> {
    let seconds = run.agent.settings.grace.as_secs();
    let message = format!(
        "The trainer did not stop within {seconds} s and was ended; what it did since its last checkpoint is lost."
    );
    tell(run, message).await
}

/// Says something in the job's log, at the end of what it has said itself.
async fn tell(run: &Run<'_>, message: String) -> Result<(), Stop> {
    let place = std::fs::metadata(run.dir.events()).map_or(0, |events| events.len());
    run.append(&[run.word(place, Level::Warn, message)]).await
}

/// Lets the process run while its events and checkpoints are stored, until all of it is.
async fn follow(
    run: &Run<'_>,
    process: &mut JobProcess,
    note: Note,
    stopping: &Stopping,
) -> Result<(ExitStatus, Option<Wish>), Stop> {
    let stager = Stager::default();
    let (checkpoints, told) = mpsc::unbounded_channel();
    let from = note.stored;
    let (ended, (), (), (), ()) = tokio::try_join!(
        control(run, process, stopping),
        gang::publish(run),
        stager.watch(run, from),
        send(run, note, checkpoints),
        stager.store(run, told),
    )?;
    Ok(ended)
}

/// Waits for the process and hands on what is asked of it; one that does not obey in time is ended.
pub(super) async fn control(
    run: &Run<'_>,
    process: &mut JobProcess,
    stopping: &Stopping,
) -> Result<(ExitStatus, Option<Wish>), Stop> {
    let mut told = None;
    let mut deadline = None;
    let mut forced = None;
    let mut complete = true;
    loop {
        let next = tokio::select! {
            exit = process.ended() => {
                run.ended.send_replace(true);
                let exit = exit.map_err(|error| Stop::failed("trainer_wait", "The trainer could not be waited for", error))?;
                tracing::info!(job.exit = %exit, "the job's process ended");
                return Ok((exit, forced));
            }
            next = wished_beyond(run, stopping, told) => next,
            absent = gang::gone(run), if complete => {
                tracing::warn!(agent.name = absent.name, "another machine of the job is gone; ending it");
                process.kill();
                complete = false;
                continue;
            }
            () = passed(deadline) => {
                tracing::warn!("the job did not stop in time; ending it");
                process.kill();
                forced = told;
                deadline = None;
                continue;
            }
        };
        let word = if next == Wish::Cancel { "cancel" } else { "pause" };
        tracing::info!(word, "telling the job");
        process.say(word).await;
        told = Some(next);
        deadline = Some(Instant::now() + run.agent.settings.grace);
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits until someone, or this agent's own end, asks the job to stop.
pub(super) async fn wished(run: &Run<'_>, stopping: &Stopping) -> Wish {
    wished_beyond(run, stopping, None).await
}

/// Waits for a wish that goes further than the one told already.
async fn wished_beyond(run: &Run<'_>, stopping: &Stopping, told: Option<Wish>) -> Wish {
    let mut standing = run.standing.subscribe();
    let mut stopping = stopping.clone();
    loop {
        let asked = match *standing.borrow_and_update() {
            Standing::Held(Some(Asked::Cancel)) => Some(Wish::Cancel),
            Standing::Held(Some(Asked::Pause)) => Some(Wish::Pause),
            Standing::Held(None) | Standing::Lost => None,
        };
        let wish = asked.max((stopping.times() > 0).then_some(Wish::Pause));
        if let Some(wish) = wish.filter(|wish| told.is_none_or(|told| *wish > told)) {
            return wish;
        }
        tokio::select! {
            _ = standing.changed() => {}
            () = stopping.changed() => {}
        }
    }
}

/// Returns when this agent can no longer wait: asked twice to stop, or too long after its job has ended.
pub(super) async fn cut_short(run: &Run<'_>, stopping: &Stopping) {
    let mut stopping = stopping.clone();
    stopping.reached(1).await;
    let mut ended = run.ended.subscribe();
    let leave = async {
        let _ended = ended.wait_for(|ended| *ended).await;
        tokio::time::sleep(run.agent.settings.grace).await;
        tracing::warn!(
            "the job could not be given back in time; it is taken up again after its lease or at the next start"
        );
    };
    tokio::select! {
        () = leave => {}
        () = stopping.reached(2) => tracing::warn!("asked again to stop: leaving at once"),
    }
}

async fn conclude(run: &Run<'_>, end: End, log: Vec<String>) -> Result<Over, Stop> {
    match end {
        End::Succeeded(success) => super::finish::finish(run, *success).await,
        End::Failed(reason) => give_up(run, reason, log).await,
        End::Paused => give_back(run, Released::Paused).await,
        End::Cancelled => give_back(run, Released::Cancelled).await,
    }
}

async fn give_up(run: &Run<'_>, reason: Reason, log: Vec<String>) -> Result<Over, Stop> {
    tracing::warn!(code = reason.code, last = reason.last, "{}", reason.message);
    let failure = Failure {
        fault: if reason.last { Fault::User } else { Fault::Internal },
        code: reason.code,
        message: reason.message,
        param: reason.param,
        step: reason.step,
        log,
    };
    let told =
        until_answered("telling of a failure", || fail(&run.agent.store.db, &run.lease, &failure)).await;
    match told {
        Ok(Outcome::Lost) => Err(run.lost()),
        Ok(Outcome::Retried | Outcome::Paused) => Ok(Over::Retried),
        Ok(Outcome::Final) => Ok(Over::Failed),
        Err(error) => {
            // Its lease lapses, and the reaper gives a reason.
            tracing::error!(%error, "the failure could not be told");
            Err(run.lost())
        }
    }
}

async fn give_back(run: &Run<'_>, as_: Released) -> Result<Over, Stop> {
    let told = until_answered("giving the job back", || release(&run.agent.store.db, &run.lease, as_)).await;
    match told {
        Ok(true) if as_ == Released::Cancelled => Ok(Over::Cancelled),
        Ok(true) => Ok(Over::Released),
        Ok(false) => Err(run.lost()),
        Err(error) => Err(Stop::failed("release", "The job could not be given back", error)),
    }
}
