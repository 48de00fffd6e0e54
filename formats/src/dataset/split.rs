//! Rows held out for validation and test.
//!
//! Which row goes where is a function of the seed and the row's number. It does not depend on the order in which anything
//! is computed, nor on another crate's generator, so that a split stays the same for good.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{Example, Label};
use crate::problem::{Problem, ProblemKind};

/// Shares of the rows to hold out, each in [0, 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitSizes {
    /// For validation.
    pub validation: f64,
    /// For the final test; 0 for none.
    pub test: f64,
}

/// Row numbers of each part, ascending; together every row once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Rows to learn from.
    pub train: Vec<usize>,
    /// Rows to evaluate on during training.
    pub validation: Vec<usize>,
    /// Rows to evaluate on once.
    pub test: Vec<usize>,
}

/// Splits examples: stratified by class for single labels if asked, else at random.
///
/// Rows with several labels or a number are split at random.
///
/// # Errors
/// A problem of `file` where shares are not in [0, 1), or a part that was asked for, or the training part, would be empty.
pub fn split_examples(
    file: &str,
    examples: &[Example],
    sizes: SplitSizes,
    stratify: bool,
    seed: u64,
) -> Result<Split, Problem> {
    let SplitSizes { validation, test } = sizes;
    let problem = |message: String| {
        Err(Problem::new(ProblemKind::InvalidValue, file, message)
            .hint("choose other shares, or upload separate files"))
    };
    if ![validation, test, validation + test].iter().all(|share| (0.0..1.0).contains(share)) {
        return problem(format!(
            "shares of {validation} for validation and {test} for test leave nothing to train on"
        ));
    }
    let classes: Option<Vec<&str>> = examples
        .iter()
        .map(|example| match &example.label {
            Label::Class(name) => Some(name.as_str()),
            Label::Classes(_) | Label::Value(_) => None,
        })
        .collect();
    let split = match classes {
        Some(classes) if stratify => stratified_split(&classes, sizes, seed),
        _ => random_split(examples.len(), sizes, seed),
    };
    let lacking = [
        (split.train.is_empty(), "training"),
        (validation > 0.0 && split.validation.is_empty(), "validation"),
        (test > 0.0 && split.test.is_empty(), "test"),
    ];
    match lacking.iter().find(|(lacks, _)| *lacks) {
        Some((_, part)) => problem(format!("{} rows are too few to hold any out for {part}", examples.len())),
        None => Ok(split),
    }
}

/// Splits rows so that each class has its share in each part.
///
/// A class with two rows or more has at least one in training and one in validation; with three or more and a test part, at
/// least one in each. The parts' sizes are those of a plain split as far as this allows.
pub fn stratified_split<C: Ord>(classes: &[C], sizes: SplitSizes, seed: u64) -> Split {
    let mut rows_of: BTreeMap<&C, Vec<usize>> = BTreeMap::new();
    for (row, class) in classes.iter().enumerate() {
        rows_of.entry(class).or_default().push(row);
    }
    let counts: Vec<usize> = rows_of.values().map(Vec::len).collect();
    // Validation is served first: it has the second row of a class of two,
    // and leaves a row of each class of three or more for test.
    let with_test = sizes.test > 0.0;
    let for_validation = |count: usize| match count {
        0 | 1 => 0..=0,
        2 => 1..=1,
        _ => 1..=count - 1 - usize::from(with_test),
    };
    let validation = allot(&counts, sizes.validation, for_validation);
    let kept: Vec<usize> = counts.iter().zip(&validation).map(|(count, taken)| count - taken).collect();
    let share = sizes.test / (1.0 - sizes.validation);
    let test = allot(&kept, share, |count| if count < 2 { 0..=0 } else { 1..=count - 1 });
    let mut split = Split::default();
    for ((rows, validation), test) in rows_of.into_values().zip(validation).zip(test) {
        deal(rows, validation, test, seed, &mut split);
    }
    split.sort();
    split
}

/// Splits rows without regard to what they hold.
pub fn random_split(rows: usize, sizes: SplitSizes, seed: u64) -> Split {
    let portion = |share: f64| (rows as f64 * share).round() as usize;
    let validation = portion(sizes.validation);
    let test = portion(sizes.test).min(rows - validation);
    let mut split = Split::default();
    deal((0..rows).collect(), validation, test, seed, &mut split);
    split.sort();
    split
}

/// How many rows of each class to take: its share, rounded so that the sum is the share of all, within `bounds` of its count.
fn allot(counts: &[usize], share: f64, bounds: impl Fn(usize) -> RangeInclusive<usize>) -> Vec<usize> {
    if share <= 0.0 {
        return vec![0; counts.len()];
    }
    let total: usize = counts.iter().sum();
    let wanted = (total as f64 * share).round() as usize;
    let exact: Vec<f64> = counts.iter().map(|count| *count as f64 * share).collect();
    let bounds: Vec<RangeInclusive<usize>> = counts.iter().map(|count| bounds(*count)).collect();
    let mut taken: Vec<usize> = exact
        .iter()
        .zip(&bounds)
        .map(|(exact, bounds)| (exact.floor() as usize).clamp(*bounds.start(), *bounds.end()))
        .collect();
    let mut by_remainder: Vec<usize> = (0..counts.len()).collect();
    let remainder = |class: usize| exact[class] - taken[class] as f64;
    by_remainder.sort_by(|a, b| remainder(*b).total_cmp(&remainder(*a)));
    let mut left = wanted.saturating_sub(taken.iter().sum());
    for class in by_remainder {
        if left > 0 && taken[class] < *bounds[class].end() {
            taken[class] += 1;
            left -= 1;
        }
    }
    taken
}

/// The first rows by draw to validation, the next to test, the rest to training.
fn deal(mut rows: Vec<usize>, validation: usize, test: usize, seed: u64, split: &mut Split) {
    rows.sort_by_key(|row| (draw(seed, *row as u64), *row));
    let held_out = validation + test;
    split.validation.extend(&rows[..validation]);
    split.test.extend(&rows[validation..held_out]);
    split.train.extend(&rows[held_out..]);
}

impl Split {
    fn sort(&mut self) {
        self.train.sort_unstable();
        self.validation.sort_unstable();
        self.test.sort_unstable();
    }
}

/// SplitMix64's output function, over the seed and the row's number in turn.
fn draw(seed: u64, row: u64) -> u64 {
    fn mix(mut z: u64) -> u64 {
        z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    mix(mix(seed) ^ row)
}
