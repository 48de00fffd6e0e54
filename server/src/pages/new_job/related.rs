//! What is learnt from a table, and which of its columns hold texts that are near each other.

use formats::dataset::Columns;
use formats::dataset::related::Relation;
use formats::inspect::{Inspection, asks_questions, guess_related};
use serde_json::{Map, Value, json};
use store::model::Model;
use store::spec::Task;

use super::{option, tagged};
use crate::openai::models::task_of;
use crate::pages::settings::Values;
use crate::pages::view::form::{ColumnsPart, Field, FieldKind};
use crate::pages::view::{ProblemRow, text};

/// The input that says what is learnt, where the checkpoint leaves a choice.
pub const GOAL: &str = "columns.goal";

/// Between the names of several columns of negatives.
const AND: char = '\t';

/// What an encoder can learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Labels of texts.
    Labels,
    /// Vectors, from anchors and positives.
    Ranked,
    /// Vectors, from pairs with a score.
    Scored,
    /// The parts of texts that answer questions.
    Answers,
    /// A tag for each word.
    Tags,
}

impl Goal {
    const ALL: [(Goal, &'static str, &'static str); 5] = [
        (Goal::Labels, "text-classification", "A label or a number for each text"),
        (Goal::Ranked, "sentence-similarity", "Vectors of texts, from texts that belong together"),
        (Goal::Scored, "sentence-similarity-scored", "Vectors of texts, from pairs with a score"),
        (Goal::Answers, "question-answering", "The part of a text that answers a question"),
        (Goal::Tags, tagged::WORD, "A tag for each word: names, parts of speech"),
    ];

    pub(super) fn word(self) -> &'static str {
        Goal::ALL.iter().find(|(goal, ..)| *goal == self).map_or("", |(_, word, _)| word)
    }

    /// What the form says.
    pub fn said(values: &Values) -> Option<Goal> {
        let word = values.get(GOAL)?;
        Goal::ALL.iter().find(|(_, known, _)| known == word).map(|(goal, ..)| *goal)
    }

    /// What a job learnt.
    pub fn of(task: Task, columns: &Columns) -> Goal {
        match (task, Relation::of(columns)) {
            (Task::SentenceSimilarity, Some(Relation::Scored { .. })) => Goal::Scored,
            (Task::SentenceSimilarity, _) => Goal::Ranked,
            (Task::QuestionAnswering, _) => Goal::Answers,
            (Task::TokenClassification, _) => Goal::Tags,
            _ => Goal::Labels,
        }
    }

    /// The task.
    pub fn task(self) -> Task {
        match self {
            Goal::Labels => Task::TextClassification,
            Goal::Ranked | Goal::Scored => Task::SentenceSimilarity,
            Goal::Answers => Task::QuestionAnswering,
            Goal::Tags => Task::TokenClassification,
        }
    }

    /// Whether vectors are learnt.
    pub fn is_of_vectors(self) -> bool {
        self.task() == Task::SentenceSimilarity
    }

    /// What it was in the request that made a job.
    pub fn name(self) -> String {
        self.word().to_owned()
    }

    /// What is learnt with an encoder: what the form says, but a checkpoint that is there for vectors, answers or tags and was
    /// just chosen has the word, and then data that was just chosen and asks questions, or does not.
    pub fn settled(values: &Values, model: Option<&Model>, table: Option<&Inspection>) -> Goal {
        let own = model.map(task_of).and_then(|task| match task {
            Task::SentenceSimilarity => Some(Goal::Ranked),
            Task::QuestionAnswering => Some(Goal::Answers),
            Task::TokenClassification => Some(Goal::Tags),
            _ => None,
        });
        let asks = table.map(asks_questions);
        let has_head = model.is_some_and(|model| model.task.is_some());
        let by_data = if asks == Some(true) && !has_head { Goal::Answers } else { Goal::Labels };
        let usual = own.unwrap_or(by_data);
        let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
        let same_model = model.is_none_or(|model| model.model_id == value("columns.goal_of"));
        let same_data = table.is_none() || value("columns.of") == value("training_file");
        match Goal::said(values) {
            Some(Goal::Labels) if own.is_some() && !same_model => usual,
            Some(Goal::Labels) if asks == Some(true) && !same_data => usual,
            Some(Goal::Answers) if asks == Some(false) && !same_data => usual,
            Some(said) => said,
            None => usual,
        }
    }

    /// The choice, as a field.
    pub fn field(self) -> Field {
        Field {
            name: GOAL.to_owned(),
            label: "What it learns".to_owned(),
            help: "Labels sort texts. Vectors find texts that are alike: for search, and to group. Answers are found in a text. Tags find names in texts."
                .to_owned(),
            value: self.word().to_owned(),
            kind: FieldKind::Select(Goal::ALL.iter().map(|(_, value, name)| option(value, name)).collect()),
            ..Field::default()
        }
    }
}

/// The part of the form with the columns of related texts.
pub fn part(goal: Goal, of: &str, values: &Values, inspection: &Inspection, errors: &Values) -> ColumnsPart {
    let is_own = values.get("columns.of").is_some_and(|file| file == of);
    let was = values.get("columns.goal_was").map(String::as_str).unwrap_or_default();
    let guess =
        guess_related(inspection).ok().filter(|guess| Goal::of(Task::SentenceSimilarity, guess) == goal);
    // What was said for another goal is nothing for this one.
    let said = is_own && (was.is_empty() || was == goal.word());
    let columns = if said { said_columns(values, inspection) } else { guess.clone().unwrap_or_default() };
    let guessed = !said && guess.is_some();
    let missing = roles(goal, &columns).into_iter().filter(|(.., column)| !column.is_empty()).filter_map(
        |(_, label, _, column)| {
            let missing = inspection.column(&column).map_or(0, |column| column.missing);
            (missing > 0).then(|| ProblemRow {
                place: format!("Column {column}"),
                message: format!(
                    "{} without a value for {}; fill them in, or take these rows out.",
                    text::plural(missing, "row is", "rows are"),
                    label.to_lowercase()
                ),
                fatal: true,
            })
        },
    );
    let missing: Vec<ProblemRow> = missing.collect();
    let complete = Relation::of(&columns).is_some();
    ColumnsPart {
        chosen: true,
        of: of.to_owned(),
        goal: goal.word(),
        guess: match (guessed, complete) {
            (true, _) => "Chosen by the names of the columns; change it where it is wrong.".to_owned(),
            (false, false) => "Say which columns hold the texts.".to_owned(),
            (false, true) => String::new(),
        },
        summary: format!(
            "{}, each with {}",
            text::plural(inspection.rows, "row", "rows"),
            each(&columns, goal)
        ),
        unusable: !missing.is_empty(),
        problems: crate::pages::view::data::Problems { rows: missing, more: String::new() },
        roles: roles(goal, &columns)
            .into_iter()
            .map(|(role, label, help, value)| select(role, label, help, value, inspection, errors))
            .collect(),
        ..ColumnsPart::default()
    }
}

fn each(columns: &Columns, goal: Goal) -> String {
    match (goal, columns.negative.len() as u64) {
        (Goal::Scored, _) => "two texts and their score".to_owned(),
        (_, 0) => "a text and one near it".to_owned(),
        (_, 1) => "a text, one near it and one far from it".to_owned(),
        (_, count) => format!("a text, one near it and {count} far from it"),
    }
}

/// Name of the input, label, help and column of each role.
fn roles(goal: Goal, columns: &Columns) -> Vec<(&'static str, &'static str, &'static str, String)> {
    let of = |column: &Option<String>| column.clone().unwrap_or_default();
    match goal {
        Goal::Scored => vec![
            ("columns.text1", "First text", "", of(&columns.text1)),
            ("columns.text2", "Second text", "", of(&columns.text2)),
            ("columns.score", "Score", "How near they are; more is nearer.", of(&columns.score)),
        ],
        Goal::Ranked | Goal::Labels | Goal::Answers | Goal::Tags => vec![
            ("columns.anchor", "Anchor", "A question, or any text.", of(&columns.anchor)),
            (
                "columns.positive",
                "Positive",
                "Its answer, or a text that says the same.",
                of(&columns.positive),
            ),
            (
                "columns.negative",
                "Negative",
                "A text that seems near and is not. Other rows' positives are negatives anyway.",
                columns.negative.join(&AND.to_string()),
            ),
        ],
    }
}

fn select(
    name: &str,
    label: &str,
    help: &str,
    value: String,
    inspection: &Inspection,
    errors: &Values,
) -> Field {
    let none = if name == "columns.negative" { "none" } else { "choose" };
    let mut options = vec![option("", none)];
    options.extend(inspection.column_names().map(|column| option(column, column)));
    if value.contains(AND) {
        options.push(option(&value, &value.replace(AND, ", ")));
    }
    Field {
        name: name.to_owned(),
        label: label.to_owned(),
        help: help.to_owned(),
        value,
        error: errors.get(name).cloned().unwrap_or_default(),
        kind: FieldKind::Select(options),
        ..Field::default()
    }
}

/// What the form says, as far as the file has such columns.
fn said_columns(values: &Values, inspection: &Inspection) -> Columns {
    let one = |name: &str| {
        values.get(name).filter(|column| !column.is_empty() && inspection.column(column).is_some()).cloned()
    };
    let several = values.get("columns.negative").map(String::as_str).unwrap_or_default();
    Columns {
        anchor: one("columns.anchor"),
        positive: one("columns.positive"),
        negative: several
            .split(AND)
            .filter(|column| inspection.column(column).is_some())
            .map(str::to_owned)
            .collect(),
        text1: one("columns.text1"),
        text2: one("columns.text2"),
        score: one("columns.score"),
        ..Columns::default()
    }
}

/// The inputs of a job's columns.
pub fn values_of(columns: &Columns) -> Vec<(&'static str, String)> {
    let both = [Goal::Ranked, Goal::Scored].map(|goal| roles(goal, columns));
    both.into_iter().flatten().map(|(name, _, _, value)| (name, value)).collect()
}

/// The request's `columns`.
pub fn request(goal: Goal, values: &Values) -> Map<String, Value> {
    let given = |name: &str| values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let names: &[&str] = match goal {
        Goal::Scored => &["text1", "text2", "score"],
        Goal::Ranked | Goal::Labels | Goal::Answers | Goal::Tags => &["anchor", "positive"],
    };
    let mut columns: Map<String, Value> = names
        .iter()
        .filter_map(|role| Some(((*role).to_owned(), given(&format!("columns.{role}"))?.into())))
        .collect();
    if let Some(negatives) = given("columns.negative").filter(|_| goal == Goal::Ranked) {
        columns.insert("negative".to_owned(), json!(negatives.split(AND).collect::<Vec<_>>()));
    }
    columns
}
