//! The first rows of a file as a person reads them.

use serde::{Deserialize, Serialize};

use super::{Content, Example, Message};
use crate::inspect::shortened;
use crate::problem::LineRange;

/// Rows that are shown.
pub(super) const PREVIEW_ROWS: usize = 10;

/// Turns of a row that are shown.
const TURNS: usize = 12;

/// Characters of a turn that are shown.
const CHARACTERS: usize = 600;

/// One of the first rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewExample {
    /// The physical lines it stands on.
    pub lines: LineRange,
    /// What is said, long texts cut with `…`.
    pub turns: Vec<PreviewTurn>,
    /// Turns that are not shown.
    pub more: u64,
}

/// A turn, or a part of a row that is like one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewTurn {
    /// Who speaks; `prompt`, `completion` or `text` where nobody does; `chosen` or `rejected` of two answers; `desirable` or
    /// `undesirable` of an answer that is one or the other.
    pub role: String,
    /// What is said.
    pub text: String,
    /// Whether it counts in the loss.
    pub counts: bool,
}

impl PreviewExample {
    pub(super) fn of(example: &Example) -> Self {
        let mut turns = turns(&example.content);
        let more = turns.len().saturating_sub(TURNS) as u64;
        turns.truncate(TURNS);
        Self { lines: example.lines, turns, more }
    }
}

fn turns(content: &Content) -> Vec<PreviewTurn> {
    let plain = |role: &str, text: &str, counts| PreviewTurn {
        role: role.to_owned(),
        text: shortened(text, CHARACTERS),
        counts,
    };
    let said = |message: &Message| plain(message.role.as_str(), &words(message), message.counts);
    match content {
        Content::Chat(messages) => messages.iter().map(said).collect(),
        Content::Completion { prompt, completion } => {
            vec![plain("prompt", prompt, false), plain("completion", completion, true)]
        }
        Content::Text(text) => vec![plain("text", text, true)],
        Content::Preference { prompt, chosen, rejected } => {
            let answer = |role, answer: &[Message]| {
                let texts: Vec<String> = answer.iter().map(words).collect();
                plain(role, &texts.join("\n"), role == "chosen")
            };
            let answers = [answer("chosen", chosen), answer("rejected", rejected)];
            prompt.iter().map(said).chain(answers).collect()
        }
        Content::Unpaired { answer, desirable } => {
            let verdict = if *desirable { "desirable" } else { "undesirable" };
            let mut turns = turns(answer);
            for turn in turns.iter_mut().filter(|turn| turn.counts) {
                verdict.clone_into(&mut turn.role);
                turn.counts = *desirable;
            }
            turns
        }
    }
}

/// The text, or the tools that are called in its place.
fn words(message: &Message) -> String {
    let calls = message.rest.get("tool_calls").map(ToString::to_string);
    message.content.clone().or(calls).unwrap_or_default()
}
