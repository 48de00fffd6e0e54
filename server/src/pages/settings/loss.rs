//! The loss.

use serde_json::{Map, Value};
use store::spec::{ClassWeights, JobSpec};

use super::request::number;
use super::{Kind, Setting, Values, field, named};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "class_weights",
        "Class weights",
        "Makes rare classes count more.",
        Kind::Choice(&[("", "All the same"), ("balanced", "Balanced by frequency"), ("by_name", "By name")]),
    ),
    field(
        "class_weights.by_name",
        "Weight of each class",
        "One a line or separated by commas; a class left out has weight 1.",
        Kind::Text,
    )
    .empty("spam=3, ham=1")
    .when("class_weights=by_name"),
    field("label_smoothing", "Label smoothing", "Share of the target spread over all classes.", Kind::Number),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let (weights, by_name) = match &spec.training.class_weights {
        None => ("", String::new()),
        Some(ClassWeights::Named(_)) => ("balanced", String::new()),
        Some(ClassWeights::ByName(weights)) => {
            let pairs: Vec<String> =
                weights.iter().map(|(name, weight)| format!("{name}={}", setting(*weight))).collect();
            ("by_name", pairs.join(", "))
        }
    };
    named([
        ("class_weights", weights.to_owned()),
        ("class_weights.by_name", by_name),
        ("label_smoothing", setting(spec.training.label_smoothing)),
    ])
}

/// Makes the API's `class_weights` of the two inputs.
pub(super) fn join(fields: &mut Map<String, Value>) -> Result<(), (&'static str, String)> {
    match fields.remove("class_weights") {
        Some(Value::Object(mut weights)) => {
            let text = weights.remove("by_name");
            let text = text.as_ref().and_then(Value::as_str).unwrap_or_default();
            fields.insert("class_weights".to_owned(), weights_by_name(text)?);
        }
        Some(Value::String(word)) if word == "by_name" => {
            return Err((
                "class_weights.by_name",
                "Name each class with its weight: spam=3, ham=1.".to_owned(),
            ));
        }
        Some(other) => drop(fields.insert("class_weights".to_owned(), other)),
        None => {}
    }
    Ok(())
}

/// `spam=3, ham=1`; a name may hold `=`, the weight stands behind the last one.
fn weights_by_name(text: &str) -> Result<Value, (&'static str, String)> {
    let mut weights = Map::new();
    for part in text.split(['\n', ',', ';']).map(str::trim).filter(|part| !part.is_empty()) {
        let pair = part
            .rsplit_once(['=', ':'])
            .and_then(|(name, weight)| Some((name.trim(), number(weight.trim())?)));
        let Some((name, weight)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err((
                "class_weights.by_name",
                format!("“{part}” is not a class and its weight, such as spam=3."),
            ));
        };
        weights.insert(name.to_owned(), weight);
    }
    Ok(weights.into())
}
