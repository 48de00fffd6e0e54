//! Which part of a rendered conversation the assistant says.
//!
//! A template with `{% generation %}` blocks says so itself. Of any other, a turn is what lies between the text up to it, with the
//! prompt for an answer, and the text up to and with it: the words and what ends the turn.
//!
//! Some templates write a turn otherwise once more turns follow (Qwen3 and DeepSeek drop its reasoning), so that neither text is a
//! beginning of the whole. Then the turn's words are replaced by ones that occur nowhere else, and what changes in the whole is the
//! turn's words; the prompt is looked for before them, what ends the turn after them. Where these are not found the conversation
//! is refused: a mask is right or there is none.

use std::ops::Range;

use serde_json::Value;

use super::{Message, Role};
use crate::chat_template::{ChatTemplate, Failure, Rendered};

/// Words in place of a turn's own. Unicode keeps the characters at both ends for use inside a program.
const PLACEHOLDER: &str = "\u{fdd2}answer\u{fdd3}";

/// Why there is no mask.
pub(super) enum Why {
    /// The template refuses a part of the conversation.
    Refused(Failure),
    /// What a turn says cannot be told from the rest.
    Unclear {
        /// The turn; `None` for all.
        message: Option<usize>,
        why: &'static str,
    },
}

/// What the assistant's turns say that count, or those that do not: bytes of the text, in order.
pub(super) fn said(
    template: &ChatTemplate,
    messages: &[Message],
    tools: Option<&Value>,
    whole: &Rendered,
    counts: bool,
) -> Result<Vec<Range<usize>>, Why> {
    let turns = turns(template, messages, tools, whole)?;
    Ok(turns.into_iter().filter(|turn| turn.1 == counts).map(|turn| turn.0).collect())
}

/// All turns of the assistant, with whether they count.
fn turns(
    template: &ChatTemplate,
    messages: &[Message],
    tools: Option<&Value>,
    whole: &Rendered,
) -> Result<Vec<(Range<usize>, bool)>, Why> {
    let spoken = messages.iter().enumerate().filter(|(_, message)| message.role == Role::Assistant);
    if template.marks_assistant() {
        return marked(spoken.map(|(_, message)| message.counts).collect(), &whole.assistant);
    }
    let search = Search { template, messages, tools, whole: &whole.text };
    let mut found: Vec<(Range<usize>, bool)> = Vec::new();
    for (at, message) in spoken {
        let range = search.turn(at)?;
        if found.last().is_some_and(|(before, _)| before.end > range.start) {
            return Err(unclear(at, "it writes two turns of the assistant into each other"));
        }
        found.push((range, message.counts));
    }
    Ok(found)
}

/// The blocks of a template that marks them.
fn marked(counts: Vec<bool>, blocks: &[Range<usize>]) -> Result<Vec<(Range<usize>, bool)>, Why> {
    let all = |why| Err(Why::Unclear { message: None, why });
    if blocks.is_empty() && !counts.is_empty() {
        return all("its {% generation %} blocks wrote nothing");
    }
    if blocks.len() == counts.len() {
        return Ok(blocks.iter().cloned().zip(counts).collect());
    }
    match counts.first() {
        Some(first) if counts.iter().all(|count| count == first) => {
            Ok(blocks.iter().map(|block| (block.clone(), *first)).collect())
        }
        _ => all(
            "it writes another number of {% generation %} blocks than the assistant has turns, so that weights have no turn",
        ),
    }
}

fn unclear(at: usize, why: &'static str) -> Why {
    Why::Unclear { message: Some(at), why }
}

struct Search<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Message],
    tools: Option<&'a Value>,
    whole: &'a str,
}

impl Search<'_> {
    fn render(&self, messages: &[Message], prompt: bool) -> Option<String> {
        self.template.attempt(messages, self.tools, prompt).ok().map(|rendered| rendered.text)
    }

    fn turn(&self, at: usize) -> Result<Range<usize>, Why> {
        let before = self.render(&self.messages[..at], true);
        let through = match self.template.attempt(&self.messages[..=at], self.tools, false) {
            Ok(rendered) => rendered.text,
            Err(mut failure) => {
                failure.message = Some(at);
                return Err(Why::Refused(failure));
            }
        };
        match before {
            Some(before) if self.whole.starts_with(&through) && through.starts_with(&before) => {
                Ok(before.len()..through.len())
            }
            before => self.by_placeholder(at, before.as_deref(), &through),
        }
    }

    fn by_placeholder(&self, at: usize, before: Option<&str>, through: &str) -> Result<Range<usize>, Why> {
        let lost = || unclear(at, "it does not write what the assistant says there");
        if self.whole.contains(['\u{fdd2}', '\u{fdd3}']) {
            return Err(unclear(at, "the text holds U+FDD2 or U+FDD3, which no text may hold"));
        }
        let mut changed = self.messages.to_vec();
        changed[at].content = Some(PLACEHOLDER.to_owned());
        let all = self.render(&changed, false).filter(|text| text.contains(PLACEHOLDER)).ok_or_else(lost)?;
        let part =
            self.render(&changed[..=at], false).filter(|text| text.contains(PLACEHOLDER)).ok_or_else(lost)?;
        let words = difference(self.whole, &all);
        let start = self.start(at, before, words.start).ok_or_else(|| {
            unclear(
                at,
                "it writes earlier turns otherwise once more turns follow, and where this one begins is lost",
            )
        })?;
        let ending = &through[difference(through, &part).end..];
        let end = shared_ending(&self.whole[words.end..], ending)
            .ok_or_else(|| unclear(at, "it ends the turn otherwise once more turns follow"))?;
        Ok(start..words.end + end)
    }

    /// Where the turn begins: after the prompt for an answer, or as much of it as the turn has.
    fn start(&self, at: usize, before: Option<&str>, words: usize) -> Option<usize> {
        if let Some(before) = before {
            if self.whole.starts_with(before) {
                return (before.len() <= words).then_some(before.len());
            }
            let so_far = self.render(&self.messages[..at], false).filter(|text| self.whole.starts_with(text));
            if let Some(so_far) = so_far {
                let shared = common_start(before, self.whole);
                return (shared > so_far.len()).then(|| shared.min(words));
            }
        }
        let open = self.render(self.messages, true)?;
        let prompt = open.strip_prefix(self.whole).filter(|prompt| !prompt.trim().is_empty())?;
        self.whole[..words].rfind(prompt).map(|place| place + prompt.len())
    }
}

/// How much of a turn's ending stands at the beginning of `rest`: all of it, or up to the end of a mark or line. A template may
/// end the last turn with more than the others.
fn shared_ending(rest: &str, ending: &str) -> Option<usize> {
    if rest.starts_with(ending) {
        return Some(ending.len());
    }
    let shared = &rest[..common_start(rest, ending)];
    shared.rfind(['>', ']', '\n']).map(|last| last + 1)
}

/// What a text has in place of something that occurs in the other one alone.
fn difference(text: &str, other: &str) -> Range<usize> {
    let start = common_start(text, other);
    start..(text.len() - common_end(text, other)).max(start)
}

/// How many bytes two texts begin with alike.
fn common_start(one: &str, other: &str) -> usize {
    let same = one.chars().zip(other.chars()).take_while(|(one, other)| one == other);
    same.map(|(character, _)| character.len_utf8()).sum()
}

/// How many bytes two texts end with alike.
fn common_end(one: &str, other: &str) -> usize {
    let same = one.chars().rev().zip(other.chars().rev()).take_while(|(one, other)| one == other);
    same.map(|(character, _)| character.len_utf8()).sum()
}
