//! Rows of sources and targets, each of which is a sequence.

use std::path::Path;

use formats::checkpoint::{Config, read_json};
use formats::dataset::random_split;
use formats::dataset::sequences::read_sequences;
use formats::tokenizer::Tokenizer;
use formats::{Problem, ProblemKind};
use store::estimate::Model;
use store::spec::JobSpec;

use super::{Sample, Shares, evenly};
use crate::openai::prepare::{of_problem, refusal};
use crate::{Error, Result};

/// Tokenizes some rows; what would end the job is an answer here. `shown` is the data's name as its owner knows it.
pub(super) fn look(folder: &Path, data: &Path, shown: &str, spec: &JobSpec, bytes: u64) -> Result<Sample> {
    let of_model = |problem: Problem| of_problem("model", &problem);
    let config: Config = read_json(folder, "config.json", ProblemKind::Config).map_err(of_model)?;
    let model = Model::of_task(spec.task, &config, 0).map_err(of_model)?;
    let mut tokenizer = Tokenizer::load(folder).map_err(of_model)?;
    let settings = spec.text_to_text();
    check_tokens(&mut tokenizer, spec)?;
    let rows =
        read_sequences(data, shown, &spec.columns).map_err(|problems| refusal("training_file", &problems))?;
    let split = random_split(rows.len(), spec.held_out(), spec.split.seed.into());
    let stated = tokenizer.model_max_length().map(|length| length as u64);
    let length = model.max_length(&spec.training, stated).max(4) as usize;
    let looked_at: Vec<_> = evenly(&split.train).map(|row| &rows[row]).collect();
    let sources: Vec<String> =
        looked_at.iter().map(|row| format!("{}{}", settings.source_prefix, row.source)).collect();
    let sources: Vec<_> = sources.iter().map(|text| (text.as_str(), None)).collect();
    let targets: Vec<_> = looked_at.iter().map(|row| row.target.as_str()).collect();
    let sources = tokenizer.encode_pairs(&sources, length).map_err(of_model)?;
    let target_length = settings.target_length().min(model.positions as usize).max(4);
    let targets = tokenizer.encode_targets(&targets, target_length).map_err(of_model)?;
    let rows: Vec<[u64; 2]> = sources
        .iter()
        .zip(&targets)
        .map(|(source, target)| [source.ids.len() as u64, target.ids.len() as u64])
        .collect();
    let of_targets: u64 = rows.iter().map(|[_, target]| target).sum();
    let all: u64 = rows.iter().flatten().sum();
    let cut = sources.iter().zip(&targets).filter(|(source, target)| source.truncated || target.truncated);
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let target_share = share(of_targets, all);
    Ok(Sample {
        model,
        rows: split.train.len() as u64,
        bytes,
        target_share,
        looked_at: rows.len() as u64,
        lengths: rows.iter().map(|[source, target]| source + target).collect(),
        stated,
        shares: Some(Shares {
            truncated: share(cut.count() as u64, rows.len() as u64),
            counted: target_share,
            left_out: 0.0,
        }),
        has_template: false,
    })
}

/// The tokenizer has to know the languages, which it then writes, and the first token of a target.
fn check_tokens(tokenizer: &mut Tokenizer, spec: &JobSpec) -> Result<()> {
    let settings = spec.text_to_text();
    let at = |name: &str| format!("hyperparameters.text_to_text.{name}");
    let [source, target] = [settings.source_lang.as_deref(), settings.target_lang.as_deref()];
    for (name, source, target) in [("source_lang", source, None), ("target_lang", None, target)] {
        let set = tokenizer.set_languages(source, target);
        set.map_err(|problem| Error::invalid(at(name), problem.to_string()))?;
    }
    match settings.forced_bos_token.filter(|token| tokenizer.token_id(token).is_none()) {
        None => Ok(()),
        Some(token) => {
            let message = format!(
                "the model's vocabulary has no token `{token}`; write it as the model does, such as fr_XX"
            );
            Err(Error::invalid(at("forced_bos_token"), message))
        }
    }
}
