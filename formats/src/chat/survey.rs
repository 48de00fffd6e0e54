//! A look at a file of conversations before anything is done with it.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::preview::{PREVIEW_ROWS, PreviewExample};
use super::{Content, Example, Layout, Message, Role, each_example};
use crate::problem::{LineRange, Problem, ProblemKind, Problems};

/// Lines and keys that a notice names.
const NAMED: usize = 10;

/// What a file of conversations, prompts or texts holds, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The file's name as its owner knows it.
    pub name: String,
    /// How its rows say what is to be learnt; absent where that could not be told.
    pub layout: Option<Layout>,
    /// Rows that can be learnt from.
    pub rows: u64,
    /// Rows that cannot.
    pub unusable: u64,
    /// Answers whose `label` says that they are desirable.
    #[serde(default)]
    pub desirable: u64,
    /// Answers whose `label` says that they are not.
    #[serde(default)]
    pub undesirable: u64,
    /// Turns of all usable conversations.
    pub turns: u64,
    /// Turns of the assistant that count in the loss.
    pub counted_turns: u64,
    /// Usable rows with a system message.
    pub with_system: u64,
    /// Usable rows with tools.
    pub with_tools: u64,
    /// Characters of all that is said in usable rows.
    pub characters: u64,
    /// What is wrong, by line and field.
    pub problems: Problems,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
    /// The first rows that can be used.
    #[serde(default)]
    pub preview: Vec<PreviewExample>,
}

impl Survey {
    /// Whether there are rows, and nothing is wrong with any.
    pub fn is_usable(&self) -> bool {
        self.problems.is_empty() && self.rows > 0
    }
}

/// Reads a file from end to end; with `layout`, in that one, else in the one that its keys tell.
///
/// Never fails: what is wrong is listed in the answer.
pub fn survey(path: &Path, name: &str, layout: Option<Layout>) -> Survey {
    let mut survey = Survey { name: name.to_owned(), ..Survey::default() };
    let mut seen = Seen::default();
    let outcome = each_example(path, name, layout, |outcome| match outcome {
        Ok((example, keys)) => {
            seen.keys.extend(keys.iter().map(str::to_owned));
            survey.add(&example, &mut seen);
        }
        Err(wrong) => {
            survey.unusable += 1;
            survey.problems.extend(wrong.listed);
        }
    });
    match outcome {
        Ok(layout) => {
            survey.layout = Some(layout);
            survey.notices = seen.notices(layout);
            if survey.rows == 0 && survey.problems.is_empty() {
                let message = "there are no rows that can be used";
                survey.problems.push(Problem::new(ProblemKind::NoRows, name, message));
            }
        }
        Err(problem) => survey.problems.push(problem),
    }
    survey
}

impl Survey {
    fn add(&mut self, example: &Example, seen: &mut Seen) {
        self.rows += 1;
        if self.preview.len() < PREVIEW_ROWS {
            self.preview.push(PreviewExample::of(example));
        }
        self.with_tools += u64::from(example.tools.is_some());
        let (messages, texts) = said(&example.content);
        match &example.content {
            Content::Chat(messages) if messages.last().is_some_and(|last| last.role != Role::Assistant) => {
                seen.unanswered.add(example.lines);
            }
            Content::Preference { chosen, rejected, .. } if chosen == rejected => {
                seen.equal.add(example.lines);
            }
            Content::Unpaired { desirable: true, .. } => self.desirable += 1,
            Content::Unpaired { desirable: false, .. } => self.undesirable += 1,
            _ => {}
        }
        self.characters += texts.iter().map(|text| text.chars().count() as u64).sum::<u64>();
        self.turns += messages.len() as u64;
        self.counted_turns += messages.iter().filter(|message| message.counts).count() as u64;
        self.with_system += u64::from(messages.iter().any(|message| message.role == Role::System));
        let texts = messages.iter().filter_map(|message| message.content.as_ref());
        self.characters += texts.map(|text| text.chars().count() as u64).sum::<u64>();
        if messages.iter().any(|message| message.counts && message.content.as_deref() == Some("")) {
            seen.empty.add(example.lines);
        }
    }
}

/// The messages of a row, or the texts that it has in place of them.
fn said(content: &Content) -> (Vec<&Message>, Vec<&str>) {
    match content {
        Content::Chat(messages) => (messages.iter().collect(), Vec::new()),
        Content::Preference { prompt, chosen, rejected } => {
            (prompt.iter().chain(chosen).chain(rejected).collect(), Vec::new())
        }
        Content::Completion { prompt, completion } => (Vec::new(), vec![prompt, completion]),
        Content::Text(text) => (Vec::new(), vec![text]),
        Content::Unpaired { answer, .. } => said(answer),
    }
}

/// Rows that a notice tells of.
#[derive(Default)]
struct Places {
    lines: Vec<LineRange>,
    total: u64,
}

impl Places {
    fn add(&mut self, lines: LineRange) {
        self.total += 1;
        if self.lines.len() < NAMED {
            self.lines.push(lines);
        }
    }

    /// Says of how many rows, and on which lines.
    fn notice(&self, what: &str) -> Option<String> {
        let lines: Vec<String> = self.lines.iter().map(LineRange::to_string).collect();
        let more = if self.total > self.lines.len() as u64 { ", …" } else { "" };
        let rows = if self.total == 1 { "row" } else { "rows" };
        (self.total > 0).then(|| format!("{} {rows} ({}{more}): {what}", self.total, lines.join(", ")))
    }
}

#[derive(Default)]
struct Seen {
    unanswered: Places,
    equal: Places,
    empty: Places,
    keys: BTreeSet<String>,
}

impl Seen {
    fn notices(&self, layout: Layout) -> Vec<String> {
        let known = layout.known_keys();
        let unused: Vec<&str> =
            self.keys.iter().map(String::as_str).filter(|key| !known.contains(key)).take(NAMED).collect();
        let unused = (!unused.is_empty()).then(|| format!("keys that are not used: {}", unused.join(", ")));
        [
            self.unanswered.notice("the conversation ends with a turn that is not the assistant's; what follows its last answer teaches nothing"),
            self.equal.notice("both answers are the same, which teaches no preference"),
            self.empty.notice("an answer is empty: the model learns to say nothing"),
            unused,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
