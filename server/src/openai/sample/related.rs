//! Rows of related texts, each of which is a sequence.

use std::path::Path;

use formats::checkpoint::{Config, SentenceModel, read_json};
use formats::dataset::random_split;
use formats::dataset::related::{Relation, read_related};
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
    let model = Model::bare(&config).map_err(of_model)?;
    let sentence = SentenceModel::read(folder).map_err(of_model)?;
    let tokenizer = Tokenizer::load(folder).map_err(of_model)?;
    let relation = Relation::of(&spec.columns)
        .ok_or_else(|| Error::invalid("columns", "name anchor and positive, or text1, text2 and score"))?;
    let within = spec.embedding().0.scores_within();
    let rows = read_related(data, shown, &relation, within)
        .map_err(|problems| refusal("training_file", &problems))?;
    let split = random_split(rows.len(), spec.held_out(), spec.split.seed.into());
    let stated = sentence.max_seq_length.or_else(|| tokenizer.model_max_length());
    let stated = stated.map(|length| length as u64);
    let prepared: Vec<_> =
        evenly(&split.train).flat_map(|row| &rows[row].texts).map(|text| sentence.prepared(text)).collect();
    let texts: Vec<(&str, Option<&str>)> = prepared.iter().map(|text| (text.as_ref(), None)).collect();
    // Each text is cut on its own.
    let length = model.max_length(&spec.training, stated).max(4) as usize;
    let encodings = tokenizer.encode_pairs(&texts, length).map_err(of_model)?;
    let per_row = relation.texts().len();
    let tokens = |row: &[formats::tokenizer::Encoding]| row.iter().map(|text| text.ids.len() as u64).sum();
    Ok(Sample {
        model,
        rows: split.train.len() as u64,
        bytes,
        target_share: 0.0,
        looked_at: (encodings.len() / per_row) as u64,
        lengths: encodings.chunks(per_row).map(tokens).collect(),
        stated,
        shares: None,
        has_template: false,
    })
}
