//! The files of a job that learns to write one text from another: read, split and tokenized.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use formats::dataset::random_split;
use formats::dataset::sequences::{Sequence, overlap, read_sequences};
use formats::tokenizer::{Encoding, Tokenizer};
use serde_json::Value;
use store::spec::{JobSpec, TextToText};

use super::{Cache, Data, Split, Tokens, parts};
use crate::failure::Failure;
use crate::job::Events;
use crate::models;
use crate::tasks::Targets;

/// How rows become tokens.
struct Maker<'a> {
    settings: TextToText,
    tokenizer: &'a Tokenizer,
    cache: &'a Cache,
    max_length: usize,
    /// Tokens of a target at most.
    longest: usize,
    start: Start,
}

/// What a decoder reads before the first token of an answer.
enum Start {
    /// Always the same.
    Token(u32),
    /// The answer's last token: mBART, where that is the language or the end.
    Last,
}

impl Start {
    fn of(config: &Value) -> Result<Self> {
        if config["model_type"] == "mbart" {
            return Ok(Start::Last);
        }
        let id = config.get("decoder_start_token_id").and_then(Value::as_u64);
        let none = || Failure::user("bad_config", "config.json: decoder_start_token_id is not given.");
        Ok(Start::Token(id.ok_or_else(none)? as u32))
    }

    /// An answer with what it begins with.
    fn before(&self, answer: &[u32]) -> Vec<u32> {
        let first = match self {
            Start::Token(id) => *id,
            Start::Last => answer.last().copied().unwrap_or_default(),
        };
        [&[first], answer].concat()
    }
}

impl Data {
    /// Reads the files under `DIR/data`; what is held out comes from files of their own, or from the training file.
    pub fn sequences(
        dir: &Path,
        spec: &JobSpec,
        config: &Value,
        (tokenizer, cache): (&Tokenizer, &Cache),
        max_length: usize,
        events: &mut Events,
    ) -> Result<Self> {
        let read = |file: &String| {
            read_sequences(&dir.join("data").join(file), file, &spec.columns).map_err(anyhow::Error::from)
        };
        let optional = |file: &Option<String>| file.as_ref().map(read).transpose();
        let all = read(&spec.data.train)?;
        let (validation, test) = (optional(&spec.data.validation)?, optional(&spec.data.test)?);
        let split = random_split(all.len(), spec.held_out(), u64::from(spec.split.seed));
        let (train, validation, test) = parts(&all, &split, validation, test);
        for (name, rows) in [("validation", &validation), ("test", &test)] {
            match overlap(&train, rows) {
                0 => {}
                n => events.warn(
                    0,
                    format!("{n} of {} {name} rows are in the training rows as well.", rows.len()),
                )?,
            }
        }
        let (settings, start) = (spec.text_to_text(), Start::of(config)?);
        let longest = settings.target_length().min(models::max_positions(config).unwrap_or(usize::MAX));
        let maker = Maker { settings, tokenizer, cache, max_length, longest, start };
        let mut made = |name: &str, rows: Vec<Sequence>| -> Result<Option<Split>> {
            if rows.is_empty() { Ok(None) } else { maker.split(name, rows, events).map(Some) }
        };
        let none = || Failure::user("too_few_rows", "No rows are left to train on.");
        let train = made("train", train)?.ok_or_else(none)?;
        let data = Data {
            train: Arc::new(train),
            validation: made("validation", validation)?,
            test: made("test", test)?,
            prompts: Vec::new(),
        };
        data.tell(max_length, events)?;
        Ok(data)
    }
}

impl Maker<'_> {
    /// Tokenizes sources, with what is put before each, and targets, cutting each to its length.
    fn split(&self, name: &str, rows: Vec<Sequence>, events: &mut Events) -> Result<Split> {
        let prefix = &self.settings.source_prefix;
        let sources: Vec<String> = rows.iter().map(|row| format!("{prefix}{}", row.source)).collect();
        let sources: Vec<(&str, Option<&str>)> = sources.iter().map(|text| (text.as_str(), None)).collect();
        // What is kept for the next job does not know of languages.
        let tokens = match (&self.settings.source_lang, &self.settings.target_lang) {
            (None, None) => self.cache.tokenize(self.tokenizer, &sources, self.max_length)?,
            _ => Tokens::of(&self.tokenizer.encode_pairs(&sources, self.max_length)?),
        };
        let targets: Vec<&str> = rows.iter().map(|row| row.target.as_str()).collect();
        let longest = self.longest;
        let answers = self.tokenizer.encode_targets(&targets, longest)?;
        match answers.iter().filter(|answer| answer.truncated).count() {
            0 => {}
            cut => events.warn(
                0,
                format!(
                    "{name}: {cut} of {} targets are longer than {longest} tokens and were cut; see max_target_length",
                    rows.len()
                ),
            )?,
        }
        let begun = |answer: Encoding| Encoding {
            ids: self.start.before(&answer.ids),
            type_ids: vec![0; answer.ids.len() + 1],
            truncated: answer.truncated,
        };
        let answers: Vec<Encoding> = answers.into_iter().map(begun).collect();
        Ok(Split {
            tokens,
            per_row: 1,
            reference: Vec::new(),
            mismatched: None,
            answers: Some(Tokens::of(&answers)),
            keys: Vec::new(),
            numbers: rows.iter().map(|row| row.row).collect(),
            targets: Targets::Tokens,
            texts: rows.into_iter().map(|row| (row.source, Some(row.target))).collect(),
        })
    }
}
