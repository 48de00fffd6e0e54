//! All logged numbers as a table: OpenAI's columns, and ours beside them.

use std::collections::BTreeMap;

use serde_json::Value;

/// OpenAI's columns of `step_metrics.csv`, and our names of what is in them.
const THEIRS: [(&str, &str); 5] = [
    ("step", "step"),
    ("train_loss", "loss"),
    ("train_accuracy", "mean_token_accuracy"),
    ("valid_loss", "eval_loss"),
    ("valid_mean_token_accuracy", "eval_mean_token_accuracy"),
];

/// A row a step, a column a number; OpenAI's five columns come first whether there is anything in them or not, then ours in the
/// order in which they were logged, those of an evaluation with `eval_` before them. What was not looked at in a step is empty.
pub fn curves_csv(history: &[Value]) -> String {
    let mut columns: Vec<(&str, &str)> = THEIRS.to_vec();
    let mut steps: BTreeMap<u64, BTreeMap<&str, &Value>> = BTreeMap::new();
    for logged in history.iter().filter_map(Value::as_object) {
        let Some(step) = logged.get("step").and_then(Value::as_u64) else { continue };
        for (name, value) in logged.iter().filter(|(_, value)| value.is_number()) {
            if !columns.iter().any(|(_, own)| own == name) {
                columns.push((name, name));
            }
            steps.entry(step).or_default().insert(name, value);
        }
    }
    let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
    let mut csv = heads.join(",") + "\n";
    for numbers in steps.values() {
        let cell = |(_, own): &(&str, &str)| numbers.get(own).map(ToString::to_string).unwrap_or_default();
        csv += &columns.iter().map(cell).collect::<Vec<_>>().join(",");
        csv.push('\n');
    }
    csv
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::curves_csv;

    #[test]
    fn openais_columns_come_first_and_an_evaluation_stands_beside_its_step() {
        let history = [
            json!({"step": 1, "loss": 0.5, "learning_rate": 1e-5, "epoch": 0.5}),
            json!({"step": 2, "loss": 0.25, "learning_rate": 0.0, "epoch": 1.0}),
            json!({"step": 2, "epoch": 1.0, "eval_loss": 0.75, "eval_perplexity": 2.0, "eval_f1": null}),
        ];
        assert_eq!(
            curves_csv(&history),
            "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,learning_rate,epoch,eval_perplexity\n\
             1,0.5,,,,0.00001,0.5,\n2,0.25,,0.75,,0.0,1.0,2.0\n"
        );
        assert_eq!(curves_csv(&[]), "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n");
    }
}
