//! TER, the translation edit rate (Snover and others, 2006, <https://aclanthology.org/2006.amta-papers.25>), with the
//! heuristics and limits of Tercom as sacrebleu has them.

mod edit_distance;
mod shifts;
mod tokenizer;

use std::collections::HashMap;

use crate::bleu::SACREBLEU;
use crate::metric::Metric;
use crate::signature::{case, yes_no};
use crate::text::words;

/// Settings of [`Ter`]; the default is sacrebleu's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TerOptions {
    /// Whether punctuation is set apart and entities are read first.
    pub normalized: bool,
    /// Whether punctuation is taken out.
    pub no_punctuation: bool,
    /// Whether `normalized` and `no_punctuation` know Chinese and Japanese characters and punctuation.
    pub asian_support: bool,
    /// Whether case counts.
    pub case_sensitive: bool,
}

/// TER: edits (insertions, deletions, substitutions and shifts of words) for 100 words of the reference; less is better,
/// and a text longer than its reference may have more than 100. A row's statistics: edits to the reference that needs
/// fewest, and the mean length of its references in words.
#[derive(Clone, Debug)]
pub struct Ter {
    options: TerOptions,
}

impl Ter {
    /// TER with these settings.
    pub fn new(options: TerOptions) -> Self {
        Self { options }
    }
}

/// A word's number: equal words have the same.
type Word = u32;

impl Metric for Ter {
    fn name(&self) -> String {
        "TER".to_owned()
    }

    fn width(&self) -> usize {
        2
    }

    fn statistics(&self, hypothesis: &str, references: &[String]) -> Vec<f64> {
        let hypothesis = tokenizer::tokenize(hypothesis, &self.options);
        let references: Vec<String> =
            references.iter().map(|text| tokenizer::tokenize(text, &self.options)).collect();
        let mut known: HashMap<&str, Word> = HashMap::new();
        let mut numbered = |text| -> Vec<Word> {
            let mut number = |word| {
                let next = known.len() as Word;
                *known.entry(word).or_insert(next)
            };
            words(text).into_iter().map(&mut number).collect()
        };
        let hypothesis = numbered(&hypothesis);
        let references: Vec<Vec<Word>> = references.iter().map(|text| numbered(text)).collect();
        let edits = references.iter().map(|reference| shifts::edits(&hypothesis, reference)).min();
        let length: usize = references.iter().map(Vec::len).sum();
        vec![edits.unwrap_or(0) as f64, length as f64 / references.len() as f64]
    }

    fn score(&self, sum: &[f64]) -> f64 {
        let (edits, length) = (sum[0], sum[1]);
        if length > 0.0 {
            100.0 * (edits / length)
        } else if edits > 0.0 {
            100.0
        } else {
            0.0
        }
    }

    fn higher_is_better(&self) -> bool {
        false
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("case", case(!self.options.case_sensitive)),
            ("tok", "tercom".to_owned()),
            ("norm", yes_no(self.options.normalized)),
            ("punct", yes_no(!self.options.no_punctuation)),
            ("asian", yes_no(self.options.asian_support)),
        ]
    }

    fn reference_version(&self) -> Option<&'static str> {
        Some(SACREBLEU)
    }
}
