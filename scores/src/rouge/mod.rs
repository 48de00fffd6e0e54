//! ROUGE (Lin, 2004, <https://aclanthology.org/W04-1013>), as the package rouge-score computes it.

mod lcs;
mod porter;

use std::collections::HashMap;

use crate::metric::Metric;
use crate::ngrams;
use crate::signature::yes_no;

/// rouge-score's version that the values are equal to.
const ROUGE_SCORE: &str = "0.1.2";

/// Words up to this length are not stemmed.
const SHORT: usize = 3;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RougeKind {
    /// `rouge1`: words.
    One,
    /// `rouge2`: pairs of words.
    Two,
    /// `rougeL`: the longest common subsequence of the whole texts.
    L,
    /// `rougeLsum`: the union of longest common subsequences of their lines. A line is a sentence: put each on its own.
    Lsum,
}

impl RougeKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::One, Self::Two, Self::L, Self::Lsum];

    /// rouge-score's name.
    pub fn label(self) -> &'static str {
        match self {
            Self::One => "rouge1",
            Self::Two => "rouge2",
            Self::L => "rougeL",
            Self::Lsum => "rougeLsum",
        }
    }
}

/// ROUGE. A row's statistics: precision, recall and F1, each 0 to 1, and 1; of several references those of the best F1.
/// The score is the mean F1 of rows times 100.
///
/// Words are runs of `a` to `z` and digits after lower-casing: a text in another script has none, and scores 0.
#[derive(Clone, Debug)]
pub struct Rouge {
    kind: RougeKind,
    stemmer: bool,
}

/// Means over rows times 100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RougeMeans {
    /// The share of what was written that the reference has.
    pub precision: f64,
    /// The share of the reference that was written.
    pub recall: f64,
    /// The mean of the rows' harmonic means of both; the score.
    pub f1: f64,
}

impl Rouge {
    /// ROUGE of a kind; with `stemmer`, words of more than three characters lose their endings by Porter's rules.
    pub fn new(kind: RougeKind, stemmer: bool) -> Self {
        Self { kind, stemmer }
    }

    /// The words that are compared.
    pub fn tokens(&self, text: &str) -> Vec<String> {
        let lowered = text.to_lowercase();
        let words = lowered.split(|character: char| !matches!(character, 'a'..='z' | '0'..='9'));
        let words = words.filter(|word| !word.is_empty());
        let stem = |word: &str| {
            if self.stemmer && word.len() > SHORT { porter::stem(word) } else { word.to_owned() }
        };
        words.map(stem).collect()
    }

    /// Means of precision, recall and F1 of a sum of statistics.
    pub fn means(&self, sum: &[f64]) -> RougeMeans {
        let mean = |place: usize| 100.0 * sum[place] / sum[3];
        RougeMeans { precision: mean(0), recall: mean(1), f1: mean(2) }
    }

    fn sentences(&self, text: &str) -> Vec<Vec<String>> {
        text.split('\n').map(|line| self.tokens(line)).collect()
    }

    /// Matches, and how many there might be in hypothesis and reference.
    fn compare(&self, hypothesis: &str, reference: &str) -> [usize; 3] {
        let tokens = |text| self.tokens(text);
        let n = match self.kind {
            RougeKind::One => 1,
            RougeKind::Two => 2,
            RougeKind::L => {
                let (written, expected) = (tokens(hypothesis), tokens(reference));
                return [lcs::length(&expected, &written), written.len(), expected.len()];
            }
            RougeKind::Lsum => {
                let (written, expected) = (self.sentences(hypothesis), self.sentences(reference));
                let number = |lines: &[Vec<String>]| lines.iter().map(Vec::len).sum();
                return [union_matches(&written, &expected), number(&written), number(&expected)];
            }
        };
        let (written, expected) = (tokens(hypothesis), tokens(reference));
        let number = |words: &[String]| (words.len() + 1).saturating_sub(n);
        let matches = ngrams::matches(&ngrams::count(&expected, n), &ngrams::count(&written, n));
        [matches, number(&written), number(&expected)]
    }
}

/// Words of the union of each reference line's common subsequences with all written lines. No word counts more often
/// than either text has it.
fn union_matches(written: &[Vec<String>], expected: &[Vec<String>]) -> usize {
    let count = |lines: &[Vec<String>]| {
        let mut left: HashMap<String, usize> = HashMap::new();
        lines.iter().flatten().for_each(|word| *left.entry(word.clone()).or_default() += 1);
        left
    };
    let (mut left_written, mut left_expected) = (count(written), count(expected));
    let mut hits = 0;
    for line in expected {
        for place in lcs::union(line, written) {
            let word = &line[place];
            let (Some(one), Some(other)) = (left_written.get_mut(word), left_expected.get_mut(word)) else {
                continue;
            };
            if *one > 0 && *other > 0 {
                hits += 1;
                *one -= 1;
                *other -= 1;
            }
        }
    }
    hits
}

impl Metric for Rouge {
    fn name(&self) -> String {
        self.kind.label().to_owned()
    }

    fn width(&self) -> usize {
        4
    }

    fn statistics(&self, hypothesis: &str, references: &[String]) -> Vec<f64> {
        let mut best = [0.0, 0.0, f64::NEG_INFINITY, 1.0];
        for reference in references {
            let [matches, written, expected] = self.compare(hypothesis, reference);
            let share = |total: usize| matches as f64 / total.max(1) as f64;
            let (precision, recall) = (share(written), share(expected));
            let both = precision + recall;
            let f1 = if both > 0.0 { 2.0 * precision * recall / both } else { 0.0 };
            if f1 > best[2] {
                best = [precision, recall, f1, 1.0];
            }
        }
        best.to_vec()
    }

    fn score(&self, sum: &[f64]) -> f64 {
        self.means(sum).f1
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("stem", yes_no(self.stemmer))]
    }

    fn reference_version(&self) -> Option<&'static str> {
        Some(ROUGE_SCORE)
    }
}
