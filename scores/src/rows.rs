//! The statistics of rows, from which everything else comes.

use std::sync::Arc;

use crate::error::ScoreError;
use crate::metric::Metric;
use crate::resampling::{self, Interval, Resamples};
use crate::signature::{Trials, signature};

/// The statistics of each row of a corpus under one metric.
#[derive(Clone)]
pub struct Rows {
    metric: Arc<dyn Metric>,
    /// Row after row, `[rows, width]`.
    statistics: Vec<f64>,
    /// References of each row; none where rows have unequal numbers.
    references: Option<usize>,
}

impl Rows {
    /// Scores each hypothesis against its own references.
    ///
    /// # Errors
    /// [`ScoreError::NoRows`], [`ScoreError::UnequalNumbers`], [`ScoreError::NoReference`].
    pub fn of(
        metric: Arc<dyn Metric>,
        hypotheses: &[String],
        references: &[Vec<String>],
    ) -> Result<Self, ScoreError> {
        if hypotheses.len() != references.len() {
            let (hypotheses, references) = (hypotheses.len(), references.len());
            return Err(ScoreError::UnequalNumbers { hypotheses, references });
        }
        let first = references.first().ok_or(ScoreError::NoRows)?.len();
        if let Some(row) = references.iter().position(Vec::is_empty) {
            return Err(ScoreError::NoReference { row: row + 1 });
        }
        let equal = references.iter().all(|texts| texts.len() == first);
        let statistics =
            hypotheses.iter().zip(references).flat_map(|(text, texts)| metric.statistics(text, texts));
        Ok(Self { statistics: statistics.collect(), metric, references: equal.then_some(first) })
    }

    /// Rows from statistics that were kept, as [`Rows::row`] gave them; `references` is the number of references of each
    /// row, none where it differs.
    ///
    /// # Errors
    /// [`ScoreError::NoRows`]; [`ScoreError::Statistics`] where a row is not of the metric's width.
    pub fn from_statistics(
        metric: Arc<dyn Metric>,
        rows: &[Vec<f64>],
        references: Option<usize>,
    ) -> Result<Self, ScoreError> {
        if rows.is_empty() {
            return Err(ScoreError::NoRows);
        }
        let expected = metric.width();
        if let Some(row) = rows.iter().position(|row| row.len() != expected) {
            let (metric, found) = (metric.name(), rows[row].len());
            return Err(ScoreError::Statistics { row: row + 1, metric, expected, found });
        }
        Ok(Self { statistics: rows.concat(), metric, references })
    }

    /// Adds rows of the same metric, such as those of the next batch.
    ///
    /// # Errors
    /// [`ScoreError::DifferentMetrics`].
    pub fn append(&mut self, other: &Self) -> Result<(), ScoreError> {
        self.check_metric(other)?;
        self.statistics.extend_from_slice(&other.statistics);
        self.references = self.references.filter(|_| self.references == other.references);
        Ok(())
    }

    /// The metric that made them.
    pub fn metric(&self) -> &dyn Metric {
        &*self.metric
    }

    /// Number of rows, at least 1.
    pub fn count(&self) -> usize {
        self.statistics.len() / self.metric.width()
    }

    /// One row's statistics.
    ///
    /// # Panics
    /// Where there is no such row; the first is 0.
    pub fn row(&self, index: usize) -> &[f64] {
        let width = self.metric.width();
        &self.statistics[index * width..(index + 1) * width]
    }

    /// All rows' statistics, in order.
    pub fn all(&self) -> impl Iterator<Item = &[f64]> {
        self.statistics.chunks_exact(self.metric.width())
    }

    /// The sum of all rows' statistics.
    pub fn sum(&self) -> Vec<f64> {
        let mut sum = vec![0.0; self.metric.width()];
        self.all().for_each(|row| add(&mut sum, row));
        sum
    }

    /// The score of the corpus. It is not the mean of [`Rows::row_scores`].
    pub fn score(&self) -> f64 {
        self.metric.score(&self.sum())
    }

    /// The score of each row on its own.
    pub fn row_scores(&self) -> Vec<f64> {
        self.all().map(|row| self.metric.row_score(row)).collect()
    }

    /// The indices of the `number` worst rows, the worst first; rows of equal score are in their own order.
    pub fn worst(&self, number: usize) -> Vec<usize> {
        let scores = self.row_scores();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&one, &other| {
            let ascending = scores[one].total_cmp(&scores[other]);
            if self.metric.higher_is_better() { ascending } else { ascending.reverse() }
        });
        order.truncate(number);
        order
    }

    /// The 95 % interval of the score by [`crate::RESAMPLES`] bootstrap resamples; the same seed gives the same interval.
    pub fn interval(&self, seed: u64) -> Interval {
        let scores = Resamples::new(self.count(), seed).map(|rows| self.resampled(&rows)).collect();
        resampling::interval(scores)
    }

    /// The interval by resamples of one's own, each a list of row indices.
    ///
    /// # Errors
    /// [`ScoreError::NoResamples`]; [`ScoreError::Draw`] where one names a row that is not there.
    pub fn interval_of(
        &self,
        resamples: impl IntoIterator<Item = Vec<usize>>,
    ) -> Result<Interval, ScoreError> {
        let checked = resamples.into_iter().enumerate().map(|(draw, rows)| {
            self.check_draw(draw, &rows)?;
            Ok(self.resampled(&rows))
        });
        let scores = checked.collect::<Result<Vec<_>, _>>()?;
        if scores.is_empty() { Err(ScoreError::NoResamples) } else { Ok(resampling::interval(scores)) }
    }

    /// How the score was made, in sacrebleu's form: `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:…`.
    pub fn signature(&self) -> String {
        signature(self.metric(), self.references, None)
    }

    /// The signature of an interval or a comparison.
    pub fn signature_with(&self, trials: Trials) -> String {
        signature(self.metric(), self.references, Some(trials))
    }

    /// The score of the named rows, a row as often as it is named.
    pub(crate) fn resampled(&self, rows: &[usize]) -> f64 {
        let mut sum = vec![0.0; self.metric.width()];
        rows.iter().for_each(|&row| add(&mut sum, self.row(row)));
        self.metric.score(&sum)
    }

    pub(crate) fn check_draw(&self, draw: usize, rows: &[usize]) -> Result<(), ScoreError> {
        let count = self.count();
        if rows.iter().all(|row| *row < count) {
            Ok(())
        } else {
            Err(ScoreError::Draw { draw: draw + 1, rows: count })
        }
    }

    pub(crate) fn check_metric(&self, other: &Self) -> Result<(), ScoreError> {
        let label =
            |rows: &Self| format!("{} ({})", rows.metric.name(), signature(rows.metric(), None, None));
        let (first, second) = (label(self), label(other));
        if first == second { Ok(()) } else { Err(ScoreError::DifferentMetrics { first, second }) }
    }
}

/// Adds a row to a sum.
pub(crate) fn add(sum: &mut [f64], row: &[f64]) {
    sum.iter_mut().zip(row).for_each(|(total, value)| *total += value);
}
