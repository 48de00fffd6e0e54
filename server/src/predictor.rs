//! Predictions by trainer processes that are kept warm, one for each model.
//!
//! `luthier-trainer predict MODEL_DIR` loads a model once and then answers lines of JSON. A process is started at the
//! first question, kept while questions come, and ended after some minutes without one; at most [`MOST_WARM`] are kept.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Objects, StoredFile};
use tokio::io::AsyncWriteExt;

use crate::warm::{Program, Started, Warm, content_name};
use crate::{Config, Error, Result};

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
    program: Program,
    warm: Warm<Process>,
}

#[derive(Debug)]
struct Process {
    started: Started,
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
            program: Program::new(config, objects, "predict.log"),
            warm: Warm::new(MOST_WARM, KEEP_WARM),
        }
    }

    /// Asks the model `name`, whose content is `files`, about `inputs`; questions to one model wait for each other.
    /// `aggregation` says how a tagger's tokens become entities; `None` for the usual way, and for other models.
    pub async fn predict(
        &self,
        name: &str,
        files: &[StoredFile],
        inputs: &[Value],
        aggregation: Option<&str>,
    ) -> Result<Predicted> {
        let content = content_name(files);
        let place = self.warm.place(&content).await?;
        let mut held = place.process().await;
        if held.as_mut().is_none_or(|process| process.has_ended()) {
            let folder = self.program.lay_out(&content, files).await?;
            let arguments = [OsStr::new("predict"), folder.as_os_str()];
            let started = self.program.start(name, &arguments, LONGEST_START).await?;
            let task = started.first["task"].as_str().unwrap_or_default().to_owned();
            *held = Some(Process { started, next: 0, task });
        }
        let process = held.as_mut().ok_or_else(|| anyhow!("the process was started above"))?;
        let (task, outputs) =
            match tokio::time::timeout(LONGEST_ANSWER, process.ask(inputs, aggregation)).await {
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
        self.warm.cool_down();
    }

    /// Ends all processes.
    pub fn stop(&self) {
        self.warm.clear();
    }
}

impl Process {
    fn has_ended(&mut self) -> bool {
        !matches!(self.started.child.try_wait(), Ok(None))
    }

    /// Asks one question; the inner `Err` is what the trainer has against the inputs.
    async fn ask(
        &mut self,
        inputs: &[Value],
        aggregation: Option<&str>,
    ) -> anyhow::Result<Result<Vec<Value>, String>> {
        self.next += 1;
        let mut line = json!({"id": self.next, "inputs": inputs, "aggregation": aggregation}).to_string();
        line.push('\n');
        self.started.questions.write_all(line.as_bytes()).await?;
        self.started.questions.flush().await?;
        let Some(line) = self.started.answers.next_line().await? else {
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
