//! How long rows are, and how many tokens meet in the greatest batch.

use serde::{Deserialize, Serialize};

/// A batch's tokens are rounded up to a multiple of this many by the trainer.
const ROUNDING: u64 = 16;

/// The rows to learn from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// How many there are, held-out ones left out.
    pub count: u64,
    /// Bytes of all data files.
    pub bytes: u64,
    /// Tokens of each row of a sample, cut to the longest length.
    lengths: Vec<u64>,
    /// Share of the tokens that are targets; none where rows are one text.
    #[serde(default)]
    target_share: f64,
}

impl Rows {
    /// `count` rows whose lengths are like those of a sample, cut to `max_length`.
    pub fn new(count: u64, bytes: u64, sample: impl IntoIterator<Item = u64>, max_length: u64) -> Self {
        let lengths = sample.into_iter().map(|length| length.min(max_length)).collect();
        Rows { count, bytes, lengths, target_share: 0.0 }
    }

    /// The same rows, of whose tokens this share are targets.
    pub fn with_targets(self, target_share: f64) -> Self {
        Rows { target_share: target_share.clamp(0.0, 1.0), ..self }
    }

    /// The share of tokens that are targets.
    pub fn target_share(&self) -> f64 {
        self.target_share
    }

    /// The same rows cut shorter.
    pub fn cut(&self, max_length: u64) -> Self {
        Rows::new(self.count, self.bytes, self.lengths.iter().copied(), max_length)
            .with_targets(self.target_share)
    }

    /// Mean number of tokens.
    pub fn mean(&self) -> f64 {
        self.mean_of(|length| length)
    }

    /// Mean of the square of the number of tokens, by which attention goes.
    pub fn mean_square(&self) -> f64 {
        self.mean_of(|length| length * length)
    }

    /// The longest row of the sample.
    pub fn longest(&self) -> u64 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Tokens of the greatest of `batches` batches of `size` rows drawn at random.
    ///
    /// A batch's sum is near normal; the greatest of k such values lies about √(2 ln k) deviations above the mean
    /// (H. Cramér, "Mathematical Methods of Statistics", 1946, 28.6), and never above what the longest rows give.
    pub fn greatest(&self, size: u64, batches: u64) -> u64 {
        let size = size.min(self.count.max(1)) as f64;
        // Drawn without putting back: the batch of all rows has one sum.
        let left = 1.0 - (size - 1.0) / (self.count as f64 - 1.0).max(1.0);
        let variance = (self.mean_square() - self.mean() * self.mean()).max(0.0);
        let deviations = (2.0 * (batches.max(1) as f64).ln()).sqrt();
        let tokens = size * self.mean() + deviations * (size * variance * left.max(0.0)).sqrt();
        (tokens.min(size * self.longest() as f64).ceil() as u64).next_multiple_of(ROUNDING)
    }

    fn mean_of(&self, value: impl Fn(f64) -> f64) -> f64 {
        let sum: f64 = self.lengths.iter().map(|&length| value(length as f64)).sum();
        sum / self.lengths.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_batch_lies_between_the_mean_and_the_longest_rows() {
        let rows = Rows::new(1000, 0, (0..1000).map(|row| 10 + row % 40), 512);
        let (mean, greatest) = (rows.mean() * 32.0, rows.greatest(32, 300) as f64);
        assert!(greatest > mean * 1.1 && greatest < 32.0 * 49.0, "{greatest}");
        assert_eq!(rows.greatest(1, 1_000_000), 64, "one row is at most the longest, rounded up");
    }

    #[test]
    fn equal_rows_and_a_batch_of_all_rows_have_one_sum() {
        assert_eq!(Rows::new(500, 0, [32; 20], 512).greatest(8, 1000), 256);
        assert_eq!(Rows::new(500, 0, [600; 20], 64).greatest(8, 1000), 512, "rows are cut");
        let all = Rows::new(40, 0, (0..40).map(|row| row + 1), 512);
        assert_eq!(all.greatest(4096, 50), 832);
    }
}
