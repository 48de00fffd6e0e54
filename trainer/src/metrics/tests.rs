//! Equality with scikit-learn and scipy, on `tests/fixtures/metrics.json`.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::*;

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Case<T> {
    name: String,
    #[serde(default)]
    labels: Vec<String>,
    gold: T,
    predicted: T,
    #[serde(default)]
    probabilities: Value,
    metrics: Map<String, Value>,
    #[serde(default)]
    per_class: Vec<PerClass>,
    confusion_matrix: Option<Vec<Vec<u64>>>,
}

fn cases<T: DeserializeOwned>(kind: &str) -> Vec<Case<T>> {
    let mut all: Value = serde_json::from_str(include_str!("../../tests/fixtures/metrics.json")).unwrap();
    let cases: Vec<Case<T>> = serde_json::from_value(all[kind].take()).unwrap();
    assert!(cases.len() > 5, "{kind} has {} cases", cases.len());
    cases
}

fn flat<T: DeserializeOwned>(table: Value) -> Vec<T> {
    let rows: Option<Vec<Vec<T>>> = serde_json::from_value(table).unwrap();
    rows.into_iter().flatten().flatten().collect()
}

fn close(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= TOLERANCE * b.abs().max(1.0),
        (a, b) => a == b,
    }
}

/// Both ways: no metric is wrong, none is missing, none is there that the reference does not have.
fn expect_equal<T>(case: &Case<T>, found: &Metrics) {
    let name = &case.name;
    for (metric, expected) in &case.metrics {
        assert!(found.values.contains(metric), "{name}: no {metric}");
        let value = found.get(metric);
        assert!(close(value, expected.as_f64()), "{name}: {metric} is {value:?}, expected {expected}");
    }
    for (metric, _) in found.values.iter() {
        assert!(case.metrics.contains_key(metric), "{name}: {metric} is not in the reference");
    }
    assert_eq!(found.per_class.len(), case.per_class.len(), "{name}");
    for (found, expected) in found.per_class.iter().zip(&case.per_class) {
        let pairs = [
            (Some(found.precision), Some(expected.precision)),
            (Some(found.recall), Some(expected.recall)),
            (Some(found.f1), Some(expected.f1)),
            (found.roc_auc, expected.roc_auc),
        ];
        assert!(pairs.into_iter().all(|(a, b)| close(a, b)), "{name}: {found:?}, expected {expected:?}");
        let counts = |c: &PerClass| (c.label.clone(), c.support, c.predicted);
        assert_eq!(counts(found), counts(expected), "{name}");
    }
    assert_eq!(found.confusion_matrix, case.confusion_matrix, "{name}");
    for (metric, value) in found.values.iter().filter(|(_, value)| value.is_none()) {
        assert!(
            found.undefined.iter().any(|why| why.contains(metric)),
            "{name}: {metric} is {value:?} without a reason"
        );
    }
}

#[test]
fn single_label_metrics_equal_scikit_learns() {
    for case in cases::<Vec<usize>>("classification") {
        let probabilities: Vec<f64> = flat(case.probabilities.clone());
        let input = SingleLabel {
            labels: &case.labels,
            gold: &case.gold,
            predicted: &case.predicted,
            probabilities: &probabilities,
            loss: None,
        };
        expect_equal(&case, &input.metrics().unwrap());
    }
}

#[test]
fn multi_label_metrics_equal_scikit_learns() {
    let truth = |table: &Value| flat::<u8>(table.clone()).into_iter().map(|x| x == 1).collect::<Vec<bool>>();
    for case in cases::<Value>("multi_label") {
        let (gold, predicted) = (truth(&case.gold), truth(&case.predicted));
        let probabilities: Vec<f64> = flat(case.probabilities.clone());
        let input = MultiLabel {
            labels: &case.labels,
            gold: &gold,
            predicted: &predicted,
            probabilities: &probabilities,
            loss: None,
        };
        expect_equal(&case, &input.metrics().unwrap());
    }
}

#[test]
fn regression_metrics_equal_scikit_learns_and_scipys() {
    for case in cases::<Vec<f64>>("regression") {
        let input = Regression { gold: &case.gold, predicted: &case.predicted, loss: None };
        expect_equal(&case, &input.metrics().unwrap());
    }
}

fn names(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|&label| label.to_owned()).collect()
}

#[test]
fn what_is_zero_by_convention_is_said() {
    let labels = names(&["no", "yes"]);
    let input = SingleLabel {
        labels: &labels,
        gold: &[0, 1],
        predicted: &[0, 0],
        probabilities: &[],
        loss: Some(0.25),
    };
    let found = input.metrics().unwrap();
    assert_eq!(found.values.iter().next(), Some(("loss", Some(0.25))));
    assert!(found.undefined.iter().any(|why| why.contains("precision of \"yes\"")), "{:?}", found.undefined);
    assert!(found.undefined.iter().any(|why| why.contains("matthews_correlation")), "{:?}", found.undefined);
}

#[test]
fn no_rows_give_no_numbers_and_no_panic() {
    let labels = names(&["no", "yes"]);
    let single =
        SingleLabel { labels: &labels, gold: &[], predicted: &[], probabilities: &[], loss: Some(f64::NAN) };
    let multi = MultiLabel { labels: &labels, gold: &[], predicted: &[], probabilities: &[], loss: None };
    let number = Regression { gold: &[], predicted: &[], loss: None };
    for found in [single.metrics(), multi.metrics(), number.metrics()].map(Result::unwrap) {
        assert!(found.values.iter().all(|(_, value)| value.is_none()), "{found:?}");
        assert!(!found.undefined.is_empty());
    }
}

#[test]
fn scores_that_are_not_finite_have_no_area() {
    let labels = names(&["no", "yes"]);
    let input = SingleLabel {
        labels: &labels,
        gold: &[0, 1],
        predicted: &[0, 1],
        probabilities: &[0.5, f64::NAN, 0.5, 0.5],
        loss: None,
    };
    let found = input.metrics().unwrap();
    assert_eq!((found.get("roc_auc"), found.get("accuracy")), (None, Some(1.0)));
    assert!(found.undefined.iter().any(|why| why.contains("not finite")), "{:?}", found.undefined);
    let number = Regression { gold: &[1.0, f64::INFINITY], predicted: &[1.0, 2.0], loss: None };
    assert_eq!(number.metrics().unwrap().get("mse"), None);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let labels = names(&["no", "yes"]);
    let single =
        SingleLabel { labels: &labels, gold: &[0, 1], predicted: &[0], probabilities: &[], loss: None };
    assert_eq!(single.metrics(), Err(InputError::Length { what: "predicted", found: 1, expected: 2 }));
    let single =
        SingleLabel { labels: &labels, gold: &[0, 2], predicted: &[0, 0], probabilities: &[], loss: None };
    assert_eq!(single.metrics(), Err(InputError::Label { what: "gold", row: 1, id: 2, labels: 2 }));
    let multi = MultiLabel {
        labels: &labels,
        gold: &[true; 3],
        predicted: &[true; 3],
        probabilities: &[],
        loss: None,
    };
    assert!(multi.metrics().is_err());
}

#[test]
fn metrics_survive_json_with_their_order_and_nulls() {
    let found = Regression { gold: &[2.0, 2.0], predicted: &[1.0, 0.1], loss: Some(0.3) }.metrics().unwrap();
    let json = serde_json::to_string(&found).unwrap();
    assert!(
        json.starts_with(r#"{"values":{"loss":0.3,"mse":"#) && json.contains(r#""pearson":null"#),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), found);
}

#[test]
fn predictions_follow_from_logits() {
    assert_eq!(argmax_rows(&[1.0, 3.0, 3.0, -1.0, -2.0, -3.0], 3), [1, 0]);
    let probabilities = softmax_rows(&[1000.0, 1001.0], 2);
    assert!((probabilities[1] - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-15, "{probabilities:?}");
    assert_eq!(above_half(&[-1e-20, 0.0, 1e-20]), [false, false, true]);
    assert_eq!(sigmoid(&[0.0, -800.0, 800.0]), [0.5, 0.0, 1.0]);
}
