//! Checkpoints on their way from the job's folder to the store.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use store::checkpoint::{NewCheckpoint, commit};
use store::event::{AppendError, EventLine, Kind, Level};
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;

use super::db::until_answered;
use super::events::Told;
use super::finish::inspect;
use super::run::{Run, Stop};
use super::tail::Tail;
use super::upload::upload_folder;
use super::workdir::{join_inside, link_folder, remove};

/// Checkpoints that may wait; a slow store must not fill the disk.
const MOST_WAITING: usize = 3;
/// The file is looked at even without a word from the job.
const POLL: Duration = Duration::from_secs(1);

/// Links the files of checkpoints aside as soon as they are told of.
#[derive(Debug, Default)]
pub(super) struct Stager {
    /// One at a time: both the watcher and the uploader may come to the same checkpoint.
    turn: Mutex<()>,
}

impl Stager {
    /// The folder with the checkpoint's files; `None` when the job has removed it before.
    async fn stage(&self, run: &Run<'_>, place: u64, event: &EventLine) -> io::Result<Option<PathBuf>> {
        let _turn = self.turn.lock().await;
        let staged = run.dir.staging().join(place.to_string());
        if staged.exists() {
            return Ok(Some(staged));
        }
        let path = event.data.get("path").and_then(Value::as_str).unwrap_or_default();
        let from = join_inside(&run.dir.out(), path)?;
        std::fs::create_dir_all(run.dir.staging())?;
        match link_folder(&from, &staged) {
            Ok(()) => Ok(Some(staged)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Follows the file ahead of the sender, which an outage may hold up while the job goes on and prunes.
    pub(super) async fn watch(&self, run: &Run<'_>, from: u64) -> Result<(), Stop> {
        let mut tail = Tail::new(&run.dir.events(), from);
        let mut grown = run.grown.subscribe();
        let mut ended = run.ended.subscribe();
        loop {
            grown.mark_unchanged();
            let complete = *ended.borrow_and_update();
            let lines = tail.read(usize::MAX).await.map_err(|error| {
                Stop::failed("events_unreadable", "The job's events could not be read", error)
            })?;
            for line in &lines {
                let told = line
                    .text
                    .contains("checkpoint")
                    .then(|| serde_json::from_str::<EventLine>(&line.text).ok());
                let Some(event) = told.flatten().filter(|event| event.kind == Kind::Checkpoint) else {
                    continue;
                };
                // The uploader comes here again and says what went wrong.
                if let Err(error) = self.stage(run, line.start, &event).await {
                    tracing::warn!(%error, job.step = event.step, "a checkpoint's files could not be linked aside");
                }
            }
            if lines.is_empty() {
                if complete {
                    return Ok(());
                }
                tokio::select! {
                    _ = grown.changed() => {}
                    _ = ended.changed() => {}
                    () = tokio::time::sleep(POLL) => {}
                }
            }
        }
    }

    /// Stores checkpoints one after another, oldest first, until no more are told of.
    pub(super) async fn store(&self, run: &Run<'_>, mut told: UnboundedReceiver<Told>) -> Result<(), Stop> {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match told.recv().await {
                    Some(next) => waiting.push_back(next),
                    None => return Ok(()),
                }
            }
            while let Ok(next) = told.try_recv() {
                waiting.push_back(next);
            }
            while let Some(passed) = over(&mut waiting) {
                let message = format!(
                    "The checkpoint of step {} was not stored: newer ones wait and the object store is slow.",
                    passed.event.step.unwrap_or_default()
                );
                self.pass_over(run, passed, message).await?;
            }
            if let Some(next) = waiting.pop_front() {
                self.store_one(run, next).await?;
            }
        }
    }

    async fn store_one(&self, run: &Run<'_>, told: Told) -> Result<(), Stop> {
        let step = told.event.step.unwrap_or_default();
        let folder = match self.stage(run, told.place, &told.event).await {
            Ok(Some(folder)) => folder,
            Ok(None) => {
                let message = format!("The checkpoint of step {step} was removed before it could be stored.");
                return self.pass_over(run, told, message).await;
            }
            Err(error) => {
                let message = format!("The checkpoint of step {step} could not be stored: {error}.");
                return self.pass_over(run, told, message).await;
            }
        };
        let files = match upload_folder(run, &folder).await {
            Ok(files) => files,
            Err(error) => {
                let message = format!("The checkpoint of step {step} could not be stored: {error:#}.");
                return self.pass_over(run, told, message).await;
            }
        };
        let about = inspect(&folder).await.unwrap_or_default();
        let new = NewCheckpoint {
            step,
            keep: run.lease.spec().training.keep_checkpoints,
            architecture: about.architectures.first().cloned(),
            parameters: i64::try_from(about.parameters).ok(),
            best: told.event.data.get("best").and_then(Value::as_bool).unwrap_or(false),
            metrics: metrics_of(&told.event),
            files,
        };
        let committed = until_answered("storing a checkpoint", || async {
            match commit(&run.agent.store.db, &run.lease, &new, std::slice::from_ref(&told.event)).await {
                Ok(_) => Ok(true),
                Err(AppendError::Lost) => Ok(false),
                Err(AppendError::Db(error)) => Err(error),
            }
        });
        match committed.await {
            Ok(true) => {
                tracing::info!(job.step = step, "stored a checkpoint");
                done(run, &told)
            }
            Ok(false) => Err(run.lost()),
            Err(error) => {
                let message = format!("The checkpoint of step {step} could not be stored: {error}.");
                self.pass_over(run, told, message).await
            }
        }
    }

    /// Keeps the event of a checkpoint that is not kept, and says why it is not.
    async fn pass_over(&self, run: &Run<'_>, told: Told, message: String) -> Result<(), Stop> {
        tracing::warn!(job.step = told.event.step, "{message}");
        let word = run.word(told.place, Level::Warn, message);
        run.append(&[told.event.clone(), word]).await?;
        done(run, &told)
    }
}

/// What was measured at a checkpoint: nothing where it lies between two evaluations.
fn metrics_of(event: &EventLine) -> Value {
    let told = event.data.get("metrics").filter(|metrics| metrics.is_object());
    told.cloned().unwrap_or_else(|| serde_json::json!({}))
}

/// Takes out the oldest that is not the best one, when too many wait; the newest always stays.
fn over(waiting: &mut VecDeque<Told>) -> Option<Told> {
    if waiting.len() <= MOST_WAITING {
        return None;
    }
    let is_best = |told: &Told| told.event.data.get("best").and_then(Value::as_bool).unwrap_or(false);
    let newest_best = waiting.iter().rposition(is_best);
    let oldest = (0..waiting.len() - 1).find(|at| Some(*at) != newest_best)?;
    waiting.remove(oldest)
}

fn done(run: &Run<'_>, told: &Told) -> Result<(), Stop> {
    if let Err(error) = remove(&run.dir.staging().join(told.place.to_string())) {
        tracing::warn!(%error, "the links of a stored checkpoint cannot be removed");
    }
    run.unstored.send_modify(|places| {
        places.remove(&told.place);
    });
    Ok(())
}
