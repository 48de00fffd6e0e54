//! The rows of a part of the data, tokenized.

use anyhow::Result;
use formats::dataset::Example;
use formats::tokenizer::Tokenizer;

use super::Row;
use super::tokens::{Cache, Tokens};
use crate::tasks::Targets;

/// Training, validation or test rows.
pub struct Split {
    /// Tokens of each row.
    pub tokens: Tokens,
    /// Each row's number in its file, from 0.
    pub numbers: Vec<u64>,
    /// What each row is to be taken for.
    pub targets: Targets,
    /// Texts, and second texts of pairs, to show beside predictions; none of a language model.
    pub texts: Vec<(String, Option<String>)>,
}

impl Split {
    /// Tokenizes examples, cutting each to `max_length` tokens.
    pub fn tokenize(
        examples: Vec<Example>,
        targets: Targets,
        tokenizer: &Tokenizer,
        cache: &Cache,
        max_length: usize,
    ) -> Result<Self> {
        let texts: Vec<(&str, Option<&str>)> =
            examples.iter().map(|example| (example.text.as_str(), example.text_pair.as_deref())).collect();
        Ok(Split {
            tokens: cache.tokenize(tokenizer, &texts, max_length)?,
            numbers: examples.iter().map(|example| example.row).collect(),
            targets,
            texts: examples.into_iter().map(|example| (example.text, example.text_pair)).collect(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// A row.
    pub fn row(&self, at: usize) -> Row<'_> {
        let (number, (ids, marks)) = (self.numbers[at], self.tokens.row(at));
        match self.targets {
            Targets::Tokens => Row { number, ids, type_ids: &[], counts: marks },
            _ => Row { number, ids, type_ids: marks, counts: &[] },
        }
    }
}
