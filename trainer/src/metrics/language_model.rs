//! What is said of a language model.

use super::Metrics;

/// Sums over the tokens that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LanguageModel {
    /// Their losses, in natural logarithms.
    pub loss: f64,
    /// How many they are.
    pub tokens: f64,
    /// How many of them the model holds the likeliest.
    pub right: f64,
}

impl LanguageModel {
    /// Loss and perplexity of a token, over all tokens together and not a mean of the rows' or batches' means; and the share
    /// of tokens that were right (`mean_token_accuracy`).
    #[must_use]
    pub fn metrics(self) -> Metrics {
        let mut metrics = Metrics::default();
        if self.tokens == 0.0 {
            for name in ["loss", "perplexity", "mean_token_accuracy"] {
                metrics.put_undefined(name, format!("{name} is undefined: no token counts in the loss."));
            }
            return metrics;
        }
        let loss = self.loss / self.tokens;
        metrics.put("loss", loss);
        metrics.put("perplexity", loss.exp());
        metrics.put("mean_token_accuracy", self.right / self.tokens);
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_of_all_tokens_together() {
        // A long easy row and a short hard one: their means would give another number.
        let metrics = LanguageModel { loss: 90.0 * 0.1 + 10.0 * 2.0, tokens: 100.0, right: 75.0 }.metrics();
        assert_eq!(metrics.get("loss"), Some(0.29));
        assert_eq!(metrics.get("perplexity"), Some(0.29_f64.exp()));
        assert_eq!(metrics.get("mean_token_accuracy"), Some(0.75));
    }

    #[test]
    fn without_tokens_nothing_is_said() {
        let metrics = LanguageModel::default().metrics();
        assert_eq!(metrics.get("perplexity"), None);
        assert_eq!(metrics.undefined.len(), 3);
    }
}
