//! Which columns of a table hold questions, their contexts and their answers.

use formats::dataset::Columns;
use formats::dataset::questions::Asking;
use formats::inspect::{Inspection, guess_questions};
use serde_json::{Map, Value};

use super::option;
use super::related::Goal;
use crate::pages::settings::Values;
use crate::pages::view::form::{ColumnsPart, Field, FieldKind};
use crate::pages::view::{ProblemRow, text};

/// Name of the role, label, help, and what stands for no column.
const ROLES: [(&str, &str, &str, &str); 5] = [
    ("context", "Context", "The text that holds the answer.", "choose"),
    ("question", "Question", "", "choose"),
    ("answers", "Answers", "With offsets as SQuAD has them, or one answer as plain text.", "choose"),
    (
        "answer_start",
        "Start of the answer",
        "Characters before it, where a column of its own says so.",
        "none",
    ),
    ("is_impossible", "No answer", "True where the context does not answer the question.", "none"),
];

fn column<'a>(columns: &'a Columns, role: &str) -> Option<&'a String> {
    match role {
        "context" => columns.context.as_ref(),
        "question" => columns.question.as_ref(),
        "answers" => columns.answers.as_ref(),
        "answer_start" => columns.answer_start.as_ref(),
        _ => columns.is_impossible.as_ref(),
    }
}

/// The part of the form with the columns of questions.
pub fn part(of: &str, values: &Values, inspection: &Inspection, errors: &Values) -> ColumnsPart {
    let goal = Goal::Answers.word();
    let is_own = values.get("columns.of").is_some_and(|file| file == of);
    let was = values.get("columns.goal_was").map(String::as_str).unwrap_or_default();
    // What was said for another goal is nothing for this one.
    let said = is_own && (was.is_empty() || was == goal);
    let guess = guess_questions(inspection).ok();
    let columns = if said { said_columns(values, inspection) } else { guess.clone().unwrap_or_default() };
    let complete = Asking::of(&columns).is_some();
    let missing: Vec<ProblemRow> = ["context", "question"]
        .into_iter()
        .filter_map(|role| {
            let column = column(&columns, role)?;
            let missing = inspection.column(column).map_or(0, |column| column.missing);
            (missing > 0).then(|| ProblemRow {
                place: format!("Column {column}"),
                message: format!(
                    "{} without a {role}; fill them in, or take these rows out.",
                    text::plural(missing, "row is", "rows are")
                ),
                fatal: true,
            })
        })
        .collect();
    let field = |(role, label, help, none): (&str, &str, &str, &str)| {
        let name = format!("columns.{role}");
        let names = inspection.column_names().map(|column| option(column, column));
        Field {
            label: label.to_owned(),
            help: help.to_owned(),
            value: column(&columns, role).cloned().unwrap_or_default(),
            error: errors.get(&name).cloned().unwrap_or_default(),
            kind: FieldKind::Select(std::iter::once(option("", none)).chain(names).collect()),
            name,
            ..Field::default()
        }
    };
    ColumnsPart {
        chosen: true,
        of: of.to_owned(),
        goal,
        guess: match (!said && guess.is_some(), complete) {
            (true, _) => "Chosen by the names of the columns; change it where it is wrong.".to_owned(),
            (false, false) => "Say which columns hold the context, the question and the answers.".to_owned(),
            (false, true) => String::new(),
        },
        summary: text::plural(inspection.rows, "question", "questions"),
        unusable: !missing.is_empty(),
        problems: crate::pages::view::data::Problems { rows: missing, more: String::new() },
        roles: ROLES.into_iter().map(field).collect(),
        ..ColumnsPart::default()
    }
}

/// What the form says, as far as the file has such columns.
fn said_columns(values: &Values, inspection: &Inspection) -> Columns {
    let one = |role: &str| {
        let said = values.get(&format!("columns.{role}"))?;
        inspection.column(said).map(|column| column.name.clone())
    };
    Columns {
        context: one("context"),
        question: one("question"),
        answers: one("answers"),
        answer_start: one("answer_start"),
        is_impossible: one("is_impossible"),
        ..Columns::default()
    }
}

/// The inputs of a job's columns.
pub fn values_of(columns: &Columns) -> Vec<(&'static str, String)> {
    let names = [
        "columns.context",
        "columns.question",
        "columns.answers",
        "columns.answer_start",
        "columns.is_impossible",
    ];
    let of = ROLES.map(|(role, ..)| column(columns, role).cloned().unwrap_or_default());
    names.into_iter().zip(of).collect()
}

/// The request's `columns`.
pub fn request(values: &Values) -> Map<String, Value> {
    let given = |role: &str| {
        let value = values.get(&format!("columns.{role}"))?.trim();
        (!value.is_empty()).then(|| (role.to_owned(), value.into()))
    };
    ROLES.into_iter().filter_map(|(role, ..)| given(role)).collect()
}
