//! Rows of a table as examples for text classification.
//!
//! Rules for labels:
//! - **Single label**: one name. Blanks around it are dropped; numbers that differ in spelling alone (`1`, `1.0`, `"1"`) are
//!   one class. A name with leading zeros is a code, not a number: `01` and `1` stay apart.
//! - **Multi-label**: a JSON list of names, also as the text of a CSV cell; or names between `|`; or, in a cell without `|`,
//!   between `,`. Each name follows the rule above, a repeated one counts once. An empty list, and an empty CSV cell, say
//!   that no class applies; JSON's `null` and an absent key are a missing label.
//! - **Regression**: a finite number with a decimal point.

mod label;
mod label_map;
mod split;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use label::names_of_list;
pub use label::{Label, class_name};
pub use label_map::LabelMap;
pub use split::{Split, SplitSizes, random_split, split_examples, stratified_split};

use crate::problem::{LineRange, Problem, ProblemKind, Problems};
use crate::table::{Cell, Row, Rows, find_column, no_rows};

/// What a label is; the serialized values are those of transformers' `config.problem_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProblemType {
    /// Exactly one class a row.
    #[serde(rename = "single_label_classification", alias = "single_label")]
    SingleLabel,
    /// Any number of classes a row.
    #[serde(rename = "multi_label_classification", alias = "multi_label")]
    MultiLabel,
    /// A number a row.
    #[serde(rename = "regression")]
    Regression,
}

/// Role → column name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The text, or the first of a pair.
    pub text: String,
    /// The second text of a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// The class, the list of classes or the number to learn.
    pub label: String,
}

/// One row to learn from or to evaluate on.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its number among the rows, from 0.
    pub row: u64,
    /// The physical lines of the file it stands on.
    pub lines: LineRange,
    /// The text, as in the file.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// What is to be said about it.
    pub label: Label,
}

/// Reads all examples of a file.
///
/// # Errors
/// Everything that is wrong, by line: rows that cannot be read, texts and labels that are missing or unusable, a column
/// that is not there, a file without rows. No row is left out.
pub fn read_classification(
    path: &Path,
    name: &str,
    columns: &Columns,
    problem_type: ProblemType,
) -> Result<Vec<Example>, Problems> {
    let mut examples = Vec::new();
    each_example(path, name, columns, problem_type, |example| {
        examples.push(example);
        Ok(())
    })?;
    Ok(examples)
}

/// What a file of examples holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many examples.
    pub rows: u64,
    /// Rows of each class, in the order of [`LabelMap`]; empty for regression.
    pub classes: Vec<ClassCount>,
    /// The least and the greatest number, for regression.
    pub range: Option<(f64, f64)>,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// How many rows a class has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// The name of the class.
    pub label: String,
    /// Rows with it.
    pub rows: u64,
}

/// Checks all examples of a file without keeping them.
///
/// With `known`, the classes of the training data, a label that is not among them is a problem.
///
/// # Errors
/// As [`read_classification`].
pub fn check_classification(
    path: &Path,
    name: &str,
    columns: &Columns,
    problem_type: ProblemType,
    known: Option<&LabelMap>,
) -> Result<Summary, Problems> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut summary = Summary::default();
    each_example(path, name, columns, problem_type, |example| {
        if let Some(known) = known {
            known.check_example(name, &columns.label, &example)?;
        }
        summary.rows += 1;
        match &example.label {
            Label::Value(value) => {
                let (low, high) = summary.range.unwrap_or((*value, *value));
                summary.range = Some((low.min(*value), high.max(*value)));
            }
            label => label.classes().iter().for_each(|class| *counts.entry(class.clone()).or_default() += 1),
        }
        Ok(())
    })?;
    summary.notices = notices(&counts);
    let map = LabelMap::from_names(counts.keys().cloned());
    let count = |label: &String| ClassCount { label: label.clone(), rows: counts[label] };
    summary.classes = map.names().iter().map(count).collect();
    Ok(summary)
}

/// How many of `held_out` have a text, or pair, that `train` has as well.
pub fn overlap(train: &[Example], held_out: &[Example]) -> u64 {
    let key = |example: &Example| (example.text.clone(), example.text_pair.clone());
    let known: HashSet<_> = train.iter().map(key).collect();
    held_out.iter().filter(|example| known.contains(&key(example))).count() as u64
}

fn notices(counts: &BTreeMap<String, u64>) -> Vec<String> {
    let mut notices = Vec::new();
    let mut by_lower: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in counts.keys() {
        by_lower.entry(name.to_lowercase()).or_default().push(name);
    }
    for alike in by_lower.values().filter(|names| names.len() > 1).take(10) {
        notices.push(format!("classes that differ in upper and lower case alone: {}", alike.join(", ")));
    }
    let single = counts.values().filter(|rows| **rows == 1).count();
    if single > 0 {
        notices
            .push(format!("classes with a single row, which cannot be split: {single} of {}", counts.len()));
    }
    notices
}

/// Calls `use_example` for each row, and gathers what is wrong with the file or what `use_example` says is.
fn each_example(
    path: &Path,
    name: &str,
    columns: &Columns,
    problem_type: ProblemType,
    mut use_example: impl FnMut(Example) -> Result<(), Problem>,
) -> Result<(), Problems> {
    let mut rows = Rows::open(path, name)?;
    let mut roles = Roles::new(name, columns, problem_type)?;
    if rows.layout().delimiter_char().is_some() {
        roles.find(rows.columns());
        roles.all_found(rows.columns())?;
    }
    let mut problems = Problems::default();
    let mut number = 0;
    while let Some(row) = rows.next() {
        roles.find(rows.columns());
        match row.map_err(Problems::from).and_then(|row| roles.example(number, &row)) {
            Ok(example) => problems.extend(use_example(example).err()),
            Err(wrong) => problems.extend(wrong.listed),
        }
        number += 1;
    }
    if number == 0 {
        return Err(no_rows(name, rows.layout().format).into());
    }
    // A column that was not seen may stand further on, where reading did not come.
    if !rows.is_cut_off() {
        roles.all_found(rows.columns())?;
    }
    problems.or(())
}

/// The columns of the roles, as far as they were seen.
struct Roles<'a> {
    file: &'a str,
    problem_type: ProblemType,
    text: Role<'a>,
    text_pair: Option<Role<'a>>,
    label: Role<'a>,
}

struct Role<'a> {
    column: &'a str,
    place: Option<usize>,
}

impl<'a> Role<'a> {
    fn new(column: &'a str) -> Self {
        Self { column: column.trim(), place: None }
    }

    fn find(&mut self, columns: &[String]) {
        if self.place.is_none() {
            self.place = columns.iter().position(|column| column == self.column);
        }
    }

    fn cell<'r>(&self, row: &'r Row) -> &'r Cell {
        self.place.map_or(&Cell::Missing, |place| row.cell(place))
    }
}

impl<'a> Roles<'a> {
    fn new(file: &'a str, columns: &'a Columns, problem_type: ProblemType) -> Result<Self, Problem> {
        let text = Role::new(&columns.text);
        let text_pair = columns.text_pair.as_deref().map(Role::new);
        let label = Role::new(&columns.label);
        let pair = text_pair.as_ref().map(|role| role.column);
        if text.column == label.column || pair == Some(label.column) || pair == Some(text.column) {
            let twice = if pair == Some(text.column) { text.column } else { label.column };
            return Err(Problem::new(
                ProblemKind::AmbiguousColumns,
                file,
                format!("the column `{twice}` is given two roles"),
            )
            .in_column(twice)
            .hint("choose a column for the text and another one for the label"));
        }
        Ok(Self { file, problem_type, text, text_pair, label })
    }

    fn find(&mut self, columns: &[String]) {
        self.text.find(columns);
        self.label.find(columns);
        if let Some(pair) = &mut self.text_pair {
            pair.find(columns);
        }
    }

    /// Every column was seen by the end of the file.
    fn all_found(&self, columns: &[String]) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for role in [Some(&self.text), self.text_pair.as_ref(), Some(&self.label)].into_iter().flatten() {
            if role.place.is_none() {
                problems.extend(find_column(columns, role.column, self.file).err());
            }
        }
        problems.or(())
    }

    fn example(&self, number: u64, row: &Row) -> Result<Example, Problems> {
        let mut problems = Problems::default();
        let mut keep =
            |outcome: Result<String, Problem>| outcome.map_err(|problem| problems.push(problem)).ok();
        let text = keep(self.text(&self.text, row));
        let pair = self.text_pair.as_ref().map(|role| keep(self.text(role, row)));
        let label = label::read(self.label.cell(row), self.problem_type).map_err(|(kind, message, hint)| {
            Problem::new(kind, self.file, message).at(row.lines).in_column(self.label.column).hint(hint)
        });
        match (text, pair, label) {
            (Some(text), None, Ok(label)) => {
                Ok(Example { row: number, lines: row.lines, text, text_pair: None, label })
            }
            (Some(text), Some(Some(pair)), Ok(label)) => {
                Ok(Example { row: number, lines: row.lines, text, text_pair: Some(pair), label })
            }
            (_, _, label) => {
                problems.extend(label.err());
                Err(problems)
            }
        }
    }

    fn text(&self, role: &Role<'_>, row: &Row) -> Result<String, Problem> {
        let cell = role.cell(row);
        let problem = |kind, message: &str, hint: &str| {
            Err(Problem::new(kind, self.file, message).at(row.lines).in_column(role.column).hint(hint))
        };
        match cell {
            cell if cell.is_blank() => {
                problem(ProblemKind::MissingText, "the text is missing", "fill it in or remove the row")
            }
            Cell::List(_) => {
                problem(ProblemKind::InvalidValue, "expected a text, found a list", "write one text")
            }
            Cell::Object(_) => {
                problem(ProblemKind::InvalidValue, "expected a text, found an object", "write one text")
            }
            cell => Ok(cell.written().unwrap_or_default().into_owned()),
        }
    }
}
