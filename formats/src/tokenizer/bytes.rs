//! The bytes that a token stands for.

use tokenizers::DecoderWrapper;

use super::Tokenizer;

/// How tokens are spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// Each byte is one printable character (GPT-2).
    ByByte,
    /// A space is `▁`, and a byte that is no token's is `<0x0A>` (SentencePiece).
    ByPiece,
    /// As it is.
    Plain,
}

impl Tokenizer {
    /// The bytes that a token adds to a text; none for a special token, or an id that is no token's. Pieces at the beginning of
    /// a text may be written otherwise.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        if let Some(added) = self.inner.get_added_tokens_decoder().get(&id) {
            return if added.special { Vec::new() } else { added.content.clone().into_bytes() };
        }
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        match self.spelling() {
            Spelling::ByByte => {
                token.chars().map(byte_of).collect::<Option<_>>().unwrap_or(token.into_bytes())
            }
            Spelling::ByPiece => match byte_piece(&token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
            Spelling::Plain => token.into_bytes(),
        }
    }

    fn spelling(&self) -> Spelling {
        self.inner.get_decoder().map_or(Spelling::Plain, spelling_of)
    }
}

fn spelling_of(decoder: &DecoderWrapper) -> Spelling {
    match decoder {
        DecoderWrapper::ByteLevel(_) => Spelling::ByByte,
        DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_) => Spelling::ByPiece,
        DecoderWrapper::Sequence(steps) => {
            let steps = steps.get_decoders().iter().map(spelling_of);
            steps.into_iter().find(|spelling| *spelling != Spelling::Plain).unwrap_or(Spelling::Plain)
        }
        _ => Spelling::Plain,
    }
}

/// The byte of `<0x0A>`.
pub(super) fn byte_piece(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The byte that a character of a byte-level vocabulary stands for: itself where it is printable in Latin-1, else the n-th of those
/// that are not is U+0100 + n.
fn byte_of(character: char) -> Option<u8> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(character) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|byte| is_printable(*byte)),
        code => (0..=0xFF).filter(|byte| !is_printable(*byte)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_of_a_byte_level_vocabulary_are_bytes() {
        let bytes: Vec<Option<u8>> = "aĠĊÃ©ł".chars().map(byte_of).collect();
        assert_eq!(bytes, [Some(b'a'), Some(b' '), Some(b'\n'), Some(0xC3), Some(0xA9), Some(0xA0)]);
        assert_eq!(byte_of('中'), None);
        assert_eq!((byte_piece("<0x0A>"), byte_piece("<0xA>"), byte_piece("a")), (Some(10), None, None));
    }
}
