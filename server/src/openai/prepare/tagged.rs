//! Data of token classification: words with a tag each, or texts with what is named in them.

use formats::dataset::tagged::{Survey, Tagging, survey_tagged};
use formats::dataset::{ClassCount, Columns, LabelMap};
use formats::inspect::{Inspection, guess_tagged};
use store::model::Model;
use store::spec::Task;

use super::data::Data;
use super::{Looked, of_problem, refusal, unknown_column};
use crate::openai::models::task_of;
use crate::openai::request::{CreateJob, Roles};
use crate::{AppState, Error, Result};

/// Tags that a note names.
const NAMED: usize = 20;

/// Chooses the columns and reads every row of every file.
pub async fn look(state: &AppState, asked: &CreateJob, data: &Data) -> Result<Looked> {
    let (columns, mut found) = choose_columns(&asked.columns, &data.train.report()?.table)?;
    let fetched = data.fetch(state).await?;
    let wanted = columns.clone();
    let read = move || -> Vec<(&'static str, Survey)> {
        let Some(tagging) = Tagging::of(&wanted) else { return Vec::new() };
        let mut known: Option<LabelMap> = None;
        let mut surveys = Vec::new();
        for (param, path, name) in &fetched.files {
            let survey = survey_tagged(path, name, tagging, known.as_ref());
            known.get_or_insert_with(|| {
                LabelMap::from_names(survey.summary.tags.iter().map(|tag| tag.label.clone()))
            });
            surveys.push((*param, survey));
        }
        surveys
    };
    let surveys = tokio::task::spawn_blocking(read).await.map_err(|error| Error::Internal(error.into()))?;
    for (param, survey) in &surveys {
        if !survey.problems.is_empty() {
            return Err(with_notices(refusal(param, &survey.problems), &survey.summary.notices));
        }
    }
    let train = surveys.first().map(|(_, survey)| &survey.summary);
    let tags: &[ClassCount] = train.map_or(&[], |summary| &summary.tags);
    if tags.len() < 2 {
        let message = "every word has the same tag, so there is nothing to learn; add rows with another tag";
        return Err(Error::invalid("training_file", message));
    }
    found.extend(train.map(|summary| {
        let names: Vec<&str> = tags.iter().take(NAMED).map(|tag| tag.label.as_str()).collect();
        let more = if tags.len() > NAMED { ", …" } else { "" };
        let (count, scheme) = (tags.len(), summary.scheme.name());
        format!("{count} tags in the scheme {scheme}: {}{more}.", names.join(", "))
    }));
    let notices = surveys.iter().flat_map(|(_, survey)| &survey.summary.notices);
    let notices = notices.map(|notice| format!("Worth a look: {notice}.")).collect();
    Ok(Looked {
        columns,
        problem_type: asked.problem_type,
        rows: train.map_or(0, |summary| summary.rows),
        classes: Vec::new(),
        answers: [0; 2],
        found,
        notices,
    })
}

/// What is wrong, and below it what is odd.
fn with_notices(refusal: Error, notices: &[String]) -> Error {
    match refusal {
        Error::Invalid { mut message, param, code } => {
            notices.iter().for_each(|notice| message.push_str(&format!("\nWorth a look: {notice}")));
            Error::Invalid { message, param, code }
        }
        other => other,
    }
}

/// Columns by what was named, or all by what their names tell; says in a note what was guessed.
fn choose_columns(roles: &Roles, inspection: &Inspection) -> Result<(Columns, Vec<String>)> {
    let Roles { text, tokens, tags, entities, .. } = roles;
    let named = Columns {
        text: text.clone().unwrap_or_default(),
        tokens: tokens.clone(),
        tags: tags.clone(),
        entities: entities.clone(),
        ..Columns::default()
    };
    if named == Columns::default() && !roles.has_others() {
        let columns = guess_tagged(inspection).map_err(|unclear| of_problem("columns", &unclear))?;
        let words = Tagging::of(&columns).map_or_else(String::new, |tagging| words(tagging));
        return Ok((columns, vec![format!("Columns by their names: {words}.")]));
    }
    let Some(tagging) = Tagging::of(&named).filter(|_| !roles.has_others()) else {
        return Err(Error::invalid("columns", "name tokens and tags, or text and entities"));
    };
    for (role, column) in tagging.roles() {
        if inspection.column(column.trim()).is_none() {
            let known = inspection.column_names().collect();
            return Err(unknown_column(inspection, (role, column), known));
        }
    }
    Ok((named, Vec::new()))
}

/// "tokens `words`, tags `ner`".
fn words(tagging: Tagging) -> String {
    tagging.roles().map(|(role, column)| format!("{role} `{column}`")).join(", ")
}

/// Whether the roles of the columns are those of tagged words.
pub fn are_meant(roles: &Roles) -> bool {
    roles.tokens.is_some() || roles.tags.is_some() || roles.entities.is_some()
}

/// The task that a file tells whose columns nobody named, where the model is there for classes of texts or says nothing.
pub fn task_of_data(asked: &CreateJob, model: &Model, data: &Data) -> Option<Task> {
    let roles = &asked.columns;
    let none = roles.text.is_none() && !roles.has_others() && !are_meant(roles);
    let says_nothing = none && task_of(model) == Task::TextClassification;
    let tags = || data.train.report().is_ok_and(|report| guess_tagged(&report.table).is_ok());
    (says_nothing && tags()).then_some(Task::TokenClassification)
}
