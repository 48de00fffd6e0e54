//! A row as tokens.

use askama::Template;

use super::Page;
use super::form::{Field, FieldKind};

/// The page of a row.
#[derive(Template)]
#[template(path = "tokens.html")]
pub struct TokensPage {
    /// Frame of the page.
    pub page: Page,
    /// The file's name.
    pub name: String,
    /// Its page.
    pub href: String,
    /// Models to choose from.
    pub models: Field,
    /// Settings that decide how a row becomes tokens.
    pub fields: Vec<Field>,
    /// Which row, from 1.
    pub row: u64,
    /// How many there are.
    pub rows: String,
    /// The pages of the row before and of the next one; empty for none.
    pub previous: String,
    /// See above.
    pub next: String,
    /// Whether rows are joined end to end, and cut only then.
    pub joined: bool,
    /// What the model is given of the row.
    pub sequences: Vec<Sequence>,
    /// Why that cannot be told; empty where it can.
    pub error: String,
}

/// A sequence of tokens.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Which answer it has; empty where there is one only.
    pub answer: &'static str,
    /// Who says what.
    pub turns: Vec<TokenTurn>,
    /// "120 tokens".
    pub tokens: String,
    /// How many are learnt.
    pub learnt: String,
    /// How many are cut off; empty for none.
    pub cut: String,
    /// The length that they are cut to.
    pub longest: String,
    /// How many are not drawn; empty for none.
    pub more: String,
}

/// A turn.
#[derive(Clone, Debug)]
pub struct TokenTurn {
    /// Who speaks.
    pub role: &'static str,
    /// Whether its weight is 0.
    pub silent: bool,
    /// `learnt`, `plain` or `cut`, and the tokens.
    pub runs: Vec<(&'static str, Vec<Token>)>,
}

/// A token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text, with blanks drawn.
    pub text: String,
    /// Whether it is a special one.
    pub special: bool,
    /// The line breaks in it.
    pub after: String,
}
