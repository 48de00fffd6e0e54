//! The rows of a part of the data, tokenized.

use anyhow::Result;
use formats::dataset::Example;
use formats::tokenizer::{Encoding, Tokenizer};

use super::Row;
use super::tokens::{Cache, Tokens};
use crate::tasks::Targets;

/// Rows to learn from, to validate and to test on, of which the last two may have come from files of their own.
pub fn parts<T: Clone>(
    all: &[T],
    split: &formats::dataset::Split,
    validation: Option<Vec<T>>,
    test: Option<Vec<T>>,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let take = |rows: &[usize]| rows.iter().map(|&row| all[row].clone()).collect::<Vec<_>>();
    let validation = validation.unwrap_or_else(|| take(&split.validation));
    let test = test.unwrap_or_else(|| take(&split.test));
    (take(&split.train), validation, test)
}

/// Training, validation or test rows.
pub struct Split {
    /// Tokens of each sequence.
    pub tokens: Tokens,
    /// Sequences of a row: 2 of a preference, the better answer and then the worse; the texts of a row of related ones, in
    /// their order; else 1.
    pub per_row: usize,
    /// For each sequence the logarithm of its probability when training began; empty where nobody asks.
    pub reference: Vec<f64>,
    /// Each row's prompt with the answer of another row, where a rule asks how far the model went from where it began.
    pub mismatched: Option<Box<Split>>,
    /// For each row what a decoder is to say, after the token that it begins with; `None` where there is no decoder.
    pub answers: Option<Tokens>,
    /// For each sequence of related texts what its text is told from others by; empty elsewhere.
    pub keys: Vec<u64>,
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
            per_row: 1,
            reference: Vec::new(),
            mismatched: None,
            answers: None,
            keys: Vec::new(),
            numbers: examples.iter().map(|example| example.row).collect(),
            targets,
            texts: examples.into_iter().map(|example| (example.text, example.text_pair)).collect(),
        })
    }

    /// These rows alone, in this order.
    pub fn of_rows(&self, rows: &[usize]) -> Split {
        let sequence = |row: Row| Encoding {
            ids: row.ids.to_vec(),
            type_ids: [row.type_ids, row.counts].concat().into_iter().map(u32::from).collect(),
            truncated: false,
        };
        let encodings: Vec<Encoding> = self.sequences(rows).into_iter().map(sequence).collect();
        let of_each = |&row: &usize| row * self.per_row..(row + 1) * self.per_row;
        Split {
            tokens: Tokens::of(&encodings),
            per_row: self.per_row,
            reference: match self.reference.is_empty() {
                true => Vec::new(),
                false => rows.iter().flat_map(of_each).map(|at| self.reference[at]).collect(),
            },
            mismatched: self.mismatched.as_ref().map(|others| Box::new(others.of_rows(rows))),
            answers: self.answers.as_ref().map(|answers| {
                let answer = |&row: &usize| {
                    let ids = answers.row(row).0.to_vec();
                    Encoding { type_ids: vec![0; ids.len()], ids, truncated: false }
                };
                Tokens::of(&rows.iter().map(answer).collect::<Vec<_>>())
            }),
            keys: match self.keys.is_empty() {
                true => Vec::new(),
                false => rows.iter().flat_map(of_each).map(|at| self.keys[at]).collect(),
            },
            numbers: rows.iter().map(|&row| self.numbers[row]).collect(),
            targets: self.targets.of_rows(rows, self.len()),
            texts: match self.texts.is_empty() {
                true => Vec::new(),
                false => rows.iter().map(|&row| self.texts[row].clone()).collect(),
            },
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The sequences of some rows, in their order.
    pub fn sequences(&self, rows: &[usize]) -> Vec<Row<'_>> {
        let of_row = |&row: &usize| row * self.per_row..(row + 1) * self.per_row;
        rows.iter().flat_map(of_row).map(|at| self.row(at)).collect()
    }

    /// Tokens of a row.
    pub fn tokens_of(&self, row: usize) -> usize {
        let own = (row * self.per_row..(row + 1) * self.per_row).map(|at| self.tokens.row(at).0.len());
        own.sum::<usize>() + self.answers.as_ref().map_or(0, |answers| answers.row(row).0.len())
    }

    /// What was said of a preference's two answers when training began; 0 where nobody asks.
    pub fn reference_of(&self, row: usize) -> [f64; 2] {
        match self.reference.get(2 * row..2 * row + 2) {
            Some(both) => [both[0], both[1]],
            None => [0.0; 2],
        }
    }

    /// What was said of a row's only answer when training began; 0 where nobody asks.
    pub fn reference_of_one(&self, row: usize) -> f64 {
        self.reference.get(row).copied().unwrap_or_default()
    }

    /// A sequence; of a row that is one, the row.
    pub fn row(&self, at: usize) -> Row<'_> {
        let (number, (ids, marks)) = (self.numbers[at / self.per_row], self.tokens.row(at));
        let answer = self.answers.as_ref().map_or(&[][..], |answers| answers.row(at).0);
        match self.targets {
            Targets::Tokens | Targets::Answers(_) => {
                Row { number, ids, type_ids: &[], counts: marks, answer }
            }
            // Each text has draws of its own: the same one twice is not to give the same vector (T. Gao et al., "SimCSE", 2021).
            Targets::Nearness(_) => {
                let number = number * self.per_row as u64 + (at % self.per_row) as u64;
                Row { number, ids, type_ids: marks, counts: &[], answer }
            }
            // Windows of one question have draws of their own, too.
            Targets::Spans(_) => Row { number: at as u64, ids, type_ids: marks, counts: &[], answer },
            _ => Row { number, ids, type_ids: marks, counts: &[], answer },
        }
    }
}
