//! Finished models from their folders: plain checkpoints, and adapters beside their base.

use std::path::{Path, PathBuf};

use anyhow::Result;
use formats::checkpoint::{ADAPTER_BASE as BASE, ENCODER_DECODERS, Weights};
use serde_json::Value;
use store::spec::{Quantization, Task};
use tch::Device;

use crate::failure::Failure;
use crate::models::{self, Head, TextModel};
use crate::nn::{Loaded, Loader, saved};

/// Where `config.json` says that the base of an adapter is to be taken in fewer bits, as it was in training.
pub const BASE_QUANTIZATION: &str = "base_quantization";

/// A finished model.
pub struct Tuned {
    /// Its `config.json`.
    pub config: Value,
    /// Names of its labels by id; none of a language model.
    pub labels: Vec<String>,
    /// The model.
    pub model: Box<dyn TextModel>,
    /// Its parameters.
    pub loaded: Loaded,
}

/// Loads a classifier of texts or of words, by what its `config.json` says.
///
/// # Errors
/// A [`Failure`] of the user where the folder holds none, or an adapter alone.
pub fn open(folder: &Path, device: Device) -> Result<Tuned> {
    let task = match task_of(&models::read_config(folder)?) {
        Task::TokenClassification => Task::TokenClassification,
        _ => Task::TextClassification,
    };
    open_as(folder, None, task, device)
}

/// Loads a finished model of a task; an adapter onto `base` where one is given, else onto the base beside it.
///
/// # Errors
/// A [`Failure`] of the user where the folder holds no such model, or an adapter alone.
pub fn open_as(folder: &Path, base: Option<&Path>, task: Task, device: Device) -> Result<Tuned> {
    let config = models::read_config(folder)?;
    let labels = match task {
        Task::TextClassification | Task::TokenClassification => labels(&config)?,
        _ => Vec::new(),
    };
    let head = match task {
        Task::TextClassification => Head::Labels(labels.len() as i64),
        Task::TextGeneration => Head::Tokens,
        Task::SentenceSimilarity => Head::States,
        Task::QuestionAnswering => Head::Span,
        Task::Translation | Task::Summarization | Task::TextToText => Head::Answers,
        Task::TokenClassification => Head::TokenLabels(labels.len() as i64),
    };
    let prefix = models::base_of(config["model_type"].as_str().unwrap_or_default())?;
    let saved = saved::read(folder)?;
    let weights = match base.filter(|_| saved.is_some()) {
        Some(base) => Weights::open(base)?,
        None => Weights::open(&base_of(folder, saved.is_some())?)?,
    };
    let loader = Loader::new(&weights, prefix, 0, device);
    let loader = match &saved {
        None if labels.is_empty() => loader,
        None => loader.keep_head((0..labels.len() as i64).collect()),
        Some(saved) => {
            let mut settings = saved.settings.clone();
            settings.quantization = quantization(&config);
            loader.adapted_as(Some(&settings), saved.whole.clone())
        }
    };
    let model = models::build(&config, &loader, head, None)?;
    let loaded = loader.finish()?;
    match &saved {
        Some(_) => saved::load(&loaded.params, folder)?,
        None if !loaded.report.made.is_empty() => {
            let made = loaded.report.made.join(", ");
            let message = format!("This checkpoint has no head of {}: {made} missing.", task.as_str());
            return Err(Failure::user("no_head", message).into());
        }
        None => {}
    }
    Ok(Tuned { config, labels, model, loaded })
}

/// What a model's `config.json` says that it is there for.
pub fn task_of(config: &Value) -> Task {
    let class = config["architectures"][0].as_str().unwrap_or_default();
    if ENCODER_DECODERS.contains(&config["model_type"].as_str().unwrap_or_default()) {
        // Which of them a tuned model has learnt its configuration says.
        let learnt = |task: &Task| config["task_specific_params"][task.as_str()].is_object();
        return [Task::Translation, Task::Summarization].into_iter().find(learnt).unwrap_or(Task::TextToText);
    }
    match class {
        _ if class.ends_with("ForTokenClassification") => Task::TokenClassification,
        _ if class.ends_with("ForCausalLM") || class.ends_with("LMHeadModel") => Task::TextGeneration,
        _ if class.ends_with("ForQuestionAnswering") => Task::QuestionAnswering,
        _ => Task::TextClassification,
    }
}

/// The folder with a model's own weights.
fn base_of(folder: &Path, adapted: bool) -> Result<PathBuf> {
    let base = folder.join(BASE);
    match adapted {
        false => Ok(folder.to_owned()),
        true if base.is_dir() => Ok(base),
        true => {
            let message = format!(
                "This is an adapter without its base model. Put the base's config.json and weights beside it, into a folder \
                 called `{BASE}`, or merge it with peft."
            );
            Err(Failure::user("adapter_without_base", message).into())
        }
    }
}

/// How the base of an adapter is kept, by the adapter's `config.json`.
pub fn quantization(config: &Value) -> Option<Quantization> {
    serde_json::from_value(config.get(BASE_QUANTIZATION)?.clone()).ok()
}

/// Label names by id.
fn labels(config: &Value) -> Result<Vec<String>> {
    let missing = || {
        Failure::user("no_labels", "config.json has no id2label, so this model is no finished classifier.")
    };
    let names = config["id2label"].as_object().ok_or_else(missing)?;
    (0..names.len())
        .map(|id| Ok(names.get(&id.to_string()).and_then(Value::as_str).ok_or_else(missing)?.to_string()))
        .collect()
}
