//! How a process of the trainer is started on a model.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use store::{Objects, StoredFile};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{Config, Error, Result, process};

/// Training goes first: the kernel gives a process of this niceness a tenth of what it gives to one without.
const NICENESS: i32 = 10;

/// The trainer's program, and where models lie for it.
#[derive(Debug)]
pub struct Program {
    program: PathBuf,
    cache: PathBuf,
    log: PathBuf,
    objects: Objects,
}

/// A process that has loaded its model.
#[derive(Debug)]
pub struct Started {
    /// The process; it is killed when this is dropped.
    pub child: Child,
    /// Takes questions, a line each.
    pub questions: ChildStdin,
    /// Gives answers, a line each.
    pub answers: Lines<BufReader<ChildStdout>>,
    /// Its first line.
    pub first: Value,
}

/// What every first line has.
#[derive(Deserialize)]
struct Ready {
    ready: bool,
    #[serde(default)]
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    message: String,
}

impl Program {
    /// Remembers where things are; what processes say goes to the file `log` among the logs.
    pub fn new(config: &Config, objects: Objects, log: &str) -> Self {
        Program {
            program: config.trainer_program(),
            cache: config.data.join("cache/models"),
            log: config.data.join("logs").join(log),
            objects,
        }
    }

    /// Puts files into a folder of the cache, which is named by their content.
    pub async fn lay_out(&self, content: &str, files: &[StoredFile]) -> anyhow::Result<PathBuf> {
        let folder = self.cache.join(content);
        let complete = folder.join(".complete");
        if complete.is_file() {
            return Ok(folder);
        }
        for file in files {
            self.objects.fetch(&file.hash, &folder.join(&file.path)).await?;
        }
        tokio::fs::write(complete, b"").await?;
        Ok(folder)
    }

    /// Starts a process and waits until it has loaded the model that people call `name`.
    pub async fn start(&self, name: &str, arguments: &[&OsStr], patience: Duration) -> Result<Started> {
        let mut child = self.spawn(arguments)?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(anyhow!("a process without pipes").into());
        };
        let mut answers = BufReader::new(answers).lines();
        let line = match tokio::time::timeout(patience, answers.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(_) => return Err(self.ended_early(name)),
            Err(_) => {
                let seconds = patience.as_secs();
                return Err(Error::Unavailable(format!(
                    "{name} was not loaded within {seconds} s; try again"
                )));
            }
        };
        let wrong = || format!("the trainer began with {line:?}");
        let first: Value = serde_json::from_str(&line).with_context(wrong)?;
        let ready = Ready::deserialize(&first).with_context(wrong)?;
        match ready.error {
            Some(fault) => Err(Error::invalid("model", fault.message)),
            None if !ready.ready => Err(anyhow!("the trainer is not ready: {line}").into()),
            None => Ok(Started { child, questions, answers, first }),
        }
    }

    fn spawn(&self, arguments: &[&OsStr]) -> Result<Child> {
        let program = self.program.display();
        if !self.program.is_file() {
            return Err(Error::Unavailable(format!(
                "answers of models need {program}, which is not there; set LUTHIER_TRAINER_BINARY"
            )));
        }
        let mut command = Command::new(&self.program);
        command.args(arguments).env_remove("LUTHIER_API_KEY").env_remove("DATABASE_URL");
        // Threads that wait for each other without sleeping stand in each other's way where a job or another model computes
        // beside them: one token then takes ten times as long.
        if std::env::var_os("OMP_WAIT_POLICY").is_none() {
            command.env("OMP_WAIT_POLICY", "passive");
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(process::log_file(&self.log)?)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        if let Some(id) = child.id() {
            process::give_way(id, NICENESS);
        }
        Ok(child)
    }

    fn ended_early(&self, name: &str) -> Error {
        tracing::error!("the trainer ended before it had loaded {name}:\n{}", self.last_words());
        Error::Unavailable(format!(
            "the trainer ended before it had loaded {name}; the server's log says why"
        ))
    }

    /// The last lines that processes have written.
    pub fn last_words(&self) -> String {
        process::last_lines(&self.log, 8)
    }
}

/// A name for the content of some files: the same files under the same names give the same.
pub fn content_name(files: &[StoredFile]) -> String {
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(format!("{}\0{}\n", file.path, file.hash));
    }
    hex::encode(hasher.finalize())
}
