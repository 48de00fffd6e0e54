//! Answers as parts of a text: where they stand in the windows over it, and which part of all windows is the likeliest.
//!
//! The ranking is that of `postprocess_qa_predictions` in transformers' example for questions.

use std::sync::Arc;

use formats::dataset::questions::Question;
use formats::tokenizer::{Encoding, Window};

/// Windows over the contexts of questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Spans {
    /// The windows; those of a question follow one another.
    pub windows: Vec<Placed>,
    /// The questions.
    pub questions: Arc<Vec<Question>>,
}

/// A window, with where the answer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its question's place among [`Spans::questions`].
    pub question: usize,
    /// The token that the answer begins at; `cls` where this window does not hold all of it.
    pub start: usize,
    /// The token that it ends at.
    pub end: usize,
    /// The token that stands for "no answer".
    pub cls: usize,
    /// The first token of the context.
    pub first: usize,
    /// Characters of the context that each of its tokens stands for.
    pub offsets: Vec<(u32, u32)>,
}

impl Placed {
    /// A window as it is, with where the first of the answers stands in it.
    pub fn new(question: usize, of: &Question, window: &Window) -> Self {
        let answer = of.answers.first();
        let place = answer.and_then(|answer| window.place(answer.start, answer.end()));
        let (start, end) = place.unwrap_or((window.cls, window.cls));
        let Window { cls, first, offsets, .. } = window;
        Placed { question, start, end, cls: *cls, first: *first, offsets: offsets.clone() }
    }

    fn characters(&self, token: usize) -> Option<(u32, u32)> {
        self.offsets.get(token.checked_sub(self.first)?).copied()
    }
}

impl Spans {
    /// The windows of each question, and their tokens.
    pub fn new(questions: Vec<Question>, windows: Vec<Vec<Window>>) -> (Self, Vec<Encoding>) {
        let (mut placed, mut encodings) = (Vec::new(), Vec::new());
        for (number, (question, windows)) in questions.iter().zip(windows).enumerate() {
            for window in windows {
                placed.push(Placed::new(number, question, &window));
                let Window { ids, type_ids, .. } = window;
                encodings.push(Encoding { ids, type_ids, truncated: false });
            }
        }
        (Spans { windows: placed, questions: Arc::new(questions) }, encodings)
    }

    /// Some of the windows.
    pub fn of_windows(&self, rows: &[usize]) -> Self {
        let windows = rows.iter().map(|&row| self.windows[row].clone()).collect();
        Spans { windows, questions: self.questions.clone() }
    }

    /// The windows of each question that has some, in the order of the questions.
    pub fn by_question(&self) -> Vec<(usize, Vec<usize>)> {
        let mut of: Vec<Vec<usize>> = vec![Vec::new(); self.questions.len()];
        for (at, window) in self.windows.iter().enumerate() {
            of[window.question].push(at);
        }
        of.into_iter().enumerate().filter(|(_, windows)| !windows.is_empty()).collect()
    }
}

/// How many numbers are kept of what was said of a window.
pub fn kept(n_best: usize) -> usize {
    2 + 4 * n_best
}

/// What is kept of a window's logits, token by token start and end: those of "no answer", then place and logit of the
/// `n_best` likeliest starts, then of ends. Places that are not there are −1.
pub fn keep(logits: &[f32], cls: usize, n_best: usize) -> Vec<f32> {
    let mut out = vec![logits[2 * cls], logits[2 * cls + 1]];
    for side in 0..2 {
        let mut order: Vec<usize> = (0..logits.len() / 2).collect();
        let logit = |at: usize| logits[2 * at + side];
        // Of equals the last one first, as a reversed ascending sort has them.
        order.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(b.cmp(&a)));
        for rank in 0..n_best {
            match order.get(rank) {
                Some(&at) => out.extend([at as f32, logit(at)]),
                None => out.extend([-1.0, 0.0]),
            }
        }
    }
    out
}

/// How answers are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Starts and ends of a window that are looked at, and answers that are ranked.
    pub n_best: usize,
    /// Tokens of an answer, at most.
    pub max_answer_length: usize,
    /// How much higher "no answer" has to score to be chosen; `None` where every question has an answer.
    pub threshold: Option<f64>,
}

/// A part of a context that may be the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its first character.
    pub start: usize,
    /// One past its last character; equal to `start` where it has none.
    pub end: usize,
    /// The sum of the logits of its start and end.
    pub score: f64,
    /// Its share of all that were ranked.
    pub probability: f64,
}

/// The answers to a question, the likeliest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    /// Parts of the context.
    pub candidates: Vec<Candidate>,
    /// Score and share of "no answer", where that may be one.
    pub null: Option<(f64, f64)>,
    /// Whether "no answer" is the answer.
    pub is_null: bool,
}

impl Ranking {
    /// The likeliest part of the context that has characters.
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.end > candidate.start)
    }

    /// What is said in the end; nothing where "no answer" is.
    pub fn answer(&self) -> Option<&Candidate> {
        self.best().filter(|_| !self.is_null)
    }

    /// How much higher "no answer" scores than the best answer.
    pub fn difference(&self) -> Option<f64> {
        Some(self.null?.0 - self.best()?.score)
    }
}

/// Ranks what was kept of all windows of a question.
pub fn rank<'a>(windows: impl Iterator<Item = (&'a Placed, &'a [f32])>, choice: Choice) -> Ranking {
    let (mut found, mut null) = (Vec::new(), f32::INFINITY);
    for (window, kept) in windows {
        null = null.min(kept[0] + kept[1]);
        let (starts, ends) = kept[2..].split_at(2 * choice.n_best);
        for start in starts.chunks_exact(2) {
            for end in ends.chunks_exact(2) {
                let (Some(from), Some(to)) = (token(start[0]), token(end[0])) else { continue };
                if to < from || to - from + 1 > choice.max_answer_length {
                    continue;
                }
                if let (Some(first), Some(last)) = (window.characters(from), window.characters(to)) {
                    let (start_at, end_at) = (first.0 as usize, last.1.max(first.0) as usize);
                    found.push((Some((start_at, end_at)), start[1] + end[1]));
                }
            }
        }
    }
    if choice.threshold.is_some() {
        found.push((None, null));
    }
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    let left = found.split_off(found.len().min(choice.n_best));
    // Among so many answers "no answer" keeps its place.
    found.extend(left.into_iter().filter(|(place, _)| place.is_none()));
    let highest = found.first().map_or(0.0, |(_, score)| f64::from(*score));
    let sum: f64 = found.iter().map(|(_, score)| (f64::from(*score) - highest).exp()).sum();
    let mut ranking = Ranking::default();
    for (place, score) in found {
        let score = f64::from(score);
        let probability = (score - highest).exp() / sum;
        match place {
            Some((start, end)) => ranking.candidates.push(Candidate { start, end, score, probability }),
            None => ranking.null = Some((score, probability)),
        }
    }
    ranking.is_null = match choice.threshold {
        None => ranking.best().is_none(),
        Some(threshold) => ranking.difference().is_none_or(|difference| difference > threshold),
    };
    ranking
}

fn token(place: f32) -> Option<usize> {
    (place >= 0.0).then_some(place as usize)
}

/// A part of a text, by characters.
pub fn part(text: &str, start: usize, end: usize) -> &str {
    let byte = |at: usize| text.char_indices().map(|(byte, _)| byte).nth(at).unwrap_or(text.len());
    &text[byte(start)..byte(end.max(start))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(offsets: &[(u32, u32)]) -> Placed {
        Placed { question: 0, start: 0, end: 0, cls: 0, first: 2, offsets: offsets.to_vec() }
    }

    #[test]
    fn the_best_part_of_all_windows_is_taken_and_the_lowest_null() {
        let (first, second) = (window(&[(0, 1), (2, 3)]), window(&[(2, 3), (4, 6)]));
        // Token by token start and end: [CLS], question, two of the context.
        let a = keep(&[3.0, 3.0, 9.0, 9.0, 1.0, 0.0, 0.0, 1.0], 0, 3);
        let b = keep(&[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 4.0, 2.0], 0, 3);
        let choice = Choice { n_best: 3, max_answer_length: 5, threshold: Some(0.0) };
        let ranking = rank([(&first, a.as_slice()), (&second, b.as_slice())].into_iter(), choice);
        let best = ranking.best().unwrap();
        assert_eq!((best.start, best.end, best.score), (4, 6, 6.0));
        assert_eq!(ranking.null.unwrap().0, 2.0);
        assert!(!ranking.is_null);
        let strict = Choice { threshold: Some(-5.0), ..choice };
        assert!(rank([(&second, b.as_slice())].into_iter(), strict).is_null);
    }

    #[test]
    fn an_answer_is_neither_too_long_nor_backwards() {
        let window = window(&[(0, 1), (2, 3), (4, 5)]);
        // The end lies before the start, and the only other pair is three tokens long.
        let logits = [0.0, 0.0, 0.0, 0.0, 1.0, 5.0, 0.0, 0.0, 9.0, 4.0];
        let kept = keep(&logits, 0, 1);
        let choice = Choice { n_best: 1, max_answer_length: 2, threshold: None };
        let ranking = rank([(&window, kept.as_slice())].into_iter(), choice);
        assert_eq!(ranking.candidates, []);
        assert_eq!(ranking.answer(), None);
    }

    #[test]
    fn parts_are_counted_in_characters() {
        assert_eq!(part("né電影x", 1, 3), "é電");
        assert_eq!(part("né電影x", 3, 9), "影x");
    }
}
