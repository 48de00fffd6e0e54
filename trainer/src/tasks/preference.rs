//! Preferences: of two answers to a prompt the better one is made likelier than the worse.
//!
//! A row is two sequences, the better answer and then the worse, each after the prompt. A rule looks at the sums of the
//! logarithms of their tokens' probabilities, some beside what the model held of them when it began, and says by how much each
//! sum is to grow or shrink; that is then the weight of each of its tokens in an ordinary loss. So the vocabulary is never
//! multiplied out for a graph of its own.

use std::cell::Cell;

use anyhow::Result;
use serde_json::Value;
use store::spec::{Preference, PreferenceLoss, Training};
use tch::Tensor;

use super::text_generation::TextGeneration;
use super::{Given, Objective, Predictions};
use crate::data::Split;
use crate::metrics::{Metrics, Preferences};
use crate::models::Head;

/// Numbers of a row: sums of log-probabilities of the better and the worse answer, and how many tokens each has.
const OUTPUTS: usize = 4;

/// A rule for pairs.
pub struct PreferenceTuning {
    rule: Preference,
    smoothing: f64,
    /// Tokens of the better answers of the step that is at work: what their own loss is divided by.
    better: Cell<f64>,
}

/// What is known of a pair: of the better answer, then of the worse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Sums of the logarithms of tokens' probabilities.
    pub sums: [f64; 2],
    /// The same when training began; 0 for rules that do not ask.
    pub before: [f64; 2],
    /// Tokens.
    pub tokens: [f64; 2],
}

/// What a rule says of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said {
    /// The loss.
    pub loss: f64,
    /// How it grows with each sum.
    pub slopes: [f64; 2],
    /// What each answer is worth to the model.
    pub rewards: [f64; 2],
}

impl PreferenceTuning {
    /// The rule that the settings ask for.
    pub fn new(rule: Preference, training: &Training) -> Self {
        PreferenceTuning { rule, smoothing: training.label_smoothing, better: Cell::new(1.0) }
    }

    /// What the rule says of a pair, without the better answer's own loss.
    pub fn judge(&self, pair: Pair) -> Said {
        let Preference { loss: rule, beta, gamma, .. } = self.rule;
        let Pair { sums, before, tokens } = pair;
        let before = if rule.has_reference() { before } else { [0.0; 2] };
        let gained = [sums[0] - before[0], sums[1] - before[1]];
        let means = [gained[0] / tokens[0], gained[1] / tokens[1]];
        let of_sums = |(loss, slope): (f64, f64)| (loss, [beta * slope, -beta * slope]);
        let of_means =
            |(loss, slope): (f64, f64)| (loss, [beta * slope / tokens[0], -beta * slope / tokens[1]]);
        let z = beta * (gained[0] - gained[1]);
        let smooth = self.smoothing;
        let (loss, slopes) = match rule {
            PreferenceLoss::Sigmoid | PreferenceLoss::Cpo => of_sums(logistic(z, smooth)),
            PreferenceLoss::Robust => {
                let loss = (1.0 - smooth) * softplus(-z) - smooth * softplus(z);
                let slope = -(1.0 - smooth) * sigmoid(-z) - smooth * sigmoid(z);
                of_sums((loss / (1.0 - 2.0 * smooth), slope / (1.0 - 2.0 * smooth)))
            }
            PreferenceLoss::Hinge => of_sums(((1.0 - z).max(0.0), if z < 1.0 { -1.0 } else { 0.0 })),
            PreferenceLoss::Ipo => {
                let off = means[0] - means[1] - 1.0 / (2.0 * beta);
                (off * off, [2.0 * off / tokens[0], -2.0 * off / tokens[1]])
            }
            PreferenceLoss::Simpo => of_means(logistic(beta * (means[0] - means[1]) - gamma, smooth)),
            PreferenceLoss::Orpo => {
                // Of the answers' odds, which probabilities close to 1 make infinite.
                let rest = means.map(|mean| (-mean.min(-1e-9).exp_m1()).ln());
                let odds = (means[0] - means[1]) - (rest[0] - rest[1]);
                let by = means.map(|mean| 1.0 / -mean.min(-1e-9).exp_m1());
                let slope = -beta * sigmoid(-odds);
                (beta * softplus(-odds), [slope * by[0] / tokens[0], -slope * by[1] / tokens[1]])
            }
            PreferenceLoss::Kto | PreferenceLoss::ApoZeroUnpaired => unreachable!("rules of single answers"),
        };
        let worth = if matches!(rule, PreferenceLoss::Orpo | PreferenceLoss::Simpo) { means } else { gained };
        Said { loss, slopes, rewards: worth.map(|worth| beta * worth) }
    }

    /// The pairs of a batch: what the model says of them now, and what it said before.
    fn pairs(&self, of: &Given) -> Result<Vec<Pair>> {
        let (sums, counted) = (TextGeneration::log_probabilities(of)?, &of.batch.counted.of_row);
        let pair = |(place, &row): (usize, &usize)| Pair {
            sums: [sums[2 * place], sums[2 * place + 1]],
            before: of.split.reference_of(row),
            tokens: [counted[2 * place] as f64, counted[2 * place + 1] as f64],
        };
        Ok(of.rows.iter().enumerate().map(pair).collect())
    }
}

/// `log(1 + eˣ)`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `−(1 − ε) log σ(z) − ε log σ(−z)`, and its slope.
fn logistic(z: f64, smooth: f64) -> (f64, f64) {
    let loss = (1.0 - smooth) * softplus(-z) + smooth * softplus(z);
    (loss, -(1.0 - smooth) * sigmoid(-z) + smooth * sigmoid(z))
}

impl Objective for PreferenceTuning {
    fn head(&self) -> Head {
        Head::Tokens
    }

    fn has_reference(&self) -> bool {
        self.rule.loss.has_reference()
    }

    /// Pairs. What else a step is divided by is noted on the way.
    fn weight(&self, split: &Split, rows: &[usize]) -> f64 {
        let better = |&row: &usize| split.sequences(&[row])[0].counted() as f64;
        self.better.set(rows.iter().map(better).sum::<f64>().max(1.0));
        rows.len() as f64
    }

    fn loss(&self, of: &Given, by: f64) -> Tensor {
        let pairs = self.pairs(of).expect("log-probabilities can be read");
        let own = self.rule.weight_of_better() / self.better.get();
        // A process that computes for the exchange alone counts for nothing.
        let own = if by == 0.0 { 0.0 } else { own };
        let (mut loss, mut slopes) = (0.0, Vec::new());
        for pair in pairs {
            let said = self.judge(pair);
            loss += by * said.loss - own * pair.sums[0];
            slopes.extend([by * said.slopes[0] - own, by * said.slopes[1]]);
        }
        TextGeneration::steered(of, loss, &slopes)
    }

    fn outputs(&self) -> usize {
        OUTPUTS
    }

    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)> {
        let pairs = self.pairs(of)?;
        let outputs = pairs.iter().flat_map(|pair| [pair.sums, pair.tokens].concat());
        let losses = pairs.iter().map(|&pair| self.judge(pair).loss as f32).collect();
        Ok((outputs.map(|number| number as f32).collect(), losses))
    }

    fn metrics(&self, split: &Split, predictions: &Predictions) -> Result<Metrics> {
        let said: Vec<(Pair, Said)> =
            self.rows(split, predictions).map(|pair| (pair, self.judge(pair))).collect();
        let sum = |of: &dyn Fn(&(Pair, Said)) -> f64| said.iter().map(of).sum::<f64>();
        Ok(Preferences {
            pairs: said.len() as f64,
            loss: sum(&|(_, said)| said.loss),
            rewards: [sum(&|(_, said)| said.rewards[0]), sum(&|(_, said)| said.rewards[1])],
            right: sum(&|(_, said)| f64::from(u8::from(said.rewards[0] > said.rewards[1]))),
            better: [sum(&|(pair, _)| -pair.sums[0]), sum(&|(pair, _)| pair.tokens[0])],
            weight_of_better: self.rule.weight_of_better(),
        }
        .metrics())
    }

    /// Row, and of each answer tokens, log-probability and reward.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record([
            "row",
            "loss",
            "chosen_reward",
            "rejected_reward",
            "chosen_logp",
            "rejected_logp",
            "chosen_tokens",
            "rejected_tokens",
        ])?;
        for (number, pair) in split.numbers.iter().zip(self.rows(split, predictions)) {
            let Said { loss, rewards, .. } = self.judge(pair);
            let numbers =
                [loss, rewards[0], rewards[1], pair.sums[0], pair.sums[1], pair.tokens[0], pair.tokens[1]];
            csv.write_record(
                [number.to_string()].into_iter().chain(numbers.map(|number| number.to_string())),
            )?;
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }

    fn tuned_config(&self, base: &Value) -> Result<Value> {
        TextGeneration::default().tuned_config(base)
    }

    fn peft_task(&self) -> &'static str {
        TextGeneration::default().peft_task()
    }

    fn usage(&self, adapter: bool) -> &'static str {
        TextGeneration::default().usage(adapter)
    }
}

impl PreferenceTuning {
    /// The pairs of a split, by what an evaluation kept.
    fn rows<'a>(&self, split: &'a Split, predictions: &'a Predictions) -> impl Iterator<Item = Pair> + 'a {
        predictions.outputs.chunks(OUTPUTS).enumerate().map(|(row, numbers)| {
            let number = |at: usize| f64::from(numbers[at]);
            Pair {
                sums: [number(0), number(1)],
                before: split.reference_of(row),
                tokens: [number(2), number(3)],
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_losses() {
        let pair = Pair { sums: [-31.0, -24.5], before: [-29.0, -26.0], tokens: [7.0, 5.0] };
        for loss in PreferenceLoss::ALL.into_iter().filter(|loss| !loss.is_unpaired()) {
            for (beta, label_smoothing) in [(0.1, 0.0), (0.5, 0.1)] {
                let rule = Preference { loss, beta, ..Preference::default() };
                let training = Training { label_smoothing, ..Training::default() };
                let tuning = PreferenceTuning::new(rule, &training);
                let slopes = tuning.judge(pair).slopes;
                for (answer, slope) in slopes.into_iter().enumerate() {
                    let near = |by: f64| {
                        let mut pair = pair;
                        pair.sums[answer] += by;
                        tuning.judge(pair).loss
                    };
                    let found = (near(1e-5) - near(-1e-5)) / 2e-5;
                    let off = (found - slope).abs();
                    assert!(off < 1e-7, "{loss:?} {answer}: {slope} for {found}");
                }
            }
        }
    }

    #[test]
    fn answers_that_are_certain_give_finite_numbers() {
        let rule = Preference { loss: PreferenceLoss::Orpo, ..Preference::default() };
        let tuning = PreferenceTuning::new(rule, &Training::default());
        let said = tuning.judge(Pair { sums: [0.0, -90.0], before: [0.0; 2], tokens: [3.0, 3.0] });
        assert!(said.loss.is_finite() && said.slopes.iter().all(|slope| slope.is_finite()), "{said:?}");
    }
}
