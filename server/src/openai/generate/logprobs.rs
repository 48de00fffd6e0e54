//! How likely tokens were, in the two shapes that OpenAI has for it.

use serde_json::{Map, Value, json};

use crate::inference::protocol::Token;

/// Stands for a logarithm that there is none of: of probability 0, or of a prompt's first token.
const LOWEST: f64 = -9999.0;

/// The `logprobs` of a choice of a chat.
pub fn of_chat(tokens: &[Token]) -> Value {
    let alone = |token: &Token| {
        json!({
            "token": token.token,
            "bytes": token.bytes.clone().unwrap_or_else(|| token.token.clone().into_bytes()),
            "logprob": token.logprob.unwrap_or(LOWEST),
        })
    };
    let with_others = |token: &Token| {
        let mut told = alone(token);
        told["top_logprobs"] = token.top.iter().map(alone).collect();
        told
    };
    json!({"content": tokens.iter().map(with_others).collect::<Vec<_>>(), "refusal": null})
}

/// The `logprobs` of a choice of a completion, whose first token stands `offset` characters behind the start of its text;
/// `offset` is moved behind the last one.
pub fn of_completion(tokens: &[Token], offset: &mut usize) -> Value {
    let mut offsets = Vec::new();
    for token in tokens {
        offsets.push(*offset);
        *offset += token.token.chars().count();
    }
    let others = |token: &Token| match token.logprob {
        None => Value::Null,
        Some(_) => {
            let pairs =
                token.top.iter().map(|other| (other.token.clone(), json!(other.logprob.unwrap_or(LOWEST))));
            Value::Object(pairs.collect::<Map<String, Value>>())
        }
    };
    json!({
        "tokens": tokens.iter().map(|token| &token.token).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(others).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_characters_and_go_on_over_pieces() {
        let token = |text: &str, logprob: Option<f64>| Token {
            token: text.to_owned(),
            id: None,
            bytes: None,
            logprob,
            top: Vec::new(),
        };
        let mut offset = 0;
        let first = of_completion(&[token("é", None), token("b", Some(-1.0))], &mut offset);
        assert_eq!((&first["text_offset"], &first["token_logprobs"]), (&json!([0, 1]), &json!([null, -1.0])));
        assert_eq!(of_completion(&[token("c", Some(0.0))], &mut offset)["text_offset"], json!([2]));
    }
}
