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
use crate::nn::{Adapters, Loader, Shared, Vocabulary, saved};
use crate::tuned::quantization;

/// Positions of a model that does not say how many it has.
pub const DEFAULT_CONTEXT: usize = 2048;

/// A model under one of its adapters, or as it is.
pub struct Voice {
    /// The model.
    pub model: Rc<dyn TextModel>,
    /// What its texts are made of.
    pub tokenizer: Rc<Tokenizer>,
    /// How conversations are written.
    pub template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    pub ends: BTreeSet<u32>,
    grammars: OnceCell<Grammars>,
}

impl Voice {
    /// A model that is in memory, such as one in training. `folders`: where its texts come from, those that count first.
    pub fn of(
        model: Rc<dyn TextModel>,
        folders: &[&Path],
        config: &Value,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
    ) -> Self {
        let ends = ends(folders, config, &tokenizer);
        Voice { model, template, ends, tokenizer: Rc::new(tokenizer), grammars: OnceCell::new() }
    }

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

/// A base with adapters that were asked for: as many as there is room for, and those at work.
pub struct Voices {
    folder: PathBuf,
    device: Device,
    config: Value,
    shared: Shared,
    own: Rc<Voice>,
    adapted: HashMap<PathBuf, Adapted>,
    /// Bytes that adapters may take together.
    room: u64,
    /// How often an adapter was asked for.
    asked: u64,
    dropped: Vec<PathBuf>,
}

/// A base under an adapter.
struct Adapted {
    voice: Rc<Voice>,
    /// What it has in memory of its own.
    bytes: u64,
    /// When it was asked for last, counted in requests.
    used: u64,
}

/// Bytes that adapters may take in any case; beside a larger base they may take as much as it does.
const ROOM: u64 = 1 << 30;

impl Voices {
    /// Loads the base.
    ///
    /// # Errors
    /// A [`Failure`] of the user where the folder holds no language model.
    pub fn open(folder: &Path, device: Device) -> Result<Self> {
        let config = models::read_config(folder)?;
        let shared = Shared::default();
        let own = Rc::new(voice(folder, None, &config, &shared, device)?.0);
        Ok(Voices {
            folder: folder.to_owned(),
            device,
            config,
            room: ROOM.max(4 * shared.numbers()),
            shared,
            own,
            adapted: HashMap::new(),
            asked: 0,
            dropped: Vec::new(),
        })
    }

    /// With room for so many bytes of adapters.
    pub fn with_room(self, room: u64) -> Self {
        Voices { room, ..self }
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

    /// The base, or the base under an adapter, which is loaded where it is not there. Where adapters then take more than there is
    /// room for, those that nobody has asked for the longest are dropped; one at work never is.
    ///
    /// # Errors
    /// A [`Failure`] of the user where the folder holds no adapter of this base.
    pub fn get(&mut self, adapter: Option<&Path>) -> Result<Rc<Voice>> {
        let Some(adapter) = adapter else { return Ok(self.own.clone()) };
        self.asked += 1;
        if let Some(known) = self.adapted.get_mut(adapter) {
            known.used = self.asked;
            return Ok(known.voice.clone());
        }
        let (made, bytes) = voice(&self.folder, Some(adapter), &self.config, &self.shared, self.device)?;
        let made = Rc::new(made);
        let adapted = Adapted { voice: made.clone(), bytes, used: self.asked };
        self.adapted.insert(adapter.to_owned(), adapted);
        self.make_room();
        Ok(made)
    }

    fn make_room(&mut self) {
        while self.adapted.values().map(|adapted| adapted.bytes).sum::<u64>() > self.room {
            // Whoever is at work has it too.
            let idle = self.adapted.iter().filter(|(_, adapted)| Rc::strong_count(&adapted.voice) == 1);
            let Some(longest) = idle.min_by_key(|(_, adapted)| adapted.used) else { return };
            let folder = longest.0.clone();
            self.adapted.remove(&folder);
            self.dropped.push(folder);
        }
    }

    /// Adapters that were dropped since this was asked last.
    pub fn take_dropped(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.dropped)
    }

    /// Forgets an adapter; sequences that are being written go on with it.
    pub fn forget(&mut self, adapter: &Path) -> bool {
        self.adapted.remove(adapter).is_some()
    }
}

/// A voice, and the bytes that it has in memory of its own.
fn voice(
    base: &Path,
    adapter: Option<&Path>,
    config: &Value,
    shared: &Shared,
    device: Device,
) -> Result<(Voice, u64)> {
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
    let template = ChatTemplate::load(texts, tokenizer.special_tokens().clone())?;
    // What several have together is not trained.
    let quantized = loaded.adapters.as_ref().map_or(0, Adapters::quantized_bytes);
    let own = loaded.params.iter().filter(|(_, param)| quantized > 0 || param.requires_grad());
    let bytes = own.map(|(_, param)| (param.numel() * param.kind().elt_size_in_bytes()) as u64).sum::<u64>();
    Ok((Voice::of(model.into(), &[texts, base], config, tokenizer, template), bytes + quantized))
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
