//! The share of texts that are the reference itself.

use crate::metric::Metric;
use crate::signature::{case, yes_no};
use crate::text::words;

/// Settings of [`ExactMatch`]; by default texts are compared as they are, character by character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactMatchOptions {
    /// Whether case does not count.
    pub lowercase: bool,
    /// Whether ASCII punctuation is taken out first.
    pub no_punctuation: bool,
    /// Whether all white space counts as one space, and none at the ends.
    pub any_whitespace: bool,
}

/// Exact match: the share of rows, 0 to 100, whose text equals one of its references. A row's statistics: 1 or 0, and 1.
#[derive(Clone, Debug)]
pub struct ExactMatch {
    options: ExactMatchOptions,
}

impl ExactMatch {
    /// Exact match with these settings.
    pub fn new(options: ExactMatchOptions) -> Self {
        Self { options }
    }

    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if self.options.lowercase {
            text = text.to_lowercase();
        }
        if self.options.no_punctuation {
            text.retain(|character| !character.is_ascii_punctuation());
        }
        if self.options.any_whitespace {
            text = words(&text).join(" ");
        }
        text
    }
}

impl Metric for ExactMatch {
    fn name(&self) -> String {
        "exact match".to_owned()
    }

    fn width(&self) -> usize {
        2
    }

    fn statistics(&self, hypothesis: &str, references: &[String]) -> Vec<f64> {
        let hypothesis = self.plain(hypothesis);
        let matches = references.iter().any(|reference| self.plain(reference) == hypothesis);
        vec![f64::from(u8::from(matches)), 1.0]
    }

    fn score(&self, sum: &[f64]) -> f64 {
        100.0 * sum[0] / sum[1]
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("case", case(self.options.lowercase)),
            ("punct", yes_no(!self.options.no_punctuation)),
            ("space", yes_no(!self.options.any_whitespace)),
        ]
    }

    fn reference_version(&self) -> Option<&'static str> {
        None
    }
}
