//! Wrong use of a metric.

use thiserror::Error;

/// Why there is no score. Rows are counted from 1.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ScoreError {
    /// Nothing was handed over.
    #[error("there are no rows to score: hand over at least one hypothesis")]
    NoRows,
    /// A hypothesis without its list of references, or the other way round.
    #[error(
        "{hypotheses} hypotheses, but references for {references} rows: hand over one list of references for each hypothesis"
    )]
    UnequalNumbers {
        /// Number of hypotheses.
        hypotheses: usize,
        /// Number of lists of references.
        references: usize,
    },
    /// A row with an empty list of references. An empty text is a reference, no text is none.
    #[error("row {row} has no reference: hand over at least one, be it an empty text")]
    NoReference {
        /// The row.
        row: usize,
    },
    /// Kept statistics that are not this metric's.
    #[error(
        "row {row} has {found} statistics, {metric} has {expected}: they belong to another metric or other options"
    )]
    Statistics {
        /// The row.
        row: usize,
        /// The metric's name.
        metric: String,
        /// Numbers a row of this metric has.
        expected: usize,
        /// Numbers that the row has.
        found: usize,
    },
    /// Two sets of rows that were scored in different ways.
    #[error(
        "rows of {first} and of {second} cannot go together: score both with the same metric and options"
    )]
    DifferentMetrics {
        /// The first one's name and settings.
        first: String,
        /// The second one's.
        second: String,
    },
    /// Two systems on unequal numbers of rows.
    #[error(
        "{baseline} rows of one system, {system} of the other: a paired test needs both on the same rows"
    )]
    DifferentRows {
        /// Rows of the first system.
        baseline: usize,
        /// Rows of the second.
        system: usize,
    },
    /// A test or an interval without a single resample.
    #[error("no resamples: hand over at least one")]
    NoResamples,
    /// A resample or a swap that does not fit the rows.
    #[error("draw {draw} does not fit {rows} rows: it names a row that is not there, or has another length")]
    Draw {
        /// The draw, counted from 1.
        draw: usize,
        /// Number of rows.
        rows: usize,
    },
    /// A setting that has no meaning.
    #[error("{name} is {value}: it has to be {expected}")]
    Option {
        /// The field of the options.
        name: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}
