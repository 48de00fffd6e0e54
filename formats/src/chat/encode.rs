//! Rows as tokens, and which of the tokens count in the loss.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::spans::{self, Why};
use super::{Content, Example, Message, Role};
use crate::chat_template::{ChatTemplate, Failure, Rendered};
use crate::problem::{LineRange, Problem, ProblemKind};
use crate::tokenizer::{Tokenizer, Tokens};

/// Lines of left-out rows that are named.
const NAMED: usize = 10;

/// What is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// What the assistant says, and what ends its turns; the completion of a prompt; a plain text as a whole.
    #[default]
    Assistant,
    /// Every token but those of turns with the weight 0.
    All,
}

/// A row as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each token is a target: predicted from those before it, and counted in the loss. The first never is.
    pub counts: Vec<bool>,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

impl Encoded {
    /// How many tokens are targets.
    pub fn targets(&self) -> usize {
        self.counts.iter().filter(|counts| **counts).count()
    }
}

/// A preference as tokens: each answer after the same prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPair {
    /// With the better answer.
    pub chosen: Encoded,
    /// With the worse one.
    pub rejected: Encoded,
}

/// An answer as tokens, uncut, so that another row's prompt can be put before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedAnswer {
    /// Token ids of prompt and answer.
    ids: Vec<u32>,
    /// Whether each token is a target, the first as well.
    counts: Vec<bool>,
    /// Where the answer begins.
    start: usize,
    /// Whether it is to become likelier.
    pub desirable: bool,
}

impl EncodedAnswer {
    fn new((ids, counts): Marked, desirable: bool) -> Self {
        let start = counts.iter().position(|counts| *counts).unwrap_or(ids.len());
        Self { ids, counts, start, desirable }
    }

    /// Prompt and answer, cut to so many tokens.
    pub fn cut(&self, max_length: usize) -> Encoded {
        cut(self.ids.clone(), self.counts.clone(), max_length)
    }

    /// Its prompt with another's answer, cut to so many tokens.
    pub fn answered_by(&self, other: &Self, max_length: usize) -> Encoded {
        let ids = [&self.ids[..self.start], &other.ids[other.start..]].concat();
        cut(ids, [&self.counts[..self.start], &other.counts[other.start..]].concat(), max_length)
    }
}

/// A conversation as a template writes it.
pub(super) struct Written {
    pub(super) text: String,
    pub(super) tokens: Tokens,
    pub(super) counts: Vec<bool>,
}

/// Token ids, and whether each is a target.
pub(super) type Marked = (Vec<u32>, Vec<bool>);

/// Rows as tokens, those without a target left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedRows<T = Encoded> {
    /// The rows that have a target.
    pub rows: Vec<T>,
    /// Their numbers in the file.
    pub numbers: Vec<u64>,
    /// How many rows have no target within the length, and are left out.
    pub left_out: u64,
    /// The lines of the first of them.
    pub left_out_lines: Vec<LineRange>,
    /// How many of the rows kept were cut.
    pub truncated: u64,
}

impl<T> EncodedRows<T> {
    /// What is worth telling: rows left out, rows cut.
    pub fn notices(&self, max_length: usize) -> Vec<String> {
        let all = self.rows.len() as u64 + self.left_out;
        let lines: Vec<String> = self.left_out_lines.iter().map(LineRange::to_string).collect();
        let more = if self.left_out > lines.len() as u64 { ", …" } else { "" };
        let left_out = (self.left_out > 0).then(|| {
            format!(
                "{} of {all} rows have nothing to learn within {max_length} tokens and are left out ({}{more})",
                self.left_out,
                lines.join(", ")
            )
        });
        let cut = (self.truncated > 0)
            .then(|| format!("{} of {all} rows are cut to {max_length} tokens", self.truncated));
        left_out.into_iter().chain(cut).collect()
    }
}

/// Makes tokens of rows.
///
/// - A conversation is rendered once, and the text is encoded without adding special tokens: the template writes them, and a
///   second mark at the beginning is a mistake that models do not forgive.
/// - Prompt and completion are encoded apart, so that no token stands across the border, after what the tokenizer puts before a
///   text; the end mark follows the completion.
/// - A plain text follows what the tokenizer puts before a text, and the end mark follows it.
/// - What is longer than `max_length` is cut at the end.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    /// The checkpoint's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How conversations are written; `None` where the checkpoint has no template and none was chosen.
    pub template: Option<&'a ChatTemplate>,
    /// The most tokens of a row.
    pub max_length: usize,
    /// Which tokens count.
    pub loss: Loss,
    /// The data's name as its owner knows it, for problems.
    pub file: &'a str,
}

impl Encoder<'_> {
    /// Encodes one row; it may come out without a target.
    ///
    /// # Errors
    /// [`ProblemKind::ChatTemplate`] where there is no template, or it refuses the conversation, or what the assistant says cannot
    /// be told from its text; [`ProblemKind::InvalidValue`] for a preference, which is two rows.
    pub fn encode(&self, example: &Example) -> Result<Encoded, Problem> {
        let wrong = |message: &str, hint: &str| {
            Err(Problem::new(ProblemKind::InvalidValue, self.file, message).at(example.lines).hint(hint))
        };
        match &example.content {
            Content::Preference { .. } => wrong(
                "a preference is two answers, here one is learnt",
                "train on preferences with a method for them, such as dpo",
            ),
            Content::Unpaired { .. } => wrong(
                "the answer has a `label` that says whether it is desirable, here all answers are learnt",
                "train on such rows with the method kto, or leave out the undesirable ones and `label`",
            ),
            content => self.marked(example, content).map(|row| self.cut(row)),
        }
    }

    /// The tokens of one answer, uncut, and which of them count.
    pub(super) fn marked(&self, example: &Example, content: &Content) -> Result<Marked, Problem> {
        match content {
            Content::Chat(messages) => self.chat(example, messages),
            Content::Completion { prompt, completion } => self.completion(prompt, completion),
            Content::Text(text) => self.completion("", text),
            Content::Unpaired { answer, .. } => self.marked(example, answer),
            Content::Preference { prompt, chosen, .. } => {
                self.chat(example, &[prompt.as_slice(), chosen].concat())
            }
        }
    }

    /// Encodes one preference.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; [`ProblemKind::InvalidValue`] for any other row.
    pub fn encode_pair(&self, example: &Example) -> Result<EncodedPair, Problem> {
        let Content::Preference { prompt, chosen, rejected } = &example.content else {
            let message = "expected a prompt with a better and a worse answer";
            return Err(Problem::new(ProblemKind::InvalidValue, self.file, message)
                .at(example.lines)
                .hint("write `prompt`, `chosen` and `rejected`"));
        };
        let encode = |answer: &[Message]| {
            self.chat(example, &[prompt.as_slice(), answer].concat()).map(|row| self.cut(row))
        };
        Ok(EncodedPair { chosen: encode(chosen)?, rejected: encode(rejected)? })
    }

    /// Encodes the answers of a row, each of which is desirable or not: one, or the two of a preference, the better first.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; [`ProblemKind::InvalidValue`] for any other row.
    pub fn encode_answers(&self, example: &Example) -> Result<Vec<EncodedAnswer>, Problem> {
        match &example.content {
            Content::Unpaired { desirable, .. } => {
                Ok(vec![EncodedAnswer::new(self.marked(example, &example.content)?, *desirable)])
            }
            Content::Preference { prompt, chosen, rejected } => {
                let encode = |answer: &[Message], desirable| {
                    let whole = self.chat(example, &[prompt.as_slice(), answer].concat())?;
                    Ok(EncodedAnswer::new(whole, desirable))
                };
                Ok(vec![encode(chosen, true)?, encode(rejected, false)?])
            }
            _ => {
                let message = "expected an answer that is desirable or not";
                Err(Problem::new(ProblemKind::InvalidValue, self.file, message)
                    .at(example.lines)
                    .hint("write `prompt`, `completion` and `label`, which is true or false"))
            }
        }
    }

    /// Encodes rows, leaving out those without a target.
    ///
    /// # Errors
    /// The first problem of a row; [`ProblemKind::Conversation`] where no row has a target.
    pub fn encode_rows(&self, examples: &[Example]) -> Result<EncodedRows, Problem> {
        let one = |example: &Example| self.encode(example).map(|row| vec![row]);
        self.each(examples, one, |row| (row.targets() > 0, row.truncated))
    }

    /// Encodes preferences, leaving out those of which either answer has no target.
    ///
    /// # Errors
    /// As [`Encoder::encode_rows`].
    pub fn encode_pairs(&self, examples: &[Example]) -> Result<EncodedRows<EncodedPair>, Problem> {
        self.each(
            examples,
            |example| self.encode_pair(example).map(|pair| vec![pair]),
            |pair| {
                let EncodedPair { chosen, rejected } = pair;
                (chosen.targets() > 0 && rejected.targets() > 0, chosen.truncated || rejected.truncated)
            },
        )
    }

    /// Encodes answers that are desirable or not, leaving out those without a target within the length. A preference becomes two
    /// of them, which have its number.
    ///
    /// # Errors
    /// As [`Encoder::encode_rows`].
    pub fn encode_unpaired(&self, examples: &[Example]) -> Result<EncodedRows<EncodedAnswer>, Problem> {
        self.each(
            examples,
            |example| self.encode_answers(example),
            |answer| {
                let cut = answer.cut(self.max_length);
                (cut.targets() > 0, cut.truncated)
            },
        )
    }

    fn each<T>(
        &self,
        examples: &[Example],
        encode: impl Fn(&Example) -> Result<Vec<T>, Problem>,
        look: impl Fn(&T) -> (bool, bool),
    ) -> Result<EncodedRows<T>, Problem> {
        let mut out = EncodedRows {
            rows: Vec::with_capacity(examples.len()),
            numbers: Vec::with_capacity(examples.len()),
            left_out: 0,
            left_out_lines: Vec::new(),
            truncated: 0,
        };
        for example in examples {
            for row in encode(example)? {
                let (has_target, truncated) = look(&row);
                if has_target {
                    out.rows.push(row);
                    out.numbers.push(example.row);
                    out.truncated += u64::from(truncated);
                } else {
                    out.left_out += 1;
                    if out.left_out_lines.len() < NAMED && out.left_out_lines.last() != Some(&example.lines) {
                        out.left_out_lines.push(example.lines);
                    }
                }
            }
        }
        if out.rows.is_empty() {
            let message = format!("no row has anything to learn within {} tokens", self.max_length);
            return Err(Problem::new(ProblemKind::Conversation, self.file, message)
                .hint("choose a greater max_length, or shorten the prompts"));
        }
        Ok(out)
    }

    /// The tokens that a model is given to answer a conversation.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn prompt(&self, messages: &[Message], tools: Option<&Value>) -> Result<Vec<u32>, Problem> {
        let rendered = self.template(None)?.render(messages, tools, true)?;
        Ok(self.tokenizer.encode_plain(&rendered.text)?.ids)
    }

    fn template(&self, lines: Option<LineRange>) -> Result<&ChatTemplate, Problem> {
        self.template.ok_or_else(|| {
            let message =
                "the rows are conversations, and the checkpoint has no chat template to write them with";
            let problem = Problem::new(ProblemKind::ChatTemplate, self.file, message)
                .hint("choose a template by name, or use prompt and completion");
            match lines {
                Some(lines) => problem.at(lines),
                None => problem,
            }
        })
    }

    fn chat(&self, example: &Example, messages: &[Message]) -> Result<Marked, Problem> {
        let Written { tokens, counts, .. } = self.written(example, messages)?;
        Ok((tokens.ids, counts))
    }

    /// A conversation as text and tokens, uncut, with those that count.
    pub(super) fn written(&self, example: &Example, messages: &[Message]) -> Result<Written, Problem> {
        let template = self.template(Some(example.lines))?;
        let tools = example.tools.as_ref();
        let whole =
            template.explained(messages, tools, false).map_err(|failure| self.refused(example, &failure))?;
        let tokens = self.tokenizer.encode_plain(&whole.text)?;
        let counts = self.mask(template, messages, tools, &whole, &tokens).map_err(|why| match why {
            Why::Refused(failure) => self.refused(example, &failure),
            Why::Unclear { message, why } => self.unclear(example, message, why),
        })?;
        Ok(Written { text: whole.text, tokens, counts })
    }

    /// Which tokens of a conversation count.
    fn mask(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        tools: Option<&Value>,
        whole: &Rendered,
        tokens: &Tokens,
    ) -> Result<Vec<bool>, Why> {
        let said = |counts| spans::said(template, messages, tools, whole, counts);
        let is_silent = |message: &Message| message.role == Role::Assistant && !message.counts;
        match self.loss {
            Loss::Assistant => Ok(overlaps(tokens, &said(true)?)),
            Loss::All if messages.iter().any(is_silent) => {
                Ok(overlaps(tokens, &said(false)?).into_iter().map(|silent| !silent).collect())
            }
            Loss::All => Ok(vec![true; tokens.ids.len()]),
        }
    }

    fn refused(&self, example: &Example, failure: &Failure) -> Problem {
        let problem = Problem::new(ProblemKind::ChatTemplate, self.file, failure.text())
            .at(example.lines)
            .hint("change the conversation, or choose another template");
        match failure.message {
            Some(at) => problem.in_column(format!("messages[{at}]")),
            None => problem,
        }
    }

    fn unclear(&self, example: &Example, message: Option<usize>, why: &str) -> Problem {
        let what = format!(
            "what the assistant says cannot be told from the text that the chat template writes: {why}"
        );
        let problem = Problem::new(ProblemKind::ChatTemplate, self.file, what)
            .at(example.lines)
            .hint("use a template with {% generation %} blocks, or let all tokens count");
        match message {
            Some(at) => problem.in_column(format!("messages[{at}]")),
            None => problem,
        }
    }

    fn completion(&self, prompt: &str, completion: &str) -> Result<Marked, Problem> {
        let mut ids = self.tokenizer.leading_ids().to_vec();
        if !prompt.is_empty() {
            ids.extend(self.tokenizer.encode_plain(prompt)?.ids);
        }
        let first = if self.loss == Loss::All { 0 } else { ids.len() };
        ids.extend(self.tokenizer.encode_plain(completion)?.ids);
        // The text may bring its own end mark.
        let end = self.tokenizer.eos_id().filter(|end| ids.last() != Some(end));
        ids.extend(end);
        let counts = (0..ids.len()).map(|at| at >= first).collect();
        Ok((ids, counts))
    }

    fn cut(&self, (ids, counts): Marked) -> Encoded {
        cut(ids, counts, self.max_length)
    }
}

/// Nothing foretells the first token, so that it never counts.
fn cut(mut ids: Vec<u32>, mut counts: Vec<bool>, max_length: usize) -> Encoded {
    let truncated = ids.len() > max_length;
    ids.truncate(max_length);
    counts.truncate(max_length);
    if let Some(first) = counts.first_mut() {
        *first = false;
    }
    Encoded { ids, counts, truncated }
}

/// Which tokens lie in one of the ranges, if only in part (as transformers has it).
fn overlaps(tokens: &Tokens, ranges: &[Range<usize>]) -> Vec<bool> {
    let mut ranges = ranges.iter().peekable();
    let mut before = 0;
    let mut within = Vec::with_capacity(tokens.offsets.len());
    for offsets in &tokens.offsets {
        // A token of blanks may be said to be nowhere; it lies behind the token before it.
        let start = if offsets.is_empty() { before.min(offsets.end) } else { offsets.start };
        while ranges.next_if(|range| range.end <= start).is_some() {}
        within.push(ranges.peek().is_some_and(|range| range.start < offsets.end && start < range.end));
        before = offsets.end;
    }
    within
}
