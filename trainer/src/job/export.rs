//! The model as transformers saves it: weights, configuration, tokenizer files, and a card that tells where it is from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tch::Kind;

use super::adapter::{forget_quantization, link_base};
use super::checkpoint::{sync_folder, write_synced};
use super::parts::Parts;
use super::ranks::Ranks;
use crate::nn::{Adapters, saved};
use crate::tasks::Objective;
use crate::tensors;
use crate::tuned::BASE_QUANTIZATION;

/// Files of a checkpoint that belong to its tokenizer, or say how it writes, and are carried over byte by byte.
const TOKENIZER_FILES: [&str; 14] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "source.spm",
    "target.spm",
    "chat_template.jinja",
    "generation_config.json",
];

const MODEL: &str = "model.safetensors";

/// What is needed to write a model folder at any step.
pub struct ModelFiles {
    /// Parameters by transformers' names; they share their storage with the model in training.
    pub params: tensors::Named,
    /// Tensors of the base that are no part of the model in training, and go along as they are.
    carried: tensors::Named,
    /// What of it is trained, where that is not all.
    pub adapters: Option<Adapters>,
    config: Value,
    base: PathBuf,
    base_name: String,
    peft_task: &'static str,
    /// The chat template that the model has learnt to write by, where it is not its base's own.
    chat_template: Option<String>,
    /// Files beside the checkpoint that the task has.
    beside: Vec<(String, Value)>,
}

impl ModelFiles {
    /// A model tuned from the checkpoint in `base`, whose `config.json` is `config`, and which people know by `base_name`.
    pub fn new(
        params: tensors::Named,
        adapters: Option<Adapters>,
        config: &Value,
        (base, base_name): (&Path, &str),
        objective: &dyn Objective,
    ) -> Result<Self> {
        let mut config = objective.tuned_config(config)?;
        if let Some(fields) = config.as_object_mut() {
            // Names of old and of another place.
            for gone in ["torch_dtype", "_name_or_path"] {
                fields.shift_remove(gone);
            }
        }
        let half = params.iter().any(|(_, param)| param.kind() == Kind::BFloat16);
        config["dtype"] = if half { "bfloat16" } else { "float32" }.into();
        if let Some(quantization) = adapters.as_ref().and_then(|adapters| adapters.settings.quantization) {
            config[BASE_QUANTIZATION] = serde_json::to_value(quantization)?;
        }
        let (base, base_name) = (base.to_path_buf(), base_name.to_owned());
        let peft_task = objective.peft_task();
        let beside = objective.files(&base, &config);
        let carried = Vec::new();
        Ok(ModelFiles {
            params,
            carried,
            adapters,
            config,
            base,
            base_name,
            peft_task,
            chat_template: None,
            beside,
        })
    }

    /// The same with tensors of the base that go along as they are.
    pub fn carrying(self, carried: tensors::Named) -> Self {
        ModelFiles { carried, ..self }
    }

    /// The tensors of a whole model, of which the first are these.
    fn whole(&self, mut tensors: tensors::Named) -> tensors::Named {
        tensors.extend(self.carried.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())));
        tensors
    }

    /// The same with a chat template of its own.
    pub fn templated(self, chat_template: Option<String>) -> Self {
        ModelFiles { chat_template, ..self }
    }

    /// Writes what is trained (all weights, or the adapter and its base), configuration and tokenizer into a folder that
    /// exists.
    pub fn write(&self, folder: &Path, ranks: &Ranks, parts: &Parts) -> Result<()> {
        match &self.adapters {
            None => {
                let params = self.params.iter().map(|(name, param)| (name.clone(), param.shallow_clone()));
                let whole = self.whole(params.collect());
                parts.save(ranks, &folder.join(MODEL), &whole, parts.of_model())?;
            }
            Some(adapters) => {
                let trained = saved::trained(&self.params);
                parts.save(ranks, &folder.join(saved::WEIGHTS), &trained, parts.of_model())?;
                let config = saved::config(adapters, &self.base_name, self.peft_task);
                write_synced(&folder.join(saved::CONFIG), &serde_json::to_vec_pretty(&config)?)?;
                link_base(&self.base, folder)?;
            }
        }
        self.write_rest(folder, &self.config)
    }

    /// Writes the model that people download: as [`ModelFiles::write`] does, or with the adapter in the weights where that
    /// was asked for.
    pub fn write_finished(&self, folder: &Path, ranks: &Ranks, parts: &Parts) -> Result<()> {
        let Some(adapters) = self.adapters.as_ref().filter(|adapters| adapters.settings.merge) else {
            return self.write(folder, ranks, parts);
        };
        tensors::save(&folder.join(MODEL), &self.whole(adapters.merged(&self.params)))?;
        let mut config = self.config.clone();
        forget_quantization(&mut config);
        self.write_rest(folder, &config)
    }

    /// The file of a checkpoint that holds what is trained.
    pub fn trained_file(&self) -> &'static str {
        if self.adapters.is_some() { saved::WEIGHTS } else { MODEL }
    }

    /// Puts the weights of a checkpoint of this job in place of the base model's.
    pub fn restore(&mut self, parts: &Parts, checkpoint: &Path) -> Result<()> {
        if self.adapters.is_some() {
            return saved::restore(&self.params, parts.load(checkpoint, saved::WEIGHTS, |_| false)?);
        }
        let path = checkpoint.join(MODEL);
        let mut saved: HashMap<_, _> = parts.load(checkpoint, MODEL, |_| false)?.into_iter().collect();
        tch::no_grad(|| {
            for (name, param) in &mut self.params {
                let value =
                    saved.remove(name).with_context(|| format!("{name} is not in {}", path.display()))?;
                param.f_copy_(&value)?;
            }
            Ok(())
        })
    }

    fn write_rest(&self, folder: &Path, config: &Value) -> Result<()> {
        write_synced(&folder.join("config.json"), &serde_json::to_vec_pretty(config)?)?;
        copy_tokenizer(&self.base, folder)?;
        for (name, content) in &self.beside {
            let path = folder.join(name);
            if let Some(own) = path.parent() {
                std::fs::create_dir_all(own).with_context(|| format!("making {}", own.display()))?;
            }
            write_synced(&path, &serde_json::to_vec_pretty(content)?)?;
        }
        match &self.chat_template {
            Some(source) => write_synced(&folder.join("chat_template.jinja"), source.as_bytes()),
            None => Ok(()),
        }
    }

    /// The base checkpoint's licence, where it states one, goes with what is derived from it.
    pub fn write_licence(&self, folder: &Path) -> Result<()> {
        copy_licence(&self.base, folder)
    }
}

/// Copies a checkpoint's licence, where it has one.
pub fn copy_licence(from: &Path, to: &Path) -> Result<()> {
    for name in ["LICENSE", "LICENSE.txt", "LICENSE.md"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name))?;
        }
    }
    Ok(())
}

/// Copies a checkpoint's tokenizer.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            std::fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
            std::fs::File::open(to)?.sync_all()?;
        }
    }
    Ok(())
}

/// Makes `out/model` whole in one rename: `fill` writes into a folder beside it.
pub fn commit_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().context("a folder has a parent")?;
    let unfinished = parent.join(format!(".{}", path.file_name().unwrap_or_default().to_string_lossy()));
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    std::fs::create_dir_all(&unfinished)?;
    fill(&unfinished)?;
    if path.exists() {
        std::fs::remove_dir_all(path)?;
    }
    std::fs::rename(&unfinished, path)?;
    sync_folder(parent)
}
