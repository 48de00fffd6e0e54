//! The fixture, and what compares with it.

use std::sync::LazyLock;

use serde_json::Value;

/// The largest difference from a reference package's value that is allowed.
pub const TOLERANCE: f64 = 1e-9;

/// What `make_scores.py` wrote.
pub static FIXTURE: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../fixtures/scores.json")).unwrap());

pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(text).collect()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Hypotheses, and references of each.
pub fn rows(value: &Value) -> (Vec<String>, Vec<Vec<String>>) {
    value.as_array().unwrap().iter().map(|row| (text(&row[0]), texts(&row[1]))).unzip()
}

#[track_caller]
pub fn assert_close(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= TOLERANCE, "{what}: {found} is not {expected}");
}

#[track_caller]
pub fn assert_all_close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_close(*found, *expected, &format!("{what}, row {row}"));
    }
}

pub fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// One reference for each row.
pub fn one_each(texts: &[&str]) -> Vec<Vec<String>> {
    texts.iter().map(|text| vec![(*text).to_owned()]).collect()
}
