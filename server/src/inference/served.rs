//! Which files answer for a model.

use formats::checkpoint::{ADAPTER_BASE, ADAPTER_CONFIG};
use serde_json::Value;
use store::model::{self, Model};
use store::{Store, StoredFile, job};

use crate::Result;

/// Bytes of a configuration or a template that are read.
const LONGEST_TEXT: u64 = 8 << 20;

/// Ends of names of what a model is loaded from; cards, licences and results of its training make no other model.
const READ: [&str; 5] = [".json", ".safetensors", ".jinja", ".txt", ".model"];

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// What a model is answered from.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// Its id.
    pub model: String,
    /// A whole model, whose content decides the worker.
    pub base: Vec<StoredFile>,
    /// The adapter on it, where the model is one.
    pub adapter: Option<Vec<StoredFile>>,
    /// The chat template that it was trained with, where that is not the base's own.
    pub template: Option<String>,
}

impl Served {
    /// Finds the files of a model.
    pub async fn of(store: &Store, model: &Model) -> Result<Self> {
        let files = model::files(&store.db, &model.model_id).await?;
        let chosen = match model.job_id {
            Some(job) => job::get(&store.db, job).await?.and_then(|job| job.spec.0.training.chat_template),
            None => None,
        };
        let parts = Parts::of(files);
        if parts.base.is_empty() {
            let base = loadable(parts.own);
            return Ok(Served { model: model.model_id.clone(), base, adapter: None, template: chosen });
        }
        let base = parts.whole_base(store, model).await?;
        let template = match chosen {
            Some(chosen) => Some(chosen),
            None => parts.own_template(store, &base).await?,
        };
        let adapter = Some(loadable(parts.own));
        Ok(Served { model: model.model_id.clone(), base, adapter, template })
    }
}

impl Served {
    /// Whether it has a chat template, so that it takes conversations.
    pub async fn chats(&self, store: &Store) -> Result<bool> {
        if self.template.is_some() || named(&self.base, TEMPLATE).is_some() {
            return Ok(true);
        }
        match named(&self.base, TOKENIZER_CONFIG) {
            Some(file) => Ok(!read(store, file).await?["chat_template"].is_null()),
            None => Ok(false),
        }
    }
}

/// A model's files: its own, and those of the base beside an adapter, without their folder.
struct Parts {
    own: Vec<StoredFile>,
    base: Vec<StoredFile>,
}

impl Parts {
    fn of(files: Vec<StoredFile>) -> Self {
        if named(&files, ADAPTER_CONFIG).is_none() {
            return Parts { own: files, base: Vec::new() };
        }
        let mut parts = Parts { own: Vec::new(), base: Vec::new() };
        for mut file in files {
            match file.path.strip_prefix(ADAPTER_BASE).and_then(|path| path.strip_prefix('/')) {
                Some(path) => {
                    file.path = path.to_owned();
                    parts.base.push(file);
                }
                None => parts.own.push(file),
            }
        }
        parts
    }

    /// The model that the adapter is on: one of this server's where it is there, so that both are answered by one worker,
    /// and else what lies beside the adapter, with the adapter's tokenizer.
    async fn whole_base(&self, store: &Store, model: &Model) -> Result<Vec<StoredFile>> {
        let quantized = self.quantized_config(store).await?;
        if quantized.is_none() {
            let wanted: Vec<StoredFile> =
                self.base.iter().chain(named(&self.own, TOKENIZER)).cloned().collect();
            if let Some(id) = model::holding(&store.db, &wanted, model.base_model.as_deref()).await? {
                return Ok(loadable(model::files(&store.db, &id).await?));
            }
        }
        let mut files = self.base.clone();
        let beside = self.own.iter().filter(|file| is_of_tokenizer(&file.path)).chain(quantized);
        for file in beside {
            match files.iter_mut().find(|found| found.path == file.path) {
                Some(found) if file.path == CONFIG => *found = file.clone(),
                Some(_) => {}
                None => files.push(file.clone()),
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(loadable(files))
    }

    /// The configuration of an adapter whose base is taken in fewer bits: such a base is another model than the whole one.
    async fn quantized_config(&self, store: &Store) -> Result<Option<&StoredFile>> {
        let Some(file) = named(&self.own, CONFIG) else {
            return Ok(None);
        };
        let config = read(store, file).await?;
        Ok((!config["base_quantization"].is_null()).then_some(file))
    }

    /// The adapter's own chat template, where it is another than the base's.
    async fn own_template(&self, store: &Store, base: &[StoredFile]) -> Result<Option<String>> {
        let other = |name: &str| {
            let own = named(&self.own, name)?;
            (named(base, name).map(|file| &file.hash) != Some(&own.hash)).then_some(own)
        };
        if let Some(file) = other(TEMPLATE) {
            let text = store.objects.read_all(&file.hash, LONGEST_TEXT).await?;
            return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
        }
        match other(TOKENIZER_CONFIG) {
            Some(file) => Ok(read(store, file).await?["chat_template"].as_str().map(str::to_owned)),
            None => Ok(None),
        }
    }
}

async fn read(store: &Store, file: &StoredFile) -> Result<Value> {
    let text = store.objects.read_all(&file.hash, LONGEST_TEXT).await?;
    Ok(serde_json::from_slice(&text).unwrap_or_default())
}

fn named<'f>(files: &'f [StoredFile], path: &str) -> Option<&'f StoredFile> {
    files.iter().find(|file| file.path == path)
}

fn loadable(mut files: Vec<StoredFile>) -> Vec<StoredFile> {
    files.retain(|file| READ.iter().any(|end| file.path.ends_with(end)));
    files
}

/// Whether a file beside an adapter is of the tokenizer, which bases lie without.
fn is_of_tokenizer(path: &str) -> bool {
    let known = ["special_tokens_map.json", "added_tokens.json", "merges.txt", "spiece.model", TEMPLATE];
    path.starts_with("tokenizer")
        || path.starts_with("vocab")
        || path.starts_with("sentencepiece")
        || known.contains(&path)
}
