//! What cells say as words, as tags and as entities.

use serde::Deserialize;
use serde_json::Value;

use super::spans::Span;
use crate::problem::ProblemKind;
use crate::table::Cell;

/// What is wrong, and what to do; the caller knows where.
pub(super) type Wrong = (ProblemKind, String, &'static str);

const WRITE_WORDS: &str = r#"write a JSON list such as ["Anna", "sleeps"]"#;
const WRITE_TAGS: &str = r#"write a JSON list such as ["B-PER", "O"]"#;
const WRITE_SPANS: &str = r#"write a JSON list such as [{"start": 0, "end": 4, "label": "PER"}]"#;

/// Names of tags that are numbers in the rows.
pub(super) struct Names(Vec<String>);

impl Names {
    /// Reads `{"tags": {"names": […]}}`, or the same below `feature`, as the `features` of a data set on the Hub have them.
    pub(super) fn read(features: &str, column: &str) -> Result<Self, String> {
        let features: Value = serde_json::from_str(features).map_err(|error| error.to_string())?;
        let own = &features[column];
        let lists = [&own["names"], &own["feature"]["names"]];
        let names = lists.iter().find_map(|list| {
            list.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        names.map(Names).ok_or_else(|| {
            format!(r#"the row names no tags: expected {{"{column}": {{"names": ["O", "B-PER", …]}}}}"#)
        })
    }
}

/// Words, as written; numbers are words too.
pub(super) fn words(cell: &Cell) -> Result<Vec<String>, Wrong> {
    let values = list(cell, ProblemKind::MissingText, "the tokens are missing", WRITE_WORDS)?;
    let word = |value: Value| match value {
        Value::String(word) => Ok(word),
        Value::Number(number) => Ok(number.to_string()),
        other => Err((ProblemKind::InvalidValue, format!("expected a word, found {other}"), WRITE_WORDS)),
    };
    values.into_iter().map(word).collect()
}

/// Tags by name, without blanks around them; numbers by `names`.
pub(super) fn tags(cell: &Cell, names: Option<&Names>) -> Result<Vec<String>, Wrong> {
    let values = list(cell, ProblemKind::MissingLabel, "the tags are missing", WRITE_TAGS)?;
    let invalid = |message: String, hint| Err((ProblemKind::InvalidValue, message, hint));
    let tag = |value: Value| match (&value, names) {
        (Value::String(name), _) if name.trim().is_empty() => {
            invalid("a tag is empty".to_owned(), "write `O` for a word without a tag")
        }
        (Value::String(name), _) => Ok(name.trim().to_owned()),
        (Value::Number(number), Some(Names(names))) => {
            let place = number.as_u64().and_then(|place| usize::try_from(place).ok());
            match place.and_then(|place| names.get(place)) {
                Some(name) => Ok(name.clone()),
                None => invalid(
                    format!("there is no tag {number}: the first row names {}", names.len()),
                    "name it there",
                ),
            }
        }
        (Value::Number(number), None) => invalid(
            format!("the tag {number} is a number, and nothing says what it means"),
            r#"write names, or begin the file with {"features": {"tags": {"names": ["O", "B-PER"]}}}"#,
        ),
        (other, _) => invalid(format!("expected a tag, found {other}"), WRITE_TAGS),
    };
    values.into_iter().map(tag).collect()
}

/// Entities of a text; `null` is not taken for none.
pub(super) fn spans(cell: &Cell) -> Result<Vec<Span>, Wrong> {
    /// A span as an object, or as a list.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Object { start: u64, end: u64, label: String },
        List(u64, u64, String),
    }
    let missing = "the entities are missing";
    let values = list(cell, ProblemKind::MissingLabel, missing, WRITE_SPANS)?;
    let span = |value: Value| {
        let written = value.to_string();
        let read = serde_json::from_value::<Written>(value);
        let Ok(Written::Object { start, end, label } | Written::List(start, end, label)) = read else {
            let message = format!("expected an entity with start, end and label, found {written}");
            return Err((ProblemKind::InvalidValue, message, WRITE_SPANS));
        };
        let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Span { start: place(start), end: place(end), label: label.trim().to_owned() })
    };
    values.into_iter().map(span).collect()
}

fn list(cell: &Cell, kind: ProblemKind, missing: &str, hint: &'static str) -> Result<Vec<Value>, Wrong> {
    if cell.is_blank() {
        return Err((kind, missing.to_owned(), hint));
    }
    let written = cell.written().unwrap_or_default();
    serde_json::from_str(&written).map_err(|_| {
        let shown: String = written.chars().take(40).collect();
        (ProblemKind::InvalidValue, format!("expected a list, found `{shown}`"), hint)
    })
}
