//! BLEU (Papineni and others, 2002, <https://aclanthology.org/P02-1040>), as sacrebleu computes it.

mod details;
mod tokenizer;

use std::collections::HashMap;

pub use details::BleuDetails;
pub use tokenizer::BleuTokenizer;
pub(crate) use tokenizer::{entities, marks_apart, numbers_whole, replace_all, rules};

use crate::error::ScoreError;
use crate::metric::Metric;
use crate::ngrams;
use crate::signature::{case, yes_no};
use crate::text::{trim_end, words};

/// sacrebleu's version that the values are equal to.
pub(crate) const SACREBLEU: &str = "2.6.0";

/// What a precision without a match counts as (Chen and Cherry, 2014, <https://aclanthology.org/W14-3346>).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Smoothing {
    /// Nothing: the score is 0.
    None,
    /// So many matches, more than none; 0.1 by default in sacrebleu.
    Floor(f64),
    /// So many are added to matches and to all n-grams of two words and more; 1 by default in sacrebleu.
    AddK(f64),
    /// Half a match for the first such order, a quarter for the next, and so on.
    Exp,
}

impl Smoothing {
    fn label(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Floor(value) => format!("floor[{value:.2}]"),
            Self::AddK(value) => format!("add-k[{value:.2}]"),
            Self::Exp => "exp".to_owned(),
        }
    }
}

/// Settings of [`Bleu`]; the default is sacrebleu's.
#[derive(Clone, Debug, PartialEq)]
pub struct BleuOptions {
    /// How text becomes words.
    pub tokenizer: BleuTokenizer,
    /// Whether case does not count.
    pub lowercase: bool,
    /// What a precision without a match counts as.
    pub smoothing: Smoothing,
    /// The longest n-gram, in words, at least 1; 4 by default.
    pub max_order: usize,
    /// Whether orders that the text is too short for are left out of the corpus score as well. Scores of single rows
    /// always leave them out.
    pub effective_order: bool,
}

impl Default for BleuOptions {
    fn default() -> Self {
        Self {
            tokenizer: BleuTokenizer::V13a,
            lowercase: false,
            smoothing: Smoothing::Exp,
            max_order: 4,
            effective_order: false,
        }
    }
}

/// BLEU. A row's statistics: its length and that of the nearest reference in words, then matches of each order, then
/// n-grams of each order. With several references an n-gram matches as often as the one that has it most often.
#[derive(Clone, Debug)]
pub struct Bleu {
    options: BleuOptions,
}

impl Bleu {
    /// BLEU with these settings.
    ///
    /// # Errors
    /// [`ScoreError::Option`] where `max_order` is 0, or a smoothing value is negative or not a number.
    pub fn new(options: BleuOptions) -> Result<Self, ScoreError> {
        if options.max_order == 0 {
            let (name, value) = ("max_order", "0".to_owned());
            return Err(ScoreError::Option { name, value, expected: "at least 1" });
        }
        match options.smoothing {
            Smoothing::Floor(value) | Smoothing::AddK(value) if !(value.is_finite() && value >= 0.0) => {
                let (name, value) = ("smoothing", value.to_string());
                Err(ScoreError::Option { name, value, expected: "a number from 0" })
            }
            _ => Ok(Self { options }),
        }
    }

    /// What the score of a sum of statistics is made of.
    pub fn details(&self, sum: &[f64]) -> BleuDetails {
        BleuDetails::of(sum, &self.options)
    }

    fn tokenize(&self, text: &str) -> String {
        let lowered;
        let text = if self.options.lowercase {
            lowered = text.to_lowercase();
            &lowered
        } else {
            text
        };
        self.options.tokenizer.tokenize(trim_end(text))
    }
}

impl Metric for Bleu {
    fn name(&self) -> String {
        "BLEU".to_owned()
    }

    fn width(&self) -> usize {
        2 + 2 * self.options.max_order
    }

    fn statistics(&self, hypothesis: &str, references: &[String]) -> Vec<f64> {
        let hypothesis = self.tokenize(hypothesis);
        let hypothesis = words(&hypothesis);
        let references: Vec<String> = references.iter().map(|text| self.tokenize(text)).collect();
        let references: Vec<Vec<&str>> = references.iter().map(|text| words(text)).collect();

        let length = hypothesis.len();
        let lengths = references.iter().map(Vec::len);
        let nearest = lengths.min_by_key(|&reference| (reference.abs_diff(length), reference)).unwrap_or(0);
        let (mut matches, mut totals) = (Vec::new(), Vec::new());
        for n in 1..=self.options.max_order {
            let mut most: HashMap<&[&str], usize> = HashMap::new();
            for reference in &references {
                for (ngram, count) in ngrams::count(reference, n) {
                    let known = most.entry(ngram).or_default();
                    *known = count.max(*known);
                }
            }
            matches.push(ngrams::matches(&ngrams::count(&hypothesis, n), &most));
            totals.push((length + 1).saturating_sub(n));
        }
        [length, nearest].into_iter().chain(matches).chain(totals).map(|count| count as f64).collect()
    }

    fn score(&self, sum: &[f64]) -> f64 {
        self.details(sum).score
    }

    fn row_score(&self, statistics: &[f64]) -> f64 {
        let options = BleuOptions { effective_order: true, ..self.options.clone() };
        BleuDetails::of(statistics, &options).score
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("case", case(self.options.lowercase)),
            ("eff", yes_no(self.options.effective_order)),
            ("tok", self.options.tokenizer.label().to_owned()),
            ("smooth", self.options.smoothing.label()),
        ]
    }

    fn reference_version(&self) -> Option<&'static str> {
        Some(SACREBLEU)
    }
}
