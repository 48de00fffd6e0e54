//! Counts of n-grams.

use std::collections::HashMap;
use std::hash::Hash;

/// How often each run of `n` items occurs; nothing where there are fewer items.
pub(crate) fn count<T: Hash + Eq>(items: &[T], n: usize) -> HashMap<&[T], usize> {
    let mut counts = HashMap::new();
    for ngram in items.windows(n) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

/// The number of n-grams that both have, each counted as often as the rarer side has it.
pub(crate) fn matches<T: Hash + Eq>(one: &HashMap<&[T], usize>, other: &HashMap<&[T], usize>) -> usize {
    one.iter().map(|(ngram, count)| other.get(ngram).map_or(0, |other| *count.min(other))).sum()
}
