//! One row of each layout.

use serde_json::Value;

use super::layout::{Keys, LABEL, Layout, verdict};
use super::message::{Judge, Naming, kind_of, shortened};
use super::{Content, Message, Role};
use crate::problem::{ProblemKind, Problems};
use crate::table::{Cell, Row};

/// What a row says.
pub(super) struct Read {
    pub(super) content: Content,
    pub(super) tools: Option<Value>,
}

/// A row's cells by name, and what is wrong with them.
struct Reader<'r> {
    columns: &'r [String],
    row: &'r Row,
    judge: Judge<'r>,
}

/// A cell that is a text or a list of messages.
enum Said {
    Text(String),
    Messages(Vec<Message>),
}

pub(super) fn read(file: &str, layout: Layout, columns: &[String], row: &Row) -> Result<Read, Problems> {
    let judge = Judge { file, lines: row.lines, problems: Problems::default() };
    let mut reader = Reader { columns, row, judge };
    let keys = Keys::of(columns, row);
    if !layout.fits(&keys) && !reader.is_near(layout) {
        reader.misfit(layout, &keys);
        return Err(reader.judge.problems);
    }
    let content = match layout {
        Layout::Messages => reader.conversation("messages", Naming::OpenAi, Vec::new()),
        Layout::ShareGpt => {
            let system = reader.system();
            reader.conversation("conversations", Naming::ShareGpt, system)
        }
        Layout::Alpaca => reader.alpaca(),
        Layout::PromptCompletion => reader.completion(),
        Layout::Text => reader.text("text").map(Content::Text),
        Layout::Preference if keys.has("preferred_output") => reader.openai_preference(),
        Layout::Preference => reader.preference(),
        Layout::Unpaired => reader.unpaired(),
    };
    let mut tools = reader.tools("tools");
    if tools.is_none() && layout == Layout::Preference {
        tools = reader
            .value("input")
            .and_then(|input| reader.tools_of(input.get("tools")?.clone(), "input.tools"));
    }
    match content {
        Some(content) => reader.judge.problems.or(Read { content, tools }),
        None => Err(reader.judge.problems),
    }
}

impl Reader<'_> {
    fn cell(&self, column: &str) -> &Cell {
        let place = self.columns.iter().position(|name| name == column);
        place.map_or(&Cell::Missing, |place| self.row.cell(place))
    }

    /// Whether the row has a part of what the layout asks for and nothing of another, so that its fields are judged.
    fn is_near(&self, layout: Layout) -> bool {
        let keys = Keys::of(self.columns, self.row);
        // Of a row that lacks nothing but its label, the label is judged.
        let unlabelled = layout == Layout::Unpaired && keys.layout() == Some(Layout::PromptCompletion);
        unlabelled
            || keys.layout().is_none()
                && layout.known_keys().iter().any(|key| keys.has(key) && *key != "tools")
    }

    /// A row in another layout than the file, or in none.
    fn misfit(&mut self, layout: Layout, keys: &Keys<'_>) {
        let (kind, message, hint) = match keys.layout() {
            Some(_) => (
                ProblemKind::UnknownLayout,
                format!(
                    "there is no {}; the row has {}, another layout than the file's",
                    layout.named(),
                    keys.listed()
                ),
                "write all rows in one layout",
            ),
            None => (
                ProblemKind::MissingText,
                format!("there is no {}; the row has {}", layout.named(), keys.listed()),
                "add it or remove the row",
            ),
        };
        self.judge.wrong(kind, layout.field(), message, hint);
    }

    /// A cell as JSON; `None` where it is no list or object, or no JSON, which is then said.
    fn value(&mut self, column: &str) -> Option<Value> {
        let text = match self.cell(column) {
            Cell::List(text) | Cell::Object(text) => text.clone(),
            Cell::Text(text) if text.trim_start().starts_with(['[', '{']) => text.clone(),
            _ => return None,
        };
        match serde_json::from_str(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                let message = format!("not valid JSON: {error}");
                self.judge.wrong(ProblemKind::InvalidJson, column, message, "correct this list");
                None
            }
        }
    }

    /// A cell that has to be a text.
    fn text(&mut self, column: &str) -> Option<String> {
        match self.cell(column) {
            cell if cell.is_blank() => {
                let hint = "fill it in or remove the row";
                self.judge.wrong(ProblemKind::MissingText, column, "the text is missing", hint);
                None
            }
            Cell::Text(text) => Some(text.clone()),
            cell => {
                let message = format!("expected a text, found {}", kind_of_cell(cell));
                self.judge.wrong(ProblemKind::InvalidValue, column, message, "write one text");
                None
            }
        }
    }

    /// A cell that may be empty or absent, and is a text otherwise.
    fn optional(&mut self, column: &str) -> Option<String> {
        if self.cell(column).is_blank() { Some(String::new()) } else { self.text(column) }
    }

    fn list(&mut self, column: &str) -> Option<Vec<Value>> {
        let problems = self.judge.problems.total;
        match self.value(column) {
            Some(Value::Array(list)) => Some(list),
            _ if self.judge.problems.total > problems => None,
            _ => {
                let message =
                    format!("expected a list of messages, found {}", kind_of_cell(self.cell(column)));
                let hint = r#"write a list such as [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]"#;
                self.judge.wrong(ProblemKind::InvalidValue, column, message, hint);
                None
            }
        }
    }

    fn conversation(&mut self, column: &str, naming: Naming, mut before: Vec<Message>) -> Option<Content> {
        let list = self.list(column)?;
        before.extend(self.judge.messages(&list, column, naming));
        self.teaches(&before, list.len(), column);
        Some(Content::Chat(before))
    }

    /// Says what keeps a conversation from teaching anything, unless its messages are wrong to begin with.
    fn teaches(&mut self, messages: &[Message], written: usize, field: &str) {
        if !self.judge.problems.is_empty() {
            return;
        }
        let has_assistant = messages.iter().any(|message| message.role == Role::Assistant);
        let (message, hint) = if written == 0 {
            ("there are no messages", "add messages or remove the row")
        } else if !has_assistant {
            ("there is no assistant turn to learn from", "add the assistant's answer or remove the row")
        } else if !messages.iter().any(|message| message.counts) {
            ("no assistant turn counts: each has the weight 0", "give one the weight 1 or remove the row")
        } else {
            return;
        };
        self.judge.wrong(ProblemKind::Conversation, field, message, hint);
    }

    fn system(&mut self) -> Vec<Message> {
        let text = self.optional("system").unwrap_or_default();
        if text.trim().is_empty() { Vec::new() } else { vec![Message::new(Role::System, text)] }
    }

    fn alpaca(&mut self) -> Option<Content> {
        let mut messages = self.system();
        let (instruction, input, output) =
            (self.text("instruction"), self.optional("input"), self.text("output"));
        let (mut asked, input) = (instruction?, input?);
        if !input.trim().is_empty() {
            asked.push_str("\n\n");
            asked.push_str(&input);
        }
        messages.push(Message::new(Role::User, asked));
        messages.push(Message::new(Role::Assistant, output?));
        Some(Content::Chat(messages))
    }

    /// A cell that is a text or a list of messages; an empty text is one where `empty` lets it be.
    fn said(&mut self, column: &str, empty: bool) -> Option<Said> {
        match self.cell(column) {
            Cell::List(_) => {
                let list = self.list(column)?;
                let messages = self.judge.messages(&list, column, Naming::OpenAi);
                if list.is_empty() {
                    let hint = "add messages or remove the row";
                    self.judge.wrong(ProblemKind::Conversation, column, "there are no messages", hint);
                }
                Some(Said::Messages(messages))
            }
            Cell::Text(text) if empty && text.is_empty() => Some(Said::Text(String::new())),
            _ => self.text(column).map(Said::Text),
        }
    }

    fn completion(&mut self) -> Option<Content> {
        let (prompt, completion) = (self.said("prompt", true), self.said("completion", false));
        match (prompt?, completion?) {
            (Said::Text(prompt), Said::Text(completion)) => Some(Content::Completion { prompt, completion }),
            (Said::Messages(prompt), completion) => {
                let mut messages = silent(prompt);
                let answer = answers(completion);
                self.teaches(&answer, answer.len(), "completion");
                messages.extend(answer);
                Some(Content::Chat(messages))
            }
            (Said::Text(_), Said::Messages(_)) => {
                let message = "the prompt is a text, the completion a list of messages";
                self.judge.wrong(ProblemKind::InvalidValue, "completion", message, "write both the same way");
                None
            }
        }
    }

    fn unpaired(&mut self) -> Option<Content> {
        let desirable = verdict(self.cell(LABEL));
        if desirable.is_none() {
            let hint = "write true for a desirable completion, false for another";
            let (kind, message) = match self.cell(LABEL) {
                cell if cell.is_blank() => (ProblemKind::MissingLabel, "the label is missing".to_owned()),
                cell => {
                    let written = cell.written().unwrap_or_default();
                    let message = format!("expected true or false, found {}", shortened(&written));
                    (ProblemKind::InvalidValue, message)
                }
            };
            self.judge.wrong(kind, LABEL, message, hint);
        }
        let answer = Box::new(self.completion()?);
        Some(Content::Unpaired { answer, desirable: desirable? })
    }

    fn preference(&mut self) -> Option<Content> {
        let has_prompt = !matches!(self.cell("prompt"), Cell::Missing);
        let prompt = if has_prompt { self.said("prompt", false) } else { Some(Said::Messages(Vec::new())) };
        let (chosen, rejected) = (self.said("chosen", false), self.said("rejected", false));
        let prompt = match prompt? {
            Said::Text(text) => vec![Message::new(Role::User, text)],
            Said::Messages(messages) => silent(messages),
        };
        self.pair(prompt, answers(chosen?), answers(rejected?), ["chosen", "rejected"])
    }

    fn openai_preference(&mut self) -> Option<Content> {
        let input = self.value("input");
        let prompt = match input.as_ref().and_then(|input| input.get("messages")) {
            Some(Value::Array(list)) => silent(self.judge.messages(list, "input.messages", Naming::OpenAi)),
            _ => {
                let hint = r#"write {"input": {"messages": [{"role": "user", "content": "…"}]}, …}"#;
                self.judge.wrong(
                    ProblemKind::InvalidValue,
                    "input.messages",
                    "there is no list of messages",
                    hint,
                );
                return None;
            }
        };
        let (chosen, rejected) =
            (self.said("preferred_output", false), self.said("non_preferred_output", false));
        self.pair(prompt, answers(chosen?), answers(rejected?), ["preferred_output", "non_preferred_output"])
    }

    /// Two answers to one prompt. Lists that hold the whole conversation are cut where they part.
    fn pair(
        &mut self,
        mut prompt: Vec<Message>,
        mut chosen: Vec<Message>,
        mut rejected: Vec<Message>,
        fields: [&str; 2],
    ) -> Option<Content> {
        let starts =
            |messages: &[Message]| messages.first().is_some_and(|first| first.role != Role::Assistant);
        if starts(&chosen) && starts(&rejected) {
            let shared = chosen.iter().zip(&rejected).take_while(|(one, other)| one == other).count();
            // The last turn is the answer, even where both give the same one.
            let shared = shared.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1));
            prompt = silent(chosen.drain(..shared).collect());
            rejected.drain(..shared);
        }
        if prompt.is_empty() && self.judge.problems.is_empty() {
            let hint = "add `prompt`, or let both lists begin with the same turns of the user";
            self.judge.wrong(ProblemKind::Conversation, "prompt", "there is nothing that is answered", hint);
        }
        self.teaches(&chosen, chosen.len(), fields[0]);
        self.teaches(&rejected, rejected.len(), fields[1]);
        Some(Content::Preference { prompt, chosen, rejected })
    }

    fn tools(&mut self, column: &str) -> Option<Value> {
        match self.cell(column) {
            cell if cell.is_blank() => None,
            Cell::List(_) | Cell::Object(_) | Cell::Text(_) => {
                let value = self.value(column).unwrap_or(Value::Null);
                self.tools_of(value, column)
            }
            _ => self.tools_of(Value::Null, column),
        }
    }

    fn tools_of(&mut self, tools: Value, field: &str) -> Option<Value> {
        match tools {
            Value::Array(list) if list.iter().all(Value::is_object) => {
                (!list.is_empty()).then_some(Value::Array(list))
            }
            _ => {
                let hint = "write a list of objects that describe one tool each, or leave the key out";
                self.judge.wrong(ProblemKind::InvalidValue, field, "expected a list of tools", hint);
                None
            }
        }
    }
}

/// Messages none of which counts in the loss.
fn silent(mut messages: Vec<Message>) -> Vec<Message> {
    messages.iter_mut().for_each(|message| message.counts = false);
    messages
}

fn answers(said: Said) -> Vec<Message> {
    match said {
        Said::Text(text) => vec![Message::new(Role::Assistant, text)],
        Said::Messages(messages) => messages,
    }
}

fn kind_of_cell(cell: &Cell) -> &'static str {
    match cell {
        Cell::Missing => kind_of(&Value::Null),
        Cell::Text(_) => "a text",
        Cell::Number(_) => "a number",
        Cell::Bool(_) => "true or false",
        Cell::List(_) => "a list",
        Cell::Object(_) => "an object",
    }
}
