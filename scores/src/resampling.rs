//! Bootstrap: rows are drawn anew with replacement, and the score is made from each draw.

/// Bootstrap resamples of an interval or a paired test, as many as sacrebleu's.
pub const RESAMPLES: usize = 1000;

/// The share of scores that lies below an interval, and the same above it: one in 40.
const TAIL: usize = 40;

/// Where a score would lie on other rows of the same kind, with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The mean score of the resamples.
    pub mean: f64,
    /// The score that one resample in 40 lies below.
    pub low: f64,
    /// The score that one resample in 40 lies above.
    pub high: f64,
    /// Number of resamples.
    pub samples: usize,
}

impl Interval {
    /// Half the interval's width: what sacrebleu writes after `±`.
    pub fn half_width(&self) -> f64 {
        0.5 * (self.high - self.low)
    }
}

/// The interval of at least one score.
pub(crate) fn interval(mut scores: Vec<f64>) -> Interval {
    scores.sort_by(f64::total_cmp);
    let samples = scores.len();
    let below = samples / TAIL;
    let mean = scores.iter().sum::<f64>() / samples as f64;
    Interval { mean, low: scores[below], high: scores[samples - below - 1], samples }
}

/// Lists of row indices, each drawn with replacement and as long as there are rows; a function of the seed.
pub struct Resamples {
    random: fastrand::Rng,
    rows: usize,
    left: usize,
}

impl Resamples {
    /// [`RESAMPLES`] draws from `rows` rows.
    pub fn new(rows: usize, seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), rows, left: RESAMPLES }
    }
}

impl Iterator for Resamples {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((0..self.rows).map(|_| self.random.usize(..self.rows)).collect())
    }
}
