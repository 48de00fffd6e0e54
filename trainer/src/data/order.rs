//! In which order rows are seen: a function of seed and epoch, so that a resumed job sees the same.

use std::ops::Range;

/// A permutation of `0..n`, drawn as a function of `seed` and `epoch` (Fisher–Yates).
pub fn permutation(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // 64 random bits against an index of at most 32: the bias of the remainder is below 2⁻³².
        let draw = native::key(seed, epoch, ORDER, i as u64) as u64;
        order.swap(i, (draw % (i as u64 + 1)) as usize);
    }
    order
}

/// The place of the data order among the draws of a job.
const ORDER: u64 = u64::MAX;

/// Which rows each micro-batch of each step takes.
#[derive(Clone)]
pub struct Order {
    rows: usize,
    batch: usize,
    accumulation: usize,
    seed: u64,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// Batches of `batch` rows, `accumulation` of them a step. An epoch's last batch and last step may be smaller;
    /// no step reaches into the next epoch.
    pub fn new(rows: usize, batch: usize, accumulation: usize, seed: u64) -> Self {
        Order { rows, batch, accumulation, seed, epoch: None }
    }

    /// Optimizer steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.batch).div_ceil(self.accumulation) as u64
    }

    /// The micro-batches of a step (counted from 0), as row numbers.
    pub fn step(&mut self, step: u64) -> Vec<Vec<usize>> {
        let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let (span, batch) = (self.span(within as usize), self.batch);
        self.permuted(epoch)[span].chunks(batch).map(<[usize]>::to_vec).collect()
    }

    fn span(&self, step: usize) -> Range<usize> {
        let size = self.batch * self.accumulation;
        step * size..((step + 1) * size).min(self.rows)
    }

    fn permuted(&mut self, epoch: u64) -> &[usize] {
        if self.epoch.as_ref().is_none_or(|(at, _)| *at != epoch) {
            self.epoch = Some((epoch, permutation(self.rows, self.seed, epoch)));
        }
        self.epoch.as_ref().map_or(&[], |(_, order)| order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_row_once() {
        let mut order = Order::new(7, 2, 2, 1);
        assert_eq!(order.steps_per_epoch(), 2);
        for epoch in 0..3 {
            let mut seen: Vec<usize> =
                (0..2).flat_map(|step| order.step(epoch * 2 + step)).flatten().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..7).collect::<Vec<_>>());
        }
    }

    #[test]
    fn step_counts_are_those_of_whole_groups() {
        assert_eq!(Order::new(3, 1, 4, 0).steps_per_epoch(), 1);
        assert_eq!(Order::new(7, 1, 4, 0).steps_per_epoch() * 2, 4);
        assert_eq!(Order::new(7, 2, 2, 0).steps_per_epoch() * 3, 6);
    }

    #[test]
    fn any_step_can_be_asked_for_first() {
        let (mut whole, mut resumed) = (Order::new(50, 4, 1, 9), Order::new(50, 4, 1, 9));
        let all: Vec<_> = (0..39).map(|step| whole.step(step)).collect();
        assert_eq!(resumed.step(30), all[30]);
        assert_ne!(all[0], all[13], "epochs differ in their order");
    }
}
