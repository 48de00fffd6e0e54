//! What a model with an encoder and a decoder learns: which text it writes from which.

use formats::dataset::Columns;
use formats::inspect::{Inspection, guess_sequences};
use serde_json::{Map, Value};
use store::model::Model;
use store::spec::Task;

use super::related::GOAL;
use super::{is_task, option};
use crate::openai::models::task_of;
use crate::openai::report::Report;
use crate::pages::settings::Values;
use crate::pages::view::form::{ColumnsPart, Field, FieldKind};
use crate::pages::view::text;

/// The tasks, and what they are in words.
const GOALS: [(Task, &str); 3] = [
    (Task::Translation, "Translation: the same in another language"),
    (Task::Summarization, "Summaries: the same in fewer words"),
    (Task::TextToText, "Any text from another one"),
];

/// Names of the inputs, their labels and what they are.
const ROLES: [(&str, &str, &str); 2] = [
    ("columns.source", "Source", "The text that the model reads."),
    ("columns.target", "Target", "The text that it learns to write."),
];

/// Whether the form is about such a task.
pub fn are_meant(values: &Values) -> bool {
    GOALS.iter().any(|(task, _)| is_task(values, *task))
}

/// The task: what the form says, else what the columns' names tell, else what the model is there for.
pub fn settle(values: &mut Values, model: &Model, report: Option<&Report>) -> Task {
    let said = values.get(GOAL).and_then(|word| GOALS.iter().find(|(task, _)| task.as_str() == word));
    let task = match said {
        Some((task, _)) => *task,
        None => match (task_of(model), report.and_then(|report| guess_sequences(&report.table).ok())) {
            (Task::TextToText, Some((_, target))) => target.into(),
            (task, _) => task,
        },
    };
    values.insert(GOAL.to_owned(), task.as_str().to_owned());
    values.insert("columns.goal_of".to_owned(), model.model_id.clone());
    task
}

/// The part of the form with the columns of sources and targets.
pub fn part(of: &str, values: &Values, inspection: &Inspection, errors: &Values) -> ColumnsPart {
    let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
    let names = inspection.text_names();
    // Columns that were chosen for a model of another kind say nothing of these roles.
    let was = value("columns.goal_was");
    let said =
        value("columns.of") == of && (was.is_empty() || GOALS.iter().any(|(task, _)| task.as_str() == was));
    let guess = guess_sequences(inspection).ok().map(|(columns, _)| columns);
    let guessed = !said && guess.is_some();
    let columns = match said {
        true => {
            let known = |name: &str| Some(value(name).to_owned()).filter(|column| names.contains(column));
            Columns { source: known("columns.source"), target: known("columns.target"), ..Columns::default() }
        }
        false => guess.unwrap_or_default(),
    };
    let complete = columns.source.is_some() && columns.target.is_some();
    let task =
        GOALS.iter().find(|(task, _)| is_task(values, *task)).map_or(Task::TextToText, |(task, _)| *task);
    let select = |(name, label, help): (&str, &str, &str)| {
        let chosen = if name == ROLES[0].0 { &columns.source } else { &columns.target };
        let options = names.iter().map(|column| option(column, column));
        Field {
            name: name.to_owned(),
            label: label.to_owned(),
            help: help.to_owned(),
            value: chosen.clone().unwrap_or_default(),
            error: errors.get(name).cloned().unwrap_or_default(),
            kind: FieldKind::Select(std::iter::once(option("", "choose")).chain(options).collect()),
            ..Field::default()
        }
    };
    let mut roles = vec![goal_field(task)];
    roles.extend(ROLES.map(select));
    ColumnsPart {
        chosen: true,
        of: of.to_owned(),
        goal_of: value("columns.goal_of").to_owned(),
        goal: task.as_str(),
        guess: match (guessed, complete) {
            (true, _) => "Chosen by the names of the columns; change it where it is wrong.".to_owned(),
            (false, false) => "Say which column is the source and which the target.".to_owned(),
            (false, true) => String::new(),
        },
        summary: format!("{}, each with a source and a target", text::plural(inspection.rows, "row", "rows")),
        roles,
        ..ColumnsPart::default()
    }
}

fn goal_field(task: Task) -> Field {
    Field {
        name: GOAL.to_owned(),
        label: "What it learns".to_owned(),
        help: "Decides the metric that chooses the best checkpoint: BLEU, ROUGE-L or the loss.".to_owned(),
        value: task.as_str().to_owned(),
        kind: FieldKind::Select(GOALS.iter().map(|(task, name)| option(task.as_str(), name)).collect()),
        ..Field::default()
    }
}

/// The inputs of a job's columns, and what it learnt.
pub fn values_of(columns: &Columns) -> [(&'static str, String); 2] {
    [
        (ROLES[0].0, columns.source.clone().unwrap_or_default()),
        (ROLES[1].0, columns.target.clone().unwrap_or_default()),
    ]
}

/// The request's `columns`.
pub fn request(values: &Values) -> Map<String, Value> {
    let given = |name: &str| values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let role = |(name, ..): (&'static str, &str, &str)| {
        let role = name.strip_prefix("columns.").unwrap_or(name);
        Some((role.to_owned(), Value::from(given(name)?)))
    };
    ROLES.into_iter().filter_map(role).collect()
}
