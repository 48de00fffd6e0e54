//! Answers that are desirable or not, each on its own: the former are made likelier, the latter less likely.
//!
//! KTO (K. Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, equation 7) values an answer by how
//! much likelier it became than when training began, beside a reference point: how far the model went on the whole. That is estimated by
//! the prompts of a step with each other's answers, has no gradient, and is at least 0, as TRL's `KTOTrainer` has it.

use std::cell::Cell;

use anyhow::Result;
use serde_json::Value;
use store::spec::{Preference, PreferenceLoss};
use tch::Tensor;

use super::preference::sigmoid;
use super::text_generation::TextGeneration;
use super::{Given, Objective, Predictions, Targets};
use crate::data::Split;
use crate::metrics::{Answers, Metrics};
use crate::models::Head;

/// Numbers of a row: the log-probability of the answer, and how many tokens it has.
const OUTPUTS: usize = 2;

/// A rule for single answers.
pub struct UnpairedTuning {
    rule: Preference,
    /// The reference point of the step that is at work.
    divergence: Cell<f64>,
}

/// What is known of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The logarithm of its probability.
    pub sum: f64,
    /// The same when training began.
    pub before: f64,
    /// Whether it is to become likelier.
    pub desirable: bool,
}

/// What a rule says of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said {
    /// The loss, weighted.
    pub loss: f64,
    /// How it grows with the logarithm of the probability.
    pub slope: f64,
    /// What the answer is worth to the model.
    pub reward: f64,
    /// Whether that is on the right side of the reference point.
    pub right: bool,
}

impl UnpairedTuning {
    /// The rule that the settings ask for.
    pub fn new(rule: Preference) -> Self {
        UnpairedTuning { rule, divergence: Cell::new(0.0) }
    }

    /// What the rule says of an answer, where the model went so far on the whole.
    pub fn judge(&self, answer: Answer, divergence: f64) -> Said {
        let Preference { loss, beta, desirable_weight, undesirable_weight, .. } = self.rule;
        let point = if loss == PreferenceLoss::Kto { divergence } else { 0.0 };
        let gained = answer.sum - answer.before;
        let (sign, weight) =
            if answer.desirable { (1.0, desirable_weight) } else { (-1.0, undesirable_weight) };
        let value = sign * (gained - point);
        // As `1 − σ`, it would lose what is small.
        let (held, lost) = (sigmoid(beta * value), sigmoid(-beta * value));
        Said {
            loss: weight * lost,
            slope: -sign * weight * beta * held * lost,
            reward: beta * gained,
            right: value > 0.0,
        }
    }

    /// The mean over answers to other prompts of what they gained, at least 0.
    fn divergence(mismatched: &Split, rows: impl ExactSizeIterator<Item = usize>, said: &[f32]) -> f64 {
        let count = rows.len().max(1) as f64;
        let gained = |(row, said): (usize, &[f32])| f64::from(said[0]) - mismatched.reference_of_one(row);
        (rows.zip(said.chunks(OUTPUTS)).map(gained).sum::<f64>() / count).max(0.0)
    }

    /// The divergence over a whole split, by what an evaluation kept.
    fn divergence_of(split: &Split, predictions: &Predictions) -> f64 {
        match &split.mismatched {
            Some(mismatched) => Self::divergence(mismatched, 0..split.len(), &predictions.mismatched),
            None => 0.0,
        }
    }

    fn answers(split: &Split, rows: &[usize], sums: impl Iterator<Item = f64>) -> Vec<Answer> {
        let Targets::Answers(desirable) = &split.targets else { unreachable!("rows are answers") };
        let answer =
            |(&row, sum)| Answer { sum, before: split.reference_of_one(row), desirable: desirable[row] };
        rows.iter().zip(sums).map(answer).collect()
    }

    /// All answers of a split, by what an evaluation kept.
    fn all(split: &Split, predictions: &Predictions) -> Vec<Answer> {
        let rows: Vec<usize> = (0..split.len()).collect();
        Self::answers(split, &rows, predictions.outputs.chunks(OUTPUTS).map(|said| f64::from(said[0])))
    }
}

impl Objective for UnpairedTuning {
    fn head(&self) -> Head {
        Head::Tokens
    }

    fn has_reference(&self) -> bool {
        self.rule.loss.has_reference()
    }

    fn weight(&self, _split: &Split, rows: &[usize]) -> f64 {
        rows.len() as f64
    }

    fn ahead(&self, split: &Split, rows: &[usize], said: &[f32]) {
        if let Some(mismatched) = &split.mismatched {
            self.divergence.set(Self::divergence(mismatched, rows.iter().copied(), said));
        }
    }

    fn told(&self) -> Vec<(&'static str, f64)> {
        match self.rule.loss {
            PreferenceLoss::Kto => vec![("kl", self.divergence.get())],
            _ => Vec::new(),
        }
    }

    fn loss(&self, of: &Given, by: f64) -> Tensor {
        let sums = TextGeneration::log_probabilities(of).expect("log-probabilities can be read");
        let answers = Self::answers(of.split, of.rows, sums.into_iter());
        let said: Vec<Said> =
            answers.into_iter().map(|answer| self.judge(answer, self.divergence.get())).collect();
        let slopes: Vec<f64> = said.iter().map(|said| by * said.slope).collect();
        TextGeneration::steered(of, by * said.iter().map(|said| said.loss).sum::<f64>(), &slopes)
    }

    fn outputs(&self) -> usize {
        OUTPUTS
    }

    /// The losses are those for a divergence of 0: what it is, is known once all rows were looked at.
    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)> {
        let sums = TextGeneration::log_probabilities(of)?;
        let outputs = sums.iter().zip(&of.batch.counted.of_row).flat_map(|(&sum, &n)| [sum as f32, n as f32]);
        let outputs = outputs.collect();
        let answers = Self::answers(of.split, of.rows, sums.into_iter());
        Ok((outputs, answers.into_iter().map(|answer| self.judge(answer, 0.0).loss as f32).collect()))
    }

    fn metrics(&self, split: &Split, predictions: &Predictions) -> Result<Metrics> {
        let divergence = Self::divergence_of(split, predictions);
        let mut all = Answers {
            divergence: (self.rule.loss == PreferenceLoss::Kto).then_some(divergence),
            ..Answers::default()
        };
        for answer in Self::all(split, predictions) {
            let said = self.judge(answer, divergence);
            let side = usize::from(!answer.desirable);
            all.loss += said.loss;
            all.rewards[side] += said.reward;
            all.answers[side] += 1.0;
            all.right += f64::from(u8::from(said.right));
        }
        Ok(all.metrics())
    }

    /// Row, whether its answer is desirable, and what the model said of it.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String> {
        let divergence = Self::divergence_of(split, predictions);
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["row", "label", "loss", "reward", "logp", "tokens"])?;
        let said = predictions.outputs.chunks(OUTPUTS);
        for ((number, answer), said) in split.numbers.iter().zip(Self::all(split, predictions)).zip(said) {
            let Said { loss, reward, .. } = self.judge(answer, divergence);
            csv.write_record([
                number.to_string(),
                answer.desirable.to_string(),
                loss.to_string(),
                reward.to_string(),
                answer.sum.to_string(),
                said[1].to_string(),
            ])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_losses() {
        for loss in [PreferenceLoss::Kto, PreferenceLoss::ApoZeroUnpaired] {
            let weights =
                Preference { desirable_weight: 1.5, undesirable_weight: 0.7, ..Preference::default() };
            let tuning = UnpairedTuning::new(Preference { loss, beta: 0.3, ..weights });
            for desirable in [true, false] {
                let answer = Answer { sum: -31.0, before: -29.0, desirable };
                let near = |by: f64| tuning.judge(Answer { sum: answer.sum + by, ..answer }, 0.4).loss;
                let found = (near(1e-5) - near(-1e-5)) / 2e-5;
                assert!((found - tuning.judge(answer, 0.4).slope).abs() < 1e-8, "{loss:?} {desirable}");
            }
        }
    }

    #[test]
    fn answers_far_from_the_reference_point_keep_finite_numbers() {
        let tuning = UnpairedTuning::new(Preference { loss: PreferenceLoss::Kto, ..Preference::default() });
        for sum in [-1e6, 1e6] {
            for desirable in [true, false] {
                let said = tuning.judge(Answer { sum, before: 0.0, desirable }, 3.0);
                assert!(said.loss.is_finite() && said.slope.is_finite(), "{said:?}");
                assert_eq!(said.right, (sum > 0.0) == desirable);
            }
        }
    }
}
