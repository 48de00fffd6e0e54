//! Rows of tagged words, each of which is a sequence.

use std::path::Path;

use formats::checkpoint::{Config, read_json};
use formats::dataset::random_split;
use formats::dataset::tagged::{Tagging, read_tagged};
use formats::tokenizer::Tokenizer;
use formats::{Problem, ProblemKind};
use store::estimate::Model;
use store::spec::JobSpec;

use super::{Sample, evenly};
use crate::openai::prepare::{of_problem, refusal};
use crate::{Error, Result};

/// Tokenizes some rows; what would end the job is an answer here. `shown` is the data's name as its owner knows it.
pub(super) fn look(folder: &Path, data: &Path, shown: &str, spec: &JobSpec, bytes: u64) -> Result<Sample> {
    let of_model = |problem: Problem| of_problem("model", &problem);
    let config: Config = read_json(folder, "config.json", ProblemKind::Config).map_err(of_model)?;
    let tagging = Tagging::of(&spec.columns)
        .ok_or_else(|| Error::invalid("columns", "name tokens and tags, or text and entities"))?;
    let rows = read_tagged(data, shown, tagging).map_err(|problems| refusal("training_file", &problems))?;
    let mut tags: Vec<&String> = rows.iter().flat_map(|row| &row.tags).collect();
    tags.sort_unstable();
    tags.dedup();
    let model = Model::of_task(spec.task, &config, tags.len() as u64).map_err(of_model)?;
    let tokenizer = Tokenizer::load(folder).map_err(of_model)?.for_words();
    let split = random_split(rows.len(), spec.held_out(), spec.split.seed.into());
    let words: Vec<&[String]> = evenly(&split.train).map(|row| rows[row].words.as_slice()).collect();
    let made = tokenizer.encode_words(&words, model.positions.max(8) as usize).map_err(of_model)?;
    Ok(Sample {
        model,
        rows: split.train.len() as u64,
        bytes,
        target_share: 0.0,
        looked_at: made.len() as u64,
        lengths: made.iter().map(|row| row.encoding.ids.len() as u64).collect(),
        stated: tokenizer.model_max_length().map(|length| length as u64),
        shares: None,
        has_template: false,
    })
}
