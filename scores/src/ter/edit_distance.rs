//! The edit distance of Tercom: only cells near the diagonal, with the edit that led to each.

use super::Word;

/// Cells on either side of the diagonal that are looked at.
const BEAM: usize = 25;

/// More than any distance, and no overflow one step further.
const UNREACHED: u32 = u32::MAX / 2;

/// What is done at a cell, to make the reference of the hypothesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// The word stays.
    Keep,
    /// Another word takes its place.
    Substitute,
    /// A word of the hypothesis goes.
    Delete,
    /// A word of the reference comes in.
    Insert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    cost: u32,
    edit: Edit,
}

const OUTSIDE: Cell = Cell { cost: UNREACHED, edit: Edit::Delete };

/// One word of the hypothesis against the words of the reference near the diagonal.
#[derive(Clone, Debug, Default)]
struct Row {
    first: usize,
    cells: Vec<Cell>,
}

impl Row {
    fn at(&self, column: usize) -> Cell {
        column.checked_sub(self.first).and_then(|place| self.cells.get(place)).copied().unwrap_or(OUTSIDE)
    }
}

/// All rows for one hypothesis.
pub(super) struct Table<'a> {
    hypothesis: &'a [Word],
    reference: &'a [Word],
    /// Words of the reference for each of the hypothesis.
    ratio: f64,
    beam: usize,
    rows: Vec<Row>,
}

impl<'a> Table<'a> {
    pub(super) fn new(hypothesis: &'a [Word], reference: &'a [Word]) -> Self {
        let ratio =
            if hypothesis.is_empty() { 1.0 } else { reference.len() as f64 / hypothesis.len() as f64 };
        // Where the lengths differ this much, rows of the usual width would not touch each other.
        let wide = (ratio / 2.0 + BEAM as f64).ceil() as usize;
        let beam = if (BEAM as f64) < ratio / 2.0 { wide } else { BEAM };
        let cells = (0..=reference.len()).map(|cost| Cell { cost: cost as u32, edit: Edit::Insert });
        let mut table =
            Self { hypothesis, reference, ratio, beam, rows: vec![Row { first: 0, cells: cells.collect() }] };
        for (place, word) in hypothesis.iter().enumerate() {
            let mut row = Row::default();
            table.fill(&table.rows[place], place + 1, *word, &mut row);
            table.rows.push(row);
        }
        table
    }

    /// The row after `previous`, the `number`th from 1, for a word.
    fn fill(&self, previous: &Row, number: usize, word: Word, row: &mut Row) {
        let columns = self.reference.len() + 1;
        let diagonal = (number as f64 * self.ratio).floor() as usize;
        let last = number == self.hypothesis.len();
        let end = if last { columns } else { columns.min(diagonal + self.beam) };
        row.first = diagonal.saturating_sub(self.beam);
        row.cells.clear();
        let mut left = OUTSIDE;
        for column in row.first..end {
            let above = previous.at(column).cost + 1;
            let mut best = OUTSIDE;
            let mut offer = |cost, edit| {
                if cost < best.cost {
                    best = Cell { cost, edit };
                }
            };
            // Of equal costs the first offer stays, which decides what is aligned with what.
            if let Some(before) = column.checked_sub(1) {
                let diagonal = previous.at(before).cost;
                if self.reference[before] == word {
                    offer(diagonal, Edit::Keep);
                } else {
                    offer(diagonal + 1, Edit::Substitute);
                }
            }
            offer(above, Edit::Delete);
            offer(left.cost + 1, Edit::Insert);
            row.cells.push(best);
            left = best;
        }
    }

    /// Edits without shifts.
    pub(super) fn distance(&self) -> usize {
        self.rows[self.hypothesis.len()].at(self.reference.len()).cost as usize
    }

    /// The distance of `changed`, which differs from the hypothesis within `start..end` alone and is as long.
    pub(super) fn distance_of(&self, changed: &[Word], start: usize, end: usize) -> usize {
        let (mut previous, mut row) = (self.rows[start].clone(), Row::default());
        for (place, word) in changed.iter().enumerate().skip(start) {
            self.fill(&previous, place + 1, *word, &mut row);
            // From here on both go the same way.
            if place + 1 >= end && row.cells == self.rows[place + 1].cells {
                return self.distance();
            }
            std::mem::swap(&mut previous, &mut row);
        }
        previous.at(self.reference.len()).cost as usize
    }

    /// The edits from the first word to the last.
    pub(super) fn edits(&self) -> Vec<Edit> {
        let (mut written, mut reference) = (self.hypothesis.len(), self.reference.len());
        let mut edits = Vec::with_capacity(written + reference);
        while written > 0 || reference > 0 {
            let edit = self.rows[written].at(reference).edit;
            written -= usize::from(edit != Edit::Insert);
            reference -= usize::from(edit != Edit::Delete);
            edits.push(edit);
        }
        edits.reverse();
        edits
    }
}
