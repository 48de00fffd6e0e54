//! Which columns of a table hold words and their tags, or texts and what is named in them.

use formats::dataset::Columns;
use formats::dataset::tagged::{Summary, Tagging};
use formats::inspect::{Inspection, guess_tagged};
use serde_json::{Map, Value};
use store::FileId;

use super::option;
use super::related::{GOAL, Goal};
use crate::openai::report::Report;
use crate::pages::data;
use crate::pages::settings::Values;
use crate::pages::view::form::{ColumnsPart, Field, FieldKind};
use crate::pages::view::text;
use crate::{AppState, Result};

/// Word of the task in the form.
pub const WORD: &str = "token-classification";

/// The part of the form with the columns of tagged words.
pub fn part(of: &str, values: &Values, report: &Report, errors: &Values) -> ColumnsPart {
    let inspection = &report.table;
    let is_own = values.get("columns.of").is_some_and(|file| file == of);
    let was = values.get("columns.goal_was").map(String::as_str).unwrap_or_default();
    let said = is_own && (was.is_empty() || was == WORD);
    let guess = guess_tagged(inspection).ok();
    let guessed = !said && guess.is_some();
    let columns = if said { said_columns(values, inspection) } else { guess.clone().unwrap_or_default() };
    let complete = Tagging::of(&columns).is_some();
    // What was found at the upload is about the columns that were guessed then.
    let survey = report.tags.as_ref().filter(|_| guess.as_ref() == Some(&columns));
    ColumnsPart {
        chosen: true,
        of: of.to_owned(),
        goal: WORD,
        guess: match (guessed, complete) {
            (true, _) => "Chosen by the names of the columns; change it where it is wrong.".to_owned(),
            (false, false) => {
                "Say which columns hold the words and their tags, or the text and its entities.".to_owned()
            }
            (false, true) => String::new(),
        },
        summary: survey.map(|survey| words(&survey.summary)).unwrap_or_default(),
        unusable: survey.is_some_and(|survey| !survey.problems.is_empty()),
        problems: survey
            .map(|survey| data::problem_rows(&survey.problems, &survey.summary.notices))
            .unwrap_or_default(),
        roles: roles(&columns)
            .into_iter()
            .map(|(name, label, help, value)| Field {
                name: name.to_owned(),
                label: label.to_owned(),
                help: help.to_owned(),
                value,
                error: errors.get(name).cloned().unwrap_or_default(),
                kind: FieldKind::Select(
                    std::iter::once(option("", "none"))
                        .chain(inspection.column_names().map(|column| option(column, column)))
                        .collect(),
                ),
                ..Field::default()
            })
            .collect(),
        ..ColumnsPart::default()
    }
}

/// "120 sentences, 1,804 words; IOB2: LOC 80, PER 45".
pub fn words(summary: &Summary) -> String {
    const SHOWN: usize = 6;
    let mut types = summary.types.clone();
    types.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.label.cmp(&b.label)));
    let named: Vec<String> =
        types.iter().take(SHOWN).map(|kind| format!("{} {}", kind.label, text::count(kind.rows))).collect();
    let more = if types.len() > SHOWN { ", …" } else { "" };
    format!(
        "{}, {}; {}: {}{more}",
        text::plural(summary.rows, "sentence", "sentences"),
        text::plural(summary.words, "word", "words"),
        summary.scheme.name(),
        if named.is_empty() { "no entities".to_owned() } else { named.join(", ") }
    )
}

/// Name of the input, label, help and column of each role.
fn roles(columns: &Columns) -> [(&'static str, &'static str, &'static str, String); 4] {
    let of = |column: &Option<String>| column.clone().unwrap_or_default();
    [
        ("columns.tokens", "Words", "A list of words.", of(&columns.tokens)),
        ("columns.tags", "Tags", "A tag for each word.", of(&columns.tags)),
        ("columns.text", "Text", "In place of words: a text …", columns.text.clone()),
        (
            "columns.entities",
            "Entities",
            "… and what is named in it, by first and last character.",
            of(&columns.entities),
        ),
    ]
}

/// What the form says, as far as the file has such columns.
fn said_columns(values: &Values, inspection: &Inspection) -> Columns {
    let one = |name: &str| {
        values.get(name).filter(|column| !column.is_empty() && inspection.column(column).is_some()).cloned()
    };
    Columns {
        tokens: one("columns.tokens"),
        tags: one("columns.tags"),
        text: one("columns.text").unwrap_or_default(),
        entities: one("columns.entities"),
        ..Columns::default()
    }
}

/// A file of tagged words that was just chosen says that tags are learnt, and another one that they are not.
pub async fn settle(state: &AppState, values: &mut Values) -> Result<()> {
    let chosen = values.get("training_file").cloned().unwrap_or_default();
    if values.get("columns.of").is_some_and(|of| *of == chosen) {
        return Ok(());
    }
    let Ok(id) = chosen.parse::<FileId>() else { return Ok(()) };
    let file = store::file::get(&state.store.db, id).await?;
    let is_tagged = file.as_ref().and_then(Report::of_file).is_some_and(|report| report.tags.is_some());
    match Goal::said(values) {
        None | Some(Goal::Labels | Goal::Answers) if is_tagged => {
            values.insert(GOAL.to_owned(), Goal::Tags.name());
        }
        Some(Goal::Tags) if !is_tagged => {
            values.remove(GOAL);
        }
        _ => {}
    }
    Ok(())
}

/// The inputs of a job's columns.
pub fn values_of(columns: &Columns) -> Vec<(&'static str, String)> {
    roles(columns).into_iter().map(|(name, _, _, value)| (name, value)).collect()
}

/// The request's `columns`.
pub fn request(values: &Values) -> Map<String, Value> {
    let given = |name: &str| values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    ["tokens", "tags", "text", "entities"]
        .into_iter()
        .filter_map(|role| Some((role.to_owned(), given(&format!("columns.{role}"))?.into())))
        .collect()
}
