//! From values of the form to a request.

use serde_json::{Map, Value, json};

use super::{
    Kind, Setting, Values, adapter, all, counted, evaluation, first, generation, groups, loss, optimizer,
    samples, text_to_text,
};

/// The part of a request that these values make, or what cannot be read, by name of the input.
///
/// An empty value is left out, so that the API's own default holds.
pub fn request(values: &Values) -> Result<Value, Values> {
    let (mut top, mut below, mut errors) = (Map::new(), Map::new(), Values::new());
    let first = std::iter::once(("", first::SETTINGS));
    for setting in counted(first.chain(groups()), values) {
        let text = values.get(setting.name).map(String::as_str).unwrap_or_default();
        let text = if matches!(setting.kind, Kind::Exact) { text } else { text.trim() };
        match parse(setting, text) {
            Ok(None) => {}
            Ok(Some(value)) if is_top(setting.name) => insert(&mut top, setting.name, value),
            Ok(Some(value)) => insert(&mut below, setting.name, value),
            Err(message) => drop(errors.insert(setting.name.to_owned(), message)),
        }
    }
    optimizer::join(&mut below);
    adapter::join(&mut below);
    evaluation::join(&mut below);
    text_to_text::join(&mut below);
    for joined in [loss::join(&mut below), generation::join(&mut below), samples::join(&mut below)] {
        if let Err((name, message)) = joined {
            errors.insert(name.to_owned(), message);
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    insert(&mut top, "method.supervised.hyperparameters", below.into());
    insert(&mut top, "method.type", "supervised".into());
    Ok(top.into())
}

fn is_top(name: &str) -> bool {
    matches!(name, "name" | "suffix" | "seed" | "priority")
        || name.starts_with("validation_split.")
        || name.starts_with("resources.")
}

fn parse(setting: &Setting, text: &str) -> Result<Option<Value>, String> {
    match setting.kind {
        Kind::Flag => Ok(Some(matches!(text, "true" | "on").into())),
        _ if text.is_empty() => Ok(None),
        Kind::Text | Kind::Exact | Kind::Long | Kind::Choice(_) => Ok(Some(text.into())),
        Kind::Auto if text.eq_ignore_ascii_case("auto") => Ok(Some("auto".into())),
        Kind::Auto => number(text).map(Some).ok_or_else(|| format!("“{text}” is neither a number nor auto.")),
        Kind::Number => number(text).map(Some).ok_or_else(|| format!("“{text}” is not a number.")),
    }
}

/// A whole number as such, so that the API sees 3 and not 3.0; a comma is taken for a decimal point.
pub(super) fn number(text: &str) -> Option<Value> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let number: f64 = text.replace(',', ".").parse().ok()?;
    serde_json::Number::from_f64(number).map(Value::Number)
}

/// Puts a value at a dotted path.
fn insert(into: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(into.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = into.entry(first.to_owned()).or_insert_with(|| json!({}));
            if !inner.is_object() {
                *inner = json!({});
            }
            if let Some(inner) = inner.as_object_mut() {
                insert(inner, rest, value);
            }
        }
    }
}

/// The input that an error of the API belongs to; `None` for none of them.
pub fn input_of(param: &str) -> Option<String> {
    const PREFIXES: [&str; 6] = [
        "method.supervised.hyperparameters.",
        "method.dpo.hyperparameters.",
        "method.kto.hyperparameters.",
        "hyperparameters.",
        "training.",
        "split.",
    ];
    let path = PREFIXES.iter().find_map(|prefix| param.strip_prefix(prefix)).unwrap_or(param);
    let path = match param.strip_prefix("split.") {
        Some(rest) => format!("validation_split.{rest}"),
        None => path.to_owned(),
    };
    let alias = match path.as_str() {
        "epochs" => "n_epochs",
        "learning_rate_multiplier" => "learning_rate",
        "warmup_ratio" => "lr_scheduler.warmup_ratio",
        "warmup_steps" => "lr_scheduler.warmup_steps",
        "lr_scheduler" => "lr_scheduler.name",
        "optimizer" => "optimizer.name",
        "freeze" => "freeze.pattern",
        "lora" | "lora.quantization" => "lora.kind",
        "preference" => "preference.loss",
        "beta" | "desirable_weight" | "undesirable_weight" => return input_of(&format!("preference.{path}")),
        "samples" => "samples.rows",
        "embedding" => "embedding.loss",
        "text_to_text" => "text_to_text.source_prefix",
        "early_stopping" => "early_stopping.patience",
        "validation_split" => "validation_split.fraction",
        other => match other {
            _ if other.starts_with("optimizer.betas") => "optimizer.beta1",
            "optimizer.beta1" => "optimizer.update_beta1",
            _ if other.starts_with("eval_every") => "eval_every.count",
            _ if other.starts_with("samples.prompts") => "samples.prompts",
            _ if other.starts_with("class_weights.") => "class_weights.by_name",
            _ => other,
        },
    };
    all().find(|setting| setting.name == alias).map(|setting| setting.name.to_owned())
}
