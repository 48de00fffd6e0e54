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
    together: bool,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// Batches of `batch` rows, `accumulation` of them a step. An epoch's last batch and last step may be smaller;
    /// no step reaches into the next epoch.
    pub fn new(rows: usize, batch: usize, accumulation: usize, seed: u64) -> Self {
        Order { rows, batch, accumulation, seed, together: false, epoch: None }
    }

    /// The same, with the rows of a step together in every epoch: what is drawn anew is the order of the steps. The last
    /// step stays the last, as it may be smaller.
    #[must_use]
    pub fn together(self) -> Self {
        Order { together: true, epoch: None, ..self }
    }

    /// For each row another one of its step in the first epoch: the one before it, for the first of a step the last one. A
    /// row that has a step to itself gets the first of all.
    pub fn partners(&mut self) -> Vec<usize> {
        let mut partners = vec![0; self.rows];
        let (size, order) = (self.batch * self.accumulation, self.permuted(0));
        for step in order.chunks(size) {
            for (at, &row) in step.iter().enumerate() {
                partners[row] = match at {
                    0 if step.len() == 1 => order[0],
                    0 => step[step.len() - 1],
                    _ => step[at - 1],
                };
            }
        }
        partners
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
            self.epoch = Some((epoch, self.drawn(epoch)));
        }
        self.epoch.as_ref().map_or(&[], |(_, order)| order)
    }

    fn drawn(&self, epoch: u64) -> Vec<usize> {
        if !self.together || epoch == 0 {
            return permutation(self.rows, self.seed, epoch);
        }
        let first = permutation(self.rows, self.seed, 0);
        let size = self.batch * self.accumulation;
        let (whole, rest) = first.split_at(first.len() / size * size);
        let steps = permutation(whole.len() / size, self.seed, epoch);
        let rows = steps.into_iter().flat_map(|step| &whole[step * size..(step + 1) * size]);
        rows.chain(rest).copied().collect()
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
    fn rows_that_stay_together_are_each_others_partners_in_every_epoch() {
        let mut order = Order::new(23, 2, 2, 5).together();
        let partners = order.partners();
        let steps = order.steps_per_epoch();
        let mut epochs = Vec::new();
        for epoch in 0..4 {
            let all: Vec<Vec<usize>> =
                (0..steps).map(|step| order.step(epoch * steps + step).concat()).collect();
            for step in &all {
                // The same rows, each before exactly one of them.
                let mut others: Vec<usize> = step.iter().map(|&row| partners[row]).collect();
                assert!(step.iter().zip(&others).all(|(row, other)| row != other));
                others.sort_unstable();
                let mut own = step.clone();
                own.sort_unstable();
                assert_eq!(own, others);
            }
            assert_eq!(all.last().unwrap().len(), 3);
            epochs.push(all);
        }
        assert_ne!(epochs[0], epochs[1], "the order of the steps differs");
    }

    #[test]
    fn a_row_that_has_a_step_to_itself_has_a_partner_all_the_same() {
        let mut order = Order::new(5, 2, 1, 3).together();
        let alone = order.step(2).concat();
        assert_ne!(order.partners()[alone[0]], alone[0]);
        assert_eq!(Order::new(1, 1, 1, 0).partners(), [0]);
    }

    #[test]
    fn any_step_can_be_asked_for_first() {
        let (mut whole, mut resumed) = (Order::new(50, 4, 1, 9), Order::new(50, 4, 1, 9));
        let all: Vec<_> = (0..39).map(|step| whole.step(step)).collect();
        assert_eq!(resumed.step(30), all[30]);
        assert_ne!(all[0], all[13], "epochs differ in their order");
    }
}
