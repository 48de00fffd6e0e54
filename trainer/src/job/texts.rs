//! What a job's texts become tokens by: the languages that it names, and how long they may be.

use std::path::Path;

use anyhow::Result;
use formats::checkpoint::SentenceModel;
use formats::tokenizer::Tokenizer;
use serde_json::Value;
use store::spec::{JobSpec, QuestionAnswering, Task};

use crate::failure::Failure;
use crate::models;

/// The tokens that a row of a classifier is cut to when neither the settings nor the model say less; a language model's may
/// be twice as long.
const DEFAULT_MAX_LENGTH: usize = 512;

/// The tokenizer with the languages that the job names.
pub(super) fn languages(mut tokenizer: Tokenizer, spec: &JobSpec) -> Result<Tokenizer> {
    if spec.task.is_text_to_text() {
        let settings = spec.text_to_text();
        let (source, target) = (settings.source_lang.as_deref(), settings.target_lang.as_deref());
        tokenizer.set_languages(source, target).map_err(|problem| {
            Failure::user("unknown_language", format!("{problem}.")).at("training.text_to_text")
        })?;
    }
    Ok(tokenizer)
}

/// The tokens that the checkpoint says a text may have: its own word on texts in a model of vectors, else its tokenizer's.
pub(super) fn stated_length(spec: &JobSpec, base: &Path, tokenizer: &Tokenizer) -> Result<Option<usize>> {
    let own = match spec.task {
        Task::SentenceSimilarity => SentenceModel::read(base)?.max_seq_length,
        _ => None,
    };
    Ok(own.or_else(|| tokenizer.model_max_length()))
}

/// The shortest of what was asked for, what the model has positions for, and what it says of itself.
pub(super) fn max_length(spec: &JobSpec, config: &Value, stated: Option<usize>) -> Result<usize> {
    let positions = models::max_positions(config);
    if let Some(asked) = spec.training.max_length {
        let asked = asked as usize;
        if let Some(positions) = positions.filter(|&positions| asked > positions) {
            return Err(Failure::user(
                "invalid_max_length",
                format!("max_length is {asked}, and this model has {positions} positions."),
            )
            .at("max_length")
            .into());
        }
        return Ok(asked);
    }
    let usual = match spec.task {
        Task::TextGeneration => 2 * DEFAULT_MAX_LENGTH,
        Task::QuestionAnswering => QuestionAnswering::MAX_LENGTH as usize,
        _ => DEFAULT_MAX_LENGTH,
    };
    Ok(positions.unwrap_or(usual).min(stated.unwrap_or(usual)).min(usual))
}
