//! Values as Python writes them: `str`, `repr` and `json.dumps`.
//!
//! minijinja keeps lists for tuples, so that a tuple is written in brackets.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::budget;

/// Deeper than any message is; a value that holds itself many times over ends here or at the budget.
pub(super) const MAX_DEPTH: usize = 100;

/// What a value costs beside its text: writing many small ones takes the time, not the room.
const PER_VALUE: usize = 32;

/// `str(value)`.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None if value.is_undefined() => {}
        None => repr(value, &mut out, 0)?,
    }
    Ok(out)
}

pub(super) fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply")
}

fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    budget::charge(PER_VALUE)?;
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out)?,
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (at, item) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(&item, out, depth + 1)?;
            }
            out.push(']');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A text in quotation marks, the way `repr` chooses them.
fn quote(text: &str, out: &mut String) -> Result<(), Error> {
    budget::charge(text.len())?;
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            character if character == mark => out.extend(['\\', mark]),
            character if is_printable(character) => out.push(character),
            character => match u32::from(character) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(mark);
    Ok(())
}

/// Python's `isprintable`, but for characters that Unicode has not assigned.
fn is_printable(character: char) -> bool {
    let is_format = matches!(
        character,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0001}'..='\u{e007f}' | '\u{f0000}'..
    );
    character == ' ' || !(character.is_control() || character.is_whitespace() || is_format)
}

/// A number as `repr` writes it.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => float(number),
        _ => value.to_string(),
    }
}

/// The shortest digits that read back as the same number; with an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() { "nan".to_owned() } else { format!("{number}") };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{number:?}")
}

/// How `tojson` writes.
struct Style {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
}

/// The `tojson` that transformers gives to templates: `json.dumps`, without escapes for HTML.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent = kwargs.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    let indent = indent.map(|indent| match (indent.as_str(), indent.as_usize()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(width)) => " ".repeat(width.min(64)),
        (None, None) => String::new(),
    });
    let separators = kwargs.get::<Option<Vec<String>>>("separators")?;
    let default = [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()];
    let [between_items, after_key] = match separators {
        Some(pair) => pair.try_into().map_err(|_| {
            Error::new(
                ErrorKind::InvalidOperation,
                "tojson takes two separators: between items and after a key",
            )
        })?,
        None => default,
    };
    let style = Style {
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        between_items,
        after_key,
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    style.write(value, &mut out, 0)?;
    Ok(out)
}

impl Style {
    fn write(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        budget::charge(PER_VALUE)?;
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(match number(value).as_str() {
                "nan" => "NaN",
                "inf" => "Infinity",
                "-inf" => "-Infinity",
                digits => digits,
            }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out)?,
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                let write = |key: &Value, out: &mut String| {
                    self.string(&json_key(key)?, out)?;
                    out.push_str(&self.after_key);
                    self.write(&value.get_item(key)?, out, depth + 1)
                };
                self.items(['{', '}'], &keys, out, depth, write)?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items(['[', ']'], &items, out, depth, |item, out| self.write(item, out, depth + 1))?;
            }
            kind => {
                let message = format!("Object of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn items(
        &self,
        brackets: [char; 2],
        items: &[Value],
        out: &mut String,
        depth: usize,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |out: &mut String, depth: usize| -> Result<(), Error> {
            if let Some(indent) = &self.indent {
                budget::charge(1 + depth * indent.len())?;
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
            Ok(())
        };
        out.push(brackets[0]);
        for (at, item) in items.iter().enumerate() {
            out.push_str(if at > 0 { &self.between_items } else { "" });
            new_line(out, depth + 1)?;
            write(item, out)?;
        }
        if !items.is_empty() {
            new_line(out, depth)?;
        }
        out.push(brackets[1]);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) -> Result<(), Error> {
        budget::charge(text.len())?;
        let written = serde_json::Value::from(text).to_string();
        if !self.ascii {
            out.push_str(&written);
            return Ok(());
        }
        for character in written.chars() {
            if character.is_ascii() {
                out.push(character);
            } else {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        Ok(())
    }
}

/// A key as `json.dumps` writes it.
fn json_key(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        _ => text(key)?,
    })
}
