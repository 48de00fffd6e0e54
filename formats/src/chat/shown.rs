//! Rows as their tokens, for a person to see what is learnt of them.

use std::collections::HashMap;

use super::encode::Written;
use super::{Content, Encoder, Example, Message, Role};
use crate::problem::Problem;
use crate::tokenizer::Tokenizer;

/// What a model is given of a row as one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownSequence {
    /// Which of the row's answers it has: `chosen` or `rejected`, `desirable` or `undesirable`; `None` where there is one only.
    pub answer: Option<&'static str>,
    /// Its tokens, by who says them.
    pub turns: Vec<ShownTurn>,
}

/// The tokens of a turn with what the template writes around it, or of a part of a row that is like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownTurn {
    /// Who speaks; `prompt`, `completion` or `text` where nobody does.
    pub role: &'static str,
    /// Whether it is an assistant's turn with the weight 0.
    pub silent: bool,
    /// The tokens.
    pub tokens: Vec<ShownToken>,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// What it adds to the text; empty for a token that begins a character which a later one completes.
    pub text: String,
    /// Whether it is one of the tokenizer's special ones.
    pub special: bool,
    /// Whether it counts in the loss.
    pub counts: bool,
    /// Whether it lies beyond the longest length, and is cut off.
    pub cut: bool,
}

impl ShownSequence {
    /// All tokens, in their order.
    pub fn tokens(&self) -> impl Iterator<Item = &ShownToken> {
        self.turns.iter().flat_map(|turn| &turn.tokens)
    }
}

/// A part of a row on its way: who speaks, whether it is silent, and how many tokens it has.
type Part = (&'static str, bool, usize);

impl Encoder<'_> {
    /// The sequences that a row becomes, as [`Encoder::encode`], [`Encoder::encode_pair`] or [`Encoder::encode_answers`] make them.
    /// Of a plain text nothing is cut: texts are joined end to end.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn show(&self, example: &Example) -> Result<Vec<ShownSequence>, Problem> {
        match &example.content {
            Content::Preference { prompt, chosen, rejected } => {
                let show = |name, answer: &[Message]| {
                    let messages = [prompt.as_slice(), answer].concat();
                    self.show_one(example, &Content::Chat(messages), Some(name))
                };
                Ok(vec![show("chosen", chosen)?, show("rejected", rejected)?])
            }
            Content::Unpaired { answer, desirable } => {
                let name = if *desirable { "desirable" } else { "undesirable" };
                Ok(vec![self.show_one(example, answer, Some(name))?])
            }
            content => Ok(vec![self.show_one(example, content, None)?]),
        }
    }

    fn show_one(
        &self,
        example: &Example,
        content: &Content,
        answer: Option<&'static str>,
    ) -> Result<ShownSequence, Problem> {
        let (ids, counts, parts) = match content {
            Content::Chat(messages) => {
                let written = self.written(example, messages)?;
                let parts = self.parts(example, messages, &written);
                (written.tokens.ids, written.counts, parts)
            }
            content => {
                let (ids, counts) = self.marked(example, content)?;
                let parts = match content {
                    Content::Completion { prompt, .. } => {
                        let leading = self.tokenizer.leading_ids().len();
                        let before = match prompt.as_str() {
                            "" => leading,
                            prompt => leading + self.tokenizer.encode_plain(prompt)?.ids.len(),
                        };
                        vec![("prompt", false, before), ("completion", false, ids.len() - before)]
                    }
                    _ => vec![("text", false, ids.len())],
                };
                (ids, counts, parts)
            }
        };
        let longest = if matches!(content, Content::Text(_)) { usize::MAX } else { self.max_length };
        let mut tokens =
            shown(self.tokenizer, &ids)?.into_iter().zip(counts).enumerate().map(|(at, (token, counts))| {
                // Nothing foretells the first.
                ShownToken { counts: counts && at > 0 && at < longest, cut: at >= longest, ..token }
            });
        let turns = parts.into_iter().filter(|(_, _, count)| *count > 0).map(|(role, silent, count)| {
            ShownTurn { role, silent, tokens: tokens.by_ref().take(count).collect() }
        });
        Ok(ShownSequence { answer, turns: turns.collect() })
    }

    /// How many tokens each turn has. Where a turn ends is where the conversation up to it ends; where a template writes that
    /// otherwise, the turn is told together with the next.
    fn parts(&self, example: &Example, messages: &[Message], written: &Written) -> Vec<Part> {
        let last = messages.len().saturating_sub(1);
        let mut parts: Vec<Part> = Vec::new();
        let mut before = 0;
        for (at, message) in messages.iter().enumerate() {
            let through = self.template.and_then(|template| {
                template
                    .attempt(&messages[..=at], example.tools.as_ref(), false)
                    .ok()
                    .map(|rendered| rendered.text)
            });
            let end = match through.filter(|text| written.text.starts_with(text.as_str())) {
                _ if at == last => written.text.len(),
                Some(text) => text.len(),
                None => continue,
            };
            let count = written
                .tokens
                .offsets
                .iter()
                .skip(before)
                .take_while(|range| at == last || range.start < end)
                .count();
            before += count;
            let silent = message.role == Role::Assistant && !message.counts;
            parts.push((message.role.as_str(), silent, count));
        }
        parts
    }
}

/// Each token with what it adds to the text before it.
fn shown(tokenizer: &Tokenizer, ids: &[u32]) -> Result<Vec<ShownToken>, Problem> {
    let mut specials: HashMap<u32, bool> = HashMap::new();
    let mut out = Vec::with_capacity(ids.len());
    // Decoders write a token by what stands before it, so that one written token is kept as a beginning.
    let (mut from, mut read) = (0, 0);
    for (at, &id) in ids.iter().enumerate() {
        let before = tokenizer.decode(&ids[from..read], true)?;
        let with = tokenizer.decode(&ids[from..=at], true)?;
        let added = with.strip_prefix(before.as_str()).unwrap_or_default();
        let open = added.ends_with('\u{fffd}') && at + 1 < ids.len() && at - read < 3;
        let text = match added {
            _ if open => String::new(),
            "" => tokenizer.token(id).unwrap_or_default(),
            added => added.to_owned(),
        };
        if !open {
            (from, read) = (read, at + 1);
        }
        let special = match specials.get(&id) {
            Some(special) => *special,
            None => {
                let special =
                    tokenizer.decode(&[id], false)?.is_empty() && !tokenizer.decode(&[id], true)?.is_empty();
                specials.insert(id, special);
                special
            }
        };
        out.push(ShownToken { id, text, special, counts: false, cut: false });
    }
    Ok(out)
}
