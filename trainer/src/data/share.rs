//! Which rows of a batch are a process's own.

/// A process among those of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which one, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
}

impl Share {
    /// The rows of a batch that are this rank's: the longest first to whoever has the fewest tokens, so that the ranks
    /// end at about the same time. In the batch's order.
    pub fn of(self, rows: &[usize], tokens: impl Fn(usize) -> usize) -> Vec<usize> {
        if self.size == 1 {
            return rows.to_vec();
        }
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&at| (std::cmp::Reverse(tokens(rows[at])), at));
        let mut loads = vec![0; self.size];
        let mut own = Vec::new();
        for at in order {
            let least = (0..self.size).min_by_key(|&rank| (loads[rank], rank)).unwrap_or_default();
            loads[least] += tokens(rows[at]);
            if least == self.rank {
                own.push(at);
            }
        }
        own.sort_unstable();
        own.into_iter().map(|at| rows[at]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_disjoint_whole_and_even() {
        let rows: Vec<usize> = (100..132).collect();
        let tokens = |row: usize| (row * 37) % 50 + 1;
        let shares: Vec<Vec<usize>> = (0..3).map(|rank| Share { rank, size: 3 }.of(&rows, tokens)).collect();
        let mut all = shares.concat();
        all.sort_unstable();
        assert_eq!(all, rows);
        assert!(shares.iter().all(|own| own.is_sorted()));
        let loads: Vec<usize> = shares.iter().map(|own| own.iter().map(|&row| tokens(row)).sum()).collect();
        assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() < 10, "{loads:?}");
    }
}
