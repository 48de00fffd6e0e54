//! What a cell says as answers, and where they stand in their context.

use serde::Deserialize;
use serde_json::Value;

use super::Answer;
use crate::inspect::shortened;
use crate::problem::ProblemKind;
use crate::table::Cell;

/// What is wrong, and what to do; the caller knows where.
pub(super) type Wrong = (ProblemKind, String, &'static str);

/// Characters of an answer that a message shows.
const SHOWN: usize = 60;

const LAYOUTS: &str = r#"write {"text": ["…"], "answer_start": [0]}, or one answer as a text"#;

/// An answer as a row has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) start: Option<usize>,
}

/// Texts beside their offsets, as the `datasets` library has them.
#[derive(Deserialize)]
struct Beside {
    text: OneOrMore<String>,
    #[serde(default)]
    answer_start: Option<OneOrMore<Value>>,
}

/// A text with its offset, as SQuAD has them.
#[derive(Deserialize)]
struct Each {
    text: String,
    #[serde(default)]
    answer_start: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    More(Vec<T>),
    One(T),
}

impl<T> OneOrMore<T> {
    fn list(self) -> Vec<T> {
        match self {
            OneOrMore::More(list) => list,
            OneOrMore::One(one) => vec![one],
        }
    }
}

/// The answers of a row; an error says whether it is about the cell of offsets.
pub(super) fn read(cell: &Cell, starts: Option<&Cell>) -> Result<Vec<Given>, (bool, Wrong)> {
    let invalid = |message: String| (false, (ProblemKind::InvalidValue, message, LAYOUTS));
    let written = match cell {
        Cell::Missing => {
            let hint = "write an empty list where the context has no answer";
            return Err((false, (ProblemKind::MissingLabel, "the answers are missing".to_owned(), hint)));
        }
        cell => cell.written().unwrap_or_default(),
    };
    let is_json = |open: char| match cell {
        Cell::List(_) => open == '[',
        Cell::Object(_) => open == '{',
        // A text that only begins like JSON is an answer.
        Cell::Text(text) => {
            text.trim_start().starts_with(open) && serde_json::from_str::<Value>(text).is_ok()
        }
        _ => false,
    };
    if is_json('{') {
        let beside: Beside = serde_json::from_str(&written)
            .map_err(|error| invalid(format!("these are no answers: {error}")))?;
        let texts = beside.text.list();
        return together(texts, beside.answer_start.map(OneOrMore::list)).map_err(|wrong| (false, wrong));
    }
    if is_json('[') {
        if let Ok(texts) = serde_json::from_str::<Vec<String>>(&written) {
            let listed = starts.filter(|_| !texts.is_empty()).map(listed).transpose();
            let listed = listed.map_err(|wrong| (true, wrong))?;
            return together(texts, listed).map_err(|wrong| (true, wrong));
        }
        let each: Vec<Each> = serde_json::from_str(&written)
            .map_err(|error| invalid(format!("these are no answers: {error}")))?;
        let given = |each: Each| {
            let start = each.answer_start.as_ref().map(offset).transpose()?;
            Ok(Given { text: each.text, start })
        };
        return each.into_iter().map(given).collect::<Result<_, Wrong>>().map_err(|wrong| (false, wrong));
    }
    if written.trim_start().starts_with("{'") {
        return Err(invalid("the answers are written as Python, not as JSON".to_owned()));
    }
    if written.trim().is_empty() {
        return Ok(Vec::new());
    }
    let listed = starts.map(listed).transpose().map_err(|wrong| (true, wrong))?;
    together(vec![written.into_owned()], listed).map_err(|wrong| (true, wrong))
}

/// Whether there is no answer.
pub(super) fn flag(cell: &Cell) -> Result<bool, Wrong> {
    let written = cell.written().unwrap_or_default().trim().to_lowercase();
    match written.as_str() {
        "" | "false" | "0" => Ok(false),
        "true" | "1" => Ok(true),
        other => {
            let message = format!("expected true or false, found `{}`", shortened(other, SHOWN));
            Err((ProblemKind::InvalidValue, message, "write true where the context has no answer"))
        }
    }
}

/// The offsets of a cell, one or a list.
fn listed(cell: &Cell) -> Result<Vec<Value>, Wrong> {
    let written = cell.written().unwrap_or_default();
    if cell.is_blank() {
        let hint = "write where the answer begins, or leave the column out for all rows";
        return Err((ProblemKind::InvalidValue, "the offset of the answer is missing".to_owned(), hint));
    }
    let value: Value = serde_json::from_str(written.trim()).unwrap_or(Value::String(written.into_owned()));
    Ok(match value {
        Value::Array(list) => list,
        one => vec![one],
    })
}

fn together(texts: Vec<String>, starts: Option<Vec<Value>>) -> Result<Vec<Given>, Wrong> {
    let Some(starts) = starts else {
        return Ok(texts.into_iter().map(|text| Given { text, start: None }).collect());
    };
    if texts.len() != starts.len() {
        let message = format!("there are {} answers and {} offsets", texts.len(), starts.len());
        return Err((ProblemKind::InvalidValue, message, "give each answer its offset"));
    }
    let given = |(text, start): (String, &Value)| Ok(Given { text, start: Some(offset(start)?) });
    texts.into_iter().zip(&starts).map(given).collect()
}

/// A whole number of characters, also when written as `3.0`.
fn offset(value: &Value) -> Result<usize, Wrong> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..9e15).contains(number));
    number.map(|number| number as usize).ok_or_else(|| {
        let message =
            format!("expected the offset of an answer, found `{}`", shortened(&value.to_string(), SHOWN));
        (ProblemKind::InvalidValue, message, "count the characters before the answer in its context")
    })
}

fn empty() -> Wrong {
    let hint = "leave the list empty where the context has no answer";
    (ProblemKind::MissingLabel, "an answer is empty".to_owned(), hint)
}

/// The answer, if it stands at its offset.
pub(super) fn placed(context: &str, text: String, start: usize) -> Result<Answer, Wrong> {
    if text.trim().is_empty() {
        return Err(empty());
    }
    let rest = context.char_indices().map(|(at, _)| at).nth(start).map(|at| &context[at..]);
    if rest.is_some_and(|rest| rest.starts_with(&text)) {
        return Ok(Answer { text, start });
    }
    let length = text.chars().count();
    let instead = match rest {
        Some(rest) => format!(", where `{}` stands", shortened(rest, length.min(SHOWN))),
        None => format!(": the context has {} characters", context.chars().count()),
    };
    let elsewhere = match context.find(&text) {
        Some(at) => format!("; it occurs at character {}", context[..at].chars().count()),
        None => "; it does not occur in the context at all".to_owned(),
    };
    let message = format!(
        "the answer `{}` is not in its context at character {start}{instead}{elsewhere}",
        shortened(&text, SHOWN)
    );
    Err((ProblemKind::InvalidValue, message, "correct answer_start, which counts characters from 0"))
}

/// The answer where it first occurs, and how often it does.
pub(super) fn searched(context: &str, text: String) -> Result<(Answer, usize), Wrong> {
    if text.trim().is_empty() {
        return Err(empty());
    }
    // Blanks around a plain answer are no part of it, unless they are in the context, too.
    let text = if context.contains(&text) { text } else { text.trim().to_owned() };
    match context.find(&text) {
        Some(at) => {
            let times = context.matches(&text).count();
            Ok((Answer { start: context[..at].chars().count(), text }, times))
        }
        None => {
            let message = format!("the answer `{}` does not occur in its context", shortened(&text, SHOWN));
            Err((ProblemKind::InvalidValue, message, "copy it from the context as it stands there"))
        }
    }
}
