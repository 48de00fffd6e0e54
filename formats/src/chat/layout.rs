//! How a row says what is to be learnt, told by its keys.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::problem::{Problem, ProblemKind};
use crate::table::{Cell, Row, Rows};

/// Rows that are looked at to tell the layout of a file.
const LOOKED_AT: usize = 100;
/// Keys that a problem names.
const NAMED: usize = 20;
/// The key that says whether a completion is a desirable one.
pub(super) const LABEL: &str = "label";

/// How a row says what is to be learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// OpenAI's: `messages`, a list of objects with `role` and `content`.
    Messages,
    /// ShareGPT's: `conversations`, a list of objects with `from` and `value`.
    ShareGpt,
    /// Alpaca's: `instruction`, perhaps `input`, and `output`.
    Alpaca,
    /// `prompt` and `completion`: texts, or lists of messages.
    PromptCompletion,
    /// `text`.
    Text,
    /// `prompt`, `chosen` and `rejected`; or OpenAI's `input`, `preferred_output` and `non_preferred_output`.
    Preference,
    /// TRL's unpaired preferences: `prompt`, `completion` and `label`, which is true or false.
    Unpaired,
}

/// In the order in which a row's keys are tried: the fuller layout first.
const LAYOUTS: [Layout; 7] = [
    Layout::Messages,
    Layout::ShareGpt,
    Layout::Preference,
    Layout::Unpaired,
    Layout::PromptCompletion,
    Layout::Alpaca,
    Layout::Text,
];

impl Layout {
    /// Sets of keys, one of which a row of this layout has.
    fn keys(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Messages => &[&["messages"]],
            Self::ShareGpt => &[&["conversations"]],
            Self::Alpaca => &[&["instruction", "output"]],
            Self::PromptCompletion => &[&["prompt", "completion"]],
            Self::Text => &[&["text"]],
            Self::Preference => &[&["chosen", "rejected"], &["preferred_output", "non_preferred_output"]],
            Self::Unpaired => &[&["prompt", "completion", LABEL]],
        }
    }

    /// All keys that mean something in this layout.
    pub(super) fn known_keys(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["messages", "tools", "parallel_tool_calls"],
            Self::ShareGpt => &["conversations", "system", "tools"],
            Self::Alpaca => &["instruction", "input", "output", "system"],
            Self::PromptCompletion => &["prompt", "completion", "tools"],
            Self::Text => &["text"],
            Self::Preference => &[
                "prompt",
                "chosen",
                "rejected",
                "input",
                "preferred_output",
                "non_preferred_output",
                "tools",
            ],
            Self::Unpaired => &["prompt", "completion", LABEL, "tools"],
        }
    }

    /// The keys as a person would write them down.
    pub(super) fn named(self) -> &'static str {
        match self {
            Self::Messages => "`messages`",
            Self::ShareGpt => "`conversations`",
            Self::Alpaca => "`instruction` and `output`",
            Self::PromptCompletion => "`prompt` and `completion`",
            Self::Text => "`text`",
            Self::Preference => "`chosen` and `rejected`, or `preferred_output` and `non_preferred_output`",
            Self::Unpaired => "`prompt`, `completion` and `label`",
        }
    }

    /// The field that a problem of the whole row is named after.
    pub(super) fn field(self) -> &'static str {
        self.keys()[0][0]
    }

    /// Whether a row with these keys is in this layout.
    pub(super) fn fits(self, keys: &Keys<'_>) -> bool {
        self.keys().iter().any(|set| set.iter().all(|key| keys.has(key)))
    }
}

/// The keys that a row has a value for.
pub(super) struct Keys<'r>(Vec<&'r str>);

impl<'r> Keys<'r> {
    pub(super) fn of(columns: &'r [String], row: &Row) -> Self {
        let present = columns.iter().enumerate().filter(|(place, _)| row.cell(*place).written().is_some());
        Self(present.map(|(_, column)| column.as_str()).collect())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'r str> + '_ {
        self.0.iter().copied()
    }

    /// The layout that the keys tell.
    pub(super) fn layout(&self) -> Option<Layout> {
        LAYOUTS.into_iter().find(|layout| layout.fits(self))
    }

    /// The keys in words.
    pub(super) fn listed(&self) -> String {
        listed(&self.0)
    }
}

fn listed(keys: &[&str]) -> String {
    if keys.is_empty() {
        return "no keys".to_owned();
    }
    let shown: Vec<String> = keys.iter().take(NAMED).map(|key| format!("`{key}`")).collect();
    let more = if keys.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// The layout of a file: that of its first row that is in any.
///
/// # Errors
/// A file that cannot be read, or whose first rows are in no layout, with the keys that they have.
pub fn layout_of(path: &Path, name: &str) -> Result<Layout, Problem> {
    let mut rows = Rows::open(path, name)?;
    let mut first_problem = None;
    for _ in 0..LOOKED_AT {
        match rows.next() {
            Some(Ok(row)) => {
                let layout = Keys::of(rows.columns(), &row).layout();
                // A class, or whatever else a `label` beside prompts may be, is no verdict on the completion.
                let verdict =
                    || place_of(rows.columns(), LABEL).is_some_and(|at| verdict(row.cell(at)).is_some());
                match layout {
                    Some(Layout::Unpaired) if !verdict() => return Ok(Layout::PromptCompletion),
                    Some(layout) => return Ok(layout),
                    None => {}
                }
            }
            Some(Err(problem)) => {
                first_problem.get_or_insert(problem);
            }
            None => break,
        }
    }
    let columns: Vec<&str> = rows.columns().iter().map(String::as_str).collect();
    if columns.is_empty() {
        let nothing = crate::table::no_rows(name, rows.layout().format);
        return Err(first_problem.unwrap_or(nothing));
    }
    let message =
        format!("the rows are in no layout to train a language model on: they have {}", listed(&columns));
    Err(Problem::new(ProblemKind::UnknownLayout, name, message).hint(
        "write `messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, `text`, or `prompt`, `chosen` \
         and `rejected`",
    ))
}

/// Where a column stands.
pub(super) fn place_of(columns: &[String], name: &str) -> Option<usize> {
    columns.iter().position(|column| column == name)
}

/// Whether a completion is a desirable one: true or false, in a CSV in any case of letters; `None` for anything else.
pub(super) fn verdict(cell: &Cell) -> Option<bool> {
    match cell {
        Cell::Bool(verdict) => Some(*verdict),
        Cell::Text(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
        Cell::Text(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}
