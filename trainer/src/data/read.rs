//! The files of a classification job, read, split and tokenized.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use formats::dataset::{Example, Label, LabelMap, overlap, read_classification, split_examples};
use formats::tokenizer::Tokenizer;
use store::spec::{JobSpec, ProblemType};

use super::{Cache, Prompt, Split};
use crate::job::Events;
use crate::tasks::Targets;

/// What there is to tell apart.
pub struct Classes {
    /// What a label is.
    pub problem: ProblemType,
    /// Label names by id, made from the training file alone.
    pub labels: Vec<String>,
}

/// All rows of a job.
pub struct Data {
    /// Rows to learn from.
    pub train: Arc<Split>,
    /// Rows that choose the best checkpoint.
    pub validation: Option<Split>,
    /// Rows that are looked at once, at the end.
    pub test: Option<Split>,
    /// What a language model is asked at its evaluations.
    pub prompts: Vec<Prompt>,
}

/// The examples of each part, before they are tokenized.
struct Parts {
    /// Made from the whole training file, so that a rare label may fall into a part held out of it.
    labels: LabelMap,
    train: Vec<Example>,
    validation: Vec<Example>,
    test: Vec<Example>,
}

impl Data {
    /// Reads a classifier's files under `DIR/data`; what is held out comes from files of their own, or from the training file.
    pub fn classified(
        dir: &Path,
        spec: &JobSpec,
        tokenizer: &Tokenizer,
        cache: &Cache,
        max_length: usize,
        events: &mut Events,
    ) -> Result<(Self, Classes)> {
        let problem = spec.problem_type.unwrap_or(ProblemType::SingleLabel);
        let parts = Parts::read(dir, spec, problem)?;
        let train_file = &spec.data.train;
        let map = &parts.labels;
        for (file, examples) in [(&spec.data.validation, &parts.validation), (&spec.data.test, &parts.test)] {
            if problem != ProblemType::Regression {
                map.check(file.as_ref().unwrap_or(train_file), &spec.columns.label, examples)?;
            }
        }
        for (name, examples) in [("validation", &parts.validation), ("test", &parts.test)] {
            match overlap(&parts.train, examples) {
                0 => {}
                n => events.warn(
                    0,
                    format!("{n} of {} {name} rows are in the training rows as well.", examples.len()),
                )?,
            }
        }
        let tokenize = |examples: Vec<Example>| -> Result<Split> {
            let targets = targets(&examples, problem, map);
            Split::tokenize(examples, targets, tokenizer, cache, max_length)
        };
        let held_out = |examples: Vec<Example>| match examples.is_empty() {
            true => Ok(None),
            false => tokenize(examples).map(Some),
        };
        let labels = map.names().to_vec();
        let data = Data {
            train: Arc::new(tokenize(parts.train)?),
            validation: held_out(parts.validation)?,
            test: held_out(parts.test)?,
            prompts: Vec::new(),
        };
        data.tell(max_length, events)?;
        if labels.len() > 1 {
            events.log(0, format!("{} classes: {}", labels.len(), labels.join(", ")))?;
        }
        Ok((data, Classes { problem, labels }))
    }

    /// Says how many rows there are, and how many were cut.
    pub(super) fn tell(&self, max_length: usize, events: &mut Events) -> Result<()> {
        let parts = [
            ("train", Some(&*self.train)),
            ("validation", self.validation.as_ref()),
            ("test", self.test.as_ref()),
        ];
        for (name, split) in parts {
            let Some(split) = split else { continue };
            let rows = split.len();
            events.log(0, format!("{name}: {rows} rows"))?;
            let cut = split.tokens.truncated();
            if cut > 0 {
                events.warn(
                    0,
                    format!("{name}: {cut} of {rows} rows are longer than {max_length} tokens and were cut"),
                )?;
            }
        }
        Ok(())
    }
}

impl Parts {
    fn read(dir: &Path, spec: &JobSpec, problem: ProblemType) -> Result<Self> {
        let read = |file: &String| {
            read_classification(&dir.join("data").join(file), file, &spec.columns, problem)
                .map_err(anyhow::Error::from)
        };
        let optional = |file: &Option<String>| file.as_ref().map(read).transpose();
        let all = read(&spec.data.train)?;
        let labels = match problem {
            // transformers' name of the one output.
            ProblemType::Regression => LabelMap::from_names(["LABEL_0".to_string()]),
            _ => LabelMap::from_train(&spec.data.train, all.iter().map(|example| &example.label))?,
        };
        let (validation, test) = (optional(&spec.data.validation)?, optional(&spec.data.test)?);
        let seed = u64::from(spec.split.seed);
        let split = split_examples(&spec.data.train, &all, spec.held_out(), spec.split.stratify, seed)?;
        let take = |rows: &[usize]| rows.iter().map(|&row| all[row].clone()).collect::<Vec<_>>();
        Ok(Parts {
            labels,
            train: take(&split.train),
            validation: validation.unwrap_or_else(|| take(&split.validation)),
            test: test.unwrap_or_else(|| take(&split.test)),
        })
    }
}

/// What the rows are to be taken for, by the label map of the training rows.
fn targets(examples: &[Example], problem: ProblemType, map: &LabelMap) -> Targets {
    let labels = examples.iter().map(|example| &example.label);
    match problem {
        ProblemType::SingleLabel => Targets::Classes(
            labels
                .map(|label| label.classes().first().and_then(|name| map.id(name)).unwrap_or_default())
                .collect(),
        ),
        ProblemType::MultiLabel => Targets::Flags(
            labels.flat_map(|label| map.names().iter().map(|name| label.classes().contains(name))).collect(),
        ),
        ProblemType::Regression => Targets::Numbers(
            labels.map(|label| if let Label::Value(value) = label { *value } else { f64::NAN }).collect(),
        ),
    }
}
