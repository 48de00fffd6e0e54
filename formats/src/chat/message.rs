//! A list of messages, each key judged by its place: `messages[1].role`.

use serde_json::{Map, Value};

use super::{Message, Role};
use crate::problem::{LineRange, Problem, ProblemKind, Problems};

/// What is wrong with one row, gathered.
pub(super) struct Judge<'a> {
    pub(super) file: &'a str,
    pub(super) lines: LineRange,
    pub(super) problems: Problems,
}

/// Which keys say who speaks and what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// `role` and `content`.
    OpenAi,
    /// `from` and `value`; a message may use OpenAI's names all the same.
    ShareGpt,
}

const ROLES: [Role; 5] = [Role::System, Role::Developer, Role::User, Role::Assistant, Role::Tool];

impl Judge<'_> {
    pub(super) fn wrong(&mut self, kind: ProblemKind, field: &str, message: impl Into<String>, hint: &str) {
        let problem = Problem::new(kind, self.file, message);
        self.problems.push(problem.at(self.lines).in_column(field).hint(hint));
    }

    /// The messages of a list, as far as they can be used.
    pub(super) fn messages(&mut self, list: &[Value], field: &str, naming: Naming) -> Vec<Message> {
        let mut messages = Vec::with_capacity(list.len());
        for (at, written) in list.iter().enumerate() {
            let place = format!("{field}[{at}]");
            match written {
                Value::Object(keys) => messages.extend(self.message(keys, &place, naming)),
                other => self.wrong(
                    ProblemKind::InvalidValue,
                    &place,
                    format!("expected a message, found {}", kind_of(other)),
                    "write an object with `role` and `content`",
                ),
            }
        }
        messages
    }

    fn message(&mut self, keys: &Map<String, Value>, place: &str, naming: Naming) -> Option<Message> {
        let share = naming == Naming::ShareGpt && !keys.contains_key("role");
        let (role_key, content_key) = if share { ("from", "value") } else { ("role", "content") };
        let role = self.role(keys.get(role_key), &format!("{place}.{role_key}"), share);
        let mut rest = keys.clone();
        for key in [role_key, content_key, "weight"] {
            rest.remove(key);
        }
        let calls = self.tool_calls(&mut rest, place);
        let may_be_silent = role == Some(Role::Assistant) && calls;
        let content = self.content(keys.get(content_key), &format!("{place}.{content_key}"), may_be_silent);
        let counts = self.weight(keys.get("weight"), &format!("{place}.weight"), role);
        Some(Message { role: role?, content: content?, counts: counts?, rest })
    }

    fn role(&mut self, written: Option<&Value>, field: &str, share: bool) -> Option<Role> {
        let hint = if share {
            "write human or user, gpt or assistant, system, or tool"
        } else {
            "write system, developer, user, assistant or tool"
        };
        let Some(name) = written.filter(|value| !value.is_null()) else {
            self.wrong(ProblemKind::InvalidValue, field, "who speaks is missing", hint);
            return None;
        };
        let known = name.as_str().and_then(|name| match name {
            "human" if share => Some(Role::User),
            "gpt" if share => Some(Role::Assistant),
            name => ROLES.into_iter().find(|role| role.as_str() == name),
        });
        if known.is_none() {
            let message = match name.as_str() {
                Some(name) => format!("there is no role `{}`", shortened(name)),
                None => format!("expected a role, found {}", kind_of(name)),
            };
            self.wrong(ProblemKind::InvalidValue, field, message, hint);
        }
        known
    }

    /// The text; `Some(None)` for a turn that may do without.
    fn content(
        &mut self,
        written: Option<&Value>,
        field: &str,
        may_be_silent: bool,
    ) -> Option<Option<String>> {
        match written {
            Some(Value::String(text)) => self.clean(text, field).then(|| Some(text.clone())),
            Some(Value::Array(parts)) => {
                let texts: Vec<Option<&str>> = parts
                    .iter()
                    .enumerate()
                    .map(|(at, part)| self.part(part, &format!("{field}[{at}]")))
                    .collect();
                texts.into_iter().collect::<Option<String>>().map(Some)
            }
            None | Some(Value::Null) if may_be_silent => Some(None),
            None => {
                self.wrong(
                    ProblemKind::MissingText,
                    field,
                    "the text is missing",
                    "fill it in or remove the row",
                );
                None
            }
            Some(Value::Null) => {
                let hint = "write a text; null stands for one only where the assistant has `tool_calls`";
                self.wrong(ProblemKind::MissingText, field, "the text is null", hint);
                None
            }
            Some(other) => {
                let message = format!("expected a text, found {}", kind_of(other));
                self.wrong(ProblemKind::InvalidValue, field, message, "write the text in quotation marks");
                None
            }
        }
    }

    fn part<'v>(&mut self, part: &'v Value, field: &str) -> Option<&'v str> {
        let text = part.get("text").and_then(Value::as_str);
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
        match text.filter(|_| kind == "text") {
            Some(text) => self.clean(text, field).then_some(text),
            None => {
                let message = format!("expected a part of type `text`, found `{}`", shortened(kind));
                let hint =
                    "language models learn from text alone: write {\"type\": \"text\", \"text\": \"…\"}";
                self.wrong(ProblemKind::InvalidValue, field, message, hint);
                None
            }
        }
    }

    pub(super) fn clean(&mut self, text: &str, field: &str) -> bool {
        let clean = !text.contains('\0');
        if !clean {
            let message = "the text holds the character U+0000, which no tokenizer or database keeps";
            self.wrong(ProblemKind::InvalidValue, field, message, "remove it");
        }
        clean
    }

    fn weight(&mut self, written: Option<&Value>, field: &str, role: Option<Role>) -> Option<bool> {
        let is_assistant = role == Some(Role::Assistant);
        match written.filter(|value| !value.is_null()) {
            None => Some(is_assistant),
            Some(weight) if is_assistant && weight.as_f64() == Some(0.0) => Some(false),
            Some(weight) if is_assistant && weight.as_f64() == Some(1.0) => Some(true),
            // Without a role it is already a problem.
            Some(_) if role.is_none() => None,
            Some(_) => {
                let message = if is_assistant {
                    "expected the weight 0 or 1"
                } else {
                    "only the assistant's turns have a weight"
                };
                self.wrong(
                    ProblemKind::InvalidValue,
                    field,
                    message,
                    "write 0 or 1 on turns of the assistant, or leave it out",
                );
                None
            }
        }
    }

    /// Whether tools are called. Arguments that are JSON in a text become what the text says.
    fn tool_calls(&mut self, rest: &mut Map<String, Value>, place: &str) -> bool {
        let Some(calls) = rest.get_mut("tool_calls").filter(|calls| !calls.is_null()) else { return false };
        let hint = "write a list of objects such as {\"type\": \"function\", \"function\": {\"name\": \"…\", \"arguments\": {}}}";
        let Some(calls) = calls.as_array_mut() else {
            let message = format!("expected a list of calls, found {}", kind_of(calls));
            self.wrong(ProblemKind::InvalidValue, &format!("{place}.tool_calls"), message, hint);
            return true;
        };
        for (at, call) in calls.iter_mut().enumerate() {
            let function = match call.get("function") {
                Some(_) => &mut call["function"],
                None => call,
            };
            if function.get("name").and_then(Value::as_str).is_none() {
                let field = format!("{place}.tool_calls[{at}]");
                self.wrong(ProblemKind::InvalidValue, &field, "the call has no name of a function", hint);
                continue;
            }
            let said = function.get("arguments").and_then(Value::as_str).map(serde_json::from_str::<Value>);
            if let Some(Ok(arguments @ Value::Object(_))) = said {
                function["arguments"] = arguments;
            }
        }
        !calls.is_empty()
    }
}

/// What a value is, in words.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
