//! Which columns hold questions, their contexts and their answers, told from names.

use super::guess::plain;
use super::{Column, ColumnKind, Inspection};
use crate::dataset::Columns;
use crate::problem::{Problem, ProblemKind};

/// Names of each role, best first.
const CONTEXTS: [&str; 5] = ["context", "passage", "paragraph", "document", "text"];
const QUESTIONS: [&str; 2] = ["question", "query"];
const ANSWERS: [&str; 4] = ["answers", "answer", "answer_text", "response"];
const STARTS: [&str; 3] = ["answer_start", "answer_starts", "start"];
const IMPOSSIBLE: [&str; 1] = ["is_impossible"];

/// Tells the columns of extractive questions from their names.
///
/// # Errors
/// [`ProblemKind::AmbiguousColumns`] listing the columns.
pub fn guess_questions(inspection: &Inspection) -> Result<Columns, Problem> {
    let find = |names: &[&str]| -> Option<String> {
        let of_name = |name: &&str| {
            let fits = |column: &&Column| plain(&column.name) == **name && column.kind != ColumnKind::Empty;
            inspection.columns.iter().find(fits).map(|column| column.name.clone())
        };
        names.iter().find_map(of_name)
    };
    match (find(&CONTEXTS), find(&QUESTIONS), find(&ANSWERS)) {
        (Some(context), Some(question), Some(answers)) => Ok(Columns {
            context: Some(context),
            question: Some(question),
            answers: Some(answers),
            answer_start: find(&STARTS),
            is_impossible: find(&IMPOSSIBLE),
            ..Columns::default()
        }),
        _ => {
            let names: Vec<&str> = inspection.column_names().collect();
            let message = format!(
                "cannot tell which columns hold the context, the question and the answers; the file has {}",
                names.join(", ")
            );
            Err(Problem::new(ProblemKind::AmbiguousColumns, &inspection.name, message)
                .in_column("columns")
                .hint(r#"choose the columns, as in {"context": "…", "question": "…", "answers": "…"}"#))
        }
    }
}

/// Whether a table seems to be there for extractive questions: answers with offsets, or a column that is called context.
pub fn asks_questions(inspection: &Inspection) -> bool {
    guess_questions(inspection).is_ok_and(|columns| {
        let answers = columns.answers.as_deref().and_then(|name| inspection.column(name));
        let structured = |column: &Column| matches!(column.kind, ColumnKind::List | ColumnKind::Object);
        columns.answer_start.is_some()
            || answers.is_some_and(structured)
            || columns.context.is_some_and(|name| plain(&name) == CONTEXTS[0])
    })
}
