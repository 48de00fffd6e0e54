//! The files of a tokenizer that was made.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Trained;
use crate::problem::{Problem, ProblemKind};
use crate::tokenizer::FILE;

/// Names of special tokens, as transformers has them.
const NAMES: [(&str, &str); 5] = [
    ("pad_token", "<pad>"),
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("mask_token", "<mask>"),
];
/// What transformers writes where an input has no limit.
const NO_LIMIT: f64 = 1e30;

impl Trained {
    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into a folder, which transformers'
    /// `PreTrainedTokenizerFast` and [`crate::tokenizer::Tokenizer::load`] read.
    ///
    /// # Errors
    /// [`ProblemKind::Unreadable`] where a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Problem> {
        let special = self.recipe.kind.special_tokens();
        let named: Map<String, Value> = NAMES
            .iter()
            .filter(|(_, token)| special.contains(token))
            .map(|(name, token)| ((*name).to_owned(), json!(token)))
            .collect();
        let mut config = named.clone();
        config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        let longest = self.recipe.model_max_length.map_or(json!(NO_LIMIT), |length| json!(length));
        config.insert("model_max_length".to_owned(), longest);
        config.insert("model_input_names".to_owned(), json!(["input_ids", "attention_mask"]));
        let whole = super::guarded(|| self.inner.to_string(true))?;
        put(folder, FILE, whole)?;
        put(folder, "tokenizer_config.json", format!("{:#}\n", Value::Object(config)))?;
        put(folder, "special_tokens_map.json", format!("{:#}\n", Value::Object(named)))
    }
}

fn put(folder: &Path, name: &str, content: String) -> Result<(), Problem> {
    fs::write(folder.join(name), content).map_err(|error| {
        Problem::new(ProblemKind::Unreadable, name, format!("the file cannot be written: {error}"))
    })
}
