//! Longest common subsequences.

use std::collections::BTreeSet;

/// The length of the longest common subsequence.
pub(super) fn length<T: Eq>(one: &[T], other: &[T]) -> usize {
    let mut row = vec![0; other.len() + 1];
    for item in one {
        let mut diagonal = 0;
        for (column, candidate) in other.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = if item == candidate { diagonal + 1 } else { above.max(row[column]) };
            diagonal = above;
        }
    }
    row[other.len()]
}

/// Places in `reference` that lie on the common subsequence with any of the candidates, in order.
pub(super) fn union<T: Eq>(reference: &[T], candidates: &[Vec<T>]) -> BTreeSet<usize> {
    candidates.iter().flat_map(|candidate| places(reference, candidate)).collect()
}

/// Places in `reference` of one longest common subsequence: the one found from the end, going back in the reference
/// where both ways are as good.
fn places<T: Eq>(reference: &[T], candidate: &[T]) -> Vec<usize> {
    let width = candidate.len();
    // Whether going back in the candidate keeps more. One bit a cell, so that long texts fit into memory.
    let mut keeps = vec![0_u64; (reference.len() * width).div_ceil(64)];
    let mut row = vec![0_usize; width + 1];
    for (line, item) in reference.iter().enumerate() {
        let mut diagonal = 0;
        for (column, other) in candidate.iter().enumerate() {
            let (above, left) = (row[column + 1], row[column]);
            if left > above {
                let bit = line * width + column;
                keeps[bit / 64] |= 1 << (bit % 64);
            }
            row[column + 1] = if item == other { diagonal + 1 } else { above.max(left) };
            diagonal = above;
        }
    }
    let (mut line, mut column) = (reference.len(), width);
    let mut found = Vec::new();
    while line > 0 && column > 0 {
        let bit = (line - 1) * width + column - 1;
        if reference[line - 1] == candidate[column - 1] {
            line -= 1;
            column -= 1;
            found.push(line);
        } else if keeps[bit / 64] >> (bit % 64) & 1 == 1 {
            column -= 1;
        } else {
            line -= 1;
        }
    }
    found
}
