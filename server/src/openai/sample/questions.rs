//! Questions on texts, in windows.

use std::path::Path;

use formats::checkpoint::{Config, read_json};
use formats::dataset::questions::{Asking, read_questions};
use formats::dataset::random_split;
use formats::tokenizer::{Tokenizer, WindowError};
use formats::{Problem, ProblemKind};
use store::estimate::Model;
use store::spec::JobSpec;

use super::{Sample, evenly};
use crate::openai::prepare::{of_problem, refusal};
use crate::{Error, Result};

/// Cuts some questions' contexts into windows; what would end the job is an answer here. `shown` is the data's name as its
/// owner knows it.
pub(super) fn look(folder: &Path, data: &Path, shown: &str, spec: &JobSpec, bytes: u64) -> Result<Sample> {
    let of_model = |problem: Problem| of_problem("model", &problem);
    let config: Config = read_json(folder, "config.json", ProblemKind::Config).map_err(of_model)?;
    let model = Model::spanning(&config).map_err(of_model)?;
    let tokenizer = Tokenizer::load(folder).map_err(of_model)?;
    let asking = Asking::of(&spec.columns)
        .ok_or_else(|| Error::invalid("columns", "name context, question and answers"))?;
    let rows =
        read_questions(data, shown, &asking).map_err(|problems| refusal("training_file", &problems))?;
    let split = random_split(rows.len(), spec.held_out(), spec.split.seed.into());
    let stated = tokenizer.model_max_length().map(|length| length as u64);
    let length = model.max_length(&spec.training, stated) as usize;
    let stride = spec.question_answering().doc_stride as usize;
    let looked_at: Vec<usize> = evenly(&split.train).collect();
    let asked: Vec<(&str, &str)> =
        looked_at.iter().map(|&row| (rows[row].question.as_str(), rows[row].context.as_ref())).collect();
    let windows = tokenizer.windows(&asked, length, stride).map_err(|error| match error {
        WindowError::Problem(problem) => of_model(problem),
        WindowError::TooLong { at, tokens, room } => Error::invalid(
            "hyperparameters.max_length",
            format!(
                "{shown}, {}: the question has {tokens} tokens, which leave room for {room} of its context in a window \
                 of {length}; that has to be more than doc_stride {stride}. Shorten it, or choose a greater max_length or \
                 a smaller doc_stride",
                rows[looked_at[at]].lines
            ),
        ),
    })?;
    let lengths: Vec<u64> = windows.iter().flatten().map(|window| window.ids.len() as u64).collect();
    // What goes through the model are windows.
    let each = lengths.len() as f64 / looked_at.len().max(1) as f64;
    Ok(Sample {
        model,
        rows: (split.train.len() as f64 * each).round() as u64,
        bytes,
        looked_at: looked_at.len() as u64,
        lengths,
        stated,
        shares: None,
        target_share: 0.0,
        has_template: false,
    })
}
