//! The rule that picks the best checkpoint and stops a run that no longer improves.
//!
//! A value that is missing or not finite never wins. The first of equals is kept. [`Tracker`] is the whole state: saved with
//! a checkpoint and read back, it goes on as if nothing had happened.

use serde::{Deserialize, Serialize};

use super::{Values, higher_is_better};

/// What to compare, and when to stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The metric's name, with or without `eval_` in front.
    pub metric: String,
    /// Whether a higher value is better.
    pub higher_is_better: bool,
    /// After how many evaluations in a row without improvement to stop; `None` never stops.
    pub patience: Option<u32>,
    /// By how much a value must be better, in the metric's unit, to count as an improvement for `patience`.
    ///
    /// It is measured against the last value that counted, so that many small steps add up. The best checkpoint takes
    /// every strictly better value, whatever `min_delta` is.
    pub min_delta: f64,
}

/// A metric whose name does not tell its direction.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot tell whether a higher \"{metric}\" is better; use a metric of this task, such as loss or f1")]
pub struct UnknownDirection {
    /// The name given.
    pub metric: String,
}

impl Rule {
    /// The best checkpoint by this metric, without early stopping; the direction is told by the name.
    ///
    /// # Errors
    /// [`UnknownDirection`] when the name does not tell it.
    pub fn by(metric: &str) -> Result<Self, UnknownDirection> {
        let higher_is_better =
            higher_is_better(metric).ok_or_else(|| UnknownDirection { metric: metric.to_owned() })?;
        Ok(Self { metric: metric.to_owned(), higher_is_better, patience: None, min_delta: 0.0 })
    }

    /// The same rule with early stopping.
    pub fn stopping_after(self, patience: u32, min_delta: f64) -> Self {
        Self { patience: Some(patience), min_delta, ..self }
    }

    /// Whether `value` is better than `other` by more than `by`.
    fn is_better(&self, value: f64, other: f64, by: f64) -> bool {
        if self.higher_is_better { value > other + by } else { value < other - by }
    }
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The optimizer step it was made at.
    pub step: u64,
    /// The metric's value there.
    pub value: f64,
}

/// What an evaluation means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// This step's checkpoint is the best one so far.
    pub best: bool,
    /// Patience has run out: stop now.
    pub stop: bool,
}

/// The state of the rule over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tracker {
    rule: Rule,
    best: Option<Best>,
    /// The last value that counted as an improvement for patience.
    reference: Option<f64>,
    without_improvement: u32,
    last_step: Option<u64>,
}

impl Tracker {
    /// The state before the first evaluation.
    pub fn new(rule: Rule) -> Self {
        Self { rule, best: None, reference: None, without_improvement: 0, last_step: None }
    }

    /// The rule in force.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The best evaluation so far; `None` before the first with a finite value.
    pub fn best(&self) -> Option<Best> {
        self.best
    }

    /// Evaluations in a row without improvement.
    pub fn without_improvement(&self) -> u32 {
        self.without_improvement
    }

    /// Takes in the metrics of an evaluation at `step`.
    pub fn observe(&mut self, step: u64, metrics: &Values) -> Verdict {
        self.observe_value(step, metrics.get(&self.rule.metric))
    }

    /// Takes in the metric's value at `step`; `None` or a value that is not finite brings no improvement.
    ///
    /// A step that was already taken in changes nothing: after a resume the same evaluation may come again.
    pub fn observe_value(&mut self, step: u64, value: Option<f64>) -> Verdict {
        if self.last_step.is_none_or(|last| step > last) {
            self.last_step = Some(step);
            self.take_in(step, value.filter(|v| v.is_finite()));
        }
        Verdict {
            best: self.best.is_some_and(|best| best.step == step),
            stop: self.rule.patience.is_some_and(|patience| self.without_improvement >= patience.max(1)),
        }
    }

    fn take_in(&mut self, step: u64, value: Option<f64>) {
        let Some(value) = value else {
            self.without_improvement += 1;
            return;
        };
        if self.best.is_none_or(|best| self.rule.is_better(value, best.value, 0.0)) {
            self.best = Some(Best { step, value });
        }
        if self.reference.is_none_or(|reference| self.rule.is_better(value, reference, self.rule.min_delta)) {
            self.reference = Some(value);
            self.without_improvement = 0;
        } else {
            self.without_improvement += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// `(step, value)` of a metric; null stands for NaN.
    fn history(metric: &str) -> Vec<(u64, Option<f64>)> {
        let rows: Vec<Value> =
            serde_json::from_str(include_str!("../../tests/fixtures/best_checkpoint.json")).unwrap();
        rows.iter()
            .map(|row| (row["step"].as_u64().unwrap(), Some(row[metric].as_f64().unwrap_or(f64::NAN))))
            .collect()
    }

    fn best_step(metric: &str) -> u64 {
        let mut tracker = Tracker::new(Rule::by(metric).unwrap());
        for (step, value) in history(metric) {
            tracker.observe_value(step, value);
        }
        tracker.best().unwrap().step
    }

    /// The step after which the run stops.
    fn run(tracker: &mut Tracker, history: &[(u64, Option<f64>)]) -> Option<u64> {
        history.iter().find(|&&(step, value)| tracker.observe_value(step, value).stop).map(|&(step, _)| step)
    }

    #[test]
    fn the_first_of_equals_is_the_best_and_nan_never() {
        assert_eq!(best_step("eval_loss"), 20);
        assert_eq!(best_step("eval_accuracy"), 40);
    }

    #[test]
    fn a_loss_with_a_longer_name_is_minimised() {
        assert_eq!(best_step("eval_domain_loss"), 10);
    }

    #[test]
    fn nan_first_does_not_block_later_values() {
        let mut tracker = Tracker::new(Rule::by("loss").unwrap());
        assert!(!tracker.observe_value(1, Some(f64::NAN)).best);
        assert_eq!(tracker.best(), None);
        assert!(tracker.observe_value(2, Some(5.0)).best);
        assert!(!tracker.observe_value(3, Some(f64::NEG_INFINITY)).best);
    }

    #[test]
    fn patience_of_two_stops_after_two_evaluations_without_improvement() {
        let mut tracker = Tracker::new(Rule::by("eval_loss").unwrap().stopping_after(2, 0.0));
        assert_eq!(run(&mut tracker, &history("eval_loss")), Some(40));
        assert_eq!(tracker.best(), Some(Best { step: 20, value: 0.7 }));
    }

    #[test]
    fn a_resume_changes_nothing() {
        let rule = Rule::by("eval_loss").unwrap().stopping_after(2, 0.0);
        let history = history("eval_loss");
        let mut whole = Tracker::new(rule.clone());
        run(&mut whole, &history);
        let mut first = Tracker::new(rule);
        assert_eq!(run(&mut first, &history[..3]), None);
        let saved = serde_json::to_string(&first).unwrap();
        let mut second: Tracker = serde_json::from_str(&saved).unwrap();
        // The evaluation of step 30 comes again, as after a checkpoint that was written before it was noted.
        assert_eq!(run(&mut second, &history[2..]), Some(40));
        assert_eq!(second, whole);
    }

    #[test]
    fn min_delta_counts_for_patience_and_not_for_the_best() {
        let mut tracker = Tracker::new(Rule::by("f1").unwrap().stopping_after(2, 0.05));
        let history = [(1, Some(0.50)), (2, Some(0.53)), (3, Some(0.56)), (4, Some(0.58)), (5, Some(0.60))];
        // 0.56 is 0.06 above 0.50, though each single step is smaller than 0.05.
        assert_eq!(run(&mut tracker, &history), Some(5));
        assert_eq!(tracker.best(), Some(Best { step: 5, value: 0.60 }));
        assert_eq!(tracker.without_improvement(), 2);
    }

    #[test]
    fn the_metric_is_found_with_and_without_its_split() {
        let values: Values = [("loss", Some(0.5)), ("f1", None)].into_iter().collect();
        let mut tracker = Tracker::new(Rule::by("eval_loss").unwrap());
        assert!(tracker.observe(7, &values).best);
        assert!(!Tracker::new(Rule::by("f1").unwrap()).observe(7, &values).best);
    }

    #[test]
    fn a_name_without_direction_is_refused() {
        assert_eq!(Rule::by("speed"), Err(UnknownDirection { metric: "speed".to_owned() }));
    }
}
