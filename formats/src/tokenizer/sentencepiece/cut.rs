//! A normalized text in pieces, by the likeliest row of pieces or by merging.
//!
//! As `unigram_model.cc` and `bpe_model.cc` do it (<https://github.com/google/sentencepiece/tree/master/src>), to the bit: numbers
//! of 32 bits are added in the same order, so that ties fall the same way.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::model::{Piece, Sort};
use super::trie::Trie;

/// How much less likely than the least likely piece an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Bytes of the text, and the piece's number; none for what no piece covers.
pub(super) type Cut = (Range<usize>, Option<u32>);

/// The row of pieces whose scores have the greatest sum.
pub(super) struct Unigram {
    trie: Trie,
    least: f32,
    greatest: f32,
}

/// The best row that ends at a byte.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    from: usize,
    piece: Option<u32>,
}

impl Unigram {
    pub(super) fn new(pieces: &[Piece]) -> Self {
        let scores = || pieces.iter().filter(|piece| piece.sort == Sort::Normal).map(|piece| piece.score);
        let found = pieces.iter().zip(0..).filter(|(piece, _)| is_found(piece) && piece.sort != Sort::Unused);
        Self {
            trie: Trie::new(found.map(|(piece, id)| (piece.text.as_str(), id))),
            least: scores().fold(f32::MAX, f32::min),
            greatest: scores().fold(f32::MIN_POSITIVE, f32::max),
        }
    }

    pub(super) fn cut(&self, pieces: &[Piece], text: &str) -> Vec<Cut> {
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        best[0] = Some(Best { score: 0.0, from: 0, piece: None });
        let unknown_score = self.least - UNKNOWN_PENALTY;
        for (from, letter) in text.char_indices() {
            // Every character is reached, if only as an unknown one.
            let till_here = best[from].map_or(0.0, |best| best.score);
            let mut has_letter = false;
            for (length, id) in self.trie.prefixes(&text[from..]) {
                let piece = &pieces[id as usize];
                let candidate = match piece.sort {
                    // What the user defined goes before everything else.
                    Sort::UserDefined => {
                        f64::from(length as f32 * self.greatest) - 0.1 + f64::from(till_here)
                    }
                    _ => f64::from(piece.score + till_here),
                };
                put(&mut best[from + length], candidate, Best { score: 0.0, from, piece: Some(id) });
                has_letter |= length == letter.len_utf8();
            }
            if !has_letter {
                let candidate = f64::from(unknown_score + till_here);
                put(&mut best[from + letter.len_utf8()], candidate, Best { score: 0.0, from, piece: None });
            }
        }
        let mut cuts = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Some(Best { from, piece, .. }) = best[end] else { break };
            cuts.push((from..end, piece));
            end = from;
        }
        cuts.reverse();
        cuts
    }
}

fn put(place: &mut Option<Best>, candidate: f64, row: Best) {
    if place.is_none_or(|old| candidate > f64::from(old.score)) {
        *place = Some(Best { score: candidate as f32, ..row });
    }
}

/// Neighbours that together are a piece become one, the best piece first.
pub(super) struct Bpe {
    numbers: HashMap<String, u32>,
}

struct Symbol {
    range: Range<usize>,
    before: Option<usize>,
    after: Option<usize>,
    /// What the user defined is not merged.
    fixed: bool,
}

/// Two neighbours that would be a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Bpe {
    pub(super) fn new(pieces: &[Piece]) -> Self {
        let found = pieces.iter().zip(0..).filter(|(piece, _)| is_found(piece));
        Self { numbers: found.map(|(piece, id)| (piece.text.clone(), id)).collect() }
    }

    pub(super) fn cut(&self, pieces: &[Piece], fixed: &Trie, text: &str) -> Vec<Cut> {
        let mut symbols = symbols(fixed, text);
        let mut waiting = BinaryHeap::new();
        // The two parts of pieces that are not to come out, to take them apart again.
        let mut parts: HashMap<&str, (Range<usize>, Range<usize>)> = HashMap::new();
        let mut add = |symbols: &[Symbol], waiting: &mut BinaryHeap<Pair>, left: usize, right: usize| {
            let (first, second) = (&symbols[left], &symbols[right]);
            let range = first.range.start..second.range.end;
            let id = self.numbers.get(&text[range.clone()]).filter(|_| !first.fixed && !second.fixed);
            let Some(piece) = id.map(|id| &pieces[*id as usize]) else { return };
            waiting.push(Pair { score: piece.score, left, right, length: range.len() });
            if piece.sort == Sort::Unused {
                parts.insert(&text[range], (first.range.clone(), second.range.clone()));
            }
        };
        for right in 1..symbols.len() {
            add(&symbols, &mut waiting, right - 1, right);
        }
        while let Some(Pair { left, right, length, .. }) = waiting.pop() {
            let lengths = [left, right].map(|at| symbols[at].range.len());
            if lengths.contains(&0) || lengths[0] + lengths[1] != length {
                continue;
            }
            symbols[left].range.end = symbols[right].range.end;
            symbols[right].range.start = symbols[right].range.end;
            let after = symbols[right].after;
            symbols[left].after = after;
            if let Some(after) = after {
                symbols[after].before = Some(left);
                add(&symbols, &mut waiting, left, after);
            }
            if let Some(before) = symbols[left].before {
                add(&symbols, &mut waiting, before, left);
            }
        }
        let mut cuts = Vec::new();
        // The next one to come out is on top.
        let whole = symbols.into_iter().rev().map(|symbol| symbol.range).filter(|range| !range.is_empty());
        let mut rest: Vec<Range<usize>> = whole.collect();
        while let Some(range) = rest.pop() {
            let id = self.numbers.get(&text[range.clone()]).copied();
            let unused = id.filter(|id| pieces[*id as usize].sort == Sort::Unused);
            match unused.and_then(|_| parts.get(&text[range.clone()])) {
                // Where the same letters were put together before, they stand elsewhere.
                Some((left, right)) => {
                    let middle = range.start + left.len();
                    debug_assert_eq!(range.len(), left.len() + right.len());
                    rest.push(middle..range.end);
                    rest.push(range.start..middle);
                }
                None => cuts.push((range, id)),
            }
        }
        cuts
    }
}

/// Characters, and what the user defined as a whole.
fn symbols(fixed: &Trie, text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::new();
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        let found = fixed.prefixes(&text[at..]).last();
        let length = found.map_or(letter.len_utf8(), |(length, _)| length);
        let number = symbols.len();
        let symbol = Symbol {
            range: at..at + length,
            before: number.checked_sub(1),
            after: Some(number + 1),
            fixed: found.is_some(),
        };
        symbols.push(symbol);
        at += length;
    }
    if let Some(last) = symbols.last_mut() {
        last.after = None;
    }
    symbols
}

/// Whether a piece is found in texts, and not only by its number.
fn is_found(piece: &Piece) -> bool {
    matches!(piece.sort, Sort::Normal | Sort::UserDefined | Sort::Unused)
}
