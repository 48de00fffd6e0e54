//! Whether a metric is better high or low, told by its name.

/// Words that a name may end in, or hold, when a lower value is better.
const LOWER: &[&str] =
    &["loss", "mse", "rmse", "mae", "mape", "error", "perplexity", "ppl", "wer", "cer", "ter", "distance"];

/// The same for a higher value.
const HIGHER: &[&str] = &[
    "accuracy",
    "precision",
    "recall",
    "f1",
    "correlation",
    "mcc",
    "auc",
    "map",
    "r2",
    "pearson",
    "spearman",
    "bleu",
    "chrf",
    "rouge",
    "rouge1",
    "rouge2",
    "rougel",
    "rougelsum",
    "match",
    "iou",
    "kappa",
    "margin",
    "mrr",
    "ndcg",
];

/// Whether a higher value of this metric is better; `None` when its name does not tell.
///
/// The last word of the name that is known decides, so that `eval_domain_loss` is a loss and `f1_macro` an F1. Words are
/// what lies between `_`, `-`, `.`, `/` and spaces; case does not matter.
pub fn higher_is_better(metric_name: &str) -> Option<bool> {
    let name = metric_name.to_ascii_lowercase();
    name.rsplit(['_', '-', '.', '/', ' ']).find_map(|word| {
        if LOWER.contains(&word) || word.ends_with("loss") {
            Some(false)
        } else if HIGHER.contains(&word) {
            Some(true)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::higher_is_better;

    #[test]
    fn every_loss_is_lower_is_better() {
        for name in [
            "loss",
            "eval_loss",
            "eval_domain_loss",
            "test/nll-loss",
            "Loss",
            "accuracy_loss",
            "mse",
            "rmse",
            "eval_mae",
        ] {
            assert_eq!(higher_is_better(name), Some(false), "{name}");
        }
    }

    #[test]
    fn every_score_is_higher_is_better() {
        let names = [
            "accuracy",
            "precision",
            "recall",
            "f1",
            "precision_macro",
            "recall_macro",
            "f1_macro",
            "f1_micro",
            "f1_weighted",
            "precision_weighted",
            "recall_weighted",
            "matthews_correlation",
            "roc_auc",
            "r2",
            "pearson",
            "spearman",
            "subset_accuracy",
            "f1_samples",
            "eval_domain_accuracy",
            "accuracy_at_10",
            "mrr_at_10",
            "ndcg_at_10",
            "eval_map_at_100",
            "triplet_accuracy",
        ];
        for name in names {
            assert_eq!(higher_is_better(name), Some(true), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_has_no_direction() {
        for name in ["", "throughput", "eval_", "glossary", "f1x"] {
            assert_eq!(higher_is_better(name), None, "{name}");
        }
    }
}
