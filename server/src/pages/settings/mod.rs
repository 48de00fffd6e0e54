//! The settings of a fine-tune as fields of a form: one table for labels, help, defaults, the request they become, and
//! the place where an error belongs. Each group of settings has a file.

mod adapter;
mod evaluation;
mod first;
mod generation;
mod length;
mod loss;
mod machine;
mod optimizer;
mod questions;
mod request;
mod samples;
mod schedule;
mod split;
mod tags;
#[cfg(test)]
mod tests;
mod text_to_text;
mod trained;
mod vectors;

pub use request::{input_of, request};

use std::collections::BTreeMap;

use serde_json::json;
use store::spec::{JobSpec, ProblemType};

use super::view::Choice;
use super::view::form::{Field, FieldKind, Group};

/// Values of a form by name of the input.
pub type Values = BTreeMap<String, String>;

/// One setting.
struct Setting {
    /// Name of the input: the dotted path in the request, or below its hyperparameters.
    name: &'static str,
    label: &'static str,
    help: &'static str,
    kind: Kind,
    unit: &'static str,
    placeholder: &'static str,
    /// Values that are offered while one types.
    suggestions: &'static [&'static str],
    /// `name=value,value`: it means something only then, and only then it is sent.
    when: &'static str,
}

/// What a setting holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// A text whose blanks at both ends count.
    Exact,
    /// A text of several lines.
    Long,
    Number,
    /// A number or the word "auto".
    Auto,
    Flag,
    Choice(&'static [(&'static str, &'static str)]),
}

const fn field(name: &'static str, label: &'static str, help: &'static str, kind: Kind) -> Setting {
    Setting { name, label, help, kind, unit: "", placeholder: "", suggestions: &[], when: "" }
}

impl Setting {
    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn empty(mut self, placeholder: &'static str) -> Self {
        self.placeholder = placeholder;
        self
    }

    const fn suggest(mut self, suggestions: &'static [&'static str]) -> Self {
        self.suggestions = suggestions;
        self
    }

    const fn when(mut self, when: &'static str) -> Self {
        self.when = when;
        self
    }
}

/// Whether a condition, `name=value,value`, holds; an empty one always does.
fn holds(when: &str, values: &Values) -> bool {
    when.split_once('=').is_none_or(|(name, wanted)| {
        let value = values.get(name).map(String::as_str).unwrap_or_default();
        wanted.split(',').any(|wanted| wanted == value)
    })
}

/// Title, condition and settings of each group under "More settings".
const GROUPS: &[(&str, &str, &[Setting])] = &[
    ("Length and batches", "", length::SETTINGS),
    ("Optimizer", "", optimizer::SETTINGS),
    ("Learning rate", "", schedule::SETTINGS),
    ("What is trained", "", trained::SETTINGS),
    ("Adapter", "", adapter::SETTINGS),
    ("Text generation", "task=text-generation", generation::SETTINGS),
    ("Samples", "task=text-generation", samples::SETTINGS),
    ("Loss", "task=text-classification", loss::SETTINGS),
    ("Vectors", "task=sentence-similarity", vectors::SETTINGS),
    ("Questions", "task=question-answering", questions::SETTINGS),
    ("Sources and targets", text_to_text::WHEN, text_to_text::SETTINGS),
    ("Tags", "task=token-classification", tags::SETTINGS),
    ("Evaluation and checkpoints", "", evaluation::SETTINGS),
    ("Split and seed", "", split::SETTINGS),
    ("Model and machine", "", machine::SETTINGS),
];

fn all() -> impl Iterator<Item = &'static Setting> {
    first::SETTINGS.iter().chain(GROUPS.iter().flat_map(|(_, _, settings)| settings.iter()))
}

/// The settings that mean something beside the other values.
fn counted(
    groups: impl Iterator<Item = (&'static str, &'static [Setting])>,
    values: &Values,
) -> impl Iterator<Item = &'static Setting> {
    groups
        .filter(|(when, _)| holds(when, values))
        .flat_map(|(_, settings)| settings)
        .filter(|setting| holds(setting.when, values))
}

/// Conditions and settings of the groups.
fn groups() -> impl Iterator<Item = (&'static str, &'static [Setting])> {
    GROUPS.iter().map(|(_, when, settings)| (*when, *settings))
}

/// The settings of a job as values of the form; those of the default job are the defaults.
pub fn values_of(spec: &JobSpec) -> Values {
    let groups = [
        first::values,
        length::values,
        optimizer::values,
        schedule::values,
        trained::values,
        adapter::values,
        generation::values,
        samples::values,
        loss::values,
        vectors::values,
        questions::values,
        text_to_text::values,
        tags::values,
        evaluation::values,
        split::values,
        machine::values,
    ];
    let mut values: Values = groups.iter().flat_map(|values| values(spec)).collect();
    let problem = spec.problem_type.map(problem_word).unwrap_or_default();
    values.insert("problem_type".to_owned(), problem.to_owned());
    values.insert("task".to_owned(), spec.task.as_str().to_owned());
    values
}

fn named<const N: usize>(values: [(&str, String); N]) -> Values {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn flag(on: bool) -> String {
    if on { "true" } else { "" }.to_owned()
}

fn word<T: serde::Serialize>(value: T) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The short word of the API.
pub fn problem_word(problem: ProblemType) -> &'static str {
    match problem {
        ProblemType::SingleLabel => "single_label",
        ProblemType::MultiLabel => "multi_label",
        ProblemType::Regression => "regression",
    }
}

/// What an empty form holds: the default job, with "auto" where the number of rows should decide.
pub fn defaults() -> Values {
    let spec =
        json!({"task": "text-classification", "columns": {"text": "", "label": ""}, "data": {"train": ""}});
    let mut values = serde_json::from_value::<JobSpec>(spec).map(|spec| values_of(&spec)).unwrap_or_default();
    for name in ["n_epochs", "batch_size", "learning_rate"] {
        values.insert(name.to_owned(), "auto".to_owned());
    }
    values.insert("seed".to_owned(), String::new());
    values
}

/// The fields with these values and errors: those shown first, and the groups of the others.
pub fn fields(values: &Values, errors: &Values) -> (Vec<Field>, Vec<Group>) {
    let make = |settings: &'static [Setting]| settings.iter().map(|s| as_field(s, values, errors)).collect();
    let groups =
        GROUPS.iter().map(|(title, when, settings)| Group { title, when, fields: make(settings) }).collect();
    (make(first::SETTINGS), groups)
}

fn as_field(setting: &Setting, values: &Values, errors: &Values) -> Field {
    let text = |from: &Values| from.get(setting.name).cloned().unwrap_or_default();
    Field {
        name: setting.name.to_owned(),
        label: setting.label.to_owned(),
        help: setting.help.to_owned(),
        value: text(values),
        placeholder: setting.placeholder.to_owned(),
        suggestions: setting.suggestions,
        kind: match setting.kind {
            Kind::Text | Kind::Exact | Kind::Auto => FieldKind::Text,
            Kind::Long => FieldKind::Long,
            Kind::Number => FieldKind::Number,
            Kind::Flag => FieldKind::Check,
            Kind::Choice(options) => FieldKind::Select(options.iter().map(as_choice).collect()),
        },
        unit: setting.unit,
        error: text(errors),
        when: setting.when,
    }
}

fn as_choice((value, name): &(&str, &str)) -> Choice {
    Choice { value: (*value).to_owned(), name: (*name).to_owned(), ..Choice::default() }
}

/// Says "off" for every switch that a submitted form does not name: a box that is not ticked sends nothing.
pub fn fill_switches(values: &mut Values) {
    for setting in all().filter(|setting| matches!(setting.kind, Kind::Flag)) {
        values.entry(setting.name.to_owned()).or_default();
    }
}

/// Labels of the settings under "More settings" that are not as they are by default.
pub fn changed(values: &Values) -> Vec<&'static str> {
    let defaults = defaults();
    let differs = |setting: &&Setting| {
        values.get(setting.name).is_some_and(|value| Some(value) != defaults.get(setting.name))
    };
    counted(groups(), values).filter(differs).map(|setting| setting.label).collect()
}
