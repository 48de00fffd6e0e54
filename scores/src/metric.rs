//! What all metrics have in common.

use std::sync::Arc;

use crate::error::ScoreError;
use crate::rows::Rows;

/// A metric of texts whose score is a function of sums over rows.
pub trait Metric: Send + Sync {
    /// The metric's name, as papers write it: `BLEU`, `chrF2++`, `TER`, `rougeL`.
    fn name(&self) -> String;

    /// How many numbers [`Metric::statistics`] gives.
    fn width(&self) -> usize;

    /// One row's statistics, of [`Metric::width`]: the sum over rows is what [`Metric::score`] takes.
    ///
    /// `references` has at least one text; where it has several, each metric says which counts.
    fn statistics(&self, hypothesis: &str, references: &[String]) -> Vec<f64>;

    /// The score of a sum of statistics; 0 to 100 for all but TER, which has no upper bound.
    fn score(&self, sum: &[f64]) -> f64;

    /// The score of one row alone, by which rows are put in order. BLEU stops at the longest n-gram that the row has.
    fn row_score(&self, statistics: &[f64]) -> f64 {
        self.score(statistics)
    }

    /// Whether more is better.
    fn higher_is_better(&self) -> bool {
        true
    }

    /// The settings that change a score, as key and value, in the order of the signature.
    fn settings(&self) -> Vec<(&'static str, String)>;

    /// The version of the reference package that has the same values; none where there is no such package.
    fn reference_version(&self) -> Option<&'static str>;

    /// The statistics of all rows; `references[i]` are the texts that `hypotheses[i]` is compared with.
    ///
    /// # Errors
    /// [`ScoreError::NoRows`], [`ScoreError::UnequalNumbers`], [`ScoreError::NoReference`].
    fn rows(&self, hypotheses: &[String], references: &[Vec<String>]) -> Result<Rows, ScoreError>
    where
        Self: Clone + Sized + 'static,
    {
        Rows::of(Arc::new(self.clone()), hypotheses, references)
    }
}
