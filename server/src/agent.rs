//! The local trainer: started, adopted, watched and stopped by the server.
//!
//! The agent is a program of its own that holds `work/agent.lock` while it runs. It outlives a server that is killed,
//! so that training goes on; the next server adopts it when it was started with the same settings.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use std::os::unix::process::CommandExt;
use tokio_util::sync::CancellationToken;

use crate::process::{self, Backoff, Lock, Signal, Supervised};

/// Time that a training step and its checkpoint may take at a graceful stop.
const LONGEST_STOP: Duration = Duration::from_secs(180);

/// How the agent is started.
#[derive(Clone, Debug)]
pub struct Agent {
    /// `luthier-trainer`.
    pub program: PathBuf,
    /// Where the queue is; given in the environment, since it may hold a password.
    pub database_url: String,
    /// Where file contents are.
    pub objects: String,
    /// The agent's own folder.
    pub work: PathBuf,
    /// Its name; it makes one up without.
    pub name: Option<String>,
    /// Lease on a job.
    pub lease: Duration,
    /// What the agent says.
    pub log: PathBuf,
}

impl Agent {
    /// Keeps an agent running until `stopping`, then lets it write its checkpoint and end.
    pub async fn supervise(self, stopping: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            let since = Instant::now();
            match self.adopt_or_start().await {
                Ok(mut process) => {
                    tokio::select! {
                        () = stopping.cancelled() => return stop(process).await,
                        how = process.wait() => {
                            tracing::error!("the trainer ended ({how}); it is started again\n{}", process::last_lines(&self.log, 5));
                        }
                    }
                }
                Err(error) => tracing::error!("the trainer could not be started: {error:#}"),
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(backoff.after(since.elapsed())) => {}
            }
        }
    }

    async fn adopt_or_start(&self) -> anyhow::Result<Supervised> {
        if let Some(holder) = Lock::held_by(&self.lock())? {
            let id =
                holder.context("a trainer holds its lock and its process is not known; end it by hand")?;
            let running = Supervised::Adopted(id);
            if self.is_this(id) {
                tracing::info!(process.id = id, "adopted the trainer that was running");
                return Ok(running);
            }
            tracing::info!(
                process.id = id,
                "a trainer of another version or with other settings runs; it is asked to end"
            );
            stop(running).await;
        }
        self.start()
    }

    fn lock(&self) -> PathBuf {
        self.work.join("agent.lock")
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["agent".into()];
        for (flag, value) in [
            ("--objects", OsString::from(&self.objects)),
            ("--work", self.work.clone().into()),
            ("--lease-seconds", self.lease.as_secs().to_string().into()),
        ] {
            words.extend([flag.into(), value]);
        }
        words
    }

    /// Whether the running process is what this server would start: same program file, same words.
    fn is_this(&self, id: u32) -> bool {
        let expected: Vec<String> =
            self.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let same_words =
            process::arguments_of(id).is_some_and(|words| words.len() > 1 && words[1..] == expected);
        let same_file = process::program_of(id)
            .is_some_and(|file| self.program.canonicalize().is_ok_and(|own| own == file));
        same_words && same_file
    }

    fn start(&self) -> anyhow::Result<Supervised> {
        ensure!(
            self.program.is_file(),
            "{} is not there: build it (`make build`), set LUTHIER_TRAINER_BINARY, or serve with --trainer none",
            self.program.display()
        );
        let mut command = Command::new(&self.program);
        command.args(self.arguments()).env("DATABASE_URL", &self.database_url);
        // The server's own secrets are none of the trainer's business.
        command.envs(self.name.as_ref().map(|name| ("LUTHIER_AGENT_NAME", name)));
        command.env_remove("LUTHIER_API_KEY").process_group(0).stdin(Stdio::null());
        command.stdout(process::log_file(&self.log)?).stderr(process::log_file(&self.log)?);
        let child = tokio::process::Command::from(command)
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        tracing::info!(process.id = child.id(), "started the local trainer");
        Ok(Supervised::Child(child))
    }
}

/// Asks the agent to end and waits: it finishes its step, writes a checkpoint and gives its job back.
async fn stop(mut agent: Supervised) {
    agent.signal(Signal::TERM);
    if !agent.wait_at_most(LONGEST_STOP).await {
        tracing::warn!(
            "the trainer did not end within {} s; it is killed and its job goes on from its last checkpoint",
            LONGEST_STOP.as_secs()
        );
        agent.signal(Signal::KILL);
        agent.wait_at_most(Duration::from_secs(5)).await;
    }
}

/// Where a program that ships with this one lies: beside it, and otherwise in the build's own folders.
pub fn beside_this_program(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let folder = own.parent()?;
    // Test programs lie one folder deeper than what they test.
    [folder.join(name), folder.join("..").join(name)].into_iter().find(|path| path.is_file())
}

/// Folder `name` of the installation that this program is part of.
pub fn installed_folder(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let root: Option<&Path> = own.parent().and_then(Path::parent);
    let candidates = [root, root.and_then(Path::parent)];
    candidates.into_iter().flatten().map(|root| root.join(name)).find(|path| path.is_dir())
}
