//! Answers of a finished model: JSON lines in, JSON lines out, for as long as stdin is open.
//!
//! ```text
//! > {"id": 1, "inputs": ["a text", {"text": "first", "text_pair": "second"}]}
//! < {"id": 1, "outputs": [{"label": "positive", "score": 0.98, "scores": {"negative": 0.02, "positive": 0.98}}, …]}
//! ```
//!
//! A model that answers questions takes `{"question": "…", "context": "…"}` and gives
//! `{"answer": "…", "score": 0.9, "start": 3, "end": 8, …}`. A model that writes one text from another takes texts, and beside
//! `inputs` perhaps `"settings": {"num_beams": 4, …}`, and gives `{"text": "…"}`.
//!
//! A tagger takes texts alone, and perhaps `"settings": {"aggregation": "simple"}` or `"first"` (the usual):
//!
//! ```text
//! < {"id": 1, "outputs": [{"entities": [{"start": 0, "end": 4, "text": "Anna", "label": "PER", "score": 0.98}], "truncated": false}]}
//! ```

mod questions;
mod sequences;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use formats::tokenizer::{Located, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::spec::{ProblemType, Task};
use tch::Device;

use crate::data::{Row, Tokens, collate};
use crate::device;
use crate::entities::{Aggregation, Token, entities};
use crate::failure::Failure;
use crate::metrics::examples::Answer;
use crate::metrics::{argmax_rows, softmax_rows};
use crate::models::{self, TextModel};
use crate::nn::Context;
use crate::tasks::text_classification::scored;
use crate::tensors::floats;
use crate::tuned::{self, Tuned};

/// Rows that go through the model at once.
const BATCH: usize = 32;

/// Which model answers.
#[derive(Clone, Debug, clap::Args)]
pub struct PredictArgs {
    /// A finished model's folder.
    pub model: PathBuf,
    /// CPU threads; 0 for all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    id: Value,
    inputs: Vec<Input>,
    /// What goes with the inputs, by the model's task.
    #[serde(default)]
    settings: Value,
}

/// A text, or a pair of texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Pair {
        text: String,
        #[serde(default)]
        text_pair: Option<String>,
    },
    Question {
        question: String,
        context: String,
    },
}

/// A model ready to answer.
pub struct Predictor {
    model: Box<dyn TextModel>,
    tokenizer: Tokenizer,
    labels: Vec<String>,
    task: Task,
    folder: PathBuf,
    config: Value,
    problem: ProblemType,
    /// How questions are answered, by a model that does.
    answering: Option<questions::Answering>,
    max_length: usize,
    device: Device,
}

/// Answers requests until stdin closes.
pub fn run(args: &PredictArgs) -> Result<()> {
    if args.threads > 0 {
        native::runtime::set_threads(args.threads)?;
    }
    let predictor = Predictor::open(&args.model)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}",
        json!({"ready": true, "task": predictor.task(), "device": device::name(predictor.device)})
    )?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        writeln!(out, "{}", predictor.answer(&line?))?;
        out.flush()?;
    }
    Ok(())
}

impl Predictor {
    /// Loads a classifier of texts, a tagger of words, a model that answers questions or one that writes texts from others; a
    /// checkpoint without such a head is refused.
    pub fn open(folder: &Path) -> Result<Self> {
        let device = device::choose(store::spec::Device::Auto, 0)?;
        let task = match tuned::task_of(&models::read_config(folder)?) {
            Task::TextGeneration => Task::TextClassification,
            task => task,
        };
        let Tuned { config, labels, model, .. } = tuned::open_as(folder, None, task, device)?;
        let tokenizer = Tokenizer::load(folder)?;
        let positions = models::max_positions(&config).unwrap_or(512);
        let most = tokenizer.model_max_length().unwrap_or(positions).min(positions);
        Ok(Predictor {
            max_length: most,
            problem: problem(&config, labels.len()),
            answering: (task == Task::QuestionAnswering).then(|| questions::Answering::of(&config, most)),
            folder: folder.to_owned(),
            task,
            config,
            model,
            tokenizer,
            labels,
            device,
        })
    }

    /// What the model does.
    pub fn task(&self) -> Task {
        self.task
    }

    /// The answer to one line; an error is an answer too.
    pub fn answer(&self, line: &str) -> Value {
        let request: Request = match serde_json::from_str(line) {
            Ok(request) => request,
            Err(error) => return json!({"id": null, "error": {"message": format!("not a request: {error}")}}),
        };
        let aggregation = &request.settings["aggregation"];
        let answer = || match self.task {
            Task::TokenClassification => {
                let asked = Option::<Aggregation>::deserialize(aggregation).map_err(|error| {
                    Failure::user("invalid_aggregation", format!("settings.aggregation: {error}."))
                })?;
                self.tag(&request.inputs, asked.unwrap_or_default())
            }
            _ if !aggregation.is_null() => Err(Failure::user(
                "invalid_aggregation",
                "aggregation is for taggers, and this model is none.",
            )
            .into()),
            task if task.is_text_to_text() => self.written(&request.inputs, &request.settings),
            _ => self.predict(&request.inputs),
        };
        match Failure::contain(answer) {
            Ok(outputs) => json!({"id": request.id, "outputs": outputs}),
            Err(failure) => {
                json!({"id": request.id, "error": {"message": failure.message, "code": failure.code}})
            }
        }
    }

    fn predict(&self, inputs: &[Input]) -> Result<Vec<Value>> {
        if let Some(answering) = &self.answering {
            return answering.answers(self, inputs);
        }
        let text = |input: &Input| match input {
            Input::Text(text) => Ok((text.clone(), None)),
            Input::Pair { text, text_pair } => Ok((text.clone(), text_pair.clone())),
            Input::Question { .. } => {
                let message = "This model tells texts apart and answers no questions; send `text`, perhaps with `text_pair`.";
                Err(Failure::user("other_task", message))
            }
        };
        let texts: Vec<(String, Option<String>)> = inputs.iter().map(text).collect::<Result<_, _>>()?;
        let texts: Vec<(&str, Option<&str>)> =
            texts.iter().map(|(text, pair)| (text.as_str(), pair.as_deref())).collect();
        let tokens = Tokens::of(&self.tokenizer.encode_pairs(&texts, self.max_length)?);
        let mut outputs = Vec::with_capacity(tokens.len());
        self.each_batch(&tokens, |logits, _| {
            outputs.extend(logits.chunks(self.labels.len()).map(|logits| self.shown(logits)));
        })?;
        Ok(outputs)
    }

    /// Gives what the model says of each batch of sequences to `each`, with the tokens of each of them.
    fn each_batch(&self, tokens: &Tokens, mut each: impl FnMut(&[f32], &[i64])) -> Result<()> {
        let row = |at| {
            let (ids, type_ids) = tokens.row(at);
            Row { number: 0, ids, type_ids, counts: &[], answer: &[] }
        };
        let rows: Vec<_> = (0..tokens.len()).map(row).collect();
        let padding = (self.tokenizer.pad_id().unwrap_or(0), self.tokenizer.pad_type_id());
        let _guard = tch::no_grad_guard();
        for rows in rows.chunks(BATCH) {
            let batch = collate(rows, padding, self.device);
            let context = Context::evaluation(&batch.inputs.packing);
            let logits = self.model.forward(&batch.inputs, &context);
            each(&floats(&logits)?, &batch.inputs.packing.lengths);
        }
        Ok(())
    }

    /// What a tagger finds in each text.
    fn tag(&self, inputs: &[Input], aggregation: Aggregation) -> Result<Vec<Value>> {
        let text = |input: &Input| match input {
            Input::Text(text) | Input::Pair { text, text_pair: None } => Ok(text.clone()),
            Input::Pair { .. } => Err(Failure::user("invalid_inputs", "A tagger takes texts, and no pairs.")),
            Input::Question { .. } => {
                Err(Failure::user("other_task", "A tagger takes texts, and answers no questions."))
            }
        };
        let texts = inputs.iter().map(text).collect::<Result<Vec<String>, Failure>>()?;
        let located: Vec<Located> = texts
            .iter()
            .map(|text| self.tokenizer.encode_located(text, self.max_length))
            .collect::<Result<_, _>>()?;
        let tokens = Tokens::of(&located.iter().map(|located| located.encoding.clone()).collect::<Vec<_>>());
        let (mut outputs, mut texts, mut places) = (Vec::new(), texts.iter(), located.iter());
        self.each_batch(&tokens, |logits, lengths| {
            let mut of_token = logits.chunks(self.labels.len());
            for (text, located) in texts.by_ref().zip(places.by_ref()).take(lengths.len()) {
                let own: Vec<&[f32]> = of_token.by_ref().take(located.offsets.len()).collect();
                let found = entities(text, &self.tokens_of(text, located, &own), aggregation);
                outputs.push(json!({"entities": found, "truncated": located.encoding.truncated}));
            }
        })?;
        Ok(outputs)
    }

    /// The tokens of a text with their tags; special ones are passed over.
    fn tokens_of(&self, text: &str, located: &Located, logits: &[&[f32]]) -> Vec<Token<'_>> {
        let characters: Vec<char> = text.chars().collect();
        let mut at_byte = vec![0; text.len() + 1];
        for (at, (byte, _)) in text.char_indices().enumerate() {
            at_byte[byte] = at;
        }
        at_byte[text.len()] = characters.len();
        let is_wordpiece = self.tokenizer.continuing_prefix().is_some();
        let mut tokens = Vec::new();
        for ((id, place), logits) in located.encoding.ids.iter().zip(&located.offsets).zip(logits) {
            let Some(place) = place else { continue };
            let (start, end) = (at_byte[place.start], at_byte[place.end]);
            let goes_on = if Some(*id) == self.tokenizer.unk_id() {
                false
            } else if is_wordpiece {
                // `##` before what goes on makes the token longer than what it stands for.
                let token = self.tokenizer.token(*id).unwrap_or_default();
                token.chars().count() != end - start
            } else {
                start > 0 && !characters[start - 1..characters.len().min(start + 1)].contains(&' ')
            };
            let best = argmax_rows(logits, logits.len())[0];
            let score = softmax_rows(logits, logits.len())[best];
            tokens.push(Token { place: start..end, goes_on, tag: &self.labels[best], score });
        }
        tokens
    }

    fn shown(&self, logits: &[f32]) -> Value {
        let scored = scored(self.problem, &self.labels, logits);
        let scores: Map<String, Value> =
            self.labels.iter().cloned().zip(scored.scores.iter().map(|&score| json!(score))).collect();
        match scored.answer {
            Answer::Label(label) => json!({"label": label, "score": scored.probability, "scores": scores}),
            Answer::Labels(labels) => json!({"labels": labels, "scores": scores}),
            Answer::Number(value) => json!({"value": value}),
        }
    }
}

/// What a label is, as transformers reads it from `config.json`.
fn problem(config: &Value, labels: usize) -> ProblemType {
    let stated = config.get("problem_type").and_then(|name| serde_json::from_value(name.clone()).ok());
    stated.unwrap_or(if labels == 1 { ProblemType::Regression } else { ProblemType::SingleLabel })
}
