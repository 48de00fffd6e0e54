//! The rows of a part of the data, tokenized.

use anyhow::Result;
use formats::dataset::Example;
use formats::tokenizer::Tokenizer;

use super::Row;
use crate::tasks::text_classification::Targets;

/// Training, validation or test rows.
pub struct Split {
    /// Tokens of each row.
    pub rows: Vec<Row>,
    /// What each row is to be taken for.
    pub targets: Targets,
    /// Texts, and second texts of pairs, to show beside predictions.
    pub texts: Vec<(String, Option<String>)>,
    /// Rows that were longer than the limit and were cut.
    pub truncated: usize,
}

impl Split {
    /// Tokenizes examples, cutting each to `max_length` tokens.
    pub fn tokenize(
        examples: Vec<Example>,
        targets: Targets,
        tokenizer: &Tokenizer,
        max_length: usize,
    ) -> Result<Self> {
        let texts: Vec<(&str, Option<&str>)> =
            examples.iter().map(|example| (example.text.as_str(), example.text_pair.as_deref())).collect();
        let encodings = tokenizer.encode_pairs(&texts, max_length)?;
        let truncated = encodings.iter().filter(|encoding| encoding.truncated).count();
        let rows = examples.iter().zip(encodings);
        let rows = rows.map(|(example, encoding)| Row {
            number: example.row,
            ids: encoding.ids,
            type_ids: encoding.type_ids,
        });
        Ok(Split {
            rows: rows.collect(),
            targets,
            truncated,
            texts: examples.into_iter().map(|example| (example.text, example.text_pair)).collect(),
        })
    }
}
