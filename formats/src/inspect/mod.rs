//! A look at a table before anything is done with it: format, columns, preview, and what is wrong.

mod column;
mod guess;
mod guess_questions;
mod guess_related;
mod guess_sequences;
mod guess_tagged;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use column::{Column, ColumnKind, Lengths};
pub use guess::{ColumnsGuess, guess_columns};
pub use guess_questions::{asks_questions, guess_questions};
pub use guess_related::guess_related;
pub use guess_sequences::{Target, guess_sequences};
pub use guess_tagged::guess_tagged;

use crate::problem::{LineRange, Problems};
use crate::table::{Cell, Encoding, Format, Row, Rows, no_rows};
use column::Stats;

const PREVIEW_ROWS: usize = 20;
const PREVIEW_CHARACTERS: usize = 1000;

/// What is in a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The file's name as its owner knows it.
    pub name: String,
    /// How rows are written; absent where the file could not be opened as a table.
    pub format: Option<Format>,
    /// What stands between two fields of a CSV.
    pub delimiter: Option<char>,
    /// How text is written.
    pub encoding: Option<Encoding>,
    /// Size of the file.
    pub bytes: u64,
    /// Rows that can be used.
    pub rows: u64,
    /// The columns, in the order of the file.
    pub columns: Vec<Column>,
    /// What is wrong with the file as a table. Missing texts and labels are judged once the columns have roles.
    pub problems: Problems,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
    /// The first rows that can be used.
    pub preview: Vec<PreviewRow>,
}

/// One of the first rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewRow {
    /// The physical lines it stands on.
    pub lines: LineRange,
    /// Its cells as written, long ones cut with `…`; `None` for JSON's `null` or an absent key.
    pub cells: Vec<Option<String>>,
}

impl Inspection {
    /// Whether there are rows, and nothing is wrong with the file as a table.
    pub fn is_usable(&self) -> bool {
        self.problems.is_empty() && self.rows > 0
    }

    /// The names of the columns.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// The names of columns, and of fields that hold texts in columns of objects: `translation.en`.
    pub fn text_names(&self) -> Vec<String> {
        let of = |column: &Column| match column.fields.as_slice() {
            [] => vec![column.name.clone()],
            fields => fields.iter().map(|field| format!("{}.{field}", column.name)).collect(),
        };
        self.columns.iter().flat_map(of).collect()
    }

    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Reads a table from end to end.
///
/// Never fails: what is wrong is listed in the answer. `name` is the file's name as its owner knows it; its ending helps to
/// tell the format.
pub fn inspect(path: &Path, name: &str) -> Inspection {
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let mut inspection = Inspection { name: name.to_owned(), bytes, ..Inspection::default() };
    match Rows::open(path, name) {
        Ok(rows) => inspection.read(rows),
        Err(problem) => inspection.problems.push(problem),
    }
    inspection
}

impl Inspection {
    fn read(&mut self, mut rows: Rows) {
        let layout = rows.layout();
        let mut stats: Vec<Stats> = Vec::new();
        while let Some(row) = rows.next() {
            stats.resize_with(rows.columns().len(), Stats::default);
            match row {
                Ok(row) => self.add(&row, &mut stats),
                Err(problem) => self.problems.push(problem),
            }
        }
        stats.resize_with(rows.columns().len(), Stats::default);
        self.format = Some(layout.format);
        self.delimiter = layout.delimiter_char();
        self.encoding = Some(layout.encoding);
        if self.rows == 0 && self.problems.is_empty() {
            self.problems.push(no_rows(&self.name, layout.format));
        }
        for row in &mut self.preview {
            row.cells.resize(stats.len(), None);
        }
        let names = rows.columns().iter().zip(stats);
        self.columns = names.map(|(name, stats)| stats.into_column(name, self.rows)).collect();
        self.notices = notices(self);
    }

    fn add(&mut self, row: &Row, stats: &mut [Stats]) {
        self.rows += 1;
        for (cell, stats) in row.cells.iter().zip(stats) {
            stats.add(cell);
        }
        if self.preview.len() < PREVIEW_ROWS {
            let cells = row.cells.iter().map(preview).collect();
            self.preview.push(PreviewRow { lines: row.lines, cells });
        }
    }
}

fn preview(cell: &Cell) -> Option<String> {
    cell.written().map(|text| shortened(&text, PREVIEW_CHARACTERS))
}

/// At most so many characters of a text, `…` where there are more.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn notices(inspection: &Inspection) -> Vec<String> {
    let mut notices = Vec::new();
    for column in &inspection.columns {
        if column.has_decimal_commas {
            notices.push(format!(
                "the column `{}` holds numbers with a decimal comma, which are read as text",
                column.name
            ));
        }
        if column.kind == ColumnKind::Empty {
            notices.push(format!("the column `{}` is empty", column.name));
        }
    }
    if inspection.format == Some(Format::Csv) && inspection.columns.len() == 1 {
        notices.push(
            "only one column was found; fields are separated by a comma, semicolon, tab or bar".to_owned(),
        );
    }
    notices
}
