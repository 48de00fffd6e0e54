//! Conversations, prompts and texts to train a language model on.
//!
//! A row is in one of seven layouts, told by its keys ([`Layout`]); all rows of a file are in the same one. Rules:
//! - A message has a role (`system` or `developer`, `user`, `assistant`, `tool`) and a text. A list of text parts is joined.
//!   Without a text it has to be the assistant's, and call tools.
//! - `weight` 0 keeps an assistant's turn out of the loss, 1 (or none) in it.
//! - A row needs a turn of the assistant that counts. One that ends with another turn is used, and told of: what follows the last
//!   answer teaches nothing.
//! - Arguments of a tool call that are JSON in a text become what the text says: templates write them out themselves.
//! - In a CSV a cell that holds a list is JSON.
//!
//! No row is left out in silence: whatever cannot be learnt from is a [`Problem`] with its line and field, such as
//! `messages[1].role`.

mod encode;
mod layout;
mod message;
mod preview;
mod row;
mod shown;
mod spans;
mod survey;
mod weights;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use encode::{Encoded, EncodedAnswer, EncodedPair, EncodedRows, Encoder, Loss};
pub use layout::{Layout, layout_of};
pub use preview::{PreviewExample, PreviewTurn};
pub use shown::{ShownSequence, ShownToken, ShownTurn};
pub use survey::{Survey, survey};
pub use weights::advised_weights;

use crate::problem::{LineRange, Problem, Problems};
use crate::table::{Rows, no_rows};
use layout::Keys;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Who sets the frame.
    System,
    /// OpenAI's newer name for it; templates that do not know it get to see it as it is.
    Developer,
    /// Who asks.
    User,
    /// Who is taught.
    Assistant,
    /// What a called tool gave.
    Tool,
}

impl Role {
    /// Its name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// The turns of a conversation that is to be answered, as OpenAI's API has them. `place` is the list's name in problems.
///
/// # Errors
/// What is wrong with them, by place: `messages[1].role`.
pub fn messages_of(list: &[Value], place: &str) -> Result<Vec<Message>, Problems> {
    let mut judge = message::Judge { file: "", lines: LineRange::one(1), problems: Problems::default() };
    let messages = judge.messages(list, place, message::Naming::OpenAi);
    if judge.problems.is_empty() { Ok(messages) } else { Err(judge.problems) }
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; `None` for an assistant that only calls tools.
    pub content: Option<String>,
    /// Whether it counts in the loss; only an assistant's turn does.
    pub counts: bool,
    /// Further keys, such as `name`, `tool_calls`, `tool_call_id`, `reasoning_content`: the template sees them.
    pub rest: Map<String, Value>,
}

impl Message {
    /// A turn with a text; the assistant's counts.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: Some(content.into()), counts: role == Role::Assistant, rest: Map::new() }
    }
}

/// What is learnt from a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A conversation: the assistant's turns are learnt.
    Chat(Vec<Message>),
    /// Plain texts: the second is learnt, given the first.
    Completion {
        /// What stands before.
        prompt: String,
        /// What is to follow.
        completion: String,
    },
    /// A text that is learnt as a whole.
    Text(String),
    /// Two answers, the first of which is preferred.
    Preference {
        /// The conversation so far.
        prompt: Vec<Message>,
        /// The better answer.
        chosen: Vec<Message>,
        /// The worse one.
        rejected: Vec<Message>,
    },
    /// An answer, and whether it is a desirable one.
    Unpaired {
        /// The prompt with it: a [`Content::Chat`] or a [`Content::Completion`].
        answer: Box<Content>,
        /// Whether it is to become likelier.
        desirable: bool,
    },
}

/// One row to learn from or to evaluate on.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its number among the rows, from 0.
    pub row: u64,
    /// The physical lines of the file it stands on.
    pub lines: LineRange,
    /// What is learnt.
    pub content: Content,
    /// The list of tools that the assistant may call, for the template.
    pub tools: Option<Value>,
}

impl Content {
    /// Whether a chat template writes it.
    pub fn is_chat(&self) -> bool {
        match self {
            Self::Chat(_) | Self::Preference { .. } => true,
            Self::Completion { .. } | Self::Text(_) => false,
            Self::Unpaired { answer, .. } => answer.is_chat(),
        }
    }
}

/// Whether rows are plain texts; those of a file all are, or none is.
pub fn are_texts(examples: &[Example]) -> bool {
    examples.first().is_some_and(|example| matches!(example.content, Content::Text(_)))
}

/// Reads all rows of a file; with `layout`, in that one, else in the one that its keys tell.
///
/// # Errors
/// Everything that is wrong, by line and field: rows that cannot be read or learnt from, a file without rows or in no known
/// layout. No row is left out.
pub fn read_chats(path: &Path, name: &str, layout: Option<Layout>) -> Result<Vec<Example>, Problems> {
    let mut examples = Vec::new();
    let mut problems = Problems::default();
    each_example(path, name, layout, |outcome| match outcome {
        Ok((example, _)) => examples.push(example),
        Err(wrong) => problems.extend(wrong.listed),
    })?;
    problems.or(examples)
}

/// Reads one row of a file, counted from 0, in the layout that was found in it; `None` behind the last.
///
/// # Errors
/// What is wrong with the row or the file, by line and field.
pub fn read_chat(path: &Path, name: &str, layout: Layout, row: u64) -> Result<Option<Example>, Problems> {
    let mut rows = Rows::open(path, name)?;
    for _ in 0..row {
        if rows.next().is_none() {
            return Ok(None);
        }
    }
    let Some(found) = rows.next() else { return Ok(None) };
    let found = found?;
    let row::Read { content, tools } = row::read(name, layout, rows.columns(), &found)?;
    Ok(Some(Example { row, lines: found.lines, content, tools }))
}

/// Calls `use_row` for each row, with the keys it has or with what is wrong with it; gives the layout of the file.
///
/// # Errors
/// What is wrong with the file as a whole.
fn each_example(
    path: &Path,
    name: &str,
    stated: Option<Layout>,
    mut use_row: impl FnMut(Result<(Example, Keys<'_>), Problems>),
) -> Result<Layout, Problem> {
    let mut rows = Rows::open(path, name)?;
    let layout = match stated {
        Some(layout) => layout,
        None => layout_of(path, name)?,
    };
    let mut number = 0;
    while let Some(row) = rows.next() {
        let outcome = row.map_err(Problems::from).and_then(|row| {
            let keys = Keys::of(rows.columns(), &row);
            let row::Read { content, tools } = row::read(name, layout, rows.columns(), &row)?;
            Ok((Example { row: number, lines: row.lines, content, tools }, keys))
        });
        use_row(outcome);
        number += 1;
    }
    if number == 0 {
        return Err(no_rows(name, rows.layout().format));
    }
    Ok(layout)
}
