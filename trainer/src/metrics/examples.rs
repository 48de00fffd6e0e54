//! Which predictions to show beside the metrics.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Characters of a text that an [`Example`] keeps.
pub const TEXT_LIMIT: usize = 1000;

/// One prediction, ready to be shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The row's number in its file, from 0.
    pub row: u64,
    /// The text, at most [`TEXT_LIMIT`] characters of it.
    pub text: String,
    /// The second text of a pair, cut in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// Whether a text was cut for showing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// The right answer.
    pub label: Answer,
    /// The predicted one.
    pub predicted: Answer,
    /// The probability of the predicted label; `None` where there is no single one.
    pub probability: Option<f64>,
    /// The loss of this row alone; `None` when it is not finite.
    pub loss: Option<f64>,
}

/// An answer of a classifier or of a regression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// A label's name.
    Label(String),
    /// The names of all labels that apply.
    Labels(Vec<String>),
    /// A number.
    Number(f64),
}

impl Example {
    /// An example without text pair.
    pub fn new(
        row: u64,
        text: &str,
        label: Answer,
        predicted: Answer,
        probability: Option<f64>,
        loss: f64,
    ) -> Self {
        let (text, cut) = shorten(text);
        let probability = probability.filter(|p| p.is_finite());
        Self {
            row,
            text,
            text_pair: None,
            cut,
            label,
            predicted,
            probability,
            loss: Some(loss).filter(|l| l.is_finite()),
        }
    }

    /// The same with the second text of a pair.
    pub fn with_pair(mut self, text_pair: &str) -> Self {
        let (text, cut) = shorten(text_pair);
        self.text_pair = Some(text);
        self.cut |= cut;
        self
    }
}

fn shorten(text: &str) -> (String, bool) {
    match text.char_indices().nth(TEXT_LIMIT) {
        Some((end, _)) => (text[..end].to_owned(), true),
        None => (text.to_owned(), false),
    }
}

/// Indices into the rows of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picked {
    /// The lowest losses, lowest first.
    pub best: Vec<usize>,
    /// The highest losses, highest first; a loss that is not a number counts as the highest.
    pub worst: Vec<usize>,
    /// Drawn by the seed, in the order of the rows.
    pub random: Vec<usize>,
}

impl Picked {
    /// The rows, each as it is to be shown.
    pub fn shown<E: Serialize>(&self, example: impl Fn(usize) -> E) -> Value {
        let show = |rows: &[usize]| rows.iter().map(|&row| example(row)).collect::<Vec<_>>();
        json!({"best": show(&self.best), "worst": show(&self.worst), "random": show(&self.random)})
    }
}

/// Picks `n` rows each (or all, when there are fewer) by their losses and by a seed.
///
/// The draw is a function of the seed and of how many rows there are: every evaluation of a run shows the same random
/// rows, so that one can watch them change. Among equal losses the earlier row comes first.
pub fn pick(losses: &[f64], n: usize, seed: u64) -> Picked {
    // All NaN sort alike, whatever their sign bit says.
    let key = |i: usize| {
        if losses[i].is_nan() { f64::INFINITY } else { losses[i] }
    };
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
    let best = order.iter().copied().take(n).collect();
    order.sort_by(|&a, &b| losses[b].is_nan().cmp(&losses[a].is_nan()).then(key(b).total_cmp(&key(a))));
    let worst = order.iter().copied().take(n).collect();
    order.sort_by_key(|&i| (mix(seed, i as u64), i));
    let mut random: Vec<usize> = order.into_iter().take(n).collect();
    random.sort_unstable();
    Picked { best, worst, random }
}

/// The output of SplitMix64 (Steele, Lea, Flood 2014) with `seed` at position `counter`.
fn mix(seed: u64, counter: u64) -> u64 {
    let z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_and_worst_are_ordered_by_loss_and_nan_is_the_worst() {
        let picked = pick(&[0.5, f64::NAN, 0.1, 2.0, 0.1, f64::INFINITY, -f64::NAN], 3, 0);
        assert_eq!(picked.best, [2, 4, 0]);
        assert_eq!(picked.worst, [1, 6, 5]);
    }

    #[test]
    fn the_random_rows_are_those_of_the_seed_and_do_not_depend_on_the_losses() {
        let losses: Vec<f64> = (0..1000).map(f64::from).collect();
        let reversed: Vec<f64> = losses.iter().rev().copied().collect();
        let a = pick(&losses, 5, 1).random;
        assert_eq!(a, pick(&reversed, 5, 1).random);
        assert_ne!(a, pick(&losses, 5, 2).random);
        assert!(a.is_sorted() && a.len() == 5);
    }

    #[test]
    fn every_row_is_drawn_about_equally_often() {
        let losses = [0.0; 10];
        let mut drawn = [0_u32; 10];
        for seed in 0..2000 {
            pick(&losses, 3, seed).random.into_iter().for_each(|i| drawn[i] += 1);
        }
        // 600 expected, standard deviation 20.
        assert!(drawn.iter().all(|&n| (500..700).contains(&n)), "{drawn:?}");
    }

    #[test]
    fn fewer_rows_than_wanted_are_all_shown() {
        assert_eq!(
            pick(&[1.0, 0.0], 5, 9),
            Picked { best: vec![1, 0], worst: vec![0, 1], random: vec![0, 1] }
        );
        assert_eq!(pick(&[], 5, 9), Picked::default());
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let answer = || Answer::Label("a".to_owned());
        let long = "é".repeat(TEXT_LIMIT + 1);
        let example = Example::new(3, &long, answer(), answer(), Some(0.5), f64::NAN);
        assert_eq!((example.text.chars().count(), example.cut, example.loss), (TEXT_LIMIT, true, None));
        let short = Example::new(3, "b", answer(), answer(), None, 1.5).with_pair("c");
        let json = serde_json::to_string(&short).unwrap();
        assert_eq!(
            json,
            r#"{"row":3,"text":"b","text_pair":"c","label":"a","predicted":"a","probability":null,"loss":1.5}"#
        );
        assert_eq!(serde_json::from_str::<Example>(&json).unwrap(), short);
    }
}
