//! The rows that model and artefact are compared on.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use formats::tokenizer::{Encoding, Tokenizer};
use store::spec::{JobSpec, ProblemType, Task};
use tch::{Device, Tensor};

use super::built_in::TEXTS;
use super::compare::Told;
use super::replay::Said;
use crate::data::{Batch, Cache, Split, Tokens, permutation};
use crate::failure::Failure;
use crate::job::events::Events;
use crate::job::{setup, texts};
use crate::models::{self, TextModel};
use crate::tasks::text_generation::TextGeneration;
use crate::tasks::{Objective, Targets};

/// Tokens of all rows together, at most.
const MOST_TOKENS: usize = 1 << 16;
/// Tokens and rows of a batch, at most; a row that is longer goes alone.
const BATCH_TOKENS: usize = 4096;
const BATCH_ROWS: usize = 32;
/// Bytes of logits that are kept on the disk, at most.
const MOST_LOGITS: usize = 1 << 30;
/// Places whose logits are in memory at once.
const PLACES: i64 = 256;

/// Where rows are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Those that chose the best checkpoint.
    Validation,
    /// Those that were trained on: no others were held out.
    Training,
    /// Texts of ours, as no rows are at hand.
    BuiltIn,
}

/// Rows to be replayed, in the order in which they are.
pub struct Rows {
    /// The rows.
    pub split: Split,
    /// How many there are to choose from.
    pub of: usize,
    /// Where they are from.
    pub origin: Origin,
    /// What the model is compared by; none where the rows do not say what is right.
    pub objective: Option<Box<dyn Objective>>,
    /// Padding of token ids and of type ids.
    pub padding: (u32, u32),
    task: Task,
    problem: ProblemType,
    /// Of which tokens the logits are looked at: each one, each second …
    stride: usize,
}

impl Rows {
    /// Reads the rows of the job that tuned the model, as that job read them; texts of ours where it has none.
    pub fn read(dir: &Path, spec: &JobSpec, device: Device, events: &mut Events) -> Result<Self> {
        if spec.task == Task::TokenClassification {
            let message = "A tagger is not exported: download it as it is, which transformers loads.";
            return Err(Failure::user("no_export", message).at("format").into());
        }
        let model = dir.join("model");
        let config = models::read_config(&model)?;
        let tokenizer = Tokenizer::load(&model)?;
        let stated = texts::stated_length(spec, &model, &tokenizer)?;
        let max_length = texts::max_length(spec, &config, stated)?;
        let padding = (tokenizer.pad_id().unwrap_or(0), tokenizer.pad_type_id());
        let (split, origin, objective) = match spec.data.train.is_empty() {
            true => built_in(spec.task, &tokenizer, max_length)?,
            false => {
                let cache = Cache::open(&dir.join("cache"), &model)?;
                let (data, objective) = setup::read(
                    (dir, &model, &config),
                    spec,
                    &tokenizer,
                    &cache,
                    max_length,
                    device,
                    events,
                )?;
                check_labels(objective.as_ref(), &config)?;
                let (split, origin) = match data.validation {
                    Some(split) => (split, Origin::Validation),
                    None => {
                        let train = Arc::into_inner(data.train).context("the training rows are in use")?;
                        (train, Origin::Training)
                    }
                };
                // A preference is compared by its better answer: its own metrics need the model that training began with.
                match spec.training.preference {
                    None => (split, origin, Some(objective)),
                    Some(_) => (
                        preferred(&split),
                        origin,
                        Some(Box::new(TextGeneration::default()) as Box<dyn Objective>),
                    ),
                }
            }
        };
        let of = split.len();
        let split = split.of_rows(&chosen(&split, u64::from(spec.seed)));
        let vocabulary = config.get("vocab_size").and_then(serde_json::Value::as_u64).unwrap_or(1 << 15);
        let counted: usize = (0..split.len()).map(|row| split.row(row).counted()).sum();
        let stride = counted.div_ceil((MOST_LOGITS / 4 / vocabulary as usize).max(1)).max(1);
        let problem = spec.problem_type.unwrap_or(match config["problem_type"].as_str() {
            Some("multi_label_classification") => ProblemType::MultiLabel,
            Some("regression") => ProblemType::Regression,
            _ => ProblemType::SingleLabel,
        });
        Ok(Rows { split, of, origin, objective, padding, task: spec.task, problem, stride })
    }

    /// Whether the rows say what is right, and it was the model's own task to learn it.
    pub fn are_labelled(&self) -> bool {
        self.objective.is_some()
    }

    /// What a model of so many labels tells.
    pub fn told(&self, labels: usize) -> Told {
        match (self.task, self.problem) {
            (Task::TextClassification, ProblemType::MultiLabel) => Told::Several,
            (Task::TextClassification, ProblemType::Regression) => Told::Number,
            (Task::TextClassification, _) if labels == 1 => Told::Number,
            _ => Told::One,
        }
    }

    /// Rows that go through the model together.
    pub fn batches(&self) -> Vec<Vec<usize>> {
        let (mut batches, mut tokens) = (Vec::<Vec<usize>>::new(), 0);
        for row in 0..self.split.len() {
            let own = self.split.tokens_of(row);
            match batches.last_mut().filter(|last| last.len() < BATCH_ROWS && tokens + own <= BATCH_TOKENS) {
                Some(last) => {
                    last.push(row);
                    tokens += own;
                }
                None => {
                    batches.push(vec![row]);
                    tokens = own;
                }
            }
        }
        batches
    }

    /// Gives logits of a batch to `each`: a classifier's, or of some of the tokens that count.
    pub fn places(
        &self,
        model: &dyn TextModel,
        top: &Tensor,
        batch: &Batch,
        each: &mut impl FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let Some(vocabulary) = model.vocabulary() else { return each(top) };
        let places = batch.counted.places.slice(0, 0, None, self.stride as i64);
        let states = top.index_select(0, &places);
        for start in (0..states.size()[0]).step_by(PLACES as usize) {
            let few = states.narrow(0, start, PLACES.min(states.size()[0] - start));
            each(&vocabulary.logits(&few))?;
        }
        Ok(())
    }

    /// Metrics of what was said.
    pub fn metrics(&self, said: &Said) -> Result<Vec<(String, Option<f64>)>> {
        let (Some(objective), Some(predictions)) = (&self.objective, &said.predictions) else {
            return Ok(Vec::new());
        };
        let first: Vec<usize> = (0..said.rows).collect();
        let metrics = objective.metrics(&self.split.of_rows(&first), predictions)?;
        Ok(metrics.values.iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// In words, where rows are from.
    pub fn words(&self, rows: usize) -> String {
        let of = self.of;
        let number = if rows == of { format!("all {of}") } else { format!("{rows} of {of}") };
        match (self.origin, self.objective.is_some()) {
            (Origin::Validation, _) => {
                format!("{number} rows that the training of this model held out for validation")
            }
            (Origin::Training, _) => {
                format!("{number} rows that this model was trained on: its training held out none")
            }
            (Origin::BuiltIn, true) => format!(
                "{number} built-in English texts: no rows of a training are at hand, so how well the model does its own \
                 task was not looked at"
            ),
            (Origin::BuiltIn, false) => format!(
                "{number} built-in English texts without labels: no rows of a training are at hand, so logits could be \
                 compared, and no metric"
            ),
        }
    }
}

/// The rows that fit into the budget, drawn evenly: a file may be sorted by its labels.
fn chosen(split: &Split, seed: u64) -> Vec<usize> {
    let mut tokens = 0;
    let order = permutation(split.len(), seed, 0).into_iter();
    let fits = |row: &usize| {
        let is_first = tokens == 0;
        tokens += split.tokens_of(*row);
        is_first || tokens <= MOST_TOKENS
    };
    let mut rows: Vec<usize> = order.take_while(fits).collect();
    // All of them stay as they are in the file.
    if rows.len() == split.len() {
        rows.sort_unstable();
    }
    rows
}

/// The rows are read for the labels of the training; those of the model must be the same.
fn check_labels(objective: &dyn Objective, config: &serde_json::Value) -> Result<()> {
    let labels = objective.labels();
    let stated = |id: usize| config["id2label"][id.to_string()].as_str();
    if labels.iter().enumerate().all(|(id, label)| stated(id) == Some(label)) {
        return Ok(());
    }
    let message = "The labels of the model's config.json are not those of the rows that it was trained on.";
    Err(Failure::user("other_labels", message).into())
}

/// The better answer of each preference; of answers that are desirable or not the desirable ones, if there are any.
fn preferred(split: &Split) -> Split {
    if let Targets::Answers(desirable) = &split.targets {
        let good: Vec<usize> = (0..split.len()).filter(|&row| desirable[row]).collect();
        let kept = if good.is_empty() { (0..split.len()).collect() } else { good };
        let split = split.of_rows(&kept);
        return Split {
            targets: Targets::Tokens,
            mismatched: None,
            answers: None,
            reference: Vec::new(),
            ..split
        };
    }
    let encoding = |row: usize| {
        let row = split.row(row * split.per_row);
        let type_ids = row.counts.iter().map(|&counts| u32::from(counts)).collect();
        Encoding { ids: row.ids.to_vec(), type_ids, truncated: false }
    };
    let encodings: Vec<Encoding> = (0..split.len()).map(encoding).collect();
    Split {
        tokens: Tokens::of(&encodings),
        per_row: 1,
        reference: Vec::new(),
        mismatched: None,
        answers: None,
        keys: Vec::new(),
        numbers: split.numbers.clone(),
        targets: Targets::Tokens,
        texts: Vec::new(),
    }
}

type Made = (Split, Origin, Option<Box<dyn Objective>>);

fn built_in(task: Task, tokenizer: &Tokenizer, max_length: usize) -> Result<Made> {
    let texts: Vec<(&str, Option<&str>)> = TEXTS.iter().map(|text| (*text, None)).collect();
    let mut encodings = tokenizer.encode_pairs(&texts, max_length).context("tokens of the built-in texts")?;
    let objective: Option<Box<dyn Objective>> = match task {
        Task::TextClassification | Task::TokenClassification => None,
        // The server refuses them.
        Task::SentenceSimilarity => {
            let message = "A model of vectors is not exported: download it as it is, which sentence-transformers loads.";
            return Err(Failure::user("no_export", message).at("format").into());
        }
        Task::QuestionAnswering => {
            let message = "A model that answers questions is not exported: download it as it is, which transformers loads.";
            return Err(Failure::user("no_export", message).at("format").into());
        }
        Task::Translation | Task::Summarization | Task::TextToText => {
            let message = "A model that writes one text from another is not exported: download it as it is, which transformers loads.";
            return Err(Failure::user("no_export", message).at("format").into());
        }
        Task::TextGeneration => {
            for encoding in &mut encodings {
                encoding.type_ids = vec![1; encoding.ids.len()];
            }
            Some(Box::new(TextGeneration::default()))
        }
    };
    let targets = match task {
        Task::TextClassification | Task::TokenClassification => Targets::Classes(vec![0; TEXTS.len()]),
        _ => Targets::Tokens,
    };
    let split = Split {
        tokens: Tokens::of(&encodings),
        per_row: 1,
        reference: Vec::new(),
        mismatched: None,
        answers: None,
        keys: Vec::new(),
        numbers: (0..TEXTS.len() as u64).collect(),
        targets,
        texts: Vec::new(),
    };
    Ok((split, Origin::BuiltIn, objective))
}
