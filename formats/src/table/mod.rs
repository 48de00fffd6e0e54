//! Tables as text: CSV and its relatives, JSON Lines, a JSON array of objects, SQuAD's nested file, sentences in CoNLL's
//! columns.
//!
//! Rules that hold for each:
//! - Text is UTF-8, with or without a byte-order mark, or UTF-16 with one. Anything else is a problem with line and byte.
//! - Names of columns are trimmed. A name that occurs twice is a problem; an empty one becomes `column N`.
//! - Cells are what the file says: `NA`, `null` and `None` in a CSV are those words, an empty CSV cell is an empty text,
//!   numbers keep their digits. Only JSON's own `null`, or an absent key, is [`Cell::Missing`].
//! - A row knows the physical lines it was written on.
//! - Blank lines are passed over; in CoNLL's columns they end a sentence, which is a row.

mod conll;
mod csv;
mod encoding;
mod json;
mod lines;
pub mod parallel;
mod sniff;
mod squad;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use conll::is_conll;
pub use encoding::Encoding;
pub(crate) use json::{field_of, text_fields};
pub(crate) use sniff::Layout;

use crate::problem::{LineRange, Problem, ProblemKind, Problems};

/// How the rows of a table are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Fields between delimiters, the names in the first row.
    Csv,
    /// One JSON object a line.
    JsonLines,
    /// One JSON list of objects.
    JsonArray,
    /// One JSON object with the questions on paragraphs of articles, as SQuAD is given out; a question is a row.
    Squad,
    /// A word a line with its columns, a blank line after each sentence.
    Conll,
}

/// One cell, as the file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// JSON's `null`, or a key that this row does not have.
    Missing,
    /// Text; every CSV cell is one.
    Text(String),
    /// A JSON number, in the digits of the file.
    Number(String),
    /// JSON's `true` or `false`.
    Bool(bool),
    /// A JSON list, as written.
    List(String),
    /// A JSON object, as written.
    Object(String),
}

impl Cell {
    /// The cell in its own characters; `None` where there is no value.
    pub fn written(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Missing => None,
            Self::Text(text) | Self::Number(text) | Self::List(text) | Self::Object(text) => {
                Some(Cow::Borrowed(text))
            }
            Self::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        }
    }

    /// Whether there is nothing to read: no value, or a text of blanks.
    pub fn is_blank(&self) -> bool {
        match self {
            Self::Missing => true,
            Self::Text(text) => text.trim().is_empty(),
            _ => false,
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The physical lines it stands on.
    pub lines: LineRange,
    /// Its cells by column; shorter than the list of columns where a JSON row lacks the last ones.
    pub cells: Vec<Cell>,
}

impl Row {
    /// The cell of a column, by its place in the list of columns.
    pub fn cell(&self, column: usize) -> &Cell {
        self.cells.get(column).unwrap_or(&Cell::Missing)
    }
}

/// A table that was read once from end to end: its columns, how many rows it has, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Table {
    path: PathBuf,
    name: String,
    layout: Layout,
    columns: Vec<String>,
    rows: u64,
    problems: Problems,
}

impl Table {
    /// Reads the file once, keeping none of its rows.
    ///
    /// `name` is the file's name as its owner knows it: its ending helps to tell the format, and problems call the file by
    /// it.
    ///
    /// # Errors
    /// The problem, where the file cannot be read as a table at all: absent, empty, not text, a header that cannot be used.
    /// Rows that cannot be used are no error here; they are listed in [`Table::problems`].
    pub fn open(path: &Path, name: &str) -> Result<Self, Problem> {
        let mut reader = Rows::open(path, name)?;
        let mut rows = 0;
        let mut problems = Problems::default();
        for row in &mut reader {
            match row {
                Ok(_) => rows += 1,
                Err(problem) => problems.push(problem),
            }
        }
        let layout = reader.layout;
        let columns = reader.into_columns();
        if rows == 0 && problems.is_empty() {
            return Err(no_rows(name, layout.format));
        }
        Ok(Self { path: path.to_owned(), name: name.to_owned(), layout, columns, rows, problems })
    }

    /// The names of the columns, in the order of the file.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// How many rows can be used.
    pub fn row_count(&self) -> u64 {
        self.rows
    }

    /// How the rows are written.
    pub fn format(&self) -> Format {
        self.layout.format
    }

    /// How the text is written.
    pub fn encoding(&self) -> Encoding {
        self.layout.encoding
    }

    /// What stands between two fields; `None` for JSON.
    pub fn delimiter(&self) -> Option<char> {
        self.layout.delimiter_char()
    }

    /// The rows that cannot be used.
    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    /// The place of a column.
    ///
    /// # Errors
    /// [`ProblemKind::UnknownColumn`], naming the columns that there are and the nearest one.
    pub fn column(&self, name: &str) -> Result<usize, Problem> {
        find_column(&self.columns, name, &self.name)
    }

    /// Reads the rows again, one at a time.
    ///
    /// # Errors
    /// The problem, where the file can no longer be read.
    pub fn rows(&self) -> Result<Rows, Problem> {
        Rows::open(&self.path, &self.name)
    }

    /// All rows of a table without any problem.
    ///
    /// # Errors
    /// Everything that is wrong with it: no row is left out.
    pub fn read_strict(&self) -> Result<Vec<Row>, Problems> {
        let mut rows = Vec::new();
        let mut problems = Problems::default();
        for row in self.rows()? {
            match row {
                Ok(row) => rows.push(row),
                Err(problem) => problems.push(problem),
            }
        }
        problems.or(rows)
    }
}

/// The rows of a table, read one at a time.
///
/// A row that cannot be used comes as its [`Problem`] and reading goes on with the next one; after a problem of the whole
/// file (its encoding, a quotation mark that is never closed) the rows end.
pub struct Rows {
    layout: Layout,
    reader: Reader,
    failed: bool,
}

enum Reader {
    Csv(Box<csv::CsvRows>),
    Json(Box<json::JsonRows>),
    Conll(Box<conll::ConllRows>),
}

impl Rows {
    /// Opens a file, tells its format, and reads the header if it has one.
    ///
    /// # Errors
    /// As [`Table::open`], but for tables without rows.
    pub fn open(path: &Path, name: &str) -> Result<Self, Problem> {
        let (layout, text) = sniff::open(path, name)?;
        let reader = match layout.format {
            Format::Csv => Reader::Csv(Box::new(csv::CsvRows::open(text, name, layout)?)),
            Format::JsonLines | Format::JsonArray | Format::Squad => {
                Reader::Json(Box::new(json::JsonRows::open(text, name, layout.format)))
            }
            Format::Conll => Reader::Conll(Box::new(conll::ConllRows::open(text, name)?)),
        };
        Ok(Self { layout, reader, failed: false })
    }

    /// The columns known so far: all of a CSV's, those of the rows read so far for JSON.
    pub fn columns(&self) -> &[String] {
        match &self.reader {
            Reader::Csv(rows) => rows.columns(),
            Reader::Json(rows) => rows.columns(),
            Reader::Conll(rows) => rows.columns(),
        }
    }

    /// Whether reading ended at a problem instead of at the end of the file.
    pub fn is_cut_off(&self) -> bool {
        self.failed
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    fn into_columns(self) -> Vec<String> {
        match self.reader {
            Reader::Csv(rows) => rows.into_columns(),
            Reader::Json(rows) => rows.into_columns(),
            Reader::Conll(rows) => rows.into_columns(),
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = match &mut self.reader {
            Reader::Csv(rows) => rows.next(),
            Reader::Json(rows) => rows.next(),
            Reader::Conll(rows) => rows.next(),
        };
        self.failed = matches!(&row, Some(Err(problem)) if ends_reading(problem.kind));
        row
    }
}

/// Whether nothing after such a problem can be trusted.
fn ends_reading(kind: ProblemKind) -> bool {
    use ProblemKind::{Encoding, TooLarge, UnclosedQuote, Unreadable, UnsupportedFormat};
    matches!(kind, Encoding | TooLarge | UnclosedQuote | Unreadable | UnsupportedFormat)
}

pub(crate) fn no_rows(name: &str, format: Format) -> Problem {
    let message = match format {
        Format::Csv => "there is a header but no rows",
        Format::JsonLines | Format::JsonArray => "there are no rows",
        Format::Squad => "there are no questions",
        Format::Conll => "there are no sentences",
    };
    Problem::new(ProblemKind::NoRows, name, message).hint("add rows of data")
}

/// The place of `wanted` among `columns`, or a problem that lists them.
pub(crate) fn find_column(columns: &[String], wanted: &str, file: &str) -> Result<usize, Problem> {
    if let Some(place) = columns.iter().position(|column| column == wanted.trim()) {
        return Ok(place);
    }
    let message = format!("there is no column `{wanted}`; the file has {}", columns.join(", "));
    let problem = Problem::new(ProblemKind::UnknownColumn, file, message).in_column(wanted);
    let lower = wanted.trim().to_lowercase();
    let near = columns
        .iter()
        .map(|column| (strsim::jaro_winkler(&lower, &column.to_lowercase()), column))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    Err(match near {
        Some((_, column)) => problem.hint(format!("did you mean `{column}`?")),
        None => problem.hint("choose one of them"),
    })
}
