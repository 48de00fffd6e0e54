//! Language models that answer: processes of the trainer that generate and embed, kept loaded and shared by requests.
//!
//! # Who answers
//! A worker is a process `luthier-trainer generate FOLDER [--device auto|cpu] [--threads N]` that has a whole model
//! loaded, and it is known by the content of that model's files ([`Served`]). An adapter is answered by the worker of its
//! base: two adapters of one base, and the base itself, share a process and its weights. [`Workers`] keeps
//! a few of them warm; [`precedence`] says when they give the device to a job.
//!
//! # How they talk
//! JSON, a line each. [`worker`] writes questions to the process's input and reads answers from its output; many questions
//! are open at once, lines of different ones are mixed, and each carries the number of its question. What a process has to
//! say to people goes to `logs/generate.log`. It ends when its input closes.
//!
//! The first line tells whether the model is loaded: `{"ready": true, "task", "device", "context", "parameters"}`, or
//! `{"ready": false, "error": {"message"}}`. A question is one of
//!
//! - `{"id": 7, "generate": {…}}` with `messages`, which the model's chat template renders, or `prompt` (a text or token
//!   ids), and the fields of [`Generate`];
//! - `{"id": 8, "embed": {"adapter", "inputs": [text or token ids, …], "normalize"}}`;
//! - `{"id": 9, "unload": {"adapter"}}`, which forgets an adapter;
//! - `{"cancel": 7}`: the one who asked is gone.
//!
//! Adapters that nobody has asked for the longest give way where those of a process take more memory than its base does (at least
//! 1 GiB); `{"dropped": {"adapter"}}` says so, and asked for again, one is loaded again.
//!
//! [`protocol::Answer`] has the lines that answer them. `started` comes once the question is understood; pieces of text of
//! each choice follow, in whole characters; then how each choice ended; then `done` with the counts. An `error` ends the
//! question, and `param` in it is the field of OpenAI's request that is to blame.

pub mod precedence;
pub mod protocol;
mod served;
mod worker;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use store::Objects;

use self::precedence::Precedence;
use self::protocol::Generate;
pub use self::served::Served;
pub use self::worker::Answers;
use self::worker::Worker;
use crate::warm::{Program, Use, Warm, Work, content_name};
use crate::{Config, Error, Result, process};

/// Workers kept at the same time: what a person compares side by side.
const MOST_WARM: usize = 3;

/// Idle time after which a worker ends.
const KEEP_WARM: Duration = Duration::from_secs(600);

/// Time to load a model.
const LONGEST_START: Duration = Duration::from_secs(300);

/// All workers.
#[derive(Debug)]
pub struct Workers {
    program: Program,
    warm: Warm<Arc<Worker>>,
    precedence: Precedence,
}

/// A worker as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Ids of the models that it has answered for, and whether each is an adapter.
    pub models: BTreeMap<String, bool>,
    /// What it computes on.
    pub device: String,
    /// Weights, without those of adapters.
    pub parameters: Option<u64>,
    /// Tokens that prompt and answer may have together.
    pub context: Option<u64>,
    /// Bytes of memory of the machine that it has in use.
    pub memory: Option<u64>,
    /// Requests at work.
    pub requests: usize,
    /// Time since the last request, where none is at work.
    pub idle: Option<Duration>,
    /// Time since it was started.
    pub up: Duration,
}

impl Workers {
    /// Remembers where things are; starts nothing.
    pub fn new(config: &Config, objects: Objects) -> Self {
        Workers {
            program: Program::new(config, objects, "generate.log"),
            warm: Warm::new(MOST_WARM, KEEP_WARM),
            precedence: Precedence::default(),
        }
    }

    /// Asks for text; several prompts are answered at the same time, in one list of answers for each.
    pub async fn generate(&self, served: &Served, questions: Vec<Generate>) -> Result<Vec<Answers>> {
        let (place, worker, adapter) = self.worker_of(served).await?;
        let place = Arc::new(place);
        let ask = |mut question: Generate| {
            question.adapter.clone_from(&adapter);
            worker.ask((&served.model, adapter.clone()), "generate", json!(question), place.clone())
        };
        questions.into_iter().map(ask).collect()
    }

    /// Asks for vectors of length 1.
    pub async fn embed(&self, served: &Served, inputs: &[Value]) -> Result<Answers> {
        let (place, worker, adapter) = self.worker_of(served).await?;
        let question = json!({"adapter": adapter, "inputs": inputs, "normalize": true});
        worker.ask((&served.model, adapter), "embed", question, Arc::new(place))
    }

    /// The worker for a model, started where it is not running, and the folder of the model's adapter.
    async fn worker_of(&self, served: &Served) -> Result<(Use<Arc<Worker>>, Arc<Worker>, Option<PathBuf>)> {
        let content = content_name(&served.base);
        let place = self.warm.place(&content).await?;
        let mut held = place.process().await;
        let worker = match held.as_ref().filter(|worker| !worker.has_ended()) {
            Some(worker) => worker.clone(),
            None => held.insert(Arc::new(self.start(served, &content).await?)).clone(),
        };
        drop(held);
        let adapter = match &served.adapter {
            None => None,
            Some(files) => Some(self.program.lay_out(&content_name(files), files).await?),
        };
        Ok((place, worker, adapter))
    }

    async fn start(&self, served: &Served, content: &str) -> Result<Worker> {
        let folder = self.program.lay_out(content, &served.base).await.context("laying out a model")?;
        loop {
            let training = self.precedence.is_training();
            let device = if training { "cpu" } else { "auto" };
            let threads = precedence::threads(training).to_string();
            let words = ["--device", device, "--threads", &threads].map(OsStr::new);
            let arguments = [&[OsStr::new("generate"), folder.as_os_str()], words.as_slice()].concat();
            let started = self.program.start(&served.model, &arguments, LONGEST_START).await?;
            let worker = Worker::new(started, training)?;
            // A job may have begun while the model was loaded.
            if !(worker.is_on_gpu() && self.precedence.is_training()) {
                tracing::info!(model = served.model, device = worker.ready.device, "loaded a model");
                return Ok(worker);
            }
        }
    }

    /// What is loaded.
    pub fn loaded(&self) -> Vec<Loaded> {
        let look = |worker: &Arc<Worker>, work: Work| {
            (!worker.has_ended()).then(|| Loaded {
                models: worker.models(),
                device: worker.ready.device.clone(),
                parameters: worker.ready.parameters,
                context: worker.ready.context,
                memory: process::memory_of(worker.id()),
                requests: work.questions,
                idle: (work.questions == 0).then(|| work.used.elapsed()),
                up: worker.started.elapsed(),
            })
        };
        let mut loaded: Vec<Loaded> = self.warm.each(look).into_iter().flatten().collect();
        loaded.sort_by(|a, b| a.models.cmp(&b.models));
        loaded
    }

    /// The worker that has a model loaded.
    pub fn loaded_of(&self, model: &str) -> Option<Loaded> {
        self.loaded().into_iter().find(|loaded| loaded.models.contains_key(model))
    }

    /// Lets go of a model: of its adapter alone where others use the worker. Answers under way are finished.
    pub fn unload(&self, model: &str) {
        self.warm.release(|worker| worker.forget(model));
    }

    /// Lets go of the worker that has a model loaded. Answers under way are finished.
    pub fn release(&self, model: &str) {
        self.warm.release(|worker| worker.models().contains_key(model));
    }

    /// Ends the workers that nobody has asked for a while.
    pub fn cool_down(&self) {
        self.warm.cool_down();
    }

    /// Ends all workers and breaks off what they are at.
    pub fn stop(&self) {
        self.warm.each(|worker, _| worker.give_up("the server is stopping"));
        self.warm.clear();
    }

    /// Takes note of whether a job runs here; at a change the workers that stand in its way, or need not any more, leave.
    pub fn give_precedence(&self, training: bool) {
        match (self.precedence.note(training), training) {
            (false, _) => {}
            (true, true) => self.warm.release(|worker| worker.is_on_gpu()),
            // One that was kept off the device by a job is started anew, with the whole machine.
            (true, false) => self.warm.release(|worker| worker.was_kept_off),
        }
    }
}

/// The error of a question whose worker is gone.
fn gone(model: &str, why: &str) -> Error {
    Error::Unavailable(format!("{model} broke off its answer: {why}"))
}
