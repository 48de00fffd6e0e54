//! What a cell says as a label.

use serde::{Deserialize, Serialize};

use super::ProblemType;
use crate::problem::ProblemKind;
use crate::table::Cell;

/// What is to be said about an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// Its class.
    Class(String),
    /// Its classes: in the order of the file, none twice, possibly none at all.
    Classes(Vec<String>),
    /// Its number.
    Value(f64),
}

impl Label {
    /// The names of its classes; none for a number.
    pub fn classes(&self) -> &[String] {
        match self {
            Self::Class(name) => std::slice::from_ref(name),
            Self::Classes(names) => names,
            Self::Value(_) => &[],
        }
    }
}

/// What is wrong, and what to do; the caller knows where.
pub(super) type Wrong = (ProblemKind, String, &'static str);

const FILL_IN: &str = "fill it in or remove the row";

pub(super) fn read(cell: &Cell, problem_type: ProblemType) -> Result<Label, Wrong> {
    match problem_type {
        ProblemType::SingleLabel => single(cell).map(Label::Class),
        ProblemType::MultiLabel => several(cell).map(Label::Classes),
        ProblemType::Regression => number(cell).map(Label::Value),
    }
}

/// The name of a class: without blanks around it, numbers in their shortest spelling.
///
/// ```
/// use formats::dataset::class_name;
/// assert_eq!(class_name(" pos "), "pos");
/// assert_eq!(class_name("1.0"), "1");
/// assert_eq!(class_name("0.50"), "0.5");
/// assert_eq!(class_name("007"), "007");
/// ```
pub fn class_name(written: &str) -> String {
    let name = written.trim();
    shortest_number(name).unwrap_or_else(|| name.to_owned())
}

/// A decimal number without the zeros and signs that say nothing; `None` for whatever is no plain decimal number.
fn shortest_number(text: &str) -> Option<String> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_code = whole.len() > 1 && whole.starts_with('0');
    if whole.is_empty() || is_code || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let sign = if negative && (whole != "0" || !fraction.is_empty()) { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

fn missing() -> Wrong {
    (ProblemKind::MissingLabel, "the label is missing".to_owned(), FILL_IN)
}

fn single(cell: &Cell) -> Result<String, Wrong> {
    match cell {
        cell if cell.is_blank() => Err(missing()),
        Cell::List(_) => Err((
            ProblemKind::InvalidValue,
            "expected one label, found a list".to_owned(),
            "write one name, or choose the problem type multi_label",
        )),
        Cell::Object(_) => {
            Err((ProblemKind::InvalidValue, "expected a label, found an object".to_owned(), "write one name"))
        }
        cell => Ok(class_name(&cell.written().unwrap_or_default())),
    }
}

fn several(cell: &Cell) -> Result<Vec<String>, Wrong> {
    let names: Vec<String> = match cell {
        Cell::Missing => return Err(missing()),
        Cell::List(list) => list_of_names(list)?,
        Cell::Text(text) if text.trim_start().starts_with('[') => list_of_names(text)?,
        Cell::Text(text) if text.contains('|') => text.split('|').map(class_name).collect(),
        Cell::Text(text) => text.split(',').map(class_name).collect(),
        cell => vec![single(cell)?],
    };
    let mut unique: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        if !name.is_empty() && !unique.contains(&name) {
            unique.push(name);
        }
    }
    Ok(unique)
}

/// The names of a JSON list, where it is a list of names.
pub(crate) fn names_of_list(list: &str) -> Option<Vec<String>> {
    list_of_names(list).ok()
}

fn list_of_names(list: &str) -> Result<Vec<String>, Wrong> {
    let wrong = || {
        (
            ProblemKind::InvalidValue,
            format!("expected a list of names, found {}", shortened(list)),
            r#"write a JSON list such as ["a", "b"], or names separated by |"#,
        )
    };
    let values: Vec<&serde_json::value::RawValue> = serde_json::from_str(list).map_err(|_| wrong())?;
    let name = |value: &&serde_json::value::RawValue| match value.get().as_bytes() {
        [b'"', ..] => serde_json::from_str::<String>(value.get()).ok().map(|text| class_name(&text)),
        [b'[' | b'{' | b'n', ..] => None,
        _ => Some(class_name(value.get())),
    };
    values.iter().map(|value| name(value).filter(|name| !name.is_empty()).ok_or_else(wrong)).collect()
}

fn number(cell: &Cell) -> Result<f64, Wrong> {
    let wrong = |text: &str| {
        let hint = if text.contains(',') { "write decimals with a point" } else { "write a finite number" };
        (ProblemKind::InvalidValue, format!("expected a number, found {}", shortened(text)), hint)
    };
    if cell.is_blank() {
        return Err(missing());
    }
    let text = cell.written().unwrap_or_default();
    match (cell, text.trim().parse::<f64>()) {
        (Cell::Text(_) | Cell::Number(_), Ok(value)) if value.is_finite() => Ok(value),
        _ => Err(wrong(text.trim())),
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{short}`")
}
