//! Texts to write other texts from: a sentence and its translation, an article and its summary.
//!
//! A row is a source and a target. Each is a column of its own, or a field of a column of JSON objects, named with a dot:
//! `translation.en` of rows such as `{"translation": {"en": "Hello", "fr": "Bonjour"}}`.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::related::key;
use super::{Columns, Places, Role, each_row, twice};
use crate::problem::{LineRange, Problem, ProblemKind, Problems};
use crate::table::Row;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its number among the rows, from 0.
    pub row: u64,
    /// The physical lines of the file it stands on.
    pub lines: LineRange,
    /// The text to write from, as in the file.
    pub source: String,
    /// The text to write, as in the file.
    pub target: String,
}

/// What a file of sources and targets holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many rows.
    pub rows: u64,
    /// Mean length of the sources, in characters.
    pub mean_source: f64,
    /// Mean length of the targets, in characters.
    pub mean_target: f64,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// Reads all rows of a file.
///
/// # Errors
/// Everything that is wrong, by line and column: rows that cannot be read, a source or target that is missing, empty or no
/// text, a role without a column, a column that is not there, a file without rows. No row is left out.
pub fn read_sequences(path: &Path, name: &str, columns: &Columns) -> Result<Vec<Sequence>, Problems> {
    let mut rows = Vec::new();
    each_row(path, name, Sides::new(name, columns)?, Sides::sequence, |row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

/// Checks all rows of a file without keeping their texts.
///
/// # Errors
/// As [`read_sequences`].
pub fn check_sequences(path: &Path, name: &str, columns: &Columns) -> Result<Summary, Problems> {
    let mut summary = Summary::default();
    let (mut rows, mut sources) = (HashSet::new(), HashSet::new());
    let (mut repeated, mut same, mut ambiguous) = (0_u64, 0_u64, 0_u64);
    each_row(path, name, Sides::new(name, columns)?, Sides::sequence, |row| {
        summary.rows += 1;
        summary.mean_source += row.source.chars().count() as f64;
        summary.mean_target += row.target.chars().count() as f64;
        let (source, target) = (key(&row.source), key(&row.target));
        match (rows.insert((source, target)), sources.insert(source)) {
            (false, _) => repeated += 1,
            (true, false) => ambiguous += 1,
            _ => {}
        }
        same += u64::from(row.source.trim() == row.target.trim());
        Ok(())
    })?;
    let count = summary.rows.max(1) as f64;
    summary.mean_source /= count;
    summary.mean_target /= count;
    let of = summary.rows;
    for (rows, words) in [
        (repeated, "repeat an earlier source with its target"),
        (ambiguous, "have the source of an earlier row and another target"),
        (same, "have a target that is the source itself"),
    ] {
        if rows > 0 {
            summary.notices.push(format!("{rows} of {of} rows {words}"));
        }
    }
    Ok(summary)
}

/// How many of `held_out` have source and target in common with a row of `train`.
pub fn overlap(train: &[Sequence], held_out: &[Sequence]) -> u64 {
    let both = |row: &Sequence| (key(&row.source), key(&row.target));
    let known: HashSet<(u64, u64)> = train.iter().map(both).collect();
    held_out.iter().filter(|row| known.contains(&both(row))).count() as u64
}

/// The columns, as far as they were seen.
struct Sides<'a> {
    file: &'a str,
    source: Role,
    target: Role,
}

impl Places for Sides<'_> {
    fn roles(&mut self) -> Vec<&mut Role> {
        vec![&mut self.source, &mut self.target]
    }
}

impl<'a> Sides<'a> {
    fn new(file: &'a str, columns: &Columns) -> Result<Self, Problem> {
        let role = |name: &str, column: &Option<String>| match column.as_deref().map(str::trim) {
            Some(column) if !column.is_empty() => Ok(Role::with_field(column)),
            _ => {
                Err(Problem::new(ProblemKind::UnknownColumn, file, format!("the role {name} has no column"))
                    .hint(r#"choose the columns, as in {"source": "…", "target": "…"}"#))
            }
        };
        let (source, target) = (role("source", &columns.source)?, role("target", &columns.target)?);
        if source.column == target.column {
            return Err(twice(file, &source.column, "choose a column of its own for each role"));
        }
        Ok(Sides { file, source, target })
    }

    fn sequence(&self, number: u64, row: &Row) -> Result<Sequence, Problems> {
        let mut problems = Problems::default();
        let mut text = |role: &Role, what: &str| match role.text(row, self.file) {
            Ok(text) => text,
            Err(mut problem) => {
                if problem.kind == ProblemKind::MissingText {
                    problem.message = format!("the {what} is missing");
                }
                problems.push(problem);
                String::new()
            }
        };
        let (source, target) = (text(&self.source, "source"), text(&self.target, "target"));
        problems.or(Sequence { row: number, lines: row.lines, source, target })
    }
}
