//! Rows as JSON objects: one a line, all in one list, or the questions of SQuAD's nested file.
//!
//! Values are taken as written, so that numbers keep their digits. An object of a list may span lines: its end is found
//! first, and `serde_json` reads what lies between.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::encoding::TextReader;
use super::lines::{Lines, MAX_ROW, is_blank, too_large};
use super::squad::Questions;
use super::{Cell, Format, Row};
use crate::problem::{LineRange, Problem, ProblemKind};

const MAX_COLUMNS: usize = 10_000;

pub(super) struct JsonRows {
    name: String,
    source: Source,
    columns: Vec<String>,
    places: HashMap<String, usize>,
}

impl JsonRows {
    pub(super) fn open(text: TextReader, name: &str, format: Format) -> Self {
        let source = match format {
            Format::JsonArray => Source::List(Elements::new(Lines::new(text, name), name)),
            Format::Squad => Source::Squad(Questions::new(text, name)),
            Format::Csv | Format::JsonLines | Format::Conll => {
                Source::Lines { lines: Lines::new(text, name), line: Vec::new() }
            }
        };
        Self { name: name.to_owned(), source, columns: Vec::new(), places: HashMap::new() }
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn into_columns(self) -> Vec<String> {
        self.columns
    }

    pub(super) fn next(&mut self) -> Option<Result<Row, Problem>> {
        let (lines, object) = match self.source.next() {
            Ok(next) => next?,
            Err(problem) => return Some(Err(problem)),
        };
        Some(self.row(lines, &object))
    }

    fn row(&mut self, lines: LineRange, text: &[u8]) -> Result<Row, Problem> {
        let text = String::from_utf8_lossy(text);
        let fields: Fields<'_> =
            serde_json::from_str(&text).map_err(|error| invalid(&self.name, lines, &text, &error))?;
        let mut cells = vec![None; self.columns.len()];
        for (key, raw) in fields.0 {
            let place = self.place(key.trim(), lines)?;
            cells.resize(self.columns.len().max(cells.len()), None);
            let cell = cell(raw.get()).map_err(|message| {
                Problem::new(ProblemKind::InvalidJson, &self.name, message).at(lines).in_column(key.trim())
            })?;
            if cells[place].replace(cell).is_some() {
                let message = format!("the key `{}` occurs twice in this object", key.trim());
                return Err(Problem::new(ProblemKind::InvalidJson, &self.name, message).at(lines));
            }
        }
        let cells = cells.into_iter().map(|cell| cell.unwrap_or(Cell::Missing)).collect();
        Ok(Row { lines, cells })
    }

    fn place(&mut self, key: &str, lines: LineRange) -> Result<usize, Problem> {
        if let Some(place) = self.places.get(key) {
            return Ok(*place);
        }
        if self.columns.len() == MAX_COLUMNS {
            let message = format!("the objects up to here have more than {MAX_COLUMNS} different keys");
            return Err(Problem::new(ProblemKind::TooLarge, &self.name, message).at(lines));
        }
        let place = self.columns.len();
        self.places.insert(key.to_owned(), place);
        self.columns.push(key.to_owned());
        Ok(place)
    }
}

/// A value as written, to a cell.
fn cell(raw: &str) -> Result<Cell, String> {
    let text = raw.trim();
    Ok(match text.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(text).map_err(|error| plain(&error))?;
            if text.contains('\0') {
                return Err(
                    "the text holds the character U+0000, which no tokenizer or database keeps".to_owned()
                );
            }
            Cell::Text(text)
        }
        Some(b'[') => Cell::List(text.to_owned()),
        Some(b'{') => Cell::Object(text.to_owned()),
        Some(b't') => Cell::Bool(true),
        Some(b'f') => Cell::Bool(false),
        Some(b'n') | None => Cell::Missing,
        Some(_) => Cell::Number(text.to_owned()),
    })
}

/// A field of an object that a cell holds; [`Cell::Missing`] where it has none of this name.
///
/// # Errors
/// The sentence, where the field occurs twice or holds what no cell can.
pub(crate) fn field_of(object: &str, name: &str) -> Result<Cell, String> {
    let fields: Fields<'_> = serde_json::from_str(object).map_err(|error| plain(&error))?;
    let mut found = fields.0.iter().filter(|(key, _)| key.trim() == name);
    match (found.next(), found.next()) {
        (None, _) => Ok(Cell::Missing),
        (Some((_, raw)), None) => cell(raw.get()),
        (Some(_), Some(_)) => Err(format!("the key `{name}` occurs twice in this object")),
    }
}

/// Names of the fields of an object that hold texts, in their order.
pub(crate) fn text_fields(object: &str) -> Vec<String> {
    let fields: Fields<'_> = serde_json::from_str(object).unwrap_or(Fields(Vec::new()));
    let is_text = |raw: &RawValue| raw.get().trim_start().starts_with('"');
    fields.0.into_iter().filter(|(_, raw)| is_text(raw)).map(|(key, _)| key.trim().to_owned()).collect()
}

/// An error of `serde_json` without its place, which counts within one object.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}

fn invalid(name: &str, lines: LineRange, text: &str, error: &serde_json::Error) -> Problem {
    if error.is_data() {
        return Problem::new(
            ProblemKind::InvalidJson,
            name,
            "each row must be a JSON object, this one is not",
        )
        .at(lines)
        .hint(r#"write rows as {"text": "…", "label": "…"}"#);
    }
    // An error at the end of the text is one line further, where the text ends with a line end.
    let line = LineRange::one((lines.first + (error.line() as u64).saturating_sub(1)).min(lines.last));
    let message = format!("not valid JSON at character {}: {}", error.column(), plain(error));
    let problem = Problem::new(ProblemKind::InvalidJson, name, message).at(line);
    if text.contains("NaN") || text.contains("Infinity") {
        problem.hint("NaN and Infinity are no JSON values, write null")
    } else if error.is_eof() && text.trim() == "{" {
        problem.hint("write each object on one line, or put all of them into one list")
    } else {
        problem.hint("correct this line")
    }
}

/// An object's keys and values, in order, the values as written.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

enum Source {
    Lines { lines: Lines, line: Vec<u8> },
    List(Elements),
    Squad(Questions),
}

impl Source {
    fn next(&mut self) -> Result<Option<(LineRange, Vec<u8>)>, Problem> {
        match self {
            Self::Lines { lines, line } => loop {
                if !lines.read(line)? {
                    return Ok(None);
                }
                if !is_blank(line) {
                    return Ok(Some((LineRange::one(lines.number), std::mem::take(line))));
                }
            },
            Self::List(elements) => elements.next(),
            Self::Squad(questions) => questions.next(),
        }
    }
}

/// Where in a list the reading stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before its opening bracket.
    Start,
    /// Before the first value, or the closing bracket.
    First,
    /// After a comma.
    Next,
    /// In a value.
    Value,
    /// After the closing bracket.
    End,
}

/// The values of a JSON list, each as written.
struct Elements {
    name: String,
    lines: Lines,
    line: Vec<u8>,
    line_at: usize,
    at: At,
}

impl Elements {
    fn new(lines: Lines, name: &str) -> Self {
        Self { name: name.to_owned(), lines, line: Vec::new(), line_at: 0, at: At::Start }
    }

    fn next(&mut self) -> Result<Option<(LineRange, Vec<u8>)>, Problem> {
        let mut value = Nested::default();
        let mut range = LineRange::one(0);
        loop {
            let Some(byte) = self.byte()? else {
                return self.ended();
            };
            match (self.at, byte) {
                (At::Value, b',' | b']') if value.is_outermost() => {
                    self.at = if byte == b',' { At::Next } else { At::End };
                    return Ok(Some((range, value.bytes)));
                }
                (At::Value, _) => {
                    value.push(byte);
                    if !byte.is_ascii_whitespace() {
                        range.last = self.lines.number;
                    }
                    if value.bytes.len() > MAX_ROW {
                        return Err(too_large(&self.name, range));
                    }
                }
                (_, byte) if byte.is_ascii_whitespace() => {}
                (At::Start, b'[') => self.at = At::First,
                (At::First, b']') => self.at = At::End,
                (At::First | At::Next, byte) if !matches!(byte, b',' | b']') => {
                    range = LineRange::one(self.lines.number);
                    value.push(byte);
                    self.at = At::Value;
                }
                (_, byte) => return Err(self.unexpected(byte)),
            }
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, Problem> {
        if self.line_at == self.line.len() {
            self.line_at = 0;
            if !self.lines.read(&mut self.line)? {
                return Ok(None);
            }
        }
        self.line_at += 1;
        Ok(Some(self.line[self.line_at - 1]))
    }

    fn ended<T>(&mut self) -> Result<Option<T>, Problem> {
        if self.at == At::End {
            return Ok(None);
        }
        self.at = At::End;
        let problem = Problem::new(
            ProblemKind::InvalidJson,
            &self.name,
            "the file ends before the list does: a closing `]` is missing",
        );
        Err(problem
            .at(LineRange::one(self.lines.number))
            .hint("the file may have been cut short, upload it again"))
    }

    /// Nothing after this can be told apart, so that the rest is passed over.
    fn unexpected(&mut self, byte: u8) -> Problem {
        let message = match self.at {
            At::End => "there is something after the end of the list".to_owned(),
            At::Next | At::First => "a value is missing in the list".to_owned(),
            At::Start | At::Value => format!("expected a list, found `{}`", char::from(byte)),
        };
        self.at = At::End;
        Problem::new(ProblemKind::UnsupportedFormat, &self.name, message)
            .at(LineRange::one(self.lines.number))
            .hint("write one JSON list of objects, or one object a line")
    }
}

/// A value on its way, with how deep in brackets it stands.
#[derive(Default)]
struct Nested {
    bytes: Vec<u8>,
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Nested {
    fn is_outermost(&self) -> bool {
        self.depth == 0 && !self.quoted
    }

    fn push(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            b'{' | b'[' if !self.quoted => self.depth += 1,
            b'}' | b']' if !self.quoted => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.bytes.push(byte);
    }
}
