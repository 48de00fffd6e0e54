//! What is wrong with a file: one type for tables, checkpoints and archives.

use std::error::Error;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Physical lines of a file, counted from 1, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LineRange {
    /// The first line.
    pub first: u64,
    /// The last line; the same as `first` for a row on one line.
    pub last: u64,
}

impl LineRange {
    /// The range of a single line.
    pub fn one(line: u64) -> Self {
        Self { first: line, last: line }
    }
}

impl fmt::Display for LineRange {
    /// Writes `line 3`, or `lines 6–7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "line {}", self.first)
        } else {
            write!(f, "lines {}–{}", self.first, self.last)
        }
    }
}

/// What sort of trouble a [`Problem`] is; its serialized name is the stable code of an API answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// The file could not be opened or read.
    Unreadable,
    /// Nothing in it: no bytes, or only blank lines.
    EmptyFile,
    /// A header, but no rows.
    NoRows,
    /// Not a table, a checkpoint file or an archive that can be read.
    UnsupportedFormat,
    /// Bytes that are not text in the encoding found.
    Encoding,
    /// A header with a repeated name, or without any.
    Header,
    /// A row with more or fewer fields than the header.
    RaggedRow,
    /// A quotation mark that is opened and never closed.
    UnclosedQuote,
    /// Text that is not JSON, or JSON that is not an object.
    InvalidJson,
    /// One row, name or header larger than any honest one.
    TooLarge,
    /// The column asked for is not in the file.
    UnknownColumn,
    /// The columns could not be told apart by their names.
    AmbiguousColumns,
    /// A row without a text.
    MissingText,
    /// A row without a label.
    MissingLabel,
    /// A cell that is there and cannot be used: a list as a text, a word as a number.
    InvalidValue,
    /// A label that the training data does not have.
    UnknownLabel,
    /// Fewer than two classes.
    OneClass,
    /// `config.json` is absent or lacks what is needed.
    Config,
    /// A model type that there is no implementation for.
    UnsupportedModel,
    /// The folder has no weights in a supported format, or lacks a part of them.
    MissingWeights,
    /// A weights file that is cut short, too long, or contradicts itself.
    CorruptWeights,
    /// A Git LFS pointer in place of the file itself.
    LfsPointer,
    /// A tensor that is absent or has another shape than the configuration says.
    Tensor,
    /// No tokenizer that can be used.
    Tokenizer,
    /// Rows in no layout that a language model is trained on, or in several.
    UnknownLayout,
    /// A conversation that nothing can be learnt from: no messages, no turn of the assistant.
    Conversation,
    /// A chat template that is absent, is no Jinja, or refuses a conversation.
    ChatTemplate,
    /// An archive entry with a name or type that is not let in.
    UnsafeEntry,
    /// An archive that unpacks to more than the limit.
    LimitExceeded,
    /// An archive that is damaged.
    CorruptArchive,
}

/// One thing that is wrong: what, where, and what to do.
///
/// `Display` is a single sentence. A missing place is left out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What sort of trouble.
    pub kind: ProblemKind,
    /// The file's name as its owner knows it, never a path of this machine.
    pub file: String,
    /// Where in the file.
    pub line: Option<LineRange>,
    /// Which column, or which field of a configuration file.
    pub column: Option<Box<str>>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do, without a full stop.
    pub hint: Option<Box<str>>,
}

impl Problem {
    /// A problem of a whole file.
    pub fn new(kind: ProblemKind, file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, file: file.into(), line: None, column: None, message: message.into(), hint: None }
    }

    /// Says on which lines.
    pub fn at(mut self, line: LineRange) -> Self {
        self.line = Some(line);
        self
    }

    /// Says in which column.
    pub fn in_column(mut self, column: impl Into<Box<str>>) -> Self {
        self.column = Some(column.into());
        self
    }

    /// Says what to do.
    pub fn hint(mut self, hint: impl Into<Box<str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The problem behind an I/O error: itself if a reader of this crate put it there, else [`ProblemKind::Unreadable`].
    pub(crate) fn from_io(error: io::Error, file: &str) -> Self {
        match error.downcast::<Self>() {
            Ok(problem) => problem,
            Err(error) => {
                Self::new(ProblemKind::Unreadable, file, format!("the file cannot be read: {error}"))
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", {line}")?;
        }
        if let Some(column) = &self.column {
            write!(f, ", `{column}`")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl Error for Problem {}

/// Everything that is wrong with a file: the first [`Problems::LISTED`] in the order of the file, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// The first ones.
    pub listed: Vec<Problem>,
    /// How many there are in all.
    pub total: u64,
}

impl Problems {
    /// How many are kept; the rest are counted.
    pub const LISTED: usize = 100;

    /// Adds one, or only counts it when enough are listed.
    pub fn push(&mut self, problem: Problem) {
        self.total += 1;
        if self.listed.len() < Self::LISTED {
            self.listed.push(problem);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The value, if nothing was wrong.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { listed: vec![problem], total: 1 }
    }
}

impl Extend<Problem> for Problems {
    fn extend<I: IntoIterator<Item = Problem>>(&mut self, problems: I) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }
}

impl fmt::Display for Problems {
    /// The first problem, and how many more there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.listed.first(), self.total) {
            (None, _) => f.write_str("no problems"),
            (Some(first), 1) => first.fmt(f),
            (Some(first), total) => write!(f, "{first} (and {} more)", total - 1),
        }
    }
}

impl Error for Problems {}
