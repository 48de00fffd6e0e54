//! Physical lines, with a bound on how much of a file one row may take.

use std::io::{BufRead, Read};

use super::encoding::TextReader;
use crate::problem::{LineRange, Problem, ProblemKind};

/// More text than any honest row has; past it a quotation mark was most likely never closed.
pub(super) const MAX_ROW: usize = 64 * 1024 * 1024;

/// Reads line by line and counts.
pub(super) struct Lines {
    text: TextReader,
    name: String,
    /// The number of the line read last; 0 before the first.
    pub(super) number: u64,
}

impl Lines {
    pub(super) fn new(text: TextReader, name: &str) -> Self {
        Self { text, name: name.to_owned(), number: 0 }
    }

    /// Puts the next line, its end included, in place of what `line` held; `false` at the end of the file.
    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> Result<bool, Problem> {
        line.clear();
        let limit = MAX_ROW as u64 + 1;
        let n = self
            .text
            .by_ref()
            .take(limit)
            .read_until(b'\n', line)
            .map_err(|error| Problem::from_io(error, &self.name))?;
        self.number += u64::from(n > 0);
        if line.len() > MAX_ROW {
            return Err(too_large(&self.name, LineRange::one(self.number)));
        }
        Ok(n > 0)
    }
}

pub(super) fn too_large(name: &str, lines: LineRange) -> Problem {
    Problem::new(ProblemKind::TooLarge, name, "a single row has more than 64 MiB")
        .at(lines)
        .hint("look for a quotation mark or bracket that is not closed")
}

pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}
