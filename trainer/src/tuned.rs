//! Finished models from their folders: plain checkpoints, and adapters beside their base.

use std::path::{Path, PathBuf};

use anyhow::Result;
use formats::checkpoint::{ADAPTER_BASE as BASE, Weights};
use serde_json::Value;
use store::spec::Quantization;
use tch::Device;

use crate::failure::Failure;
use crate::models::{self, Head, TextModel};
use crate::nn::{Loaded, Loader, saved};

/// Where `config.json` says that the base of an adapter is to be taken in fewer bits, as it was in training.
pub const BASE_QUANTIZATION: &str = "base_quantization";

/// A classifier that was tuned.
pub struct Tuned {
    /// Its `config.json`.
    pub config: Value,
    /// Names of its labels by id.
    pub labels: Vec<String>,
    /// The model.
    pub model: Box<dyn TextModel>,
    /// Its parameters.
    pub loaded: Loaded,
}

/// Loads a sequence classifier.
///
/// # Errors
/// A [`Failure`] of the user where the folder holds none, or an adapter alone.
pub fn open(folder: &Path, device: Device) -> Result<Tuned> {
    let config = models::read_config(folder)?;
    let labels = labels(&config)?;
    let base = models::base_of(config["model_type"].as_str().unwrap_or_default())?;
    let saved = saved::read(folder)?;
    let weights = Weights::open(&base_of(folder, saved.is_some())?)?;
    let loader = Loader::new(&weights, base, 0, device);
    let loader = match &saved {
        None => loader.keep_head((0..labels.len() as i64).collect()),
        Some(saved) => {
            let mut settings = saved.settings.clone();
            settings.quantization = quantization(&config);
            loader.adapted_as(Some(&settings), saved.whole.clone())
        }
    };
    let model = models::build(&config, &loader, Head::Labels(labels.len() as i64), None)?;
    let loaded = loader.finish()?;
    match &saved {
        Some(_) => saved::load(&loaded.params, folder)?,
        None if !loaded.report.made.is_empty() => {
            let made = loaded.report.made.join(", ");
            let message = format!("This checkpoint has no classification head: {made} missing.");
            return Err(Failure::user("no_head", message).into());
        }
        None => {}
    }
    Ok(Tuned { config, labels, model, loaded })
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
