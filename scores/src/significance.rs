//! Whether two systems differ by more than chance, on the same rows.

use crate::error::ScoreError;
use crate::resampling::Resamples;
use crate::rows::{Rows, add};

/// Trials of approximate randomization, as many as sacrebleu's.
pub const SWAPS: usize = 10_000;

/// Differences nearer than this are equal: sums of fractions in another order differ in their last bits.
const EQUAL: f64 = 1e-9;

/// What a paired test found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Significance {
    /// The first system's score.
    pub baseline: f64,
    /// The second system's score.
    pub system: f64,
    /// How often chance alone gives a difference larger than the one found: `(larger trials + 1) / (trials + 1)`.
    ///
    /// As in sacrebleu, a trial with the very same difference is not larger: two equal systems have the smallest value
    /// there is. [`Significance::differs`] minds that.
    pub p_value: f64,
    /// Number of trials.
    pub trials: usize,
}

impl Significance {
    /// The second system's score less the first's.
    pub fn difference(&self) -> f64 {
        self.system - self.baseline
    }

    /// Whether the scores are unequal and the p-value is below `level`, such as 0.05.
    pub fn differs(&self, level: f64) -> bool {
        self.difference().abs() > EQUAL && self.p_value < level
    }
}

/// Both tests of two systems.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Paired bootstrap, sacrebleu's `--paired-bs`.
    pub bootstrap: Significance,
    /// Paired approximate randomization, sacrebleu's `--paired-ar`.
    pub randomization: Significance,
}

/// Compares two systems on the same rows by [`crate::RESAMPLES`] resamples and [`SWAPS`] trials of randomization.
///
/// # Errors
/// [`ScoreError::DifferentMetrics`], [`ScoreError::DifferentRows`].
pub fn paired(baseline: &Rows, system: &Rows, seed: u64) -> Result<Paired, ScoreError> {
    Ok(Paired {
        bootstrap: paired_bootstrap(baseline, system, Resamples::new(baseline.count(), seed))?,
        randomization: paired_randomization(baseline, system, Swaps::new(baseline.count(), seed))?,
    })
}

/// Paired bootstrap by given resamples, each a list of row indices that both systems are scored on.
///
/// With `d` the absolute difference of scores of a resample and `m` the mean of all `d`, a trial is larger where `d - m`
/// exceeds the absolute difference of the two scores.
///
/// # Errors
/// [`ScoreError::DifferentMetrics`], [`ScoreError::DifferentRows`], [`ScoreError::NoResamples`], [`ScoreError::Draw`].
pub fn paired_bootstrap(
    baseline: &Rows,
    system: &Rows,
    resamples: impl IntoIterator<Item = Vec<usize>>,
) -> Result<Significance, ScoreError> {
    check(baseline, system)?;
    let differences = resamples.into_iter().enumerate().map(|(draw, rows)| {
        baseline.check_draw(draw, &rows)?;
        Ok((system.resampled(&rows) - baseline.resampled(&rows)).abs())
    });
    let mut differences = differences.collect::<Result<Vec<_>, _>>()?;
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    differences.iter_mut().for_each(|difference| *difference -= mean);
    judge(baseline, system, &differences)
}

/// Paired approximate randomization by given swaps.
///
/// Each trial shares the rows out between two pseudo-systems: where a swap's entry is true, the first takes the
/// baseline's row and the second the system's, else the other way round. A trial is larger where the absolute
/// difference of their scores exceeds that of the two systems.
///
/// # Errors
/// [`ScoreError::DifferentMetrics`], [`ScoreError::DifferentRows`], [`ScoreError::NoResamples`], [`ScoreError::Draw`].
pub fn paired_randomization(
    baseline: &Rows,
    system: &Rows,
    swaps: impl IntoIterator<Item = Vec<bool>>,
) -> Result<Significance, ScoreError> {
    check(baseline, system)?;
    let metric = baseline.metric();
    // Rows that are equal in both systems add the same to both, whoever takes them.
    let (differing, equal): (Vec<usize>, Vec<usize>) =
        (0..baseline.count()).partition(|&row| baseline.row(row) != system.row(row));
    let mut common = vec![0.0; metric.width()];
    equal.iter().for_each(|&row| add(&mut common, baseline.row(row)));
    let mut differences = Vec::new();
    for (draw, swap) in swaps.into_iter().enumerate() {
        if swap.len() != baseline.count() {
            return Err(ScoreError::Draw { draw: draw + 1, rows: baseline.count() });
        }
        let (mut first, mut second) = (common.clone(), common.clone());
        for &row in &differing {
            let (one, other) = if swap[row] { (baseline, system) } else { (system, baseline) };
            add(&mut first, one.row(row));
            add(&mut second, other.row(row));
        }
        differences.push((metric.score(&first) - metric.score(&second)).abs());
    }
    judge(baseline, system, &differences)
}

fn check(baseline: &Rows, system: &Rows) -> Result<(), ScoreError> {
    baseline.check_metric(system)?;
    let (baseline, system) = (baseline.count(), system.count());
    if baseline == system { Ok(()) } else { Err(ScoreError::DifferentRows { baseline, system }) }
}

fn judge(baseline: &Rows, system: &Rows, differences: &[f64]) -> Result<Significance, ScoreError> {
    if differences.is_empty() {
        return Err(ScoreError::NoResamples);
    }
    let (baseline, system) = (baseline.score(), system.score());
    let found = (baseline - system).abs();
    let larger = differences.iter().filter(|difference| **difference > found + EQUAL).count();
    let trials = differences.len();
    Ok(Significance { baseline, system, p_value: (larger + 1) as f64 / (trials + 1) as f64, trials })
}

/// Fair choices of one system or the other for each row; a function of the seed.
pub struct Swaps {
    random: fastrand::Rng,
    rows: usize,
    left: usize,
}

impl Swaps {
    /// [`SWAPS`] draws for `rows` rows.
    pub fn new(rows: usize, seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), rows, left: SWAPS }
    }
}

impl Iterator for Swaps {
    type Item = Vec<bool>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((0..self.rows).map(|_| self.random.bool()).collect())
    }
}
