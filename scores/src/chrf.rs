//! chrF (Popović, 2015, <https://aclanthology.org/W15-3049>) and chrF++ (2017, <https://aclanthology.org/W17-4770>), as
//! sacrebleu computes them.

use crate::bleu::SACREBLEU;
use crate::error::ScoreError;
use crate::metric::Metric;
use crate::ngrams;
use crate::signature::{case, yes_no};
use crate::text::{is_space, words};

/// A precision or recall without n-grams, in epsilon smoothing.
const EPSILON: f64 = 1e-16;

/// Settings of [`Chrf`]; the default is sacrebleu's chrF2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChrfOptions {
    /// The longest n-gram of characters, at least 1; 6 by default.
    pub char_order: usize,
    /// The longest n-gram of words: 0 for chrF, 2 for chrF++.
    pub word_order: usize,
    /// How many times recall counts as much as precision, at least 1; 2 by default.
    pub beta: usize,
    /// Whether case does not count.
    pub lowercase: bool,
    /// Whether white space belongs to n-grams of characters.
    pub whitespace: bool,
    /// Whether orders without n-grams count as almost 0, as in Popović's own program; left out where not.
    pub epsilon_smoothing: bool,
}

impl Default for ChrfOptions {
    fn default() -> Self {
        Self {
            char_order: 6,
            word_order: 0,
            beta: 2,
            lowercase: false,
            whitespace: false,
            epsilon_smoothing: false,
        }
    }
}

impl ChrfOptions {
    /// chrF++: n-grams of one and two words as well.
    pub fn plus_plus() -> Self {
        Self { word_order: 2, ..Self::default() }
    }
}

/// chrF. A row's statistics: for each order of characters, then of words, the n-grams of the hypothesis (0 where the
/// reference has none), those of the reference, and the matches. Of several references the one with the best score counts.
#[derive(Clone, Debug)]
pub struct Chrf {
    options: ChrfOptions,
}

impl Chrf {
    /// chrF with these settings.
    ///
    /// # Errors
    /// [`ScoreError::Option`] where `char_order` or `beta` is 0.
    pub fn new(options: ChrfOptions) -> Result<Self, ScoreError> {
        for (name, value) in [("char_order", options.char_order), ("beta", options.beta)] {
            if value == 0 {
                let value = value.to_string();
                return Err(ScoreError::Option { name, value, expected: "at least 1" });
            }
        }
        Ok(Self { options })
    }

    fn units(&self, text: &str) -> Units {
        let text = if self.options.lowercase { text.to_lowercase() } else { text.to_owned() };
        let kept = |character: &char| self.options.whitespace || !is_space(*character);
        let words = if self.options.word_order > 0 { punctuation_apart(&text) } else { Vec::new() };
        Units { characters: text.chars().filter(kept).collect(), words }
    }

    fn compare(&self, hypothesis: &Units, reference: &Units) -> Vec<f64> {
        let characters = (1..=self.options.char_order)
            .flat_map(|n| order(&hypothesis.characters, &reference.characters, n));
        let words = (1..=self.options.word_order).flat_map(|n| order(&hypothesis.words, &reference.words, n));
        characters.chain(words).collect()
    }
}

/// What n-grams are made of.
struct Units {
    characters: Vec<char>,
    words: Vec<String>,
}

/// N-grams of the hypothesis, of the reference, and matches.
fn order<T: std::hash::Hash + Eq>(hypothesis: &[T], reference: &[T], n: usize) -> [f64; 3] {
    let number = |items: &[T]| (items.len() + 1).saturating_sub(n);
    let matches = ngrams::matches(&ngrams::count(hypothesis, n), &ngrams::count(reference, n));
    let written = if number(reference) == 0 { 0 } else { number(hypothesis) };
    [written as f64, number(reference) as f64, matches as f64]
}

/// Words, with one mark of ASCII punctuation taken from the end, or else from the start.
fn punctuation_apart(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for word in words(text) {
        let mark = |character: Option<char>| character.filter(char::is_ascii_punctuation);
        let cut = if word.chars().nth(1).is_none() {
            None
        } else if mark(word.chars().next_back()).is_some() {
            Some(word.len() - 1)
        } else {
            mark(word.chars().next()).map(|_| 1)
        };
        match cut {
            Some(place) => parts.extend([word[..place].to_owned(), word[place..].to_owned()]),
            None => parts.push(word.to_owned()),
        }
    }
    parts
}

impl Metric for Chrf {
    fn name(&self) -> String {
        format!("chrF{}{}", self.options.beta, "+".repeat(self.options.word_order))
    }

    fn width(&self) -> usize {
        3 * (self.options.char_order + self.options.word_order)
    }

    fn statistics(&self, hypothesis: &str, references: &[String]) -> Vec<f64> {
        let hypothesis = self.units(hypothesis);
        let mut best = (f64::NEG_INFINITY, vec![0.0; self.width()]);
        for reference in references {
            let statistics = self.compare(&hypothesis, &self.units(reference));
            let score = self.score(&statistics);
            if score > best.0 {
                best = (score, statistics);
            }
        }
        best.1
    }

    fn score(&self, sum: &[f64]) -> f64 {
        let factor = (self.options.beta * self.options.beta) as f64;
        let f_score = |precision: f64, recall: f64| {
            let below = factor * precision + recall;
            (below > 0.0).then(|| (1.0 + factor) * precision * recall / below)
        };
        let (mut smoothed, mut precisions, mut recalls, mut orders) = (0.0, 0.0, 0.0, 0);
        for counts in sum.chunks_exact(3) {
            let share = |total: f64| if total > 0.0 { counts[2] / total } else { EPSILON };
            let (precision, recall) = (share(counts[0]), share(counts[1]));
            smoothed += f_score(precision, recall).unwrap_or(EPSILON);
            if counts[0] > 0.0 && counts[1] > 0.0 {
                precisions += precision;
                recalls += recall;
                orders += 1;
            }
        }
        let score = if self.options.epsilon_smoothing {
            smoothed / (self.width() / 3) as f64
        } else if orders == 0 {
            0.0
        } else {
            f_score(precisions / f64::from(orders), recalls / f64::from(orders)).unwrap_or(0.0)
        };
        (100.0 * score).min(100.0)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("case", case(self.options.lowercase)),
            ("eff", yes_no(!self.options.epsilon_smoothing)),
            ("nc", self.options.char_order.to_string()),
            ("nw", self.options.word_order.to_string()),
            ("space", yes_no(self.options.whitespace)),
        ]
    }

    fn reference_version(&self) -> Option<&'static str> {
        Some(SACREBLEU)
    }
}
