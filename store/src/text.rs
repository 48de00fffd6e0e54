//! What Postgres cannot hold: the character U+0000, in text and in JSON.
//!
//! Cells, file names and log lines come from people's files. One such character would turn every insert of the batch
//! into an error, so it is replaced by U+FFFD on the way in.

use serde_json::{Map, Value};

/// `text` without U+0000.
pub(crate) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// `value` without U+0000, in keys as in values.
pub(crate) fn clean_json(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(items) => Value::Array(items.iter().map(clean_json).collect()),
        Value::Object(fields) => Value::Object(clean_fields(fields)),
        other => other.clone(),
    }
}

/// `fields` without U+0000.
pub(crate) fn clean_fields(fields: &Map<String, Value>) -> Map<String, Value> {
    fields.iter().map(|(key, value)| (clean(key), clean_json(value))).collect()
}
