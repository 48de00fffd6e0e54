//! Reading a person's JSON field by field, with errors that name the field, what was found and what would be right.

use serde_json::{Map, Value};

use super::SpecError;

/// Reads the fields of one object; [`Reader::finish`] refuses names that nobody asked for.
#[derive(Debug)]
pub struct Reader<'a> {
    path: String,
    fields: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// Reads `fields`, which lie at `path` (empty for the top).
    pub fn new(path: &str, fields: &'a Map<String, Value>) -> Self {
        Reader { path: path.to_owned(), fields, known: Vec::new() }
    }

    /// The whole name of a field.
    pub fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// An error about a field.
    pub fn error(&self, name: &str, message: impl Into<String>) -> SpecError {
        SpecError::new(self.at(name), message)
    }

    /// A field; null is as good as absent.
    pub fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A number.
    pub fn number(&mut self, name: &'static str) -> Result<Option<f64>, SpecError> {
        self.read(name, "a number", Value::as_f64)
    }

    /// A whole number of at least 0.
    pub fn whole(&mut self, name: &'static str) -> Result<Option<u64>, SpecError> {
        self.read(name, "a whole number of at least 0", as_whole)
    }

    /// A whole number that fits into 32 bits.
    pub fn whole32(&mut self, name: &'static str) -> Result<Option<u32>, SpecError> {
        self.read(name, "a whole number from 0 to 4294967295", |value| as_whole(value)?.try_into().ok())
    }

    /// True or false.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, SpecError> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// A text.
    pub fn text(&mut self, name: &'static str) -> Result<Option<&'a str>, SpecError> {
        self.read(name, "a text", Value::as_str)
    }

    /// An object, as a reader of its own.
    pub fn object(&mut self, name: &'static str) -> Result<Option<Reader<'a>>, SpecError> {
        let path = self.at(name);
        let fields = self.read(name, "an object", Value::as_object)?;
        Ok(fields.map(|fields| Reader::new(&path, fields)))
    }

    /// A field that is "auto" or something else: `None` for absent and for "auto".
    pub fn unless_auto<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, SpecError> {
        match self.value(name) {
            None => Ok(None),
            Some(value) if value.as_str() == Some("auto") => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.wrong(name, &format!("{expected} or \"auto\""), value)),
            },
        }
    }

    /// One of some words.
    pub fn word<T>(&mut self, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>, SpecError>
    where
        T: Clone,
    {
        let Some(found) = self.text(name)? else {
            return Ok(None);
        };
        match words.iter().find(|(word, _)| *word == found) {
            Some((_, value)) => Ok(Some(value.clone())),
            None => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Err(self.error(name, unknown(found, &words)))
            }
        }
    }

    /// Refuses names that were not asked for, with the nearest one that was.
    pub fn finish(self) -> Result<(), SpecError> {
        match self.fields.keys().find(|name| !self.known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(SpecError::new(self.at(name), unknown_name(name, &self.known))),
        }
    }

    /// The error for a value of another type.
    pub fn wrong(&self, name: &str, expected: &str, found: &Value) -> SpecError {
        self.error(name, format!("expected {expected}, found {}", shown(found)))
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, SpecError> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.wrong(name, expected, value)),
            },
        }
    }
}

/// A whole number, also when written as `3.0`.
pub(super) fn as_whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64)
    })
}

/// A value as it is put into a sentence.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.chars().count() > 40 => {
            format!("the text \"{}…\"", text.chars().take(40).collect::<String>())
        }
        Value::String(text) => format!("the text \"{text}\""),
        Value::Array(items) => format!("a list of {} items", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The sentence about a name that is not known.
fn unknown_name(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("unknown name; did you mean \"{near}\"?"),
        None => format!("unknown name; known are {}", listed(known)),
    }
}

/// The sentence about a word that is not one of those allowed.
pub(super) fn unknown(found: &str, known: &[&str]) -> String {
    let found: String = found.chars().take(60).collect();
    match nearest(&found, known) {
        Some(near) => {
            format!("\"{found}\" is not known; did you mean \"{near}\"? Known are {}", listed(known))
        }
        None => format!("\"{found}\" is not known; known are {}", listed(known)),
    }
}

fn listed(known: &[&str]) -> String {
    known.join(", ")
}

/// The known word that is most like this one, if one is like it at all.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(&word, name), *name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
