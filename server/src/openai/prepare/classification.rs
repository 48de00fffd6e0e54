//! Data of text classification: columns, labels, classes.

use std::path::PathBuf;

use formats::dataset::{ClassCount, Columns, LabelMap, ProblemType, Summary, check_classification};
use formats::inspect::{ColumnKind, Inspection, guess_columns};
use formats::{ProblemKind, Problems};
use store::spec::{ClassWeights, JobSpec, Task};

use super::data::Data;
use super::task_of_roles;
use super::{Looked, code_of, refusal};
use crate::openai::request::{CreateJob, Roles};
use crate::{AppState, Error, Result};

/// Chooses the columns and reads every row of every file, with the classes of the training data for all.
pub async fn look(state: &AppState, asked: &CreateJob, data: &Data) -> Result<Looked> {
    let (columns, problem_type, found) = choose_columns(asked, &data.train.report()?.table)?;
    let fetched = data.fetch(state).await?;
    let wanted = columns.clone();
    let read = move || check_files(&fetched.files, &wanted, problem_type);
    let checked = tokio::task::spawn_blocking(read).await.map_err(|error| Error::Internal(error.into()))?;
    let summaries =
        checked.map_err(|(param, problems)| at_column(refusal(param, &problems), &columns, &problems))?;
    let notices = summaries
        .iter()
        .flat_map(|summary| &summary.notices)
        .map(|notice| format!("Worth a look: {notice}."));
    let notices = notices.collect();
    let train = summaries.into_iter().next().unwrap_or_default();
    Ok(Looked {
        columns,
        problem_type: Some(problem_type),
        rows: train.rows,
        classes: train.classes,
        answers: [0; 2],
        found,
        notices,
    })
}

fn check_files(
    files: &[(&'static str, PathBuf, String)],
    columns: &Columns,
    problem_type: ProblemType,
) -> Result<Vec<Summary>, (&'static str, Problems)> {
    let mut known = None;
    let mut summaries = Vec::new();
    for (param, path, name) in files {
        let summary = check_classification(path, name, columns, problem_type, known.as_ref())
            .map_err(|wrong| (*param, wrong))?;
        if known.is_none() && problem_type != ProblemType::Regression {
            let map = LabelMap::from_names(summary.classes.iter().map(|class| class.label.clone()));
            let least = if problem_type == ProblemType::MultiLabel { 1 } else { 2 };
            map.at_least(least, name).map_err(|wrong| (*param, wrong.into()))?;
            known = Some(map);
        }
        summaries.push(summary);
    }
    Ok(summaries)
}

/// A refusal for a column names the role that the column has.
fn at_column(error: Error, columns: &Columns, problems: &Problems) -> Error {
    let Some(first) = problems.listed.first() else { return error };
    let role = match first.column.as_deref() {
        Some(column) if column == columns.text => "columns.text",
        Some(column) if column == columns.label => "columns.label",
        Some(column) if Some(column) == columns.text_pair.as_deref() => "columns.text_pair",
        _ => "columns",
    };
    match (first.kind, error) {
        (
            ProblemKind::UnknownColumn | ProblemKind::AmbiguousColumns,
            Error::Invalid { message, code, .. },
        ) => Error::Invalid { message, param: Some(role.to_owned()), code },
        (_, error) => error,
    }
}

/// Columns by what was named, the rest by what their names tell; says in a note what was guessed.
fn choose_columns(asked: &CreateJob, inspection: &Inspection) -> Result<(Columns, ProblemType, Vec<String>)> {
    if task_of_roles(&asked.columns).is_some() {
        let message = "text classification has the roles text, text_pair and label; leave the others out";
        return Err(Error::invalid("columns", message));
    }
    check_named(&asked.columns, inspection)?;
    let Roles { text, text_pair, label, .. } = &asked.columns;
    let (columns, notes) = match (text, label) {
        (Some(text), Some(label)) => {
            let (text, text_pair, label) = (text.clone(), text_pair.clone(), label.clone());
            (Columns { text, text_pair, label, ..Columns::default() }, Vec::new())
        }
        _ => {
            let guess = guess_columns(inspection, Task::TextClassification.as_str()).map_err(|unclear| {
                Error::Invalid {
                    message: unclear.to_string(),
                    param: Some("columns".to_owned()),
                    code: code_of(unclear.kind).into(),
                }
            })?;
            let columns = Columns {
                text: text.clone().unwrap_or(guess.columns.text),
                text_pair: text_pair.clone().or(guess.columns.text_pair.filter(|_| text.is_none())),
                label: label.clone().unwrap_or(guess.columns.label),
                ..Columns::default()
            };
            let pair =
                columns.text_pair.as_ref().map(|pair| format!(", text_pair `{pair}`")).unwrap_or_default();
            let note =
                format!("Columns by their names: text `{}`{pair}, label `{}`.", columns.text, columns.label);
            (columns, vec![note])
        }
    };
    let guessed = match inspection.column(&columns.label) {
        Some(column) if column.kind == ColumnKind::List => ProblemType::MultiLabel,
        Some(column) if column.kind == ColumnKind::Number && column.has_fractions => ProblemType::Regression,
        _ => ProblemType::SingleLabel,
    };
    Ok((columns, asked.problem_type.unwrap_or(guessed), notes))
}

/// A name that is not in the file is told before anyone is asked for the others.
fn check_named(roles: &Roles, inspection: &Inspection) -> Result<()> {
    let named = [
        ("columns.text", &roles.text),
        ("columns.text_pair", &roles.text_pair),
        ("columns.label", &roles.label),
    ];
    for (param, name) in named {
        let Some(name) = name.as_deref().filter(|name| inspection.column(name.trim()).is_none()) else {
            continue;
        };
        let known: Vec<&str> = inspection.column_names().collect();
        let message =
            format!("{}: there is no column `{name}`; the file has {}", inspection.name, known.join(", "));
        return Err(Error::Invalid { message, param: Some(param.to_owned()), code: "unknown_column".into() });
    }
    Ok(())
}

/// Whether classes that have a weight are there.
pub fn check_class_weights(spec: &JobSpec, classes: &[ClassCount], at: &str) -> Result<()> {
    let Some(ClassWeights::ByName(weights)) = &spec.training.class_weights else {
        return Ok(());
    };
    let known: Vec<&str> = classes.iter().map(|class| class.label.as_str()).collect();
    match weights.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(
            format!("{at}.class_weights"),
            format!("the training file has no class \"{name}\"; it has {}", known.join(", ")),
        )),
    }
}
