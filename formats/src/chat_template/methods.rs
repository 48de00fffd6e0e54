//! Methods of Python's `str` that templates call. What is not here is minijinja-contrib's `pycompat`, which counts places in
//! bytes and takes an empty text for one of digits.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, FormatStyle, State, Value, format_filter};
use minijinja_contrib::pycompat;

use super::{budget, python};

pub(super) fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        budget::charge(text.len())?;
        if let Some(outcome) = of_text(text, method, args) {
            return outcome;
        }
    }
    if value.kind() == ValueKind::Map && method == "copy" {
        return Ok(value.clone());
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// What Python takes for blank: also the four separators of ASCII.
pub(super) fn is_blank(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// `text.strip(characters)`, on the sides asked for.
pub(super) fn strip<'t>(text: &'t str, characters: Option<&str>, start: bool, end: bool) -> &'t str {
    let goes = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => is_blank(character),
    };
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end { text.trim_end_matches(goes) } else { text }
}

/// `text.replace(old, new, count)`.
pub(super) fn replace(text: &str, old: &str, new: &str, count: Option<i64>) -> Result<Value, Error> {
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let times = text.matches(old).count().min(count);
    budget::charge(text.len().saturating_add(times.saturating_mul(new.len())))?;
    Ok(Value::from(text.replacen(old, new, count)))
}

/// `text.format(…)`, or `%`: bounded before it is done by what could come of it.
pub(super) fn format(style: FormatStyle, text: &str, args: &[Value]) -> Result<Value, Error> {
    let many_digits = text.as_bytes().windows(5).any(|part| part.iter().all(u8::is_ascii_digit));
    if many_digits || text.contains('*') || text.contains(":{") {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a width is not written out, or has too many digits",
        ));
    }
    let mut longest = 0;
    for arg in args {
        longest = longest.max(python::text(arg)?.len());
    }
    let places = text.matches(['{', '%']).count();
    budget::charge(text.len().saturating_add(places.saturating_mul(longest + 10_000)))?;
    format_filter(style, text, args).map(Value::from)
}

/// `separator.join(parts)`.
pub(super) fn join(separator: &str, parts: &Value) -> Result<Value, Error> {
    let mut out = String::new();
    for (at, part) in parts.try_iter()?.enumerate() {
        let part = python::text(&part)?;
        budget::charge(separator.len() + part.len() + 1)?;
        out.push_str(if at > 0 { separator } else { "" });
        out.push_str(&part);
    }
    Ok(Value::from(out))
}

fn of_text(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "strip" | "lstrip" | "rstrip" => from_args(args).map(|(characters,): (Option<&str>,)| {
            Value::from(strip(text, characters, method != "rstrip", method != "lstrip"))
        }),
        "replace" => from_args(args).and_then(|(old, new, count)| replace(text, old, new, count)),
        "join" => from_args(args).and_then(|(parts,): (&Value,)| join(text, parts)),
        "split" => from_args(args).and_then(|(by, most)| split(text, by, most, false)),
        "rsplit" => from_args(args).and_then(|(by, most)| split(text, by, most, true)),
        "splitlines" => from_args(args).map(|(ends,): (Option<bool>,)| lines(text, ends.unwrap_or(false))),
        "partition" => from_args(args).map(|(by,): (&str,)| match text.split_once(by) {
            Some((before, after)) => texts(vec![before, by, after]),
            None => texts(vec![text, "", ""]),
        }),
        "find" => from_args(args).map(|(part,): (&str,)| place(text, text.find(part))),
        "rfind" => from_args(args).map(|(part,): (&str,)| place(text, text.rfind(part))),
        "removeprefix" => {
            from_args(args).map(|(part,): (&str,)| Value::from(text.strip_prefix(part).unwrap_or(text)))
        }
        "removesuffix" => {
            from_args(args).map(|(part,): (&str,)| Value::from(text.strip_suffix(part).unwrap_or(text)))
        }
        "count" => from_args(args).map(|(part,): (&str,)| Value::from(text.matches(part).count())),
        "format" => format(FormatStyle::StrFormat, text, args),
        "title" => from_args(args).map(|(): ()| Value::from(title(text))),
        "isdigit" | "isnumeric" | "isdecimal" => every(text, char::is_numeric, args),
        "isalpha" => every(text, char::is_alphabetic, args),
        "isalnum" => every(text, char::is_alphanumeric, args),
        "isspace" => every(text, is_blank, args),
        "islower" => {
            from_args(args).map(|(): ()| Value::from(cased(text, char::is_lowercase, char::is_uppercase)))
        }
        "isupper" => {
            from_args(args).map(|(): ()| Value::from(cased(text, char::is_uppercase, char::is_lowercase)))
        }
        _ => return None,
    })
}

/// Python's: a word begins after anything that is no letter.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        if in_word {
            out.extend(character.to_lowercase());
        } else {
            out.extend(character.to_uppercase());
        }
        in_word = character.is_alphabetic();
    }
    out
}

fn texts(parts: Vec<&str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn every(text: &str, holds: impl Fn(char) -> bool, args: &[Value]) -> Result<Value, Error> {
    from_args(args).map(|(): ()| Value::from(!text.is_empty() && text.chars().all(holds)))
}

fn cased(text: &str, one: impl Fn(char) -> bool, other: impl Fn(char) -> bool) -> bool {
    text.chars().any(one) && !text.chars().any(other)
}

/// A place in bytes, in characters; -1 for none.
fn place(text: &str, at: Option<usize>) -> Value {
    Value::from(at.map_or(-1, |at| text[..at].chars().count() as i64))
}

fn split(text: &str, by: Option<&str>, most: Option<i64>, from_right: bool) -> Result<Value, Error> {
    let most =
        most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let parts: Vec<&str> = match by {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(by) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(most, by).collect();
            parts.reverse();
            parts
        }
        Some(by) => text.splitn(most, by).collect(),
        None => split_blanks(text, most, from_right),
    };
    budget::charge(parts.len() * size_of::<Value>())?;
    Ok(texts(parts))
}

/// Words, at most so many; what is left over keeps its blanks inside.
fn split_blanks(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, true, true);
    while !rest.is_empty() {
        let border = if from_right { rest.rfind(is_blank) } else { rest.find(is_blank) };
        let Some(border) = border.filter(|_| parts.len() + 1 < most) else {
            parts.push(rest);
            break;
        };
        let (before, after) = rest.split_at(border);
        if from_right {
            parts.push(strip(after, None, true, false));
            rest = strip(before, None, false, true);
        } else {
            parts.push(before);
            rest = strip(after, None, true, false);
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// Python's line ends are more than two.
fn lines(text: &str, keep_ends: bool) -> Value {
    let is_end = |character: char| {
        matches!(
            character,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let end = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        out.push(if keep_ends { &rest[..at + end] } else { &rest[..at] });
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    texts(out)
}
