//! A conversation through a template, and what is said when that fails.

use std::error::Error as _;
use std::ops::Range;

use chrono::Local;
use minijinja::{Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use super::environment::{MARKS, NAME, Raised, strftime};
use super::{ChatTemplate, Place, Rendered, budget};
use crate::chat::Message;
use crate::problem::Problem;

/// Steps for any conversation, and for each message of it. A usual template takes some hundred for a message.
const FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 10_000;
/// Names that reasoning is passed under; the first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Why a conversation could not be rendered.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    place: Place,
    line: Option<usize>,
    said: String,
    /// The first message with which it fails.
    pub(crate) message: Option<usize>,
}

impl Failure {
    /// What the template says, with its place.
    pub(crate) fn text(&self) -> String {
        let line = self.line.map(|line| format!(", line {line}")).unwrap_or_default();
        format!("the chat template ({}{line}) refuses it: {}", self.place.file, self.said)
    }

    fn problem(self) -> Problem {
        let at = self.message.map(|at| format!(" at messages[{at}]")).unwrap_or_default();
        self.place
            .problem(self.line, format!("the chat template refuses the conversation{at}: {}", self.said))
            .hint("change the conversation, or choose another template")
    }
}

impl ChatTemplate {
    /// Renders a conversation; `tools` is the list of the tools' descriptions.
    ///
    /// # Errors
    /// [`ProblemKind::ChatTemplate`](crate::ProblemKind::ChatTemplate), where the template refuses the conversation, with what
    /// it says by `raise_exception`, or does more than any honest one.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        prompt: bool,
    ) -> Result<Rendered, Problem> {
        self.explained(messages, tools, prompt).map_err(Failure::problem)
    }

    /// The same, with the message at which it fails.
    pub(crate) fn explained(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        prompt: bool,
    ) -> Result<Rendered, Failure> {
        self.attempt(messages, tools, prompt).map_err(|mut failure| {
            let fails_at = (1..=messages.len()).find(|count| {
                let fewer = self.attempt(&messages[..*count], tools, prompt);
                fewer.is_err_and(|other| other.said == failure.said)
            });
            failure.message = fails_at.map(|count| count - 1);
            failure
        })
    }

    pub(crate) fn attempt(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        prompt: bool,
    ) -> Result<Rendered, Failure> {
        let messages: Vec<Json> = messages.iter().map(|message| Json::Object(written(message))).collect();
        let now = self.now.unwrap_or_else(|| Local::now().naive_local());
        let size = self.source.len() + size_of_json(&messages) + tools.map_or(0, size_of_json);
        if self.marks_assistant && holds_marks(&messages) {
            let said = format!(
                "a message holds the character U+{:04X}, which no text may hold",
                u32::from(MARKS[0])
            );
            return Err(Failure { place: self.place.clone(), line: None, said, message: None });
        }
        let mut context: Map<String, Json> = Map::new();
        for (name, token) in &self.tokens {
            context.insert(name.clone(), Json::from(token.as_str()));
        }
        let fuel = FUEL + FUEL_PER_MESSAGE * messages.len() as u64;
        context.insert("messages".to_owned(), Json::Array(messages));
        context.insert("tools".to_owned(), tools.cloned().unwrap_or_default());
        context.insert("documents".to_owned(), Json::Null);
        context.insert("add_generation_prompt".to_owned(), Json::Bool(prompt));
        let clock = minijinja::context! { strftime_now => strftime(now) };
        let context = minijinja::value::merge_maps([Value::from_serialize(context), clock]);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        budget::begin(size);
        let text = environment.get_template(NAME).and_then(|template| template.render(context));
        text.map(unmark).map_err(|error| Failure {
            place: self.place.clone(),
            line: innermost(&error).line(),
            said: said(&error),
            message: None,
        })
    }
}

/// A message as the template sees it: without keys that are null, and with the names that reasoning goes by.
fn written(message: &Message) -> Map<String, Json> {
    let mut out = Map::new();
    let reasoning =
        REASONING.iter().find_map(|name| message.rest.get(*name).filter(|value| !value.is_null()));
    if let Some(reasoning) = reasoning {
        out.insert("thinking".to_owned(), reasoning.clone());
    }
    out.insert("role".to_owned(), Json::from(message.role.as_str()));
    if let Some(content) = &message.content {
        out.insert("content".to_owned(), Json::from(content.as_str()));
    }
    let kept = message.rest.iter().filter(|(_, value)| !value.is_null());
    out.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    if let Some(reasoning) = reasoning {
        out.insert("reasoning_content".to_owned(), reasoning.clone());
    }
    out
}

fn size_of_json(value: &(impl serde::Serialize + ?Sized)) -> usize {
    serde_json::to_string(value).map_or(0, |text| text.len())
}

fn holds_marks(messages: &[Json]) -> bool {
    serde_json::to_string(messages).is_ok_and(|text| text.contains(MARKS))
}

/// Takes the marks out of a text and says what stood between them.
fn unmark(marked: String) -> Rendered {
    let mut text = String::with_capacity(marked.len());
    let mut assistant: Vec<Range<usize>> = Vec::new();
    let mut open = 0;
    for part in marked.split_inclusive(MARKS) {
        text.push_str(part.trim_end_matches(MARKS));
        match part.chars().next_back() {
            Some(mark) if mark == MARKS[0] => open = text.len(),
            Some(mark) if mark == MARKS[1] => assistant.push(open..text.len()),
            _ => {}
        }
    }
    Rendered { text, assistant }
}

/// The error that minijinja's own wrap.
fn innermost(error: &Error) -> &Error {
    let inner = error.source().and_then(|source| source.downcast_ref::<Error>());
    inner.map_or(error, innermost)
}

/// An error in words: what `raise_exception` was given, else minijinja's own.
pub(super) fn said(error: &Error) -> String {
    let error = innermost(error);
    if let Some(raised) = error.source().and_then(|source| source.downcast_ref::<Raised>()) {
        return raised.0.clone();
    }
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, None) => "it takes far more steps than any conversation needs".to_owned(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    }
}
