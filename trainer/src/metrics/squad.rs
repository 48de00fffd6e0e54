//! How well questions are answered, as SQuAD's evaluation scripts (1.1 and 2.0) say it.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use super::{InputError, Metrics, expect_length};

/// Answers beside the right ones.
#[derive(Clone, Copy, Debug)]
pub struct Squad<'a> {
    /// The mean loss over the rows, computed elsewhere.
    pub loss: Option<f64>,
    /// The right answers to each question, any of which will do; none where it has no answer.
    pub gold: &'a [Vec<&'a str>],
    /// What was answered; an empty text for "no answer".
    pub said: &'a [&'a str],
    /// The likeliest answer that is not "no answer", and how much higher "no answer" scores than it: where questions may have
    /// none.
    pub otherwise: Option<(&'a [&'a str], &'a [f64])>,
}

impl Squad<'_> {
    /// `exact_match` and `f1` in percent; where questions may have no answer also both of those that have one and of those
    /// that have none, and the best that any threshold of the difference would give, with that threshold.
    ///
    /// # Errors
    /// [`InputError`] when the slices differ in length.
    pub fn metrics(&self) -> Result<Metrics, InputError> {
        expect_length("said", self.said.len(), self.gold.len())?;
        let mut out = Metrics::default();
        out.put_loss(self.loss);
        let scores = Scores::of(self.gold, self.said);
        let all: Vec<usize> = (0..self.gold.len()).collect();
        scores.put(&mut out, "", &all);
        let Some((best, differences)) = self.otherwise else { return Ok(out) };
        expect_length("best answers", best.len(), self.gold.len())?;
        expect_length("differences", differences.len(), self.gold.len())?;
        let (none, some): (Vec<usize>, Vec<usize>) = all.iter().partition(|&&row| self.gold[row].is_empty());
        scores.put(&mut out, "has_answer_", &some);
        scores.put(&mut out, "no_answer_", &none);
        let of_best = Scores::of(self.gold, best);
        for (name, scores) in [("best_exact_match", &of_best.exact), ("best_f1", &of_best.f1)] {
            let (value, threshold) = self.best_threshold(scores, best, differences);
            put(&mut out, name, value);
            put(&mut out, &format!("{name}_threshold"), threshold);
        }
        Ok(out)
    }

    /// The greatest mean score over thresholds above which "no answer" is said, in percent, and that threshold.
    ///
    /// Beginning with "no answer" to all questions, one after the other is answered, by their differences.
    fn best_threshold(&self, scores: &[f64], best: &[&str], differences: &[f64]) -> (f64, f64) {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| differences[a].total_cmp(&differences[b]));
        let mut score = self.gold.iter().filter(|gold| gold.is_empty()).count() as f64;
        let (mut greatest, mut threshold) = (score, 0.0);
        for row in order {
            score += match (self.gold[row].is_empty(), best[row].is_empty()) {
                (false, _) => scores[row],
                (true, true) => 0.0,
                (true, false) => -1.0,
            };
            if score > greatest {
                (greatest, threshold) = (score, differences[row]);
            }
        }
        (100.0 * greatest / scores.len() as f64, threshold)
    }
}

/// Both scores of each question.
struct Scores {
    exact: Vec<f64>,
    f1: Vec<f64>,
}

impl Scores {
    fn of(gold: &[Vec<&str>], said: &[&str]) -> Self {
        let each = |score: fn(&[&str], &str) -> f64| {
            gold.iter().zip(said).map(|(gold, said)| score(gold, said)).collect()
        };
        Scores { exact: each(exact_match), f1: each(f1) }
    }

    fn put(&self, out: &mut Metrics, of: &str, rows: &[usize]) {
        for (name, scores) in [("exact_match", &self.exact), ("f1", &self.f1)] {
            let mean = 100.0 * rows.iter().map(|&row| scores[row]).sum::<f64>() / rows.len() as f64;
            put(out, &format!("{of}{name}"), mean);
        }
    }
}

fn put(out: &mut Metrics, name: &str, value: f64) {
    match value.is_nan() {
        true => out.put_undefined(name, format!("{name} is undefined: there are no such questions.")),
        false => out.put(name, value),
    }
}

/// Whether an answer is one of the right ones, but for case, punctuation, articles and blanks: 1 or 0.
pub fn exact_match(gold: &[&str], said: &str) -> f64 {
    best_of(gold, |gold| f64::from(u8::from(normalized(gold) == normalized(said))))
}

/// The greatest F1 of its words with those of a right answer, 0 to 1.
pub fn f1(gold: &[&str], said: &str) -> f64 {
    let said = words(said);
    best_of(gold, |gold| overlap(&words(gold), &said))
}

/// Right answers of which nothing is left are no answers; without any, "no answer" is right.
fn best_of(gold: &[&str], score: impl Fn(&str) -> f64) -> f64 {
    let some: Vec<&str> = gold.iter().copied().filter(|gold| !normalized(gold).is_empty()).collect();
    match some[..] {
        [] => score(""),
        _ => some.into_iter().map(score).fold(0.0, f64::max),
    }
}

fn overlap(gold: &[String], said: &[String]) -> f64 {
    if gold.is_empty() || said.is_empty() {
        return f64::from(u8::from(gold.is_empty() && said.is_empty()));
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in gold {
        *counts.entry(word).or_default() += 1;
    }
    let mut common = 0_u64;
    for word in said {
        if let Some(count) = counts.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (common as f64 / said.len() as f64, common as f64 / gold.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

fn normalized(text: &str) -> String {
    words(text).join(" ")
}

/// The words of a text in lower case, without ASCII punctuation and English articles.
fn words(text: &str) -> Vec<String> {
    /// What Python's `\w` matches, in runs.
    static WORD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("a fixed expression"));
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let text = WORD.replace_all(&text, |run: &regex::Captures| match &run[0] {
        "a" | "an" | "the" => " ".to_owned(),
        other => other.to_owned(),
    });
    // Python takes the four separators of information for blanks as well.
    let is_blank = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
    text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
