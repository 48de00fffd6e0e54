//! Output that keeps to a grammar: any JSON object, or what a JSON schema describes.

use std::sync::Arc;

use anyhow::Result;
use formats::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::failure::Failure;

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Some JSON object.
    Json,
    /// JSON that a schema describes.
    Schema(Value),
}

/// Makes grammars for one tokenizer.
pub struct Grammars(ParserFactory);

/// A grammar, and how far a text has come in it.
pub struct Grammar(Matcher);

/// Marks the spelling of a special token, which is no text.
const SPECIAL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// What may stand between the parts of JSON: a model that is not sure would write white space without end.
const WHITESPACE: &str = r"[ ]|\n[ ]{0,16}";

impl Grammars {
    /// Looks at the vocabulary once; `end` is a token that ends an answer.
    pub fn new(tokenizer: &Tokenizer, rows: usize, end: u32) -> Result<Self> {
        let spelling = |id: u32| {
            let bytes = tokenizer.token_bytes(id);
            match tokenizer.token(id).filter(|_| bytes.is_empty()) {
                Some(special) => [&[SPECIAL], special.as_bytes()].concat(),
                None => bytes,
            }
        };
        let words: Vec<Vec<u8>> = (0..rows as u32).map(spelling).collect();
        let trie = TokTrie::from(&TokRxInfo::new(rows as u32, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment)?;
        factory.quiet();
        Ok(Grammars(factory))
    }

    /// # Errors
    /// A [`Failure`] of the user for a schema that cannot be kept to.
    pub fn make(&self, format: &Format) -> Result<Grammar> {
        let mut schema = match format {
            Format::Json => json!({"type": "object"}),
            Format::Schema(schema) => schema.clone(),
        };
        if let Some(fields) = schema.as_object_mut() {
            let own = fields.entry("x-guidance").or_insert_with(|| json!({}));
            own["whitespace_pattern"] = WHITESPACE.into();
        }
        let matcher = Matcher::new(self.0.create_parser(TopLevelGrammar::from_json_schema(schema)));
        match matcher.get_error() {
            None => Ok(Grammar(matcher)),
            Some(why) => {
                let message = format!("The JSON schema cannot be used: {}", why.trim());
                Err(Failure::user("bad_schema", message).at("response_format").into())
            }
        }
    }
}

impl Grammar {
    /// The tokens that may follow; those that end an answer where it is complete.
    pub fn allowed(&mut self) -> Result<SimpleVob> {
        self.0.compute_mask_or_eos()
    }

    /// Goes on by a token.
    pub fn advance(&mut self, id: u32) -> Result<()> {
        self.0.consume_token(id)
    }

    /// Whether nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.0.is_stopped()
    }
}
