//! What a language model is asked at its evaluations: prompts of the settings, and those of validation rows.

use std::collections::HashSet;

use anyhow::Result;
use formats::chat::{Content, Encoder, Example, Message, Role, messages_of};
use serde_json::{Value, json};
use store::spec::{SamplePrompt, Samples};

use crate::failure::Failure;

/// Tokens of a plain text that are given; at most half of it.
const BEGINNING: usize = 32;

/// Characters that are shown of a turn or of an expected answer.
const SHOWN: usize = 2000;

/// What is asked, and what is known of the answer.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Tokens.
    pub ids: Vec<u32>,
    /// What people get to see of it: a text, or turns with `role` and `content`.
    pub shown: Value,
    /// The answer of the data.
    pub expected: Option<String>,
    /// Its row's number in the validation file, from 0.
    pub row: Option<u64>,
}

impl Prompt {
    /// Whether a chat template wrote it.
    pub fn is_chat(&self) -> bool {
        self.shown.is_array()
    }
}

/// What is asked of a model, and what is to be told of what is not. `are_chats`: the rows are conversations.
///
/// # Errors
/// A [`Failure`] of the user for a prompt that the template refuses.
pub(super) fn prompts(
    encoder: &Encoder,
    samples: &Samples,
    validation: &[Example],
    are_chats: bool,
) -> Result<(Vec<Prompt>, Vec<String>)> {
    let own =
        samples.prompts.iter().enumerate().map(|(number, prompt)| own(encoder, number, prompt, are_chats));
    let mut prompts = own.collect::<Result<Vec<_>>>()?;
    let (wanted, mut notices) = (prompts.len() + samples.of_rows(), Vec::new());
    let mut known: HashSet<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
    let (mut long, mut refused) = (0_u64, 0_u64);
    for example in validation {
        if prompts.len() == wanted {
            break;
        }
        match of_row(encoder, example, samples.max_tokens as usize) {
            Ok(Some(prompt)) if prompt.ids.len() >= encoder.max_length => long += 1,
            Ok(Some(prompt)) if known.insert(prompt.ids.clone()) => prompts.push(prompt),
            Ok(_) => {}
            Err(_) => refused += 1,
        }
    }
    if long > 0 {
        notices.push(format!(
            "samples: {long} prompts of validation rows leave no room for an answer within {} tokens, and are passed over",
            encoder.max_length
        ));
    }
    if refused > 0 {
        notices.push(format!("samples: the chat template refuses {refused} prompts of validation rows"));
    }
    Ok((prompts, notices))
}

fn own(encoder: &Encoder, number: usize, prompt: &SamplePrompt, are_chats: bool) -> Result<Prompt> {
    let place = format!("training.samples.prompts[{number}]");
    let bad = |problem: String| Failure::user("bad_prompt", format!("{problem}.")).at(&place);
    let (ids, shown) = match prompt.asked(are_chats) {
        SamplePrompt::Messages(turns) => {
            let turns = messages_of(&turns, &place).map_err(|problems| bad(problems.to_string()))?;
            let ids = encoder.prompt(&turns, None).map_err(|problem| bad(problem.to_string()))?;
            (ids, turns_shown(&turns))
        }
        SamplePrompt::Text(text) => {
            let plain = encoder.tokenizer.encode_plain(&text).map_err(|problem| bad(problem.to_string()))?;
            ([encoder.tokenizer.leading_ids(), &plain.ids].concat(), cut(&text).into())
        }
    };
    Ok(Prompt { ids, shown, expected: None, row: None })
}

/// The prompt of a row: a conversation up to the first answer, what stands before a completion, the beginning of a text.
/// `None` where nothing comes before the answer.
fn of_row(encoder: &Encoder, example: &Example, answer: usize) -> Result<Option<Prompt>> {
    of_content(encoder, example, &example.content, answer)
}

fn of_content(
    encoder: &Encoder,
    example: &Example,
    content: &Content,
    answer: usize,
) -> Result<Option<Prompt>> {
    let row = Some(example.row);
    let tokenizer = encoder.tokenizer;
    match content {
        // Only a desirable answer is one to expect.
        Content::Unpaired { answer: content, desirable } => {
            let made = of_content(encoder, example, content, answer)?;
            Ok(made.map(|prompt| Prompt { expected: prompt.expected.filter(|_| *desirable), ..prompt }))
        }
        Content::Chat(turns) => {
            let first = turns.iter().position(|turn| turn.role == Role::User);
            let Some(first) = first else { return Ok(None) };
            let after = turns[first..].iter().position(|turn| turn.role == Role::Assistant);
            let Some(at) = after.map(|after| first + after) else { return Ok(None) };
            chat(encoder, example, &turns[..at], turns.get(at))
        }
        Content::Preference { prompt, chosen, .. } => chat(encoder, example, prompt, chosen.first()),
        Content::Completion { prompt, completion } if !prompt.is_empty() => {
            let ids = [tokenizer.leading_ids(), &tokenizer.encode_plain(prompt)?.ids].concat();
            Ok(Some(Prompt { ids, shown: cut(prompt).into(), expected: Some(cut(completion)), row }))
        }
        Content::Completion { .. } => Ok(None),
        Content::Text(text) => {
            let all = tokenizer.encode_plain(text)?.ids;
            let (given, rest) = all.split_at(BEGINNING.min(all.len() / 2));
            if given.is_empty() {
                return Ok(None);
            }
            let rest = &rest[..answer.min(rest.len())];
            let shown = tokenizer.decode(given, false)?;
            // Some decoders write a token otherwise at the beginning of a text.
            let whole = tokenizer.decode(&all[..given.len() + rest.len()], false)?;
            let expected = match whole.strip_prefix(shown.as_str()) {
                Some(expected) => expected.to_owned(),
                None => tokenizer.decode(rest, false)?,
            };
            let ids = [tokenizer.leading_ids(), given].concat();
            Ok(Some(Prompt { ids, shown: cut(&shown).into(), expected: Some(cut(&expected)), row }))
        }
    }
}

fn chat(
    encoder: &Encoder,
    example: &Example,
    turns: &[Message],
    answer: Option<&Message>,
) -> Result<Option<Prompt>> {
    if turns.is_empty() {
        return Ok(None);
    }
    let ids = encoder.prompt(turns, example.tools.as_ref())?;
    let expected = answer.map(|answer| cut(&said(answer)));
    Ok(Some(Prompt { ids, shown: turns_shown(turns), expected, row: Some(example.row) }))
}

fn turns_shown(turns: &[Message]) -> Value {
    turns.iter().map(|turn| json!({"role": turn.role, "content": cut(&said(turn))})).collect()
}

/// What a turn says, or the tools that it calls.
fn said(turn: &Message) -> String {
    let calls = || turn.rest.get("tool_calls").map(Value::to_string).unwrap_or_default();
    turn.content.clone().filter(|text| !text.is_empty()).unwrap_or_else(calls)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
