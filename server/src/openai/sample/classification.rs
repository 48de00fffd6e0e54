//! Rows of a table, as texts or pairs of texts.

use std::path::Path;

use formats::checkpoint::Config;
use formats::dataset::{LabelMap, ProblemType, read_classification, split_examples};
use formats::tokenizer::Tokenizer;
use store::estimate::Model;
use store::spec::JobSpec;

use super::{Sample, evenly};

pub(super) fn look(
    folder: &Path,
    data: &Path,
    spec: &JobSpec,
    problem: ProblemType,
    bytes: u64,
) -> Result<Sample, anyhow::Error> {
    let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let name = &spec.data.train;
    let examples = read_classification(data, name, &spec.columns, problem)?;
    let split =
        split_examples(name, &examples, spec.held_out(), spec.split.stratify, spec.split.seed.into())?;
    let labels = match problem {
        ProblemType::Regression => 1,
        _ => LabelMap::from_train(name, examples.iter().map(|example| &example.label))?.len(),
    };
    let model = Model::new(&config, labels as u64)?;
    let tokenizer = Tokenizer::load(folder)?;
    let texts: Vec<(&str, Option<&str>)> = evenly(&split.train)
        .map(|row| (examples[row].text.as_str(), examples[row].text_pair.as_deref()))
        .collect();
    let encodings = tokenizer.encode_pairs(&texts, model.positions.max(8) as usize)?;
    Ok(Sample {
        model,
        rows: split.train.len() as u64,
        bytes,
        target_share: 0.0,
        looked_at: encodings.len() as u64,
        lengths: encodings.iter().map(|encoding| encoding.ids.len() as u64).collect(),
        stated: tokenizer.model_max_length().map(|length| length as u64),
        shares: None,
        has_template: false,
    })
}
