//! What is said of single answers that are desirable or not.

use super::Metrics;

/// Sums over the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answers {
    /// How many are desirable, and how many are not.
    pub answers: [f64; 2],
    /// Their losses, weighted.
    pub loss: f64,
    /// Rewards of the desirable ones and of the others.
    pub rewards: [f64; 2],
    /// Answers whose reward is on the right side of the reference point.
    pub right: f64,
    /// How far the model went from where it began, in nats; `None` where a rule does not ask.
    pub divergence: Option<f64>,
}

impl Answers {
    /// Loss of an answer; mean rewards of desirable and undesirable ones (`chosen_reward`, `rejected_reward`, as TRL names them),
    /// their difference (`reward_margin`), the share of answers that are on the right side of the reference point
    /// (`reward_accuracy`; a tie is not), and `kl`.
    #[must_use]
    pub fn metrics(self) -> Metrics {
        let mut metrics = Metrics::default();
        let [good, bad] = self.answers;
        let all = good + bad;
        let mean = |sum: f64, of: f64| (of > 0.0).then(|| sum / of);
        let rewards = [mean(self.rewards[0], good), mean(self.rewards[1], bad)];
        let values = [
            ("loss", mean(self.loss, all), "answer"),
            ("reward_accuracy", mean(self.right, all), "answer"),
            ("reward_margin", rewards[0].zip(rewards[1]).map(|(good, bad)| good - bad), "answer of one side"),
            ("chosen_reward", rewards[0], "desirable answer"),
            ("rejected_reward", rewards[1], "undesirable answer"),
        ];
        for (name, value, lacking) in values {
            match value {
                Some(value) => metrics.put(name, value),
                None => metrics.put_undefined(name, format!("{name} is undefined: there is no {lacking}.")),
            }
        }
        if let Some(divergence) = self.divergence {
            metrics.put("kl", divergence);
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_a_mean_of_its_own() {
        let all = Answers {
            answers: [3.0, 1.0],
            loss: 2.0,
            rewards: [6.0, -1.0],
            right: 3.0,
            divergence: Some(0.5),
        };
        let metrics = all.metrics();
        let found = ["loss", "reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward", "kl"]
            .map(|name| metrics.get(name).unwrap());
        assert_eq!(found, [0.5, 0.75, 3.0, 2.0, -1.0, 0.5]);
        let one_sided = Answers { answers: [3.0, 0.0], ..all }.metrics();
        assert_eq!((one_sided.get("rejected_reward"), one_sided.get("reward_margin")), (None, None));
        assert_eq!(one_sided.get("chosen_reward"), Some(2.0));
    }
}
