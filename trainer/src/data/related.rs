//! The files of a job that learns vectors: related texts, read, split and tokenized.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use formats::checkpoint::SentenceModel;
use formats::dataset::random_split;
use formats::dataset::related::{Related, Relation, key, overlap, read_related};
use formats::tokenizer::Tokenizer;
use store::spec::JobSpec;

use super::{Cache, Data, Split, parts};
use crate::failure::Failure;
use crate::job::Events;
use crate::tasks::Targets;

/// Rows that are held out, at most, where each is looked for among all: so many vectors are kept and compared.
const MOST_LOOKED_AT: usize = 10_000;

impl Data {
    /// Reads the files under `DIR/data`; what is held out comes from files of their own, or from the training file.
    pub fn related(
        dir: &Path,
        spec: &JobSpec,
        sentence: &SentenceModel,
        tokenizer: &Tokenizer,
        cache: &Cache,
        max_length: usize,
        events: &mut Events,
    ) -> Result<Self> {
        let relation = Relation::of(&spec.columns)
            .ok_or_else(|| Failure::user("invalid_spec", "columns: the roles are missing.").at("columns"))?;
        let within = spec.embedding().0.scores_within();
        let read = |file: &String| {
            read_related(&dir.join("data").join(file), file, &relation, within).map_err(anyhow::Error::from)
        };
        let optional = |file: &Option<String>| file.as_ref().map(read).transpose();
        let all = read(&spec.data.train)?;
        let (validation, test) = (optional(&spec.data.validation)?, optional(&spec.data.test)?);
        let split = random_split(all.len(), spec.held_out(), u64::from(spec.split.seed));
        let (train, mut validation, mut test) = parts(&all, &split, validation, test);
        for (name, rows) in [("validation", &mut validation), ("test", &mut test)] {
            let all = rows.len();
            if !relation.is_scored() && all > MOST_LOOKED_AT {
                *rows = (0..MOST_LOOKED_AT).map(|at| rows[at * all / MOST_LOOKED_AT].clone()).collect();
                events.warn(
                    0,
                    format!("{name}: {MOST_LOOKED_AT} of {all} rows, evenly chosen, are evaluated: each is looked for among all"),
                )?;
            }
        }
        for (name, rows) in [("validation", &validation), ("test", &test)] {
            match overlap(&train, rows) {
                0 => {}
                n => events.warn(
                    0,
                    format!("{n} of {} {name} rows are in the training rows as well.", rows.len()),
                )?,
            }
        }
        let tokenize = |rows: Vec<Related>| -> Result<Split> {
            Split::related(rows, relation.texts().len(), sentence, tokenizer, cache, max_length)
        };
        let held_out = |rows: Vec<Related>| if rows.is_empty() { Ok(None) } else { tokenize(rows).map(Some) };
        let data = Data {
            train: Arc::new(tokenize(train)?),
            validation: held_out(validation)?,
            test: held_out(test)?,
            prompts: Vec::new(),
        };
        data.tell(max_length, events)?;
        Ok(data)
    }
}

impl Split {
    /// Tokenizes the texts of each row, cutting each to `max_length` tokens.
    fn related(
        rows: Vec<Related>,
        per_row: usize,
        sentence: &SentenceModel,
        tokenizer: &Tokenizer,
        cache: &Cache,
        max_length: usize,
    ) -> Result<Self> {
        let prepared: Vec<_> =
            rows.iter().flat_map(|row| &row.texts).map(|text| sentence.prepared(text)).collect();
        let texts: Vec<(&str, Option<&str>)> = prepared.iter().map(|text| (text.as_ref(), None)).collect();
        Ok(Split {
            tokens: cache.tokenize(tokenizer, &texts, max_length)?,
            per_row,
            reference: Vec::new(),
            mismatched: None,
            answers: None,
            keys: rows.iter().flat_map(|row| &row.texts).map(|text| key(text)).collect(),
            numbers: rows.iter().map(|row| row.row).collect(),
            targets: Targets::Nearness(rows.iter().filter_map(|row| row.score).collect()),
            texts: rows
                .into_iter()
                .map(|row| {
                    let mut texts = row.texts.into_iter();
                    (texts.next().unwrap_or_default(), texts.next())
                })
                .collect(),
        })
    }
}
