//! Predictions by trainer processes that are kept warm, one for each model.
//!
//! `luthier-trainer predict MODEL_DIR` loads a model once and then answers lines of JSON. A process is started at the
//! first question, kept while questions come, and ended after some minutes without one; at most [`MOST_WARM`] are kept.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Objects, StoredFile};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{Config, Error, Result, process};

/// Processes kept at the same time; the one that was idle longest gives way.
const MOST_WARM: usize = 3;

/// Idle time after which a process ends.
const KEEP_WARM: Duration = Duration::from_secs(300);

/// Time to load a model.
const LONGEST_START: Duration = Duration::from_secs(180);

/// Time to answer one request.
const LONGEST_ANSWER: Duration = Duration::from_secs(120);

/// All warm processes.
#[derive(Debug)]
pub struct Predictors {
    program: PathBuf,
    cache: PathBuf,
    log: PathBuf,
    objects: Objects,
    warm: Mutex<HashMap<String, Arc<Slot>>>,
}

/// The process of one model; questions to it wait for each other.
#[derive(Debug)]
struct Slot {
    process: tokio::sync::Mutex<Option<Process>>,
    used: Mutex<Instant>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    next: u64,
    task: String,
}

/// What a model says of some inputs.
#[derive(Debug, Serialize)]
pub struct Predicted {
    /// The model's task.
    pub task: String,
    /// One output for each input.
    pub outputs: Vec<Value>,
}

/// First line of a process.
#[derive(Deserialize)]
struct Ready {
    ready: bool,
    #[serde(default)]
    task: String,
    #[serde(default)]
    error: Option<Fault>,
}

/// A line of answer.
#[derive(Deserialize)]
struct Answer {
    id: u64,
    #[serde(default)]
    outputs: Vec<Value>,
    #[serde(default)]
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    message: String,
}

impl Predictors {
    /// Remembers where things are; starts nothing.
    pub fn new(config: &Config, objects: Objects) -> Self {
        Predictors {
            program: config.trainer_program(),
            cache: config.data.join("cache/models"),
            log: config.data.join("logs/predict.log"),
            objects,
            warm: Mutex::default(),
        }
    }

    /// Asks the model `name`, whose content is `files`, about `inputs`.
    pub async fn predict(&self, name: &str, files: &[StoredFile], inputs: &[Value]) -> Result<Predicted> {
        let content = content_name(files);
        let slot = self.slot(&content);
        let mut held = slot.process.lock().await;
        if held.as_mut().is_none_or(|process| process.has_ended()) {
            let folder = self.lay_out(&content, files).await?;
            *held = Some(self.start(name, &folder).await?);
        }
        let process = held.as_mut().ok_or_else(|| anyhow!("the process was started above"))?;
        let answered = tokio::time::timeout(LONGEST_ANSWER, process.ask(inputs)).await;
        *slot.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let (task, outputs) = match answered {
            Ok(Ok(Ok(outputs))) => (process.task.clone(), outputs),
            Ok(Ok(Err(message))) => return Err(Error::invalid("inputs", message)),
            // A process that broke off or hangs is of no more use.
            Ok(Err(error)) => {
                *held = None;
                return Err(error.context(format!("predicting with {name}")).into());
            }
            Err(_) => {
                *held = None;
                let seconds = LONGEST_ANSWER.as_secs();
                return Err(Error::Unavailable(format!(
                    "{name} did not answer within {seconds} s; send fewer inputs at once"
                )));
            }
        };
        Ok(Predicted { task, outputs })
    }

    /// Ends the processes that nobody has used for a while.
    pub fn cool_down(&self) {
        let idle =
            |slot: &Slot| slot.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > KEEP_WARM;
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.retain(|_, slot| !idle(slot));
    }

    /// Ends all processes.
    pub fn stop(&self) {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn slot(&self, content: &str) -> Arc<Slot> {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = warm.get(content) {
            return slot.clone();
        }
        if warm.len() >= MOST_WARM {
            let used = |slot: &Slot| *slot.used.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = warm.iter().min_by_key(|(_, slot)| used(slot)).map(|(content, _)| content.clone());
            // A request that is still at work with it keeps it until it is answered.
            oldest.and_then(|content| warm.remove(&content));
        }
        let slot =
            Arc::new(Slot { process: tokio::sync::Mutex::new(None), used: Mutex::new(Instant::now()) });
        warm.insert(content.to_owned(), slot.clone());
        slot
    }

    /// Puts the model's files into a folder of the cache, which is named by their content.
    async fn lay_out(&self, content: &str, files: &[StoredFile]) -> anyhow::Result<PathBuf> {
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

    async fn start(&self, name: &str, folder: &Path) -> Result<Process> {
        if !self.program.is_file() {
            let program = self.program.display();
            return Err(Error::Unavailable(format!(
                "predictions need {program}, which is not there; set LUTHIER_TRAINER_BINARY"
            )));
        }
        let mut command = Command::new(&self.program);
        command.arg("predict").arg(folder).env_remove("LUTHIER_API_KEY").env_remove("DATABASE_URL");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(process::log_file(&self.log)?)
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(anyhow!("a process without pipes").into());
        };
        let mut answers = BufReader::new(answers).lines();
        let first = tokio::time::timeout(LONGEST_START, answers.next_line()).await;
        let Ok(Ok(Some(line))) = first else {
            return Err(anyhow!(
                "the trainer ended before it had loaded {name}:\n{}",
                process::last_lines(&self.log, 8)
            )
            .into());
        };
        let ready: Ready =
            serde_json::from_str(&line).with_context(|| format!("the trainer began with {line:?}"))?;
        match ready.error {
            Some(fault) => Err(Error::invalid("model", fault.message)),
            None if !ready.ready => Err(anyhow!("the trainer is not ready: {line}").into()),
            None => Ok(Process { child, questions, answers, next: 0, task: ready.task }),
        }
    }
}

impl Process {
    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks one question; the inner `Err` is what the trainer has against the inputs.
    async fn ask(&mut self, inputs: &[Value]) -> anyhow::Result<Result<Vec<Value>, String>> {
        self.next += 1;
        let mut line = json!({"id": self.next, "inputs": inputs}).to_string();
        line.push('\n');
        self.questions.write_all(line.as_bytes()).await?;
        self.questions.flush().await?;
        let Some(line) = self.answers.next_line().await? else {
            bail!("the trainer ended");
        };
        let answer: Answer = serde_json::from_str(&line)?;
        // Answers come in the order of the questions, and a request that was given up takes its process with it.
        if answer.id != self.next {
            bail!("answer {} to question {}", answer.id, self.next);
        }
        match answer.error {
            Some(fault) => Ok(Err(fault.message)),
            None if answer.outputs.len() != inputs.len() => {
                bail!("{} outputs for {} inputs", answer.outputs.len(), inputs.len())
            }
            None => Ok(Ok(answer.outputs)),
        }
    }
}

/// A name for the content of some files: the same files under the same names give the same.
fn content_name(files: &[StoredFile]) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(format!("{}\0{}\n", file.path, file.hash));
    }
    hex::encode(hasher.finalize())
}
