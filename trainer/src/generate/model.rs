//! A language model that writes, and its adapters, which share its weights.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use formats::chat_template::ChatTemplate;
use formats::checkpoint::Weights;
use formats::tokenizer::Tokenizer;
use serde_json::Value;
use tch::Device;

use super::grammar::{Format, Grammar, Grammars};
use crate::failure::Failure;
use crate::models::{self, Head, TextModel};
use crate::nn::{Loader, Shared, Vocabulary, saved};
use crate::tuned::quantization;

/// Positions of a model that does not say how many it has.
const DEFAULT_CONTEXT: usize = 2048;

/// A model under one of its adapters, or as it is.
pub struct Voice {
    /// The model.
    pub model: Box<dyn TextModel>,
    /// What its texts are made of.
    pub tokenizer: Rc<Tokenizer>,
    /// How conversations are written.
    pub template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    pub ends: BTreeSet<u32>,
    grammars: OnceCell<Grammars>,
}

impl Voice {
    /// A grammar for one answer.
    ///
    /// # Errors
    /// A [`Failure`] of the user for a schema that cannot be kept to.
    pub fn grammar(&self, format: &Format) -> Result<Grammar> {
        let rows = self.model.vocabulary().map_or(0, Vocabulary::tokens);
        let end = self.ends.first().copied().unwrap_or(0);
        // Made at the first use: it looks at each token of the vocabulary.
        let made = match self.grammars.get() {
            Some(made) => made,
            None => {
                let made = Grammars::new(&self.tokenizer, rows, end)?;
                self.grammars.get_or_init(|| made)
            }
        };
        made.make(format)
    }
}

/// A base with the adapters that were asked for so far.
pub struct Voices {
    folder: PathBuf,
    device: Device,
    config: Value,
    shared: Shared,
    own: Rc<Voice>,
    adapted: HashMap<PathBuf, Rc<Voice>>,
}

impl Voices {
    /// Loads the base.
    ///
    /// # Errors
    /// A [`Failure`] of the user where the folder holds no language model.
    pub fn open(folder: &Path, device: Device) -> Result<Self> {
        let config = models::read_config(folder)?;
        let shared = Shared::default();
        let own = Rc::new(voice(folder, None, &config, &shared, device)?);
        Ok(Voices { folder: folder.to_owned(), device, config, shared, own, adapted: HashMap::new() })
    }

    /// Where the base lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tokens that a sequence may have.
    pub fn context(&self) -> usize {
        models::max_positions(&self.config).unwrap_or(DEFAULT_CONTEXT)
    }

    /// Numbers of the base.
    pub fn parameters(&self) -> u64 {
        self.shared.numbers()
    }

    /// The base, or the base under an adapter, which is loaded at its first use.
    ///
    /// # Errors
    /// A [`Failure`] of the user where the folder holds no adapter of this base.
    pub fn get(&mut self, adapter: Option<&Path>) -> Result<Rc<Voice>> {
        let Some(adapter) = adapter else { return Ok(self.own.clone()) };
        if let Some(known) = self.adapted.get(adapter) {
            return Ok(known.clone());
        }
        let made = Rc::new(voice(&self.folder, Some(adapter), &self.config, &self.shared, self.device)?);
        self.adapted.insert(adapter.to_owned(), made.clone());
        Ok(made)
    }

    /// Forgets an adapter; sequences that are being written go on with it.
    pub fn forget(&mut self, adapter: &Path) -> bool {
        self.adapted.remove(adapter).is_some()
    }
}

fn voice(
    base: &Path,
    adapter: Option<&Path>,
    config: &Value,
    shared: &Shared,
    device: Device,
) -> Result<Voice> {
    let prefix = models::base_of(config["model_type"].as_str().unwrap_or_default())?;
    let weights = Weights::open(base)?;
    let loader = Loader::new(&weights, prefix, 0, device);
    let loader = match adapter {
        None => loader.sharing(shared),
        Some(folder) => {
            let none = || Failure::user("no_adapter", "The folder holds no adapter.");
            let saved = saved::read(folder)?.ok_or_else(none)?;
            let mut settings = saved.settings.clone();
            settings.quantization = models::read_config(folder).ok().as_ref().and_then(quantization);
            // A base in fewer bits has numbers of its own.
            let loader = if settings.quantization.is_none() { loader.sharing(shared) } else { loader };
            loader.adapted_as(Some(&settings), saved.whole.clone())
        }
    };
    let model = models::build(config, &loader, Head::Tokens, Some(0.0))?;
    let loaded = loader.finish()?;
    if let Some(folder) = adapter {
        saved::load(&loaded.params, folder)?;
    }
    let texts = adapter.filter(|folder| folder.join("tokenizer.json").is_file()).unwrap_or(base);
    let tokenizer = Tokenizer::load(texts)?;
    Ok(Voice {
        model,
        template: ChatTemplate::load(texts, tokenizer.special_tokens().clone())?,
        ends: ends(&[texts, base], config, &tokenizer),
        tokenizer: Rc::new(tokenizer),
        grammars: OnceCell::new(),
    })
}

/// What ends an answer: `eos_token_id` of `generation_config.json`, else of `config.json`, and the tokenizer's end mark.
fn ends(folders: &[&Path], config: &Value, tokenizer: &Tokenizer) -> BTreeSet<u32> {
    let read = |folder: &&Path| -> Option<Value> {
        let text = std::fs::read(folder.join("generation_config.json")).ok()?;
        let value: Value = serde_json::from_slice(&text).ok()?;
        value.get("eos_token_id").filter(|ids| !ids.is_null()).cloned()
    };
    let stated = folders.iter().find_map(read).or_else(|| config.get("eos_token_id").cloned());
    let ids = match &stated {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => id.as_u64().into_iter().collect(),
        None => Vec::new(),
    };
    let ids = ids.into_iter().filter_map(|id| u32::try_from(id).ok());
    ids.chain(tokenizer.eos_id()).collect()
}
