//! A language model that writes: for a person in the browser, for programs, and for the samples of an evaluation (`job::samples`).
//!
//! [`Engine`] writes many answers at once, [`Voices`] are a base and the adapters on it, a [`Reader`] makes vectors of texts; [`run`] is the process that a server
//! asks, in the words of [`protocol`].

mod answer;
mod beams;
mod embed;
mod engine;
mod grammar;
mod model;
mod protocol;
mod sample;
mod sequence;
mod text;
mod turn;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use formats::chat_template::ChatTemplate;
use formats::checkpoint::ENCODERS;
use serde_json::{Value, json};
use store::spec;

pub use answer::Writing;
pub use embed::Reader;
pub use engine::{Engine, Event, Request};
pub use grammar::Format;
pub use model::{DEFAULT_CONTEXT, Voice, Voices};
pub use sample::{Sampler, Sampling, log_probabilities};
pub use sequence::{Finish, Told};
pub use turn::TurnEnd;

use crate::failure::Failure;
use crate::{device, models};
use protocol::{Generate, Line, Prompt, failed, line};

/// Which model writes.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    /// A language model's folder.
    pub model: PathBuf,
    /// Where it computes.
    #[arg(long, default_value = "auto", value_parser = device_of)]
    pub device: spec::Device,
    /// CPU threads; 0 for all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

fn device_of(name: &str) -> Result<spec::Device, String> {
    serde_json::from_value(json!(name)).map_err(|_| "auto, cpu or cuda".to_owned())
}

/// Answers requests until stdin closes.
pub fn run(args: &GenerateArgs) -> Result<()> {
    if args.threads > 0 {
        native::runtime::set_threads(args.threads)?;
    }
    let mut out = std::io::stdout().lock();
    let mut say = |line: &Value| -> Result<()> {
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    };
    let mut server = match Server::open(args) {
        Ok(server) => server,
        Err(error) => {
            return say(&json!({"ready": false, "error": {"message": Failure::of(&error).message}}));
        }
    };
    say(&server.ready())?;
    let lines = read_lines();
    loop {
        // Only with nothing to write is a request waited for.
        while let Some(text) = next_line(&lines, server.engine.is_idle())? {
            server.take(&text).iter().try_for_each(&mut say)?;
        }
        if server.engine.is_idle() {
            return Ok(());
        }
        for (id, event) in server.engine.step() {
            say(&line(id, &event))?;
        }
    }
}

/// Lines of stdin, as they come; the channel ends with it.
fn read_lines() -> Receiver<String> {
    let (to, from) = mpsc::channel();
    std::thread::spawn(move || {
        for text in std::io::stdin().lock().lines().map_while(Result::ok) {
            if to.send(text).is_err() {
                return;
            }
        }
    });
    from
}

/// The next line: waits for one, or takes one that is there. `None` where there is none, and where none will come while waiting.
fn next_line(lines: &Receiver<String>, wait: bool) -> Result<Option<String>> {
    if wait {
        return Ok(lines.recv().ok());
    }
    match lines.try_recv() {
        Ok(text) => Ok(Some(text)),
        Err(TryRecvError::Empty) => Ok(None),
        // Nobody is left who could read the answers.
        Err(TryRecvError::Disconnected) => std::process::exit(0),
    }
}

/// Who answers.
enum Model {
    /// A base with its adapters.
    Writes(Box<Voices>),
    /// An encoder.
    Reads(Box<Reader>),
}

/// A model, and what is being written.
struct Server {
    model: Model,
    engine: Engine,
    device: tch::Device,
}

impl Server {
    fn open(args: &GenerateArgs) -> Result<Self> {
        let device = device::choose(args.device, 0)?;
        let config = models::read_config(&args.model)?;
        let is_encoder = config["model_type"].as_str().is_some_and(|name| ENCODERS.contains(&name));
        let model = match is_encoder {
            true => Model::Reads(Box::new(Reader::open(&args.model, device)?)),
            false => Model::Writes(Box::new(Voices::open(&args.model, device)?)),
        };
        Ok(Server { model, engine: Engine::new(device), device })
    }

    fn ready(&self) -> Value {
        let (task, context, parameters) = match &self.model {
            Model::Writes(voices) => ("text-generation", voices.context(), voices.parameters()),
            Model::Reads(reader) => ("feature-extraction", reader.context(), reader.parameters()),
        };
        let device = device::name(self.device);
        json!({"ready": true, "task": task, "device": device, "context": context, "parameters": parameters})
    }

    /// Takes a line; gives what is to be said of it at once.
    fn take(&mut self, text: &str) -> Vec<Value> {
        let mut said = self.answer(text);
        if let Model::Writes(voices) = &mut self.model {
            said.extend(voices.take_dropped().iter().map(|adapter| json!({"dropped": {"adapter": adapter}})));
        }
        said
    }

    fn answer(&mut self, text: &str) -> Vec<Value> {
        let line: Line = match serde_json::from_str(text) {
            Ok(line) => line,
            Err(error) => {
                let failure = Failure::user("bad_request", format!("Not a request: {error}."));
                let id = serde_json::from_str::<Value>(text).ok().and_then(|value| value["id"].as_u64());
                return vec![failed(id.unwrap_or(0), &failure)];
            }
        };
        if let Some(id) = line.cancel {
            self.engine.cancel(id);
            return Vec::new();
        }
        if let Some(unload) = &line.unload {
            let forgotten = match &mut self.model {
                Model::Writes(voices) => voices.forget(&unload.adapter),
                Model::Reads(_) => false,
            };
            return vec![json!({"id": line.id, "unloaded": forgotten})];
        }
        let begun = match (&line.generate, &line.embed) {
            (Some(asked), _) => self.begin(line.id, asked),
            (None, Some(asked)) => {
                return match embed::answer(&mut self.model, asked, self.device) {
                    Ok((vectors, tokens)) => {
                        vec![json!({"id": line.id, "embeddings": vectors, "tokens": tokens})]
                    }
                    Err(failure) => vec![failed(line.id, &failure)],
                };
            }
            (None, None) => Err(Failure::user("bad_request", "The request asks for nothing.").into()),
        };
        match begun {
            Ok(tokens) => vec![json!({"id": line.id, "started": {"prompt_tokens": tokens}})],
            Err(error) => vec![failed(line.id, &Failure::of(&error))],
        }
    }

    /// Gives the number of the prompt's tokens.
    fn begin(&mut self, id: u64, asked: &Generate) -> Result<usize> {
        asked.check()?;
        let Model::Writes(voices) = &mut self.model else {
            let message = "This is an encoder, which writes nothing: ask it for embeddings.";
            return Err(Failure::user("no_language_model", message).at("model").into());
        };
        let voice = voices.get(asked.adapter.as_deref())?;
        let Asked { prompt, end: TurnEnd { mut stops, ends } } = asked_of(&voice, asked)?;
        stops.extend(asked.stop.iter().cloned());
        let (tokens, context) = (prompt.len(), voices.context());
        let field = if asked.messages.is_some() { "messages" } else { "prompt" };
        let rows = voice.model.vocabulary().map_or(0, crate::nn::Vocabulary::tokens);
        if let Some(unknown) = prompt.iter().find(|&&id| id as usize >= rows) {
            let message = format!("The prompt has token {unknown}, the model's last one is {}.", rows - 1);
            return Err(Failure::user("unknown_token", message).at(field).into());
        }
        let fits = if asked.max_tokens == Some(0) { tokens <= context } else { tokens < context };
        if !fits {
            let message = format!(
                "The prompt has {tokens} tokens, and the model's context is {context}: shorten the prompt, or take a model with \
                 a longer context."
            );
            return Err(Failure::user("context_length_exceeded", message).at(field).into());
        }
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        self.engine.add(Request {
            id,
            voice,
            prompt,
            choices: asked.n,
            limit: asked.max_tokens.unwrap_or(usize::MAX).min(context - tokens),
            sampling: asked.sampling.clone(),
            seed: asked.seed.unwrap_or_else(|| now() ^ id.rotate_left(32)),
            stops,
            ends,
            logprobs: asked.logprobs,
            echo: asked.echo,
            format: asked.format()?,
        })?;
        Ok(tokens)
    }
}

/// What is to be answered or continued, and what ends the answer beside the model's own end marks.
struct Asked {
    prompt: Vec<u32>,
    end: TurnEnd,
}

fn asked_of(voice: &Voice, asked: &Generate) -> Result<Asked> {
    let tokenizer = &voice.tokenizer;
    let Some(messages) = asked.conversation()? else {
        let prompt = match &asked.prompt {
            Some(Prompt::Ids(ids)) => ids.clone(),
            Some(Prompt::Text(text)) => {
                [tokenizer.leading_ids(), &tokenizer.encode_plain(text)?.ids].concat()
            }
            None => {
                return Err(Failure::user("no_prompt", "There is nothing to answer.").at("messages").into());
            }
        };
        return Ok(Asked { prompt, end: TurnEnd::default() });
    };
    let tokens = tokenizer.special_tokens().clone();
    let named = match asked.template.as_deref() {
        None => None,
        // By its name, or as Jinja; no folder is looked into.
        chosen => ChatTemplate::choose(Path::new(""), chosen, tokens)
            .map_err(|problem| Failure::user("bad_template", format!("{problem}.")).at("chat_template"))?,
    };
    let Some(template) = named.as_ref().or(voice.template.as_ref()) else {
        let message = "The model has no chat template. Continue a text with /v1/completions, or choose a template by name with \
                       `chat_template`.";
        return Err(Failure::user("no_chat_template", message).at("messages").into());
    };
    let rendered = template
        .render(&messages, None, true)
        .map_err(|problem| Failure::user("chat_template", format!("{problem}.")).at("messages"))?;
    let prompt = tokenizer.encode_plain(&rendered.text)?.ids;
    Ok(Asked { prompt, end: TurnEnd::of(template, tokenizer)? })
}
