//! The template that writes a conversation as the text a model was made for.
//!
//! It is Jinja, and comes with the checkpoint: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`. It is
//! rendered as transformers' `apply_chat_template` renders it, byte for byte, by minijinja with Python's methods and Python's way
//! of writing values. Where the two languages are apart: tuples are lists, so that a printed one has brackets.
//!
//! A template is somebody else's program. It sees the conversation and nothing else, and its steps, its depth and what it writes
//! are bounded.

mod budget;
mod environment;
mod load;
mod methods;
mod named;
mod prepare;
mod python;
mod render;
mod tag;

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::NaiveDateTime;
use minijinja::Environment;

pub use named::{NamedTemplate, named_templates};
pub(crate) use render::Failure;

use crate::problem::{LineRange, Problem, ProblemKind};

/// Names of special tokens, such as `bos_token`, and the tokens: what a template knows of the tokenizer.
pub type SpecialTokens = BTreeMap<String, String>;

/// A chat template, ready to render.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    place: Place,
    tokens: SpecialTokens,
    marks_assistant: bool,
    now: Option<NaiveDateTime>,
}

/// Where a template comes from.
#[derive(Clone, Debug)]
struct Place {
    file: String,
    /// Whether lines of the template are lines of the file.
    is_whole_file: bool,
}

/// A conversation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The bytes of it that the template's `{% generation %}` blocks wrote.
    pub assistant: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Compiles a template. `file` is its name in problems.
    ///
    /// # Errors
    /// [`ProblemKind::ChatTemplate`], with the line, where it is no Jinja that can be rendered here.
    pub fn new(source: &str, file: &str, tokens: SpecialTokens) -> Result<Self, Problem> {
        Self::at_place(source, Place { file: file.to_owned(), is_whole_file: true }, tokens)
    }

    fn at_place(source: &str, place: Place, tokens: SpecialTokens) -> Result<Self, Problem> {
        let wrong = |line: Option<usize>, why: &str| {
            place
                .problem(line, format!("the chat template cannot be used: {why}"))
                .hint("upload the template that the checkpoint was published with, or choose one by name")
        };
        let prepared = prepare::prepare(source).map_err(|why| wrong(None, &why))?;
        let environment = environment::environment(prepared.source)
            .map_err(|error| wrong(error.line(), &render::said(&error)))?;
        let marks_assistant = prepared.marks_assistant;
        Ok(Self { environment, source: source.to_owned(), place, tokens, marks_assistant, now: None })
    }

    /// Sets the time that `strftime_now` tells; without it, it is the time of each rendering.
    ///
    /// A job gives the time of its creation, so that it renders the same text when it goes on after a stop.
    pub fn at(mut self, now: NaiveDateTime) -> Self {
        self.now = Some(now);
        self
    }

    /// The template as its owner wrote it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template says itself, by `{% generation %}`, what the assistant writes.
    pub fn marks_assistant(&self) -> bool {
        self.marks_assistant
    }
}

impl Place {
    fn problem(&self, line: Option<usize>, mut message: String) -> Problem {
        let line = line.map(|line| line as u64);
        if let Some(line) = line.filter(|_| !self.is_whole_file) {
            message = format!("{message} (line {line} of the template)");
        }
        let problem = Problem::new(ProblemKind::ChatTemplate, &self.file, message);
        match line {
            Some(line) if self.is_whole_file => problem.at(LineRange::one(line)),
            _ => problem,
        }
    }
}
