//! Metadata of a GGUF file: names with values, and questions to them that end in a [`Problem`].

use std::collections::HashMap;

use crate::problem::{Problem, ProblemKind};

/// A value, without the width of its number in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number; those above `i64::MAX` are taken for that.
    Int(i64),
    /// A broken number. One of 32 bits is the shortest decimal that is read as the same 32 bits, as people wrote it.
    Float(f64),
    /// A yes or no.
    Bool(bool),
    /// A text; bytes that are no UTF-8 are replaced.
    Text(String),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Broken numbers.
    Floats(Vec<f64>),
    /// Answers.
    Bools(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
}

impl Value {
    /// What it is, for a message.
    pub fn sort(&self) -> &'static str {
        match self {
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Text(_) => "a text",
            Self::Ints(_) => "a list of whole numbers",
            Self::Floats(_) => "a list of numbers",
            Self::Bools(_) => "a list of true and false",
            Self::Texts(_) => "a list of texts",
        }
    }
}

/// More than any size of a model; products of two stay far from overflow.
const MOST: i64 = 1 << 31;

/// The shortest decimal of 32 bits, as 64.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// All metadata of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// What problems call the file.
    pub file: String,
    /// Values by key.
    pub values: HashMap<String, Value>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Problem {
        let message = format!("expected {expected}, found {}", found.sort());
        Problem::new(ProblemKind::Config, &self.file, message)
            .in_column(key)
            .hint("convert the model again with a current version of the program that wrote the file")
    }

    /// A problem of a key that is not there.
    pub fn missing(&self, key: &str) -> Problem {
        Problem::new(ProblemKind::Config, &self.file, "the key is missing")
            .in_column(key)
            .hint("convert the model again with a current version of the program that wrote the file")
    }

    /// A problem of a key's value.
    pub fn refused(&self, key: &str, message: impl Into<String>) -> Problem {
        Problem::new(ProblemKind::Config, &self.file, message).in_column(key)
    }

    /// A text.
    ///
    /// # Errors
    /// [`ProblemKind::Config`] where it is something else, as all that follow.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a text", other)),
        }
    }

    /// A whole number that is not negative.
    #[allow(clippy::missing_errors_doc, reason = "see `text`")]
    pub fn size(&self, key: &str) -> Result<Option<u64>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Int(value)) if (0..MOST).contains(value) => Ok(Some(*value as u64)),
            Some(Value::Int(value)) => Err(self.refused(key, format!("{value} is no possible size"))),
            Some(other) => Err(self.wrong(key, "a whole number", other)),
        }
    }

    /// A whole number that is not negative; where each layer has its own, they must be the same.
    #[allow(clippy::missing_errors_doc, reason = "see `text`")]
    pub fn size_of_all(&self, key: &str) -> Result<Option<u64>, Problem> {
        let Some(Value::Ints(list)) = self.get(key) else { return self.size(key) };
        match list.split_first() {
            Some((first, rest)) if (0..MOST).contains(first) && rest.iter().all(|other| other == first) => {
                Ok(Some(*first as u64))
            }
            _ => Err(Problem::new(
                ProblemKind::UnsupportedModel,
                &self.file,
                "the layers have different values, which the model's implementation does not know",
            )
            .in_column(key)),
        }
    }

    /// A number.
    #[allow(clippy::missing_errors_doc, reason = "see `text`")]
    pub fn number(&self, key: &str) -> Result<Option<f64>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(Value::Float(value)) => Err(self.refused(key, format!("{value} is no usable number"))),
            Some(Value::Int(value)) => Ok(Some(*value as f64)),
            Some(other) => Err(self.wrong(key, "a number", other)),
        }
    }

    /// A yes or no.
    #[allow(clippy::missing_errors_doc, reason = "see `text`")]
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// A list of texts.
    #[allow(clippy::missing_errors_doc, reason = "see `text`")]
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Texts(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(key, "a list of texts", other)),
        }
    }

    /// A list of whole numbers.
    #[allow(clippy::missing_errors_doc, reason = "see `text`")]
    pub fn ints(&self, key: &str) -> Result<Option<&[i64]>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Ints(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(key, "a list of whole numbers", other)),
        }
    }

    /// A list of numbers.
    #[allow(clippy::missing_errors_doc, reason = "see `text`")]
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Floats(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(key, "a list of numbers", other)),
        }
    }
}
