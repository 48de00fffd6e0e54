//! What a chat template writes after the assistant's words.

use anyhow::Result;
use formats::chat_template::ChatTemplate;
use formats::tokenizer::Tokenizer;
use serde_json::json;

/// What ends an answer in a conversation, beside the model's own end marks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TurnEnd {
    /// Texts.
    pub stops: Vec<String>,
    /// Tokens.
    pub ends: Vec<u32>,
}

impl TurnEnd {
    /// That of a template: one token of its own, or, in a model that was not made for the template, a text.
    pub fn of(template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Self> {
        let mut made = TurnEnd::default();
        if let Some(mark) = mark(template) {
            match tokenizer.encode_plain(&mark)?.ids[..] {
                [id] if tokenizer.token_bytes(id).is_empty() => made.ends.push(id),
                _ => made.stops.push(mark),
            }
        }
        Ok(made)
    }
}

/// What a template writes after the assistant's words, if it writes anything.
fn mark(template: &ChatTemplate) -> Option<String> {
    const WORDS: &str = "An answer.";
    let turns = [("user", "A question."), ("assistant", WORDS)];
    let turns = turns.map(|(role, content)| json!({"role": role, "content": content}));
    let messages = formats::chat::messages_of(&turns, "messages").ok()?;
    let whole = template.render(&messages, None, false).ok()?.text;
    let mark = whole.rsplit_once(WORDS)?.1.trim();
    (!mark.is_empty()).then(|| mark.to_owned())
}
