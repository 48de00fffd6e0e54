//! A job that needs the device goes first.
//!
//! - Workers run at a lower priority than training ([`crate::warm`]): where both want the processor, the job gets ten parts
//!   of eleven. They use all its cores, or half of them while a job of this server's own trainer runs.
//! - A worker takes the GPU only while no such job runs. When one starts, idle workers on the GPU end at once and others
//!   after the answers under way; new ones start on the CPU until it is over. Then those that were kept off the device leave
//!   in the same way, and the next question finds the whole machine.
//!
//! Jobs of trainers on other machines are nothing to the workers here, nor are those of a trainer that somebody else started.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use store::notify::Wake;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::config::Trainer;
use crate::{AppState, Config};

/// How often jobs are looked at though nothing was heard of them.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Time between two looks: a job in training is heard of many times a second.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether a job of this server's own trainer runs.
#[derive(Debug, Default)]
pub struct Precedence(AtomicBool);

impl Precedence {
    /// What was last seen.
    pub fn is_training(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes note of what is seen; true where that is news.
    pub fn note(&self, training: bool) -> bool {
        self.0.swap(training, Ordering::Relaxed) != training
    }
}

/// Threads of a worker.
pub fn threads(training: bool) -> usize {
    let all = std::thread::available_parallelism().map_or(1, Into::into);
    if training { (all / 2).max(1) } else { all }
}

/// Looks at jobs until the server stops.
pub async fn watch(state: AppState) {
    let mut wakes = state.listener.subscribe();
    loop {
        match look(&state).await {
            Ok(training) => state.workers.give_precedence(training),
            Err(error) => tracing::debug!(%error, "running jobs could not be looked at"),
        }
        tokio::select! {
            () = state.stopping.cancelled() => return,
            () = wait(&mut wakes) => {}
        }
    }
}

/// Waits until there may be something new.
async fn wait(wakes: &mut Receiver<Wake>) {
    tokio::time::sleep(PAUSE).await;
    let timer = tokio::time::sleep(LOOK_EVERY);
    tokio::select! {
        () = timer => {}
        heard = wakes.recv() => if let Err(RecvError::Closed) = heard {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    // What was told since is seen by the next look.
    *wakes = wakes.resubscribe();
}

/// Whether this server's own trainer is at a job.
pub async fn look(state: &AppState) -> sqlx::Result<bool> {
    let Some(name) = own_trainer(&state.config) else {
        return Ok(false);
    };
    let agents = store::agent::list(&state.store.db).await?;
    Ok(agents.iter().any(|agent| agent.name == name && agent.running > 0))
}

/// The name of the trainer that this server runs, once it has one.
fn own_trainer(config: &Config) -> Option<String> {
    if config.trainer == Trainer::None {
        return None;
    }
    config.trainer_name.clone().or_else(|| default_name(&config.data.join("work")))
}

/// What a trainer calls itself: its machine, and the end of the id that its work folder has.
fn default_name(work: &Path) -> Option<String> {
    let id = std::fs::read_to_string(work.join("agent_id")).ok()?;
    let id: uuid::Uuid = id.trim().parse().ok()?;
    let id = id.simple().to_string();
    Some(format!("{}-{}", rustix::system::uname().nodename().to_string_lossy(), &id[id.len() - 6..]))
}
