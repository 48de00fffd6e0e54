//! A SentencePiece model file.
//!
//! Fields and defaults are those of `sentencepiece_model.proto`
//! (<https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>).

use std::path::Path;

use super::wire::{Fields, Value};
use crate::checkpoint::read_text;
use crate::problem::{Problem, ProblemKind};

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// A piece of the vocabulary; its number is its place.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) sort: Sort,
}

/// How a text is cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Unigram,
    Bpe,
}

/// A model file, read.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) way: Way,
    pub(crate) byte_fallback: bool,
    /// The rules of rewriting, in SentencePiece's own form; nothing where there are none.
    pub(crate) charsmap: Vec<u8>,
    pub(super) space_is_suffix: bool,
    pub(super) adds_prefix: bool,
    pub(super) removes_spaces: bool,
    pub(super) escapes_spaces: bool,
    /// What an unknown piece is written as.
    pub(super) unknown_surface: String,
}

impl ModelFile {
    /// Reads a file of a folder.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where the file is absent, damaged, or of a sort that is not read.
    pub(crate) fn read(dir: &Path, name: &str) -> Result<Self, Problem> {
        let bytes = read_text(dir, name, ProblemKind::Tokenizer)?;
        let mut model = Self {
            pieces: Vec::new(),
            way: Way::Unigram,
            byte_fallback: false,
            charsmap: Vec::new(),
            space_is_suffix: false,
            adds_prefix: true,
            removes_spaces: true,
            escapes_spaces: true,
            unknown_surface: " \u{2047} ".to_owned(),
        };
        model.fill(&bytes).and_then(|()| model.check()).map_err(|why| {
            Problem::new(ProblemKind::Tokenizer, name, format!("not a SentencePiece model: {why}"))
                .hint("upload the original file again")
        })?;
        Ok(model)
    }

    fn fill(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut fields = Fields::of(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(message)) => {
                    let at = self.pieces.len();
                    let piece = piece(message).map_err(|why| format!("piece {at}: {why}"))?;
                    self.pieces.push(piece);
                }
                (2, Value::Bytes(message)) => self.trainer(message)?,
                (3, Value::Bytes(message)) => self.normalizer(message)?,
                (5, Value::Bytes(message)) => refuse_rewriting(message)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn trainer(&mut self, message: &[u8]) -> Result<(), String> {
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field {
                (3, Value::Number(1)) => self.way = Way::Unigram,
                (3, Value::Number(2)) => self.way = Way::Bpe,
                (3, Value::Number(3)) => {
                    return Err("it cuts into words; read are unigram and bpe".to_owned());
                }
                (3, Value::Number(4)) => {
                    return Err("it cuts into characters; read are unigram and bpe".to_owned());
                }
                (3, Value::Number(other)) => return Err(format!("there is no way of cutting {other}")),
                (24, Value::Number(flag)) => self.space_is_suffix = flag != 0,
                (35, Value::Number(flag)) => self.byte_fallback = flag != 0,
                (44, Value::Bytes(text)) => self.unknown_surface = utf8(text)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, message: &[u8]) -> Result<(), String> {
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field {
                (2, Value::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Value::Number(flag)) => self.adds_prefix = flag != 0,
                (4, Value::Number(flag)) => self.removes_spaces = flag != 0,
                (5, Value::Number(flag)) => self.escapes_spaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if self.pieces.is_empty() {
            return Err("it has no pieces".to_owned());
        }
        let unknown = self.pieces.iter().filter(|piece| piece.sort == Sort::Unknown).count();
        if unknown != 1 {
            return Err(format!("it has {unknown} pieces for what is unknown, not one"));
        }
        Ok(())
    }
}

fn piece(message: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, sort: Sort::Normal };
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(text)) => piece.text = utf8(text)?,
            (2, Value::Four(score)) => piece.score = f32::from_le_bytes(score),
            (3, Value::Number(sort)) => {
                piece.sort = match sort {
                    1 => Sort::Normal,
                    2 => Sort::Unknown,
                    3 => Sort::Control,
                    4 => Sort::UserDefined,
                    5 => Sort::Unused,
                    6 => Sort::Byte,
                    other => return Err(format!("there is no sort {other}")),
                }
            }
            _ => {}
        }
    }
    match (piece.text.is_empty(), piece.score.is_finite()) {
        (true, _) => Err("it is empty".to_owned()),
        (_, false) => Err(format!("its score is {}", piece.score)),
        _ => Ok(piece),
    }
}

/// Rules for texts that come out of a model, which no known checkpoint has.
fn refuse_rewriting(message: &[u8]) -> Result<(), String> {
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        if matches!(field, (2, Value::Bytes(map)) if !map.is_empty()) {
            return Err("it rewrites decoded texts, which is not supported".to_owned());
        }
    }
    Ok(())
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not in UTF-8".to_owned())
}
