//! Which column plays which role, told from names; where names do not tell, a question.

use serde::{Deserialize, Serialize};

use super::{Column, ColumnKind, Inspection};
use crate::dataset::{Columns, ProblemType};
use crate::problem::{Problem, ProblemKind};

/// The only task that columns are guessed for.
const TEXT_CLASSIFICATION: &str = "text-classification";

/// Names of a text, best first only in that the very first one decides alone.
const TEXTS: [&str; 15] = [
    "text",
    "sentence",
    "review",
    "content",
    "comment",
    "document",
    "body",
    "message",
    "tweet",
    "utterance",
    "post",
    "input",
    "inputs",
    "text_a",
    "sentence1",
];
/// Names of a label, the first one decides alone.
const LABELS: [&str; 11] = [
    "label",
    "labels",
    "class",
    "target",
    "category",
    "sentiment",
    "intent",
    "tag",
    "tags",
    "classes",
    "categories",
];
/// Names of the two texts of a pair.
const PAIRS: [(&str, &str); 17] = [
    ("text", "text_pair"),
    ("text", "text2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("sentence", "sentence2"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "passage"),
    ("claim", "evidence"),
];
/// Columns that number or sort rows.
const BOOKKEEPING: [&str; 9] = ["id", "idx", "index", "guid", "uid", "row", "split", "fold", "column_1"];

/// What a table seems to be for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnsGuess {
    /// Role → column.
    pub columns: Columns,
    /// What the labels seem to be. A column of whole numbers is taken for classes.
    pub problem_type: ProblemType,
}

/// Tells the columns of a task from their names.
///
/// Names are compared without regard to case. A role that no known name fits goes to the one column that is left; where
/// several fit or are left, the caller is asked.
///
/// # Errors
/// [`ProblemKind::AmbiguousColumns`] listing the columns.
pub fn guess_columns(inspection: &Inspection, task: &str) -> Result<ColumnsGuess, Problem> {
    let names: Vec<&str> = inspection.column_names().collect();
    let ask = |what: &str| {
        let message = format!("cannot tell {what}; the file has {}", names.join(", "));
        Problem::new(ProblemKind::AmbiguousColumns, &inspection.name, message)
            .in_column("columns")
            .hint(r#"choose the columns, as in {"text": "…", "label": "…"}"#)
    };
    if task != TEXT_CLASSIFICATION {
        return Err(ask(&format!("which columns the task {task} needs")));
    }
    let columns: Vec<&Column> = inspection.columns.iter().collect();
    let pair = pair_of(&columns, &PAIRS).map_err(|()| ask("which pair of columns is meant"))?;
    let text = match pair {
        Some((first, _)) => Some(first),
        None => named(&columns, &TEXTS).map_err(|()| ask("which column is the text"))?,
    };
    let label = named(&columns, &LABELS).map_err(|()| ask("which column is the label"))?;
    let second = pair.map(|(_, second)| second);
    let taken: Vec<&Column> = [text, second, label].into_iter().flatten().collect();
    let left = || {
        let free =
            columns.iter().copied().filter(|column| !taken.iter().any(|other| other.name == column.name));
        let free: Vec<&Column> = free
            .filter(|column| {
                !BOOKKEEPING.contains(&&*plain(&column.name)) && column.kind != ColumnKind::Empty
            })
            .collect();
        match free[..] {
            [only] => Some(only),
            _ => None,
        }
    };
    let (text, label) = match (text, label) {
        (Some(text), Some(label)) => (text, label),
        (Some(text), None) => (
            text,
            left().filter(|column| may_be_label(column)).ok_or_else(|| ask("which column is the label"))?,
        ),
        (None, Some(label)) => (
            left()
                .filter(|column| column.kind == ColumnKind::Text)
                .ok_or_else(|| ask("which column is the text"))?,
            label,
        ),
        (None, None) => return Err(ask("which column is the text and which the label")),
    };
    Ok(ColumnsGuess {
        columns: Columns {
            text: text.name.clone(),
            text_pair: second.map(|column| column.name.clone()),
            label: label.name.clone(),
            ..Columns::default()
        },
        problem_type: problem_type(label),
    })
}

fn may_be_label(column: &Column) -> bool {
    matches!(column.kind, ColumnKind::Label | ColumnKind::List | ColumnKind::Number)
}

fn problem_type(label: &Column) -> ProblemType {
    match label.kind {
        ColumnKind::List => ProblemType::MultiLabel,
        ColumnKind::Number if label.has_fractions => ProblemType::Regression,
        _ => ProblemType::SingleLabel,
    }
}

/// A name without what people write differently.
pub(super) fn plain(name: &str) -> String {
    name.to_lowercase().replace(['-', ' ', '.'], "_")
}

/// The column of a role: the one with the role's own name, else the only one with a known name.
fn named<'a>(columns: &[&'a Column], names: &[&str]) -> Result<Option<&'a Column>, ()> {
    let fitting: Vec<&Column> =
        columns.iter().copied().filter(|column| names.contains(&&*plain(&column.name))).collect();
    match fitting[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => match fitting.iter().copied().filter(|column| column.name == names[0]).collect::<Vec<_>>()[..] {
            [exact] => Ok(Some(exact)),
            _ => Err(()),
        },
    }
}

/// The only pair of columns with the names of a pair.
pub(super) fn pair_of<'a>(
    columns: &[&'a Column],
    pairs: &[(&str, &str)],
) -> Result<Option<(&'a Column, &'a Column)>, ()> {
    let find = |name: &str| columns.iter().copied().find(|column| plain(&column.name) == name);
    let found: Vec<_> =
        pairs.iter().filter_map(|(first, second)| Some((find(first)?, find(second)?))).collect();
    match found[..] {
        [] => Ok(None),
        [pair] => Ok(Some(pair)),
        _ => Err(()),
    }
}
