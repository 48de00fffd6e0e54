//! In which order rows are seen: a function of seed and epoch, so that a resumed job sees the same.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

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
    /// Whether the rows of a step stay together in every epoch.
    together: bool,
    /// Rows of which no two in a batch are to have a key in common, each with so many keys.
    apart: Option<Arc<Apart>>,
    epoch: Option<(u64, Vec<usize>)>,
}

/// What rows are told apart by.
struct Apart {
    keys: Vec<u64>,
    per_row: usize,
}

/// Rows of a batch's length, times this, among which one that fits is looked for: more would take a time that grows with the
/// square of their number where nearly all have a text in common.
const WITHIN: usize = 64;

impl Apart {
    fn keys_of(&self, row: usize) -> &[u64] {
        &self.keys[row * self.per_row..][..self.per_row]
    }

    /// The same rows in an order in which those of a batch have no key in common, as far as there are such: a row that has
    /// waits for a later batch. Where none is left that fits, the next is taken, so that all are seen once.
    fn arrange(&self, order: Vec<usize>, batch: usize) -> Vec<usize> {
        let (mut waiting, mut coming) = (VecDeque::new(), order.into_iter());
        let mut arranged = Vec::with_capacity(coming.len());
        let (mut known, mut size) = (HashSet::new(), 0);
        loop {
            if size == batch {
                known.clear();
                size = 0;
            }
            let fits =
                |row: usize, known: &HashSet<u64>| self.keys_of(row).iter().all(|key| !known.contains(key));
            let within = waiting.len().min(WITHIN * batch);
            let place = (0..within).find(|&place| fits(waiting[place], &known));
            let row = match place {
                Some(place) => waiting.remove(place),
                None => loop {
                    if waiting.len() >= WITHIN * batch {
                        break waiting.pop_front();
                    }
                    match coming.next() {
                        Some(row) if fits(row, &known) => break Some(row),
                        Some(row) => waiting.push_back(row),
                        None => break waiting.pop_front(),
                    }
                },
            };
            let Some(row) = row else { return arranged };
            known.extend(self.keys_of(row));
            arranged.push(row);
            size += 1;
        }
    }
}

impl Order {
    /// Batches of `batch` rows, `accumulation` of them a step. An epoch's last batch and last step may be smaller;
    /// no step reaches into the next epoch.
    pub fn new(rows: usize, batch: usize, accumulation: usize, seed: u64) -> Self {
        Order { rows, batch, accumulation, seed, together: false, apart: None, epoch: None }
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

    /// The same, where rows that have one of their `keys` in common, `per_row` each, meet in no batch if that can be.
    pub fn apart(self, keys: &[u64], per_row: usize) -> Self {
        Order { apart: Some(Arc::new(Apart { keys: keys.to_vec(), per_row })), epoch: None, ..self }
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
            let order = self.drawn(epoch);
            let order = match &self.apart {
                Some(apart) => apart.arrange(order, self.batch),
                None => order,
            };
            self.epoch = Some((epoch, order));
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
    fn rows_with_a_text_in_common_wait_for_another_batch() {
        // Every third row has the same second text, rows 0 and 1 the same first.
        let second = |row: u64| if row.is_multiple_of(3) { 100 } else { 200 + row };
        let keys: Vec<u64> = (0..24).flat_map(|row| [row.max(1), second(row)]).collect();
        let apart = Apart { keys: keys.clone(), per_row: 2 };
        let arranged = apart.arrange((0..24).collect(), 3);
        assert_eq!(arranged[..9], [0, 2, 4, 1, 3, 5, 6, 7, 8]);
        for rows in arranged.chunks(3) {
            let seen: HashSet<u64> = rows.iter().flat_map(|&row| keys[2 * row..][..2].to_vec()).collect();
            assert_eq!(seen.len(), 6, "{rows:?}");
        }
    }

    #[test]
    fn where_rows_cannot_be_kept_apart_all_are_seen_all_the_same() {
        for keys in [vec![1; 7], (0..7).collect()] {
            let mut order = Order::new(7, 3, 1, 5).apart(&keys, 1);
            assert_eq!(order.steps_per_epoch(), 3);
            let mut rows: Vec<usize> = (0..3).flat_map(|step| order.step(step).concat()).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..7).collect::<Vec<_>>());
        }
    }

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
