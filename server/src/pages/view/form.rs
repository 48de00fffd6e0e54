//! The form of a new fine-tune.

use askama::Template;

use super::data::{Conversations, Preview, Problems};
use super::{Choice, Page};

/// The whole form.
#[derive(Template)]
#[template(path = "new_job.html")]
pub struct NewJob {
    /// Frame of the page.
    pub page: Page,
    /// Makes a second click on Start the same request as the first.
    pub token: String,
    /// What is learnt, by the chosen checkpoint.
    pub task: String,
    /// What is wrong with the form as a whole; empty for nothing.
    pub error: String,
    /// Data to choose from.
    pub data: Picker,
    /// Columns of the chosen data.
    pub columns: ColumnsPart,
    /// Files for validation and test.
    pub held_out: HeldOut,
    /// Checkpoints to choose from.
    pub models: Picker,
    /// The settings that matter first.
    pub first: Vec<Field>,
    /// All other settings.
    pub groups: Vec<Group>,
    /// Whether "More settings" is open: it holds an error or a value of the person's own.
    pub open: bool,
    /// Words on what was changed in "More settings"; empty for nothing.
    pub changed: String,
    /// Largest data file and archive that are taken.
    pub limits: (String, String),
    /// Name of the job that these settings come from; empty for none.
    pub from: String,
}

/// A choice among uploaded things.
#[derive(Clone, Debug, Default, Template)]
#[template(path = "_picker.html")]
pub struct Picker {
    /// Name of the input.
    pub name: &'static str,
    /// Things to choose from, newest first.
    pub choices: Vec<Choice>,
    /// What to say when there are none.
    pub empty: &'static str,
    /// What is wrong with the choice; empty for nothing.
    pub error: String,
}

/// Columns, preview and problems of the chosen data; fetched again when the choice changes.
#[derive(Clone, Debug, Default, Template)]
#[template(path = "_columns.html")]
pub struct ColumnsPart {
    /// Whether data is chosen.
    pub chosen: bool,
    /// Id of the file that these columns are of.
    pub of: String,
    /// The model that what is learnt was told for.
    pub goal_of: String,
    /// What is learnt.
    pub goal: &'static str,
    /// The label column that the kind of label was told for.
    pub label: String,
    /// Role by role; empty when the file cannot be used.
    pub roles: Vec<Field>,
    /// Why the columns were chosen so; empty for nothing.
    pub guess: String,
    /// "9,400 rows, 2 classes: neg 4,700, pos 4,700".
    pub summary: String,
    /// The first rows.
    pub preview: Preview,
    /// The first rows as conversations, where a language model learns from them.
    pub chats: Conversations,
    /// What is wrong with the data.
    pub problems: Problems,
    /// Whether it cannot be trained on as it is.
    pub unusable: bool,
}

impl ColumnsPart {
    /// The role of a column, by the fields; empty for none.
    pub fn role_of(&self, column: &str) -> &'static str {
        let has = |role: &str| {
            let field = self.roles.iter().find(|field| field.name == role);
            // A field of a column's objects is named after it.
            let is_named =
                |name: &str| name == column || name.split_once('.').is_some_and(|(of, _)| of == column);
            field.is_some_and(|field| field.value.split('\t').any(is_named))
        };
        const ROLES: [(&str, &str); 13] = [
            ("columns.anchor", "anchor"),
            ("columns.positive", "positive"),
            ("columns.negative", "negative"),
            ("columns.text1", "first text"),
            ("columns.text2", "second text"),
            ("columns.score", "score"),
            ("columns.context", "context"),
            ("columns.question", "question"),
            ("columns.answers", "answers"),
            ("columns.answer_start", "start of the answer"),
            ("columns.is_impossible", "no answer"),
            ("columns.source", "source"),
            ("columns.target", "target"),
        ];
        ROLES.iter().find(|(name, _)| has(name)).map_or("", |(_, role)| role)
    }
}

/// What the form as it stands would take; fetched again when settings change.
#[derive(Clone, Debug, Default, Template)]
#[template(path = "_estimate.html")]
pub struct EstimateLine {
    /// "About 1.2 GB of memory, 900 steps, …"; empty while the form cannot be started.
    pub text: String,
    /// What stands against it; empty for nothing.
    pub warning: String,
}

/// Where rows to validate and test on come from.
#[derive(Clone, Debug, Default)]
pub struct HeldOut {
    /// Files to choose from, the first being none.
    pub validation: Field,
    /// Files to choose from, the first being none.
    pub test: Field,
}

/// Settings under one heading.
#[derive(Clone, Debug)]
pub struct Group {
    /// Heading.
    pub title: &'static str,
    /// Shown only while another field has one of these values, as in [`Field::when`].
    pub when: &'static str,
    /// Fields.
    pub fields: Vec<Field>,
}

/// An input with label, help and error.
#[derive(Clone, Debug, Default)]
pub struct Field {
    /// Name of the input.
    pub name: String,
    /// Label.
    pub label: String,
    /// What it does, in a sentence or two.
    pub help: String,
    /// Value as typed or by default.
    pub value: String,
    /// Shown while empty.
    pub placeholder: String,
    /// Values that are offered while one types.
    pub suggestions: &'static [&'static str],
    /// Which input it is.
    pub kind: FieldKind,
    /// After the input: "rows", "tokens"; empty for none.
    pub unit: &'static str,
    /// What is wrong with the value; empty for nothing.
    pub error: String,
    /// Shown only while this other field has one of these values: `optimizer.name=sgd,rmsprop`; empty for always.
    pub when: &'static str,
}

/// Kinds of input.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum FieldKind {
    /// A line of text.
    #[default]
    Text,
    /// Several lines of text.
    Long,
    /// A number, with the keyboard of a phone for it.
    Number,
    /// One of some values.
    Select(Vec<Choice>),
    /// Yes or no.
    Check,
}

impl Field {
    /// Id of the input and base of the ids around it.
    pub fn id(&self) -> String {
        format!("f-{}", self.name.replace('.', "-"))
    }

    /// Whether the box is ticked.
    pub fn ticked(&self) -> bool {
        matches!(self.value.as_str(), "on" | "true")
    }
}

impl PartialEq for Choice {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}
