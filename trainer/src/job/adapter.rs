//! Adapters in a job's folders: how they are written, and how a job begins with a model that is one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use formats::checkpoint::{ADAPTER_BASE as BASE, ADAPTER_CONFIG, Weights};
use serde_json::Value;
use tch::Device;

use super::checkpoint::write_synced;
use super::events::Events;
use super::export::{commit_folder, copy_tokenizer};
use super::ranks::Ranks;
use crate::models;
use crate::tensors;
use crate::tuned::{self, BASE_QUANTIZATION};

/// What a base has beside its weights that an adapter needs.
const BASE_FILES: [&str; 2] = ["config.json", "model.safetensors.index.json"];

/// The folder of the plain checkpoint that a job begins with: its `model`, or, where that is an adapter beside its base,
/// both in one, which the first process of each machine makes in `merged`.
pub fn plain_base(dir: &Path, ranks: &Ranks, events: &mut Events) -> Result<PathBuf> {
    let model = dir.join("model");
    if !model.join(ADAPTER_CONFIG).is_file() {
        return Ok(model);
    }
    let merged = dir.join("merged");
    if ranks.rank() == ranks.machines().first() && !merged.exists() {
        events.log(0, "The model is an adapter beside its base; they are merged first.")?;
        commit_folder(&merged, |folder| merge(&model, folder))?;
    }
    ranks.gather()?;
    Ok(merged)
}

/// Writes an adapter and its base as one plain checkpoint.
pub fn merge(model: &Path, folder: &Path) -> Result<()> {
    let task = tuned::task_of(&models::read_config(model)?);
    let tuned = tuned::open_as(model, None, task, Device::Cpu)?;
    let adapters = tuned.loaded.adapters.as_ref().context("a folder with an adapter gives one")?;
    tensors::save(&folder.join("model.safetensors"), &adapters.merged(&tuned.loaded.params))?;
    let mut config = tuned.config;
    forget_quantization(&mut config);
    config["dtype"] = "float32".into();
    write_synced(&folder.join("config.json"), &serde_json::to_vec_pretty(&config)?)?;
    copy_tokenizer(model, folder)
}

/// A `config.json` of weights that are in full.
pub fn forget_quantization(config: &mut Value) {
    if let Some(fields) = config.as_object_mut() {
        fields.shift_remove(BASE_QUANTIZATION);
    }
}

/// Puts the base's files beside an adapter. They are links where the disk can link: the base is there once, and so it is
/// in the object store, which goes by content.
pub fn link_base(base: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(BASE);
    std::fs::create_dir_all(&to)?;
    let weights = Weights::open(base)?;
    for name in weights.files().map(|(name, _)| name).chain(BASE_FILES) {
        let from = base.join(name);
        if from.exists() && std::fs::hard_link(&from, to.join(name)).is_err() {
            std::fs::copy(&from, to.join(name)).with_context(|| format!("copying {}", from.display()))?;
        }
    }
    Ok(())
}
