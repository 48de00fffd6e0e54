//! Rows of a table as examples for text classification, as texts that are near each other ([`related`]), as questions on texts
//! that hold their answers ([`questions`]), as texts that are written from others ([`sequences`]), and as words with tags
//! ([`tagged`]).
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
pub mod questions;
pub mod related;
pub mod sequences;
mod split;
pub mod tagged;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use label::names_of_list;
pub use label::{Label, class_name};
pub use label_map::LabelMap;
pub use split::{Split, SplitSizes, random_split, split_examples, stratified_split};

use crate::problem::{LineRange, Problem, ProblemKind, Problems};
use crate::table::{Cell, Row, Rows, field_of, find_column, no_rows};

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

/// Role → column name. A task has some of the roles; which, its rows say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The text to classify, or the first of a pair.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The second text of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// The class, the list of classes or the number to learn.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// The text that others are near to or far from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// The text that is near to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positive: Option<String>,
    /// Texts that are far from it though they may seem near.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub negative: Vec<String>,
    /// The first text of a pair whose nearness has a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text1: Option<String>,
    /// The second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text2: Option<String>,
    /// That number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// The text that holds the answer to a question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Its answer or answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// Where an answer begins in the context, where its own column says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_start: Option<String>,
    /// Whether the context does not answer the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_impossible: Option<String>,
    /// The text that another one is written from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The text to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The words of a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<String>,
    /// A tag for each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    /// What is named in the text, by first and last character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities: Option<String>,
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
    use_example: impl FnMut(Example) -> Result<(), Problem>,
) -> Result<(), Problems> {
    let roles = Roles::new(name, columns, problem_type)?;
    each_row(path, name, roles, Roles::example, use_example)
}

/// Roles that columns have.
trait Places {
    fn roles(&mut self) -> Vec<&mut Role>;

    /// Looks for columns beside the roles, which need not be there.
    fn look(&mut self, _columns: &[String]) {}
}

/// Reads each row by its roles, calls `use_it`, and gathers what is wrong with the file or what `use_it` says is.
fn each_row<P: Places, T>(
    path: &Path,
    name: &str,
    mut places: P,
    read: impl Fn(&P, u64, &Row) -> Result<T, Problems>,
    mut use_it: impl FnMut(T) -> Result<(), Problem>,
) -> Result<(), Problems> {
    let mut rows = Rows::open(path, name)?;
    if rows.layout().delimiter_char().is_some() {
        find(&mut places, rows.columns());
        all_found(&mut places, rows.columns(), name)?;
    }
    let mut problems = Problems::default();
    let mut number = 0;
    while let Some(row) = rows.next() {
        find(&mut places, rows.columns());
        match row.map_err(Problems::from).and_then(|row| read(&places, number, &row)) {
            Ok(example) => problems.extend(use_it(example).err()),
            Err(wrong) => problems.extend(wrong.listed),
        }
        number += 1;
    }
    if number == 0 {
        return Err(no_rows(name, rows.layout().format).into());
    }
    // A column that was not seen may stand further on, where reading did not come.
    if !rows.is_cut_off() {
        all_found(&mut places, rows.columns(), name)?;
    }
    problems.or(())
}

fn find(places: &mut impl Places, columns: &[String]) {
    places.roles().into_iter().for_each(|role| role.find(columns));
    places.look(columns);
}

/// Every column was seen by the end of the file.
fn all_found(places: &mut impl Places, columns: &[String], file: &str) -> Result<(), Problems> {
    let mut problems = Problems::default();
    for role in places.roles() {
        if role.place.is_none() {
            problems.extend(find_column(columns, &role.column, file).err());
        }
    }
    problems.or(())
}

/// One column, two roles.
fn twice(file: &str, column: &str, hint: &str) -> Problem {
    let message = format!("the column `{column}` is given two roles");
    Problem::new(ProblemKind::AmbiguousColumns, file, message).in_column(column).hint(hint)
}

/// The columns of the roles, as far as they were seen.
struct Roles<'a> {
    file: &'a str,
    problem_type: ProblemType,
    text: Role,
    text_pair: Option<Role>,
    label: Role,
}

struct Role {
    column: String,
    place: Option<usize>,
    /// Whether it may be a field of a column's objects.
    has_fields: bool,
    /// The field, where it is one.
    field: Option<String>,
}

impl Role {
    fn new(column: &str) -> Self {
        Self { column: column.trim().to_owned(), place: None, has_fields: false, field: None }
    }

    /// A column, or after a dot a field of its objects: `translation.en`.
    fn with_field(column: &str) -> Self {
        Self { has_fields: true, ..Role::new(column) }
    }

    fn find(&mut self, columns: &[String]) {
        if self.place.is_some() {
            return;
        }
        self.place = columns.iter().position(|column| *column == self.column);
        if let Some((column, field)) =
            self.column.split_once('.').filter(|_| self.has_fields && self.place.is_none())
        {
            self.place = columns.iter().position(|name| name == column);
            self.field = self.place.map(|_| field.to_owned());
        }
    }

    /// Its cell, or the field of the object in it.
    fn value<'r>(&self, row: &'r Row, file: &str) -> Result<Cow<'r, Cell>, Problem> {
        let cell = self.cell(row);
        match (&self.field, cell) {
            (None, cell) | (Some(_), cell @ Cell::Missing) => Ok(Cow::Borrowed(cell)),
            (Some(field), Cell::Object(object)) => {
                field_of(object, field).map(Cow::Owned).map_err(|message| {
                    Problem::new(ProblemKind::InvalidJson, file, message)
                        .at(row.lines)
                        .in_column(self.column.as_str())
                })
            }
            (Some(field), _) => {
                let message = format!("expected an object with the field `{field}`");
                Err(Problem::new(ProblemKind::InvalidValue, file, message)
                    .at(row.lines)
                    .in_column(self.column.as_str())
                    .hint("write each row alike, or choose another column"))
            }
        }
    }

    fn cell<'r>(&self, row: &'r Row) -> &'r Cell {
        self.place.map_or(&Cell::Missing, |place| row.cell(place))
    }

    fn text(&self, row: &Row, file: &str) -> Result<String, Problem> {
        let problem = |kind, message: &str, hint: &str| {
            Err(Problem::new(kind, file, message).at(row.lines).in_column(self.column.as_str()).hint(hint))
        };
        match &*self.value(row, file)? {
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

    fn label(&self, row: &Row, file: &str, problem_type: ProblemType) -> Result<Label, Problem> {
        label::read(self.cell(row), problem_type).map_err(|(kind, message, hint)| {
            Problem::new(kind, file, message).at(row.lines).in_column(self.column.as_str()).hint(hint)
        })
    }
}

impl Places for Roles<'_> {
    fn roles(&mut self) -> Vec<&mut Role> {
        let Roles { text, text_pair, label, .. } = self;
        [Some(text), text_pair.as_mut(), Some(label)].into_iter().flatten().collect()
    }
}

impl<'a> Roles<'a> {
    fn new(file: &'a str, columns: &'a Columns, problem_type: ProblemType) -> Result<Self, Problem> {
        let text = Role::new(&columns.text);
        let text_pair = columns.text_pair.as_deref().map(Role::new);
        let label = Role::new(&columns.label);
        let pair = text_pair.as_ref().map(|role| role.column.as_str());
        if text.column == label.column || pair == Some(&label.column) || pair == Some(&text.column) {
            let column = if pair == Some(&text.column) { &text.column } else { &label.column };
            return Err(twice(file, column, "choose a column for the text and another one for the label"));
        }
        Ok(Self { file, problem_type, text, text_pair, label })
    }

    fn example(&self, number: u64, row: &Row) -> Result<Example, Problems> {
        let mut problems = Problems::default();
        let mut keep =
            |outcome: Result<String, Problem>| outcome.map_err(|problem| problems.push(problem)).ok();
        let text = keep(self.text.text(row, self.file));
        let pair = self.text_pair.as_ref().map(|role| keep(role.text(row, self.file)));
        let label = self.label.label(row, self.file, self.problem_type);
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
}
