//! What is said of pairs of a better and a worse answer.

use super::Metrics;

/// Sums over the pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Preferences {
    /// How many there are.
    pub pairs: f64,
    /// Their losses.
    pub loss: f64,
    /// Rewards of the better and of the worse answers.
    pub rewards: [f64; 2],
    /// Pairs whose better answer has the greater reward.
    pub right: f64,
    /// The loss of the better answers' tokens, and how many these are.
    pub better: [f64; 2],
    /// What their mean is multiplied by in the loss.
    pub weight_of_better: f64,
}

impl Preferences {
    /// Loss of a pair with the better answers' own; mean rewards, their difference (`reward_margin`), and the share of pairs that
    /// the model holds the right way round (`reward_accuracy`; a tie is not).
    #[must_use]
    pub fn metrics(self) -> Metrics {
        let mut metrics = Metrics::default();
        let names = ["loss", "reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward"];
        if self.pairs == 0.0 {
            for name in names {
                metrics.put_undefined(name, format!("{name} is undefined: there is no pair."));
            }
            return metrics;
        }
        let own = self.better[0] / self.better[1].max(1.0);
        let [chosen, rejected] = self.rewards.map(|reward| reward / self.pairs);
        let values = [
            self.loss / self.pairs + self.weight_of_better * own,
            self.right / self.pairs,
            chosen - rejected,
            chosen,
            rejected,
        ];
        for (name, value) in names.into_iter().zip(values) {
            metrics.put(name, value);
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_answers_own_loss_is_a_mean_over_tokens() {
        let metrics = Preferences {
            pairs: 4.0,
            loss: 2.0,
            rewards: [4.0, 1.0],
            right: 3.0,
            better: [30.0, 10.0],
            weight_of_better: 0.5,
        }
        .metrics();
        assert_eq!(metrics.get("loss"), Some(2.0));
        assert_eq!((metrics.get("reward_accuracy"), metrics.get("reward_margin")), (Some(0.75), Some(0.75)));
        assert_eq!(Preferences::default().metrics().get("loss"), None);
    }
}
