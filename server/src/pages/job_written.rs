//! Targets that an evaluation wrote, beside their sources and the right ones.
//!
//! The trainer says them in an event of kind `examples`, worst first: `{"kind": "text-to-text", "metric": "chrf", "rows":
//! [{"row": 3, "source": "…", "target": "…", "prediction": "…", "score": 41.7}]}`; `score` is that metric of this row alone.

use serde_json::Value;
use store::event::Event;

use super::convert::metric_name;
use super::view::job::{Written, WrittenRow};
use super::view::text;

/// What the trainer calls such examples.
const KIND: &str = "text-to-text";

/// The rows of an event; `None` for examples of another kind.
pub fn written(event: &Event) -> Option<Written> {
    let data = &event.data;
    let rows =
        data.get("rows")?.as_array().filter(|_| data.get("kind").and_then(Value::as_str) == Some(KIND))?;
    let metric = data.get("metric").and_then(Value::as_str).map_or("Score".to_owned(), metric_name);
    let step = event.step.map(|step| format!("step {}, ", text::count(step.max(0) as u64)));
    Some(Written {
        note: format!("{}worst first", step.unwrap_or_default()),
        metric,
        rows: rows.iter().map(row).collect(),
    })
}

fn row(row: &Value) -> WrittenRow {
    let text_of = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (target, prediction) = (text_of("target"), text_of("prediction"));
    WrittenRow {
        row: row.get("row").and_then(Value::as_u64).map(|row| text::count(row + 1)).unwrap_or_default(),
        source: text_of("source"),
        right: target.trim() == prediction.trim(),
        target,
        prediction,
        score: row.get("score").and_then(Value::as_f64).map(text::value).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_numbered_from_one_and_a_target_that_was_met_is_said_to_be() {
        let shown = row(&json!({"row": 0, "source": "a", "target": "b ", "prediction": "b", "score": 100.0}));
        assert_eq!((shown.row.as_str(), shown.right), ("1", true));
        let shown = row(&json!({"row": 6, "source": "a", "target": "b", "prediction": "", "score": null}));
        assert_eq!((shown.row.as_str(), shown.right, shown.score.as_str()), ("7", false, ""));
    }
}
