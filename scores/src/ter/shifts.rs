//! Shifts: runs of words that are moved to where the reference has them, each for one edit.

use super::Word;
use super::edit_distance::{Edit, Table};

/// The longest run of words that is moved.
const LONGEST: usize = 10;

/// How far apart the run's places in hypothesis and reference may be.
const FARTHEST: usize = 50;

/// Moves that are tried for one pair of texts. With them out, the best of the last round is not made, as in sacrebleu.
const TRIES: usize = 1000;

/// Edits that make the reference of the hypothesis, shifts among them: the best shift is made as long as one helps.
pub(super) fn edits(hypothesis: &[Word], reference: &[Word]) -> usize {
    if reference.is_empty() {
        return hypothesis.len();
    }
    let mut words = hypothesis.to_vec();
    let (mut shifts, mut tries) = (0, 0);
    loop {
        let table = Table::new(&words, reference);
        let best = best_shift(&words, reference, &table, &mut tries);
        match best {
            Some((gain, shift)) if gain > 0 && tries < TRIES => words = shift.apply(&words),
            _ => return shifts + table.distance(),
        }
        shifts += 1;
    }
}

/// A run of words, and the word that it is put before.
#[derive(Clone, Copy)]
struct Shift {
    start: usize,
    length: usize,
    target: usize,
}

impl Shift {
    /// The first place that changes, and the one after the last.
    fn range(self, words: usize) -> (usize, usize) {
        let end = self.start + self.length;
        if self.target < self.start {
            (self.target, end)
        } else if self.target > end {
            (self.start, self.target)
        } else {
            // A target within the run moves it on by as many words.
            (self.start, (self.length + self.target).min(words))
        }
    }

    fn apply(self, words: &[Word]) -> Vec<Word> {
        let mut words = words.to_vec();
        let (first, end) = self.range(words.len());
        if self.target < self.start {
            words[first..end].rotate_right(self.length);
        } else {
            words[first..end].rotate_left(self.length);
        }
        words
    }
}

/// The shift that saves most edits and how many; of equals the longest, then the one that starts first, then the one
/// that goes least far.
fn best_shift(
    words: &[Word],
    reference: &[Word],
    table: &Table<'_>,
    tries: &mut usize,
) -> Option<(i64, Shift)> {
    let alignment = Alignment::of(table);
    let before = table.distance() as i64;
    let mut best: Option<(i64, Shift)> = None;
    for (start, at, length) in common_runs(words, reference) {
        if !alignment.worth_moving(start, at, length) {
            continue;
        }
        let mut last = None;
        for offset in 0..=length {
            let target = (at + offset).checked_sub(1).map_or(0, |place| alignment.after[place]);
            if last.replace(target) == Some(target) {
                continue;
            }
            let shift = Shift { start, length, target };
            let (first, end) = shift.range(words.len());
            let gain = before - table.distance_of(&shift.apply(words), first, end) as i64;
            *tries += 1;
            let rank = |(gain, shift): (i64, Shift)| {
                use std::cmp::Reverse;
                (gain, shift.length, Reverse(shift.start), Reverse(shift.target))
            };
            if best.is_none_or(|best| rank((gain, shift)) > rank(best)) {
                best = Some((gain, shift));
            }
        }
        if *tries >= TRIES {
            break;
        }
    }
    best
}

/// Runs of words that both texts have, with their starts in each: `(hypothesis, reference, length)`, every length from 1.
fn common_runs<'a>(
    words: &'a [Word],
    reference: &'a [Word],
) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
    let places = move |start: usize| {
        let end = reference.len().min(start + FARTHEST + 1);
        (start.saturating_sub(FARTHEST)..end).map(move |at| (start, at))
    };
    (0..words.len()).flat_map(places).flat_map(move |(start, at)| {
        let pairs = words[start..].iter().zip(&reference[at..]);
        let length = pairs.take(LONGEST).take_while(|(one, other)| one == other).count();
        (1..=length).map(move |length| (start, at, length))
    })
}

/// Which words lie side by side, and which are wrong.
struct Alignment {
    /// For each word of the reference: how many of the hypothesis come up to and with it.
    after: Vec<usize>,
    wrong_words: Vec<bool>,
    wrong_reference: Vec<bool>,
}

impl Alignment {
    fn of(table: &Table<'_>) -> Self {
        let mut found = Self { after: Vec::new(), wrong_words: Vec::new(), wrong_reference: Vec::new() };
        for edit in table.edits() {
            let wrong = edit != Edit::Keep;
            if edit != Edit::Insert {
                found.wrong_words.push(wrong);
            }
            if edit != Edit::Delete {
                found.wrong_reference.push(wrong);
                found.after.push(found.wrong_words.len());
            }
        }
        found
    }

    /// Both ends have an error, and the run does not lie where it belongs already.
    fn worth_moving(&self, start: usize, at: usize, length: usize) -> bool {
        let wrong = |flags: &[bool], first: usize| flags[first..first + length].contains(&true);
        let there = (start + 1..=start + length).contains(&self.after[at]);
        wrong(&self.wrong_words, start) && wrong(&self.wrong_reference, at) && !there
    }
}
