//! One process with a loaded model, and the questions that are open in it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::gone;
use super::protocol::{Answer, Line, Notice, Ready};
use crate::warm::{Started, Use};
use crate::{Error, Result};

/// Time without any line of a worker that has questions, after which it counts as stuck. A long prompt of a large model
/// on a CPU takes minutes in which nothing is said.
const LONGEST_SILENCE: Duration = Duration::from_secs(1200);

/// What ends a process without anyone wanting it.
const DIED: &str = "its process ended; send the request again, and see the server's log for the reason";

/// A process that has a model loaded.
#[derive(Debug)]
pub struct Worker {
    /// What it said of itself.
    pub ready: Ready,
    /// When it was started.
    pub started: Instant,
    /// Whether a job kept it off the machine's GPU and half of its threads.
    pub was_kept_off: bool,
    child: Child,
    questions: UnboundedSender<String>,
    open: Arc<Open>,
    next: AtomicU64,
}

/// Where answers go, and what the process has in memory.
#[derive(Debug, Default)]
struct Open {
    senders: Mutex<HashMap<u64, Question>>,
    /// Models that it has answered for, each the base or the adapter in a folder.
    models: Mutex<BTreeMap<String, Option<PathBuf>>>,
    /// Why no more answers come.
    ended: Mutex<Option<&'static str>>,
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Question {
    sender: UnboundedSender<Answer>,
    adapter: Option<PathBuf>,
    /// Whether the process has begun with it.
    started: bool,
}

/// The answers to one question, as they come. The worker is told when they are not wanted any more.
#[derive(Debug)]
pub struct Answers {
    id: u64,
    model: String,
    /// Never full: a worker says no more than the context has room for, and a slow reader holds no other one up.
    receiver: UnboundedReceiver<Answer>,
    complete: bool,
    worker: Arc<Worker>,
    _place: Arc<Use<Arc<Worker>>>,
}

impl Worker {
    /// Begins to listen to a process.
    pub fn new(started: Started, was_kept_off: bool) -> Result<Self> {
        let ready = Ready::deserialize(&started.first)
            .with_context(|| format!("the trainer began with {}", started.first))?;
        let (questions, asked) = unbounded_channel();
        let open = Arc::new(Open::default());
        tokio::spawn(write(started.questions, asked));
        tokio::spawn(read(started.answers, open.clone()));
        Ok(Worker {
            ready,
            started: Instant::now(),
            was_kept_off,
            child: started.child,
            questions,
            open,
            next: AtomicU64::new(1),
        })
    }

    /// Asks a question for a model, which is the adapter in a folder or the base itself; what it answers is read from the value
    /// that is given back.
    pub fn ask(
        self: &Arc<Self>,
        (model, adapter): (&str, Option<PathBuf>),
        verb: &str,
        question: Value,
        place: Arc<Use<Arc<Worker>>>,
    ) -> Result<Answers> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = unbounded_channel();
        self.open.senders().insert(id, Question { sender, adapter: adapter.clone(), started: false });
        self.open.models().insert(model.to_owned(), adapter);
        let answers = Answers {
            id,
            model: model.to_owned(),
            receiver,
            complete: false,
            worker: self.clone(),
            _place: place,
        };
        self.say(&json!({"id": id, verb: question}));
        // The process may have ended before the question was noted, and then nobody answers it.
        match self.open.end() {
            Some(why) => Err(gone(model, why)),
            None => Ok(answers),
        }
    }

    /// Process id; 0 once it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Whether it can answer no more.
    pub fn has_ended(&self) -> bool {
        self.open.end().is_some()
    }

    /// Whether it computes on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.ready.device.starts_with("cuda")
    }

    /// Breaks off all answers.
    pub fn give_up(&self, why: &'static str) {
        self.open.close(why);
    }

    /// Forgets a model's adapter; true where the whole worker is of no more use then.
    pub fn forget(&self, model: &str) -> bool {
        let mut models = self.open.models();
        let Some(adapter) = models.remove(model) else {
            return false;
        };
        if let Some(adapter) = adapter.filter(|_| !models.is_empty()) {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            self.say(&json!({"id": id, "unload": {"adapter": adapter}}));
            return false;
        }
        true
    }

    /// Models that it has answered for, and whether each is an adapter.
    pub fn models(&self) -> BTreeMap<String, bool> {
        self.open.models().iter().map(|(model, adapter)| (model.clone(), adapter.is_some())).collect()
    }

    fn say(&self, line: &Value) {
        // A writer that is gone means that the process is; whoever waits is told by the end of its output.
        let _ = self.questions.send(format!("{line}\n"));
    }
}

impl Open {
    fn senders(&self) -> MutexGuard<'_, HashMap<u64, Question>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn models(&self) -> MutexGuard<'_, BTreeMap<String, Option<PathBuf>>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an adapter that the process has dropped; for a question that it has not read yet it loads it again.
    fn dropped(&self, adapter: &PathBuf) {
        let senders = self.senders();
        if !senders.values().any(|question| !question.started && question.adapter.as_ref() == Some(adapter)) {
            self.models().retain(|_, folder| folder.as_ref() != Some(adapter));
        }
    }

    fn end(&self) -> Option<&'static str> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every reader know that nothing more comes.
    fn close(&self, why: &'static str) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.senders().clear();
    }

    fn deliver(&self, text: &str) -> anyhow::Result<()> {
        if text.starts_with("{\"dropped\"") {
            let notice: Notice = serde_json::from_str(text).with_context(|| format!("a worker's {text}"))?;
            self.dropped(&notice.dropped.adapter);
            return Ok(());
        }
        let line: Line = serde_json::from_str(text)
            .with_context(|| format!("a line of a worker: {}", text.chars().take(200).collect::<String>()))?;
        let ends = line.answer.ends();
        let mut senders = self.senders();
        // A question that was given up has no reader, and its last lines no use.
        if let Some(question) = senders.get_mut(&line.id) {
            question.started = true;
            let _ = question.sender.send(line.answer);
        }
        if ends {
            senders.remove(&line.id);
        }
        Ok(())
    }
}

impl Answer {
    /// Whether nothing follows it.
    fn ends(&self) -> bool {
        matches!(
            self,
            Answer::Done { .. } | Answer::Embedded { .. } | Answer::Unloaded { .. } | Answer::Failed { .. }
        )
    }
}

async fn write(mut questions: ChildStdin, mut asked: UnboundedReceiver<String>) {
    while let Some(line) = asked.recv().await {
        if questions.write_all(line.as_bytes()).await.is_err() || questions.flush().await.is_err() {
            return;
        }
    }
}

async fn read(mut answers: Lines<BufReader<ChildStdout>>, open: Arc<Open>) {
    loop {
        match tokio::time::timeout(LONGEST_SILENCE, answers.next_line()).await {
            Ok(Ok(Some(line))) => {
                if let Err(error) = open.deliver(&line) {
                    tracing::error!("{error:#}");
                    return open.close("its process said something that is no answer");
                }
            }
            Ok(_) => return open.close(DIED),
            Err(_) if open.senders().is_empty() => {}
            Err(_) => return open.close("its process was silent for twenty minutes and is started anew"),
        }
    }
}

impl Answers {
    /// The next part; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Answer>> {
        if self.complete {
            return None;
        }
        let answer = self.receiver.recv().await;
        self.complete = answer.as_ref().is_none_or(Answer::ends);
        Some(match answer {
            Some(Answer::Failed { error }) => Err(match error.param {
                Some(param) => Error::invalid(param, error.message),
                None => gone(&self.model, &error.message),
            }),
            Some(answer) => Ok(answer),
            None => Err(gone(&self.model, self.worker.open.end().unwrap_or(DIED))),
        })
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if self.worker.open.senders().remove(&self.id).is_some() {
            self.worker.say(&json!({"cancel": self.id}));
        }
    }
}
