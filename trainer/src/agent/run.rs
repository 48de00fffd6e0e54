//! What the parts of one attempt share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::Utc;
use serde_json::Map;
use store::event::{AppendError, EventLine, Kind, Level, append};
use store::queue::{Absent, Lease};
use tokio::sync::watch;

use super::Agent;
use super::db::until_answered;
use super::heartbeat::{Standing, set};
use super::outcome::{Reason, internal};
use super::workdir::WorkDir;

/// What the agent itself says is numbered from here, by the place in the file that it is about: no file has so many
/// lines, and the same word said again after a lost answer is the same event.
const OWN_LINES: i64 = 1 << 40;

/// Why an attempt cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The job is not this agent's any more.
    Lost,
    /// This agent cannot do its part.
    Failed(Reason),
}

impl Stop {
    pub(super) fn failed(code: &str, what: &str, error: impl std::fmt::Display) -> Self {
        Stop::Failed(internal(code, format!("{what}: {error}."), None))
    }
}

/// One attempt at a job.
pub(super) struct Run<'a> {
    pub(super) agent: &'a Agent,
    pub(super) lease: Arc<Lease>,
    pub(super) dir: WorkDir,
    pub(super) standing: watch::Sender<Standing>,
    /// Counts the job's words that its events grew.
    pub(super) grown: watch::Sender<u64>,
    /// True once the process has ended, so that its files are complete.
    pub(super) ended: watch::Sender<bool>,
    /// Checkpoints that are told of but not stored yet, by the place of their event in the file.
    pub(super) unstored: watch::Sender<BTreeSet<u64>>,
    /// A helper of this job that is gone.
    pub(super) absent: watch::Sender<Option<Absent>>,
    step: AtomicI64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        agent: &'a Agent,
        lease: Arc<Lease>,
        dir: WorkDir,
        standing: watch::Sender<Standing>,
    ) -> Self {
        Run {
            agent,
            lease,
            dir,
            standing,
            grown: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            unstored: watch::Sender::new(BTreeSet::new()),
            absent: watch::Sender::new(None),
            step: AtomicI64::new(-1),
        }
    }

    /// The last step that an event told of.
    pub(super) fn step(&self) -> Option<i64> {
        let step = self.step.load(Ordering::Relaxed);
        (step >= 0).then_some(step)
    }

    /// Notes the step of an event.
    pub(super) fn reached(&self, line: &EventLine) {
        if let Some(step) = line.step.filter(|_| line.attempt == self.lease.attempt) {
            self.step.fetch_max(step, Ordering::Relaxed);
        }
    }

    /// Stores events, through outages; one that the database does not accept becomes a warning that says so.
    pub(super) async fn append(&self, lines: &[EventLine]) -> Result<(), Stop> {
        if lines.is_empty() {
            return Ok(());
        }
        let answer = until_answered("storing events", || async {
            match append(&self.agent.store.db, &self.lease, lines).await {
                Ok(_) => Ok(true),
                Err(AppendError::Lost) => Ok(false),
                Err(AppendError::Db(error)) => Err(error),
            }
        });
        match answer.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.lost()),
            Err(error) if lines.len() > 1 => {
                tracing::warn!(%error, "a batch of events was refused; sending its halves");
                let (first, second) = lines.split_at(lines.len() / 2);
                Box::pin(self.append(first)).await?;
                Box::pin(self.append(second)).await
            }
            Err(error) if lines[0].line < OWN_LINES => {
                let line = &lines[0];
                let message = format!("An event of kind {} could not be stored: {error}.", line.kind);
                Box::pin(self.append(&[self.word(line.line.cast_unsigned(), Level::Warn, message)])).await
            }
            Err(error) => Err(Stop::failed("events_refused", "Events could not be stored", error)),
        }
    }

    /// A log event of the agent itself about the event at `place`.
    pub(super) fn word(&self, place: u64, level: Level, message: String) -> EventLine {
        EventLine {
            line: OWN_LINES + place.cast_signed(),
            attempt: self.lease.attempt,
            kind: Kind::Log,
            step: self.step(),
            at: Utc::now(),
            level,
            message,
            values: Map::new(),
            data: Map::new(),
        }
    }

    /// Tells the other parts that the lease is lost.
    pub(super) fn lost(&self) -> Stop {
        self.standing.send_if_modified(|now| set(now, Standing::Lost));
        Stop::Lost
    }
}
