//! Data of question answering: questions, the texts that hold their answers, and the answers.

use formats::Problems;
use formats::dataset::Columns;
use formats::dataset::questions::{Asking, Summary, check_questions};
use formats::inspect::{Inspection, asks_questions, guess_questions};
use store::model::Model;
use store::spec::Task;

use super::data::Data;
use super::{Looked, of_problem, refusal, unknown_column};
use crate::openai::request::{CreateJob, Roles};
use crate::{AppState, Error, Result};

/// Chooses the columns and reads every row of every file.
pub async fn look(state: &AppState, asked: &CreateJob, data: &Data) -> Result<Looked> {
    let (columns, mut found) = choose_columns(&asked.columns, &data.train.report()?.table)?;
    let fetched = data.fetch(state).await?;
    let wanted = columns.clone();
    let read = move || -> Result<Vec<Summary>, (&'static str, Problems)> {
        let Some(asking) = Asking::of(&wanted) else { return Ok(Vec::new()) };
        let check = |(param, path, name): &(&'static str, std::path::PathBuf, String)| {
            check_questions(path, name, &asking).map_err(|wrong| (*param, wrong))
        };
        fetched.files.iter().map(check).collect()
    };
    let checked = tokio::task::spawn_blocking(read).await.map_err(|error| Error::Internal(error.into()))?;
    let summaries = checked.map_err(|(param, problems)| refusal(param, &problems))?;
    let train = summaries.first().cloned().unwrap_or_default();
    if train.unanswerable > 0 {
        found.push(format!(
            "{} of {} questions have no answer in their context, so \"no answer\" may be one.",
            train.unanswerable, train.rows
        ));
    }
    let notices = summaries.iter().flat_map(|summary| &summary.notices);
    let notices = notices.map(|notice| format!("Worth a look: {notice}.")).collect();
    Ok(Looked {
        columns,
        problem_type: asked.problem_type,
        rows: train.rows,
        classes: Vec::new(),
        answers: [0; 2],
        found,
        notices,
    })
}

/// Columns by what was named, or all by what their names tell; says in a note what was guessed.
fn choose_columns(roles: &Roles, inspection: &Inspection) -> Result<(Columns, Vec<String>)> {
    if roles.text.is_some() || roles.text_pair.is_some() || roles.label.is_some() {
        let message =
            "text, text_pair and label are for text classification; name context, question and answers";
        return Err(Error::invalid("columns", message));
    }
    let named = Columns {
        context: roles.context.clone(),
        question: roles.question.clone(),
        answers: roles.answers.clone(),
        answer_start: roles.answer_start.clone(),
        is_impossible: roles.is_impossible.clone(),
        ..Columns::default()
    };
    if named == Columns::default() {
        let columns = guess_questions(inspection).map_err(|unclear| of_problem("columns", &unclear))?;
        let words = Asking::of(&columns).map_or_else(String::new, |asking| words(&asking));
        return Ok((columns, vec![format!("Columns by their names: {words}.")]));
    }
    let Some(asking) = Asking::of(&named) else {
        let message = "name context, question and answers, and perhaps answer_start and is_impossible";
        return Err(Error::invalid("columns", message));
    };
    for (role, column) in asking.roles() {
        if inspection.column(column.trim()).is_none() {
            let known = inspection.column_names().collect();
            return Err(unknown_column(inspection, (role, column), known));
        }
    }
    Ok((named, Vec::new()))
}

/// "context `context`, question `question`".
fn words(asking: &Asking) -> String {
    let role = |(role, column): (&'static str, &str)| format!("{role} `{column}`");
    asking.roles().into_iter().map(role).collect::<Vec<_>>().join(", ")
}

/// The task that the roles of the columns, where some were named, are there for.
pub fn task_of_roles(roles: &Roles) -> Option<Task> {
    let some = roles.context.is_some() || roles.question.is_some() || roles.answers.is_some();
    some.then_some(Task::QuestionAnswering)
}

/// The task that the data tells, where neither the request nor the model does.
pub fn task_of_data(asked: &CreateJob, model: &Model, data: &Data) -> Option<Task> {
    let says_nothing = model.task.is_none() && asked.columns.text.is_none() && asked.columns.label.is_none();
    let asks = || data.train.report().is_ok_and(|report| asks_questions(&report.table));
    (says_nothing && asks()).then_some(Task::QuestionAnswering)
}
