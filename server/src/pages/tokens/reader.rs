//! Tokenizers with their templates, kept from one page to the next: a large one takes a second to load.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use formats::chat_template::ChatTemplate;
use formats::checkpoint::{Config, read_json};
use formats::tokenizer::Tokenizer;
use formats::{Problem, ProblemKind};
use store::estimate::Model;
use store::spec::Training;

use crate::openai::sample::lay_out;
use crate::{AppState, Error, Result};

/// How many are kept.
const KEPT: usize = 3;

/// Those used last, the newest at the end.
#[derive(Clone, Debug, Default)]
pub struct Readers(Arc<Mutex<Vec<Kept>>>);

type Kept = (String, Arc<Reader>);

/// What makes tokens of a row.
pub struct Reader {
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
    model: Model,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    fn load(folder: &Path, template: Option<&str>) -> std::result::Result<Self, Problem> {
        let config: Config = read_json(folder, "config.json", ProblemKind::Config)?;
        let tokenizer = Tokenizer::load(folder)?;
        let template = ChatTemplate::choose(folder, template, tokenizer.special_tokens().clone())?;
        Ok(Reader { model: Model::new(&config, 0)?, tokenizer, template })
    }

    /// The length that a job with these settings cuts rows to.
    pub fn max_length(&self, training: &Training) -> u64 {
        let stated = self.tokenizer.model_max_length().map(|length| length as u64);
        self.model.max_length(training, stated)
    }
}

/// The tokenizer of a model, with its own template or a chosen one.
pub async fn find(state: &AppState, model: &str, template: Option<&str>) -> Result<Arc<Reader>> {
    let files = store::model::files(&state.store.db, model).await?;
    if files.is_empty() {
        return Err(Error::not_found(format!("there is no model \"{model}\"")));
    }
    let hashes: Vec<String> = files.iter().map(|file| format!("{} {}", file.path, file.hash)).collect();
    let key = format!("{}\n{template:?}", hashes.join("\n"));
    let kept = || state.readers.0.lock().unwrap_or_else(PoisonError::into_inner);
    // What was used last stands at the end.
    let again = |all: &mut Vec<Kept>| {
        let at = all.iter().position(|(known, _)| *known == key)?;
        let found = all.remove(at);
        all.push(found.clone());
        Some(found.1)
    };
    if let Some(known) = again(&mut kept()) {
        return Ok(known);
    }
    let folder = tempfile::TempDir::with_prefix_in("reader-", state.config.data.join("cache"))?;
    lay_out(state, &files, folder.path()).await?;
    let template = template.map(str::to_owned);
    let load = move || Reader::load(folder.path(), template.as_deref());
    let made = tokio::task::spawn_blocking(load).await.map_err(|error| Error::Internal(error.into()))?;
    let made = Arc::new(made.map_err(|problem| Error::invalid("model", problem.to_string()))?);
    let mut all = kept();
    // Somebody else may have been quicker.
    if let Some(known) = again(&mut all) {
        return Ok(known);
    }
    if all.len() >= KEPT {
        all.remove(0);
    }
    all.push((key, made.clone()));
    Ok(made)
}
