//! What a language model is asked at every evaluation, to see how its answers change.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Prompts that are answered before the first step and at every evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Samples {
    /// What is asked.
    pub prompts: Vec<SamplePrompt>,
    /// Prompts that are taken from the validation rows beside them: of the first rows that differ. `None` for 3 where no
    /// prompts are given, else for none.
    pub rows: Option<u32>,
    /// Tokens of an answer, at most.
    pub max_tokens: u32,
    /// What logits are divided by; 0 takes the likeliest token.
    pub temperature: f64,
    /// Seed of the draws; the same at every evaluation, so that what changes is the model.
    pub seed: u32,
}

/// What is asked: as the rows are written, or as a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SamplePrompt {
    /// What the user says where the rows are conversations, else the beginning of a text.
    Text(String),
    /// The turns so far, each with `role` and `content`.
    Messages(Vec<Value>),
}

/// Rows that prompts are taken from where none are given.
const USUAL_ROWS: u32 = 3;

impl Default for Samples {
    fn default() -> Self {
        Samples { prompts: Vec::new(), rows: None, max_tokens: 128, temperature: 0.0, seed: 0 }
    }
}

impl Samples {
    /// Prompts that a job may have in all.
    pub const MOST: usize = 16;

    /// No samples.
    pub fn none() -> Self {
        Samples { rows: Some(0), ..Samples::default() }
    }

    /// Prompts that are taken from the validation rows.
    pub fn of_rows(&self) -> usize {
        let usual = if self.prompts.is_empty() { USUAL_ROWS } else { 0 };
        self.rows.unwrap_or(usual) as usize
    }

    /// Whether nothing is asked.
    pub fn is_off(&self) -> bool {
        self.prompts.is_empty() && self.of_rows() == 0
    }
}

impl SamplePrompt {
    /// How it is asked: a text is what the user says where the rows `are_chats`.
    pub fn asked(&self, are_chats: bool) -> SamplePrompt {
        match self {
            SamplePrompt::Text(text) if are_chats => {
                SamplePrompt::Messages(vec![json!({"role": "user", "content": text})])
            }
            other => other.clone(),
        }
    }
}
