//! How long a job's rows are, told by tokenizing some of them.

mod classification;
mod generation;
mod questions;
mod related;
mod tagged;
mod text_to_text;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use formats::checkpoint::ADAPTER_BASE;
use formats::dataset::ProblemType;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::estimate::{Model, Rows};
use store::spec::{JobSpec, Task};
use store::{FileId, StoredFile, model};
use tempfile::TempDir;

use crate::{AppState, Error, Result};

pub use generation::no_template;

/// Rows that are tokenized to know how long rows are.
const SAMPLE: usize = 2000;

/// Samples that are kept.
const KEPT: usize = 64;

/// Lengths of rows that were sampled before, by data, settings and tokenizer.
#[derive(Clone, Debug, Default)]
pub struct Samples(Arc<Mutex<HashMap<String, Arc<Sample>>>>);

/// What a job's data and model say about its size.
#[derive(Debug)]
pub struct Sample {
    /// The model's sizes.
    pub model: Model,
    /// Rows to train on, and bytes of the file.
    rows: u64,
    bytes: u64,
    /// How many rows were tokenized.
    pub looked_at: u64,
    /// Tokens of sampled rows, as long as the model has positions for.
    lengths: Vec<u64>,
    /// Share of those tokens that are targets.
    target_share: f64,
    /// The longest input that the tokenizer says it was made for.
    stated: Option<u64>,
    /// What text generation, and sources with their targets, ask beside.
    pub shares: Option<Shares>,
    /// Whether there is a chat template.
    pub has_template: bool,
}

/// Shares of the sampled rows and tokens of text generation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// Rows that are cut.
    pub truncated: f64,
    /// Tokens that count in the loss.
    pub counted: f64,
    /// Rows that have nothing to learn within the length.
    pub left_out: f64,
}

impl Sample {
    /// The rows to learn from, cut as the job's settings say.
    pub fn rows_of(&self, spec: &JobSpec) -> Rows {
        let length = spec.per_row() as u64 * self.model.max_length(&spec.training, self.stated);
        let targets =
            if spec.task.is_text_to_text() { spec.text_to_text().target_length() as u64 } else { 0 };
        Rows::new(self.rows, self.bytes, self.lengths.iter().copied(), length + targets)
            .with_targets(self.target_share)
    }
}

/// Looks at data and model, or finds what was seen before.
pub async fn sample(
    state: &AppState,
    spec: &JobSpec,
    model_id: &str,
    file: Option<FileId>,
) -> Result<Arc<Sample>> {
    let gone = || Error::not_found("the data or the model is not there any more");
    let file = store::file::get(&state.store.db, file.ok_or_else(gone)?).await?.ok_or_else(gone)?;
    let files = model::files(&state.store.db, model_id).await?;
    let problem = spec.problem_type.unwrap_or(ProblemType::SingleLabel);
    let key = key(&[
        &json!(file.hash),
        &json!([spec.columns, problem, spec.split, spec.data, generation::settings(spec)]),
        &json!(files.iter().map(|file| &file.hash).collect::<Vec<_>>()),
    ]);
    let known = state.samples.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let folder = TempDir::with_prefix_in("estimate-", state.config.data.join("cache"))?;
    lay_out(state, &files, folder.path()).await?;
    let data = folder.path().join(&spec.data.train);
    state.store.objects.fetch(&file.hash, &data).await?;
    let (spec, bytes) = (spec.clone(), file.bytes.try_into().unwrap_or(0));
    let name = file.name;
    let look = move || match spec.task {
        Task::TextClassification => classification::look(folder.path(), &data, &spec, problem, bytes)
            .map_err(|problem| Error::invalid("model", problem.to_string())),
        Task::TextGeneration => generation::look(folder.path(), &data, &name, &spec, bytes),
        Task::SentenceSimilarity => related::look(folder.path(), &data, &name, &spec, bytes),
        Task::QuestionAnswering => questions::look(folder.path(), &data, &name, &spec, bytes),
        Task::Translation | Task::Summarization | Task::TextToText => {
            text_to_text::look(folder.path(), &data, &name, &spec, bytes)
        }
        Task::TokenClassification => tagged::look(folder.path(), &data, &name, &spec, bytes),
    };
    let made = tokio::task::spawn_blocking(look).await.map_err(|error| Error::Internal(error.into()))?;
    let made = Arc::new(made?);
    let mut samples = state.samples.0.lock().unwrap_or_else(PoisonError::into_inner);
    if samples.len() >= KEPT {
        samples.clear();
    }
    samples.insert(key, made.clone());
    Ok(made)
}

fn key(parts: &[&Value]) -> String {
    let text: Vec<String> = parts.iter().map(|part| part.to_string()).collect();
    hex::encode(Sha256::digest(text.join("\n")))
}

/// Puts the model's files but its weights into a folder.
pub async fn lay_out(state: &AppState, files: &[StoredFile], folder: &Path) -> Result<()> {
    let plain = |file: &&StoredFile| {
        // Settings of modules lie in folders of their own; a base beside an adapter does as well.
        let is_module = file.path.ends_with("/config.json") && !file.path.starts_with(ADAPTER_BASE);
        is_module
            || !file.path.contains('/')
                && [".json", ".txt", ".model", ".spm", ".jinja"].iter().any(|end| file.path.ends_with(end))
    };
    for file in files.iter().filter(plain) {
        state.store.objects.fetch(&file.hash, &folder.join(&file.path)).await?;
    }
    Ok(())
}

/// The rows to look at, evenly from the whole file: the head of a sorted one says little.
fn evenly(rows: &[usize]) -> impl Iterator<Item = usize> {
    rows.iter().copied().step_by(rows.len().div_ceil(SAMPLE).max(1))
}
