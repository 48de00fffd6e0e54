//! What the chosen data holds, and which of its columns play which role.

use formats::dataset::{ClassCount, ProblemType};
use formats::inspect::{Column, ColumnKind, Inspection, guess_columns};
use store::file::File;
use store::spec::Task;

use super::related::{self, Goal};
use super::{is_generation, option, questions, sequences, tagged};
use crate::openai::report::Report;
use crate::pages::settings::{self, Values};
use crate::pages::view::data::{Preview, Problems};
use crate::pages::view::form::{ColumnsPart, Field, FieldKind};
use crate::pages::view::{ProblemRow, text};
use crate::pages::{chat, data};

/// Columns, preview and problems of the chosen file.
pub fn columns_part(files: &[File], values: &Values, errors: &Values) -> ColumnsPart {
    let chosen = values.get("training_file").map(String::as_str).unwrap_or_default();
    let Some(file) = files.iter().find(|file| file.file_id.to_string() == chosen) else {
        return ColumnsPart::default();
    };
    let report = Report::of_file(file).unwrap_or_default();
    let inspection = &report.table;
    let of_table = data::problem_rows(&inspection.problems, &inspection.notices);
    if !inspection.is_usable() {
        return ColumnsPart {
            chosen: true,
            unusable: true,
            problems: of_table,
            of: chosen.to_owned(),
            ..ColumnsPart::default()
        };
    }
    if is_generation(values) {
        return rows_part(chosen, &report);
    }
    if sequences::are_meant(values) {
        let mut part = sequences::part(chosen, values, inspection, errors);
        part.problems = of_table;
        part.preview = preview(inspection, |name| part.role_of(name));
        return part;
    }
    let goal_of = values.get("columns.goal_of").cloned().unwrap_or_default();
    let goal = Goal::settled(values, None, None);
    if goal != Goal::Labels {
        let mut part = match goal {
            Goal::Answers => questions::part(chosen, values, inspection, errors),
            Goal::Tags => tagged::part(chosen, values, &report, errors),
            _ => related::part(goal, chosen, values, inspection, errors),
        };
        part.roles.insert(0, goal.field());
        part.problems.rows.extend(of_table.rows);
        part.unusable |= part.problems.rows.iter().any(|problem| problem.fatal);
        let preview = preview(inspection, |name| part.role_of(name));
        return ColumnsPart { goal_of, preview, ..part };
    }
    let roles = Roles::of(chosen, values, inspection);
    let missing = roles.missing(inspection);
    let mut problems = of_table;
    problems.rows.splice(0..0, missing);
    let mut fields = roles.fields(inspection, errors);
    fields.insert(0, goal.field());
    ColumnsPart {
        chosen: true,
        goal_of,
        goal: "text-classification",
        of: chosen.to_owned(),
        label: roles.label.clone(),
        guess: roles.guess_words().to_owned(),
        summary: roles.summary(inspection),
        preview: preview(inspection, |name| roles.of_column(name)),
        unusable: problems.rows.iter().any(|problem| problem.fatal),
        roles: fields,
        problems,
        ..ColumnsPart::default()
    }
}

/// What a language model learns from the chosen file: rows say by their keys what they are.
fn rows_part(of: &str, report: &Report) -> ColumnsPart {
    let part = ColumnsPart { chosen: true, of: of.to_owned(), ..ColumnsPart::default() };
    match &report.chat {
        Some(chat) => ColumnsPart {
            unusable: !chat.is_usable(),
            summary: if chat.is_usable() { chat::words(chat) } else { String::new() },
            chats: chat::conversations(chat, ""),
            problems: data::problems(report),
            ..part
        },
        None if report.table.column("text").is_some() => ColumnsPart {
            summary: format!(
                "{}; the column text is learnt as plain text",
                text::plural(report.table.rows, "row", "rows")
            ),
            ..part
        },
        None => ColumnsPart { unusable: true, problems: no_layout(), ..part },
    }
}

fn no_layout() -> Problems {
    let message = "The rows are in no layout that a language model learns from. They need messages, conversations, prompt \
                   and completion, instruction and output, or text.";
    let row = ProblemRow { place: String::new(), message: message.to_owned(), fatal: true };
    Problems { rows: vec![row], more: String::new() }
}

fn preview(inspection: &Inspection, role_of: impl Fn(&str) -> &'static str) -> Preview {
    let mut preview = data::preview(inspection, role_of);
    preview.rows.truncate(6);
    preview
}

/// Which column plays which role; empty for none.
struct Roles {
    text: String,
    text_pair: String,
    label: String,
    problem: ProblemType,
    /// Whether these are the guess.
    guessed: bool,
}

impl Roles {
    /// What the form says of this very file, or the guess.
    fn of(file: &str, values: &Values, inspection: &Inspection) -> Roles {
        let value = |name: &str| values.get(name).cloned().unwrap_or_default();
        // Columns that were chosen for another goal say nothing of these roles.
        let same_goal = ["", "text-classification"].contains(&value("columns.goal_was").as_str());
        let is_own = value("columns.of") == file && same_goal;
        let known = |name: &str| {
            Some(value(name)).filter(|column| inspection.column(column).is_some()).unwrap_or_default()
        };
        let guess = guess_columns(inspection, Task::TextClassification.as_str()).ok();
        let (text, text_pair, label) = match &guess {
            _ if is_own => (known("columns.text"), known("columns.text_pair"), known("columns.label")),
            Some(guess) => {
                let columns = guess.columns.clone();
                (columns.text, columns.text_pair.unwrap_or_default(), columns.label)
            }
            None => Default::default(),
        };
        let said = match value("problem_type").as_str() {
            "single_label" => Some(ProblemType::SingleLabel),
            "multi_label" => Some(ProblemType::MultiLabel),
            "regression" => Some(ProblemType::Regression),
            _ => None,
        };
        // Another label column is another kind of label, until the person says otherwise.
        let same_label = is_own && value("columns.label_was") == label;
        let problem = said.filter(|_| same_label || (is_own && value("columns.label_was").is_empty()));
        let problem =
            problem.unwrap_or_else(|| inspection.column(&label).map_or(ProblemType::SingleLabel, kind_of));
        Roles { text, text_pair, label, problem, guessed: guess.is_some() && !is_own }
    }

    fn of_column(&self, name: &str) -> &'static str {
        match name {
            _ if name == self.text => "text",
            _ if name == self.text_pair => "second text",
            _ if name == self.label => "label",
            _ => "",
        }
    }

    fn guess_words(&self) -> &'static str {
        if self.guessed {
            "Chosen by the names and values of the columns; change it where it is wrong."
        } else if self.text.is_empty() || self.label.is_empty() {
            "Say which column is the text and which the label."
        } else {
            ""
        }
    }

    fn fields(&self, inspection: &Inspection, errors: &Values) -> Vec<Field> {
        let select = |name: &str, label: &str, help: &str, value: &str, none: &str| {
            let names = inspection.column_names().map(|column| option(column, column));
            Field {
                name: name.to_owned(),
                label: label.to_owned(),
                help: help.to_owned(),
                value: value.to_owned(),
                error: errors.get(name).cloned().unwrap_or_default(),
                kind: FieldKind::Select(std::iter::once(option("", none)).chain(names).collect()),
                ..Field::default()
            }
        };
        vec![
            select("columns.text", "Text", "What the model reads.", &self.text, "choose"),
            select(
                "columns.text_pair",
                "Second text",
                "For pairs, such as a question and an answer.",
                &self.text_pair,
                "none",
            ),
            select("columns.label", "Label", "What the model learns to say.", &self.label, "choose"),
            self.problem_field(errors),
        ]
    }

    fn problem_field(&self, errors: &Values) -> Field {
        let options = [
            ("single_label", "One class a row"),
            ("multi_label", "Several classes a row"),
            ("regression", "A number"),
        ];
        Field {
            name: "problem_type".to_owned(),
            label: "Kind of label".to_owned(),
            help: "Decides the loss and the metrics.".to_owned(),
            value: settings::problem_word(self.problem).to_owned(),
            error: errors.get("problem_type").cloned().unwrap_or_default(),
            kind: FieldKind::Select(options.iter().map(|(value, name)| option(value, name)).collect()),
            ..Field::default()
        }
    }

    /// Rows without a text or a label, which cannot be trained on.
    fn missing(&self, inspection: &Inspection) -> Vec<ProblemRow> {
        let of = |column: &str, what: &str| {
            let missing = inspection.column(column).map_or(0, |column| column.missing);
            (missing > 0).then(|| ProblemRow {
                place: format!("Column {column}"),
                message: format!(
                    "{} without a {what}; fill them in, or take these rows out.",
                    text::plural(missing, "row is", "rows are")
                ),
                fatal: true,
            })
        };
        let label = if self.problem == ProblemType::MultiLabel { None } else { of(&self.label, "label") };
        [of(&self.text, "text"), label].into_iter().flatten().collect()
    }

    /// "9,514 rows, 2 classes: positive 5,832, negative 3,682".
    fn summary(&self, inspection: &Inspection) -> String {
        let rows = text::plural(inspection.rows, "row", "rows");
        let Some(column) = inspection.column(&self.label) else { return rows };
        if self.problem == ProblemType::Regression {
            return format!("{rows}, each with a number");
        }
        let mut classes = column.classes.clone();
        if classes.is_empty() {
            return format!(
                "{rows}, {}",
                text::plural(column.distinct, "different label", "different labels")
            );
        }
        classes.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.label.cmp(&b.label)));
        let named = |class: &ClassCount| format!("{} {}", class.label, text::count(class.rows));
        let named: Vec<String> = classes.iter().take(6).map(named).collect();
        let more = if classes.len() > 6 { ", …" } else { "" };
        format!(
            "{rows}, {}: {}{more}",
            text::plural(classes.len() as u64, "class", "classes"),
            named.join(", ")
        )
    }
}

fn kind_of(label: &Column) -> ProblemType {
    match label.kind {
        ColumnKind::List => ProblemType::MultiLabel,
        ColumnKind::Number if label.has_fractions => ProblemType::Regression,
        _ => ProblemType::SingleLabel,
    }
}
