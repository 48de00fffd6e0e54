//! SentencePiece: texts in pieces and back, as Google's library has it.
//!
//! transformers cuts with that library itself for Marian, so this does as it does; for T5 and mBART it takes only the vocabulary
//! and the rules of rewriting from the file.

mod cut;
mod model;
mod normalize;
mod trie;
mod wire;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

pub(super) use model::{ModelFile, Sort, Way};

use crate::problem::{Problem, ProblemKind};
use cut::{Bpe, Unigram};
use normalize::Normalizer;

const MARK: &str = "▁";

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The piece, or the characters that are in none.
    pub(super) piece: String,
    /// The bytes of the text that it stands for.
    pub(super) range: Range<usize>,
}

/// A model that is ready to cut texts.
pub(super) struct SentencePiece {
    model: ModelFile,
    normalizer: Normalizer,
    way: Ways,
    numbers: HashMap<String, u32>,
}

enum Ways {
    Unigram(Unigram),
    Bpe(Bpe),
}

impl SentencePiece {
    /// Reads a model file of a folder.
    pub(super) fn load(dir: &Path, name: &str) -> Result<Self, Problem> {
        let model = ModelFile::read(dir, name)?;
        let normalizer = Normalizer::new(&model).map_err(|why| {
            Problem::new(ProblemKind::Tokenizer, name, why).hint("upload the original file again")
        })?;
        let way = match model.way {
            Way::Unigram => Ways::Unigram(Unigram::new(&model.pieces)),
            Way::Bpe => Ways::Bpe(Bpe::new(&model.pieces)),
        };
        let numbers = model.pieces.iter().zip(0..).map(|(piece, id)| (piece.text.clone(), id)).collect();
        Ok(Self { model, normalizer, way, numbers })
    }

    /// Cuts a text; neighbours that are in no piece are one part.
    pub(super) fn encode(&self, text: &str) -> Vec<Part> {
        let normalized = self.normalizer.normalize(text);
        let pieces = &self.model.pieces;
        let cuts = match &self.way {
            Ways::Unigram(unigram) => unigram.cut(pieces, &normalized.text),
            Ways::Bpe(bpe) => bpe.cut(pieces, &self.normalizer.fixed, &normalized.text),
        };
        let mut parts: Vec<Part> = Vec::with_capacity(cuts.len());
        let mut after_unknown = false;
        for (cut, id) in cuts {
            let range = normalized.origins[cut.start]..normalized.origins[cut.end];
            let piece = &normalized.text[cut];
            match parts.last_mut().filter(|_| after_unknown && id.is_none()) {
                _ if id.is_none() && self.model.byte_fallback => {
                    let bytes = piece.bytes().map(|byte| format!("<0x{byte:02X}>"));
                    parts.extend(bytes.map(|piece| Part { piece, range: range.clone() }));
                }
                Some(unknown) => {
                    unknown.piece.push_str(piece);
                    unknown.range.end = range.end;
                }
                None => parts.push(Part { piece: piece.to_owned(), range }),
            }
            after_unknown = id.is_none();
        }
        parts
    }

    /// The text of pieces; those that the model does not have stay as they are.
    pub(super) fn decode(&self, pieces: &[String]) -> String {
        let mut text = String::new();
        let mut bytes = Vec::new();
        let strips = !self.model.space_is_suffix && (self.model.adds_prefix || self.model.removes_spaces);
        let mut at_beginning = true;
        for piece in pieces {
            let known = self.numbers.get(piece).map(|id| &self.model.pieces[*id as usize]);
            let sort = known.map(|piece| piece.sort);
            if sort == Some(Sort::Byte) {
                bytes.extend(super::bytes::byte_piece(piece));
                continue;
            }
            push_bytes(&mut text, &mut bytes);
            at_beginning &= text.is_empty();
            match sort {
                Some(Sort::Control) => {}
                Some(Sort::Unknown) => text.push_str(&self.model.unknown_surface),
                None => text.push_str(piece),
                Some(_) => {
                    let rest = piece.strip_prefix(MARK).filter(|_| strips && at_beginning);
                    text.push_str(&rest.unwrap_or(piece).replace(MARK, " "));
                    // Without removal of spaces the one that was put before the text is all that goes.
                    at_beginning &= self.model.removes_spaces || rest.is_none();
                }
            }
        }
        push_bytes(&mut text, &mut bytes);
        text
    }
}

/// Adds what bytes spell; each that spells nothing becomes a replacement character.
fn push_bytes(text: &mut String, bytes: &mut Vec<u8>) {
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let valid = match std::str::from_utf8(rest) {
            Ok(valid) => valid.len(),
            Err(error) => error.valid_up_to(),
        };
        text.push_str(std::str::from_utf8(&rest[..valid]).unwrap_or_default());
        rest = &rest[valid..];
        if !rest.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[1..];
        }
    }
    bytes.clear();
}
