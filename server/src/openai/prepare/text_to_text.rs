//! Data of translation, summaries and other texts from texts: a source and a target, in columns.

use formats::Problems;
use formats::dataset::Columns;
use formats::dataset::sequences::{Summary, check_sequences};
use formats::inspect::{Inspection, guess_sequences};
use store::model::Model;
use store::spec::Task;

use super::data::Data;
use super::{Looked, of_problem, refusal, unknown_column};
use crate::openai::models;
use crate::openai::request::{CreateJob, Roles};
use crate::{AppState, Error, Result};

/// Chooses the columns and reads every row of every file.
pub async fn look(state: &AppState, asked: &CreateJob, data: &Data) -> Result<Looked> {
    let (columns, mut found) = choose_columns(&asked.columns, &data.train.report()?.table)?;
    let fetched = data.fetch(state).await?;
    let wanted = columns.clone();
    let read = move || -> Result<Vec<Summary>, (&'static str, Problems)> {
        let check = |(param, path, name): &(&'static str, std::path::PathBuf, String)| {
            check_sequences(path, name, &wanted).map_err(|wrong| (*param, wrong))
        };
        fetched.files.iter().map(check).collect()
    };
    let checked = tokio::task::spawn_blocking(read).await.map_err(|error| Error::Internal(error.into()))?;
    let summaries = checked.map_err(|(param, problems)| refusal(param, &problems))?;
    found.extend(summaries.first().map(|summary| {
        format!(
            "Sources have {:.0} characters on average, targets {:.0}.",
            summary.mean_source, summary.mean_target
        )
    }));
    let notices = summaries.iter().flat_map(|summary| &summary.notices);
    let notices = notices.map(|notice| format!("Worth a look: {notice}.")).collect();
    Ok(Looked {
        columns,
        problem_type: asked.problem_type,
        rows: summaries.first().map_or(0, |summary| summary.rows),
        classes: Vec::new(),
        answers: [0; 2],
        found,
        notices,
    })
}

/// Columns by what was named, or both by what their names tell; says in a note what was guessed.
fn choose_columns(roles: &Roles, inspection: &Inspection) -> Result<(Columns, Vec<String>)> {
    let others = Roles { source: None, target: None, ..roles.clone() };
    if others != Roles::default() {
        let message = "translation, summarization and text2text-generation have the roles source and target; leave the others out";
        return Err(Error::invalid("columns", message));
    }
    if roles.source.is_none() && roles.target.is_none() {
        let (columns, _) = guess_sequences(inspection).map_err(|unclear| of_problem("columns", &unclear))?;
        let (source, target) = (columns.source.as_deref(), columns.target.as_deref());
        let words = format!(
            "Columns by their names: source `{}`, target `{}`.",
            source.unwrap_or_default(),
            target.unwrap_or_default()
        );
        return Ok((columns, vec![words]));
    }
    let known = inspection.text_names();
    for (role, column) in [("source", &roles.source), ("target", &roles.target)] {
        let param = format!("columns.{role}");
        let Some(column) = column else {
            return Err(Error::invalid(
                param,
                "is missing: name the column of the source and that of the target",
            ));
        };
        let is_there = known.iter().any(|name| name == column.trim());
        if !is_there && inspection.column(column.trim()).is_none() {
            let known = known.iter().map(String::as_str).collect();
            return Err(unknown_column(inspection, (role, column), known));
        }
    }
    let columns =
        Columns { source: roles.source.clone(), target: roles.target.clone(), ..Columns::default() };
    Ok((columns, Vec::new()))
}

/// The task that columns with a source or a target are there for, and of a model that writes by what their names tell; `None`
/// where neither says anything.
pub fn task_of(roles: &Roles, model: &Model, data: &Data) -> Option<Task> {
    let able = models::task_of(model);
    let named = roles.source.is_some() || roles.target.is_some();
    match able {
        Task::Translation | Task::Summarization => Some(able),
        Task::TextToText => {
            let table = data.train.report().ok()?.table;
            let guessed = guess_sequences(&table).ok().filter(|(columns, _)| {
                !named || (columns.source == roles.source && columns.target == roles.target)
            });
            Some(guessed.map_or(Task::TextToText, |(_, target)| target.into()))
        }
        // Refused there with what the model learns.
        _ => named.then_some(Task::TextToText),
    }
}
