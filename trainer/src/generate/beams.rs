//! Beam search for one source, as transformers' `_beam_search` has it.

use super::answer::Writing;

/// What stands for a score that nothing can have.
const NO_SCORE: f32 = -1e9;

/// An answer that is being written.
#[derive(Clone, Debug, PartialEq)]
pub struct Beam {
    /// What the decoder began with, and the tokens after it.
    pub ids: Vec<u32>,
    /// The sum of the logarithms of their probabilities.
    pub score: f32,
}

impl Beam {
    /// The token that the decoder reads next.
    pub fn last(&self) -> u32 {
        self.ids[self.ids.len() - 1]
    }

    /// Tokens that would make `n` in a row come twice.
    pub fn would_repeat(&self, n: usize) -> impl Iterator<Item = u32> {
        let ids = &self.ids;
        let end = if ids.len() + 1 < n { None } else { Some(&ids[ids.len() + 1 - n..]) };
        ids.windows(n)
            .filter(move |all| end.is_some_and(|end| all[..n - 1] == *end))
            .map(move |all| all[n - 1])
    }
}

/// An answer that has ended, or a place for one.
#[derive(Clone, Debug)]
struct Ended {
    ids: Vec<u32>,
    /// Divided by the power of its length.
    score: f32,
    there: bool,
}

/// The search for a source's answer.
pub struct Search {
    running: Vec<Beam>,
    ended: Vec<Ended>,
    done: bool,
}

impl Search {
    /// Before the first token.
    pub fn new(writing: &Writing) -> Self {
        // All begin alike: at first the tokens of one alone count.
        let beam = |at| Beam { ids: vec![writing.begin], score: if at == 0 { 0.0 } else { NO_SCORE } };
        let none = Ended { ids: vec![writing.begin], score: NO_SCORE, there: false };
        let beams = writing.num_beams;
        Search { running: (0..beams).map(beam).collect(), ended: vec![none; beams], done: false }
    }

    /// The answers that go on.
    pub fn running(&self) -> &[Beam] {
        &self.running
    }

    /// Whether no better answer is looked for.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the best candidates, the best first: which answer goes on, by which token, to which score. Returns which answer
    /// each of the next ones goes on from.
    pub fn take(&mut self, writing: &Writing, candidates: &[(usize, u32, f32)]) -> Vec<usize> {
        if writing.num_beams == 1 {
            return self.take_likeliest(writing, candidates[0]);
        }
        let length = self.running[0].ids.len();
        let full = length == writing.max_new_tokens;
        let ends: Vec<bool> =
            candidates.iter().map(|(_, token, _)| full || writing.ends.contains(token)).collect();
        let grown = |&(from, token, score): &(usize, u32, f32)| {
            let ids = [self.running[from].ids.as_slice(), &[token]].concat();
            Beam { ids, score }
        };
        let grown: Vec<Beam> = candidates.iter().map(grown).collect();
        self.end(writing, &grown, &ends);
        let scores =
            grown.iter().zip(&ends).map(|(beam, &ends)| beam.score + if ends { NO_SCORE } else { 0.0 });
        let next = best(&scores.collect::<Vec<_>>(), writing.num_beams);
        self.running = next.iter().map(|&at| grown[at].clone()).collect();
        // Their scores are those by which they were chosen: all of them may have ended.
        for (beam, &at) in self.running.iter_mut().zip(&next) {
            beam.score += if ends[at] { NO_SCORE } else { 0.0 };
        }
        let by = power(length, writing.length_penalty);
        let possible = self.running[0].score / by;
        let worst = self.ended.iter().map(|ended| ended.score).fold(f32::INFINITY, f32::min);
        let better = self.ended.iter().any(|ended| possible > if ended.there { worst } else { NO_SCORE });
        let enough = writing.early_stopping && self.ended.iter().all(|ended| ended.there);
        self.done = !better || enough || ends.iter().all(|&ends| ends);
        next.iter().map(|&at| candidates[at].0).collect()
    }

    /// Puts answers that end now among those that have ended, where they are better.
    fn end(&mut self, writing: &Writing, grown: &[Beam], ends: &[bool]) {
        let by = power(grown[0].ids.len() - 1, writing.length_penalty);
        let ending = grown.iter().zip(ends).enumerate().map(|(at, (beam, &ends))| {
            // Further candidates are there only so that enough are left to go on.
            let there = ends && at < writing.num_beams;
            let score = beam.score / by + if there { 0.0 } else { NO_SCORE };
            Ended { ids: beam.ids.clone(), score, there }
        });
        let all: Vec<Ended> = self.ended.iter().cloned().chain(ending).collect();
        let scores: Vec<f32> = all.iter().map(|ended| ended.score).collect();
        self.ended = best(&scores, writing.num_beams).into_iter().map(|at| all[at].clone()).collect();
    }

    fn take_likeliest(&mut self, writing: &Writing, (_, token, score): (usize, u32, f32)) -> Vec<usize> {
        let beam = &mut self.running[0];
        beam.ids.push(token);
        beam.score = score;
        self.done = writing.ends.contains(&token) || beam.ids.len() > writing.max_new_tokens;
        vec![0]
    }

    /// The tokens of the best answer, without what the decoder began with.
    pub fn best(mut self) -> Vec<u32> {
        let best = self.ended.swap_remove(0);
        let ids = if best.there { best.ids } else { self.running.swap_remove(0).ids };
        ids[1..].to_vec()
    }
}

impl Writing {
    /// Candidates that are looked at in each step: so many that enough are left where all the best ones end.
    pub(super) fn candidates(&self) -> usize {
        if self.num_beams == 1 { 1 } else { 2.max(1 + self.ends.len()) * self.num_beams }
    }
}

/// The power by which scores of answers of so many tokens are divided.
fn power(length: usize, penalty: f64) -> f32 {
    (length as f64).powf(penalty) as f32
}

/// Places of the greatest numbers, the greatest first; of equal ones the first.
fn best(numbers: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..numbers.len()).collect();
    places.sort_by(|&a, &b| numbers[b].total_cmp(&numbers[a]));
    places.truncate(count);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writing(num_beams: usize) -> Writing {
        Writing {
            num_beams,
            length_penalty: 1.0,
            early_stopping: false,
            no_repeat_ngram_size: 0,
            max_new_tokens: 3,
            begin: 0,
            forced_bos: None,
            forced_eos: None,
            never: Vec::new(),
            ends: vec![1],
        }
    }

    #[test]
    fn tokens_that_would_repeat_are_those_after_the_same_beginning() {
        let beam = Beam { ids: vec![5, 6, 7, 5, 6], score: 0.0 };
        assert_eq!(beam.would_repeat(3).collect::<Vec<_>>(), [7]);
        assert_eq!(beam.would_repeat(2).collect::<Vec<_>>(), [7]);
        assert_eq!(beam.would_repeat(1).collect::<Vec<_>>(), [5, 6, 7, 5, 6]);
        assert_eq!(beam.would_repeat(7).count(), 0);
    }

    #[test]
    fn a_longer_answer_wins_by_its_mean() {
        let writing = writing(2);
        let mut search = Search::new(&writing);
        // One ends at once with -1, the other goes on.
        let from = search.take(&writing, &[(0, 1, -1.0), (0, 7, -1.1), (0, 8, -3.0), (0, 9, -4.0)]);
        assert_eq!((from, search.is_done()), (vec![0, 0], false));
        assert_eq!(search.running()[0].ids, [0, 7]);
        // -1.2 over two tokens is better than -1 over one.
        search.take(&writing, &[(0, 1, -1.2), (0, 7, -5.0), (1, 1, -6.0), (1, 5, -7.0)]);
        assert!(search.is_done());
        assert_eq!(search.best(), [7, 1]);
    }
}
