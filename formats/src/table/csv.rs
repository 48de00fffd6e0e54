//! Delimited text: RFC 4180's quoting, any of the usual delimiters.
//!
//! The engine of the `csv` crate is given one physical line at a time. A row then knows its lines, and a quotation mark
//! that is never closed is told from a long field.

use std::collections::HashSet;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::encoding::TextReader;
use super::lines::{Lines, MAX_ROW, is_blank, too_large};
use super::sniff::Layout;
use super::{Cell, Row};
use crate::problem::{LineRange, Problem, ProblemKind};

const MAX_COLUMNS: usize = 10_000;

pub(super) struct CsvRows {
    name: String,
    records: Records,
    columns: Vec<String>,
}

impl CsvRows {
    pub(super) fn open(text: TextReader, name: &str, layout: Layout) -> Result<Self, Problem> {
        let mut records = Records::new(Lines::new(text, name), name, layout.delimiter);
        if layout.separator_line {
            records.lines.read(&mut Vec::new())?;
        }
        let columns = match records.next()? {
            Some((lines, names)) => header(names, lines, name)?,
            None => Vec::new(),
        };
        Ok(Self { name: name.to_owned(), records, columns })
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn into_columns(self) -> Vec<String> {
        self.columns
    }

    pub(super) fn next(&mut self) -> Option<Result<Row, Problem>> {
        loop {
            let (lines, fields) = match self.records.next() {
                Ok(record) => record?,
                Err(problem) => return Some(Err(problem)),
            };
            if fields.len() == self.columns.len() {
                let cells = fields.into_iter().map(Cell::Text).collect();
                return Some(Ok(Row { lines, cells }));
            }
            let blank = matches!(&fields[..], [only] if only.trim().is_empty());
            if !blank {
                return Some(Err(self.ragged(lines, fields.len())));
            }
        }
    }

    fn ragged(&self, lines: LineRange, fields: usize) -> Problem {
        let columns = self.columns.len();
        let message = format!("the row has {}, the header has {columns}", count(fields, "field"));
        let hint = if fields > columns {
            "put cells that hold the delimiter in quotation marks"
        } else {
            "fill in the cells that are absent"
        };
        Problem::new(ProblemKind::RaggedRow, &self.name, message).at(lines).hint(hint)
    }
}

pub(super) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Names of columns: trimmed, none twice, none empty.
fn header(names: Vec<String>, lines: LineRange, file: &str) -> Result<Vec<String>, Problem> {
    if names.len() > MAX_COLUMNS {
        let message = format!("the header has {} columns, more than {MAX_COLUMNS}", names.len());
        return Err(Problem::new(ProblemKind::TooLarge, file, message).at(lines));
    }
    let mut seen = HashSet::new();
    for name in names.iter().map(|name| name.trim()) {
        if !name.is_empty() && !seen.insert(name.to_owned()) {
            let message = format!("the column name `{name}` occurs twice in the header");
            return Err(Problem::new(ProblemKind::Header, file, message)
                .at(lines)
                .in_column(name)
                .hint("rename one of the two columns"));
        }
    }
    let named = |(place, name): (usize, &String)| match name.trim() {
        "" => unused_name(place + 1, &mut seen),
        name => name.to_owned(),
    };
    Ok(names.iter().enumerate().map(named).collect())
}

fn unused_name(number: usize, seen: &mut HashSet<String>) -> String {
    let mut name = format!("column {number}");
    while !seen.insert(name.clone()) {
        name.push('_');
    }
    name
}

/// Records of fields, before they are matched with a header.
struct Records {
    name: String,
    lines: Lines,
    core: Reader,
    line: Vec<u8>,
    line_at: usize,
    output: Vec<u8>,
    ends: Vec<usize>,
}

impl Records {
    fn new(lines: Lines, name: &str, delimiter: u8) -> Self {
        let core = ReaderBuilder::new().delimiter(delimiter).build();
        let (output, ends) = (vec![0; 1024], vec![0; 64]);
        Self { name: name.to_owned(), lines, core, line: Vec::new(), line_at: 0, output, ends }
    }

    fn next(&mut self) -> Result<Option<(LineRange, Vec<String>)>, Problem> {
        let (mut written, mut fields, mut size) = (0, 0, 0);
        let mut first = None;
        let mut ended = false;
        loop {
            if self.line_at == self.line.len() && !ended {
                ended = !self.next_line()?;
                if ended && let Some(first) = first {
                    return Err(self.unclosed(LineRange::one(first)));
                }
            }
            let input = &self.line[self.line_at..];
            if first.is_none() && !is_blank(input) {
                first = Some(self.lines.number);
            }
            let (result, read, wrote, ends) =
                self.core.read_record(input, &mut self.output[written..], &mut self.ends[fields..]);
            self.line_at += read;
            written += wrote;
            fields += ends;
            size += read;
            match result {
                ReadRecordResult::InputEmpty if size > MAX_ROW => {
                    let first = first.unwrap_or(self.lines.number);
                    return Err(too_large(&self.name, LineRange { first, last: self.lines.number }));
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.output.resize(self.output.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::Record => {
                    let last = self.lines.number;
                    let lines = LineRange { first: first.unwrap_or(last), last };
                    return Ok(Some((lines, self.fields(fields))));
                }
            }
        }
    }

    /// Every line ends with a line end, the last one too: a row that goes on at the end of the file is then one whose
    /// quotation mark is open.
    fn next_line(&mut self) -> Result<bool, Problem> {
        let more = self.lines.read(&mut self.line)?;
        self.line_at = 0;
        if more && !self.line.ends_with(b"\n") {
            self.line.push(b'\n');
        }
        Ok(more)
    }

    fn unclosed(&self, first: LineRange) -> Problem {
        let message = "a quotation mark is opened in this row and never closed";
        Problem::new(ProblemKind::UnclosedQuote, &self.name, message)
            .at(first)
            .hint("close it, or write a quotation mark inside of a quoted cell twice")
    }

    fn fields(&self, count: usize) -> Vec<String> {
        let mut start = 0;
        let ends = self.ends[..count].iter();
        ends.map(|end| {
            let field = String::from_utf8_lossy(&self.output[start..*end]).into_owned();
            start = *end;
            field
        })
        .collect()
    }
}
