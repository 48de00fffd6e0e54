//! Which format a file has and what its delimiter is, told from its first characters.

use std::io::Read;
use std::path::Path;

use super::encoding::{Encoding, TextReader};
use super::{Format, conll, squad};
use crate::problem::{Problem, ProblemKind};

const HEAD: u64 = 64 * 1024;
/// In the order of preference where two fit equally well.
const DELIMITERS: [u8; 4] = [b'\t', b';', b',', b'|'];

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) format: Format,
    pub(crate) encoding: Encoding,
    /// Used for CSV alone.
    pub(crate) delimiter: u8,
    /// The first line is `sep=;`, which spreadsheets write for each other.
    pub(crate) separator_line: bool,
}

impl Layout {
    pub(crate) fn delimiter_char(self) -> Option<char> {
        (self.format == Format::Csv).then_some(char::from(self.delimiter))
    }
}

/// Opens a file after a look at its beginning.
pub(super) fn open(path: &Path, name: &str) -> Result<(Layout, TextReader), Problem> {
    let mut reader = TextReader::open(path, name)?;
    let encoding = reader.encoding();
    let mut head = Vec::new();
    // A byte that is not text may lie beyond the first row: whoever reads the rows will say where.
    let outcome = reader.by_ref().take(HEAD).read_to_end(&mut head);
    let head = String::from_utf8_lossy(&head);
    if head.trim().is_empty() {
        outcome.map_err(|error| Problem::from_io(error, name))?;
        if (head.len() as u64) < HEAD {
            return Err(empty(name));
        }
    }
    let format = format_of(&head, name);
    let (delimiter, separator_line) = match separator_line(&head) {
        Some(delimiter) if format == Format::Csv => (delimiter, true),
        _ => (delimiter_of(&head), false),
    };
    let layout = Layout { format, encoding, delimiter, separator_line };
    Ok((layout, TextReader::open(path, name)?))
}

fn empty(name: &str) -> Problem {
    Problem::new(ProblemKind::EmptyFile, name, "the file is empty: 0 rows")
        .hint("upload a table with a header and rows, or JSON Lines")
}

/// The name's ending where it says something, else the first character.
fn format_of(head: &str, name: &str) -> Format {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let first = head.trim_start().chars().next();
    match ending.as_deref() {
        Some("tsv" | "tab") if conll::looks_like_it(head) => Format::Conll,
        Some("csv" | "tsv" | "tab") => Format::Csv,
        _ if first == Some('{') && squad::is_squad(head) => Format::Squad,
        Some("json" | "jsonl" | "ndjson") if first == Some('[') => Format::JsonArray,
        Some("json" | "jsonl" | "ndjson") => Format::JsonLines,
        Some(ending) if conll::is_conll(ending) => Format::Conll,
        _ => match first {
            Some('{') => Format::JsonLines,
            Some('[') => Format::JsonArray,
            _ if conll::looks_like_it(head) => Format::Conll,
            _ => Format::Csv,
        },
    }
}

fn separator_line(head: &str) -> Option<u8> {
    let line = head.lines().next()?.trim_end();
    match line.strip_prefix("sep=")?.as_bytes() {
        [] => line.ends_with('\t').then_some(b'\t'),
        [delimiter] => Some(*delimiter),
        _ => None,
    }
}

/// The delimiter that the header uses most, outside of quotation marks.
fn delimiter_of(head: &str) -> u8 {
    let mut counts = [0usize; DELIMITERS.len()];
    let mut quoted = false;
    for byte in head.trim_start_matches(['\r', '\n']).bytes() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => break,
            _ if quoted => {}
            _ => {
                if let Some(place) = DELIMITERS.iter().position(|delimiter| *delimiter == byte) {
                    counts[place] += 1;
                }
            }
        }
    }
    let most = counts.iter().copied().max().unwrap_or(0);
    match counts.iter().position(|count| *count == most) {
        Some(place) if most > 0 => DELIMITERS[place],
        _ => b',',
    }
}
