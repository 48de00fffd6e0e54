//! What SentencePiece makes of a text before it is cut: characters rewritten, spaces marked.
//!
//! As `normalizer.cc` does it (<https://github.com/google/sentencepiece/blob/master/src/normalizer.cc>). The `tokenizers` crate's
//! own reading of the same rules goes by what a reader sees as one letter, which gives other pieces for some texts.

use super::model::{ModelFile, Sort};
use super::trie::Trie;

const MARK: char = '▁';

/// A text as it is cut.
#[derive(Default)]
pub(super) struct Normalized {
    pub(super) text: String,
    /// The byte of the original that each byte of the text comes from, and one more: where what was used ends.
    pub(super) origins: Vec<usize>,
}

impl Normalized {
    fn push(&mut self, letter: char, origin: usize) {
        self.text.push(letter);
        self.origins.resize(self.text.len(), origin);
    }
}

/// The rules of a model file.
pub(super) struct Normalizer {
    map: Option<CharsMap>,
    /// Pieces of the user, which are never rewritten.
    pub(super) fixed: Trie,
    space_is_suffix: bool,
    adds_prefix: bool,
    removes_spaces: bool,
    escapes_spaces: bool,
}

impl Normalizer {
    /// Takes the rules; an error says what is wrong with them.
    pub(super) fn new(model: &ModelFile) -> Result<Self, &'static str> {
        let fixed = model.pieces.iter().zip(0..).filter(|(piece, _)| piece.sort == Sort::UserDefined);
        Ok(Self {
            map: if model.charsmap.is_empty() { None } else { Some(CharsMap::new(&model.charsmap)?) },
            fixed: Trie::new(fixed.map(|(piece, id)| (piece.text.as_str(), id))),
            space_is_suffix: model.space_is_suffix,
            adds_prefix: model.adds_prefix,
            removes_spaces: model.removes_spaces,
            escapes_spaces: model.escapes_spaces,
        })
    }

    pub(super) fn normalize(&self, text: &str) -> Normalized {
        let mut out = Normalized::default();
        let mut at = 0;
        while self.removes_spaces && at < text.len() {
            match self.rewritten(&text[at..]) {
                (" ", length) => at += length,
                _ => break,
            }
        }
        if at == text.len() {
            out.origins.push(at);
            return out;
        }
        let space = if self.escapes_spaces { MARK } else { ' ' };
        if self.adds_prefix && !self.space_is_suffix {
            out.push(space, at);
        }
        let mut after_space = self.removes_spaces;
        while at < text.len() {
            let (mut part, length) = self.rewritten(&text[at..]);
            if after_space {
                part = part.trim_start_matches(' ');
            }
            for letter in part.chars() {
                out.push(if letter == ' ' { space } else { letter }, at);
            }
            if !part.is_empty() {
                after_space = part.ends_with(' ');
            }
            after_space &= self.removes_spaces;
            at += length;
        }
        let mut end = text.len();
        while self.removes_spaces && out.text.ends_with(space) {
            out.text.pop();
            end = out.origins[out.text.len()];
            out.origins.truncate(out.text.len());
        }
        if self.adds_prefix && self.space_is_suffix {
            out.push(space, end);
        }
        out.origins.push(end);
        out
    }

    /// What the beginning of a text, which is not empty, becomes, and how many bytes that takes.
    fn rewritten<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some((length, _)) = self.fixed.prefixes(text).last() {
            return (&text[..length], length);
        }
        let found = self.map.as_ref().and_then(|map| map.rewritten(text));
        found.unwrap_or_else(|| {
            let length = text.chars().next().map_or(0, char::len_utf8);
            (&text[..length], length)
        })
    }
}

/// Rules of rewriting: a double array (of darts-clone) from a text to a place in the results, which end with NUL.
struct CharsMap {
    units: Vec<u32>,
    results: String,
}

impl CharsMap {
    fn new(bytes: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "the rules of rewriting are cut short";
        let (size, rest) = bytes.split_at_checked(4).ok_or(SHORT)?;
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        let (units, results) = rest.split_at_checked(size).ok_or(SHORT)?;
        if size == 0 || !size.is_multiple_of(4) {
            return Err("the rules of rewriting have a size that none have");
        }
        let units =
            units.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]));
        let results =
            String::from_utf8(results.to_vec()).map_err(|_| "the rules of rewriting are not in UTF-8")?;
        Ok(Self { units: units.collect(), results })
    }

    /// What the longest beginning that has a rule becomes, and its length; none as well where a rule points to nowhere.
    fn rewritten(&self, text: &str) -> Option<(&str, usize)> {
        let mut found = None;
        let mut place = offset(*self.units.first()?);
        for (at, byte) in text.bytes().enumerate() {
            place ^= usize::from(byte);
            let unit = self.units.get(place).copied();
            let Some(unit) = unit.filter(|unit| unit & (1 << 31 | 0xFF) == u32::from(byte)) else { break };
            place ^= offset(unit);
            if unit >> 8 & 1 == 1 && text.is_char_boundary(at + 1) {
                found = Some((self.units.get(place)? & !(1 << 31), at + 1));
            }
        }
        let (place, length) = found?;
        let result = self.results.get(place as usize..)?;
        Some((result.split('\0').next().unwrap_or(result), length))
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}
