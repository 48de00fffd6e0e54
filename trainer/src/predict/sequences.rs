//! Texts that a model writes from others.

use anyhow::Result;
use formats::tokenizer::Tokenizer;
use serde_json::{Value, json};
use store::spec::TextToText;

use super::{BATCH, Input, Predictor};
use crate::failure::Failure;
use crate::generate::Writing;
use crate::models;

impl Predictor {
    /// A text for each input, written as `settings` say: names of [`TextToText`], and `max_new_tokens`. What they leave open is
    /// the usual; texts are read as they are, so that what stands before a source is a part of it.
    pub(super) fn written(&self, inputs: &[Input], settings: &Value) -> Result<Vec<Value>> {
        let mut fields = settings.as_object().cloned().unwrap_or_default();
        if let Some(most) = fields.remove("max_new_tokens") {
            fields.insert("max_target_length".to_owned(), most);
        }
        let settings: TextToText = serde_json::from_value(Value::Object(fields))
            .map_err(|error| Failure::user("bad_settings", format!("settings: {error}.")))?;
        let mut texts = Vec::with_capacity(inputs.len());
        for (number, input) in inputs.iter().enumerate() {
            match input {
                Input::Text(text) | Input::Pair { text, text_pair: None } => {
                    texts.push((text.as_str(), None))
                }
                _ => {
                    let message =
                        format!("Input {number}: this model writes one text from another; send a text.");
                    return Err(Failure::user("other_task", message).into());
                }
            }
        }
        // What a request chooses is not to be left to the next one.
        let chosen = match (&settings.source_lang, &settings.target_lang) {
            (None, None) => None,
            (source, target) => {
                let mut tokenizer = Tokenizer::load(&self.folder)?;
                tokenizer.set_languages(source.as_deref(), target.as_deref())?;
                Some(tokenizer)
            }
        };
        let tokenizer = chosen.as_ref().unwrap_or(&self.tokenizer);
        let generation = models::generation_config(&self.folder)?;
        let writing = Writing::new((&self.config, &generation), &settings, tokenizer)?;
        let writing = writing.within(models::max_positions(&self.config));
        let sources = tokenizer.encode_pairs(&texts, self.max_length)?;
        let padding = (tokenizer.pad_id().unwrap_or(0), tokenizer.pad_type_id());
        let mut outputs = Vec::with_capacity(sources.len());
        for sources in sources.chunks(BATCH) {
            let sources: Vec<&[u32]> = sources.iter().map(|source| source.ids.as_slice()).collect();
            for ids in writing.answers(self.model.as_ref(), &sources, padding, self.device)? {
                outputs.push(json!({"text": tokenizer.decode(&ids, false)?}));
            }
        }
        Ok(outputs)
    }
}
