//! Texts that are words already: which token each word begins with, as transformers' `is_split_into_words` gives it.

use std::ops::Range;

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{EncodeInput, InputSequence};

use super::encode::{BATCH, check_room};
use super::{Encoding, Tokenizer, guarded};
use crate::problem::Problem;

/// Where a word begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// At this token, counted from 0 with the special ones.
    At(u32),
    /// Nowhere: the tokenizer makes nothing of it.
    None,
    /// Beyond the longest length.
    Cut,
}

/// A sentence of words as the model takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worded {
    /// Its tokens.
    pub encoding: Encoding,
    /// The word of each token; `None` for special ones.
    pub word_of: Vec<Option<u32>>,
    /// Where each word begins.
    pub pieces: Vec<Piece>,
}

/// A text as the model takes it, with the place of each token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its tokens.
    pub encoding: Encoding,
    /// The bytes of the text that each token stands for; `None` for special ones.
    pub offsets: Vec<Option<Range<usize>>>,
}

impl Tokenizer {
    /// The same for texts that come in words: where a blank before a word is part of its first token (GPT-2's and RoBERTa's
    /// bytes), each word has one, as with transformers' `add_prefix_space`.
    #[must_use]
    pub fn for_words(mut self) -> Self {
        if let Some(PreTokenizerWrapper::ByteLevel(bytes)) = self.inner.get_pre_tokenizer() {
            let spaced = ByteLevel::new(true, bytes.trim_offsets, bytes.use_regex);
            self.inner.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(spaced)));
        }
        self
    }

    /// What begins a token that goes on a word, such as `##`, where the tokenizer has such.
    pub fn continuing_prefix(&self) -> Option<&str> {
        match self.inner.get_model() {
            tokenizers::ModelWrapper::WordPiece(model) => Some(model.continuing_subword_prefix.as_str()),
            tokenizers::ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_deref(),
            _ => None,
        }
        .filter(|prefix| !prefix.is_empty())
    }

    /// The id of the token that stands for what is unknown.
    pub fn unk_id(&self) -> Option<u32> {
        self.special_id("unk_token")
    }

    /// Encodes sentences of words, each cut to `max_length` tokens, special ones included.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_pairs`].
    pub fn encode_words(&self, sentences: &[&[String]], max_length: usize) -> Result<Vec<Worded>, Problem> {
        let processor = self.inner.get_post_processor();
        check_room(processor, max_length, true)?;
        let mut made = Vec::with_capacity(sentences.len());
        for batch in sentences.chunks(BATCH) {
            let inputs: Vec<EncodeInput> = batch
                .iter()
                .map(|words| {
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    EncodeInput::Single(InputSequence::from(words))
                })
                .collect();
            let whole = guarded(|| self.inner.encode_batch(inputs, false))?;
            for (words, whole) in batch.iter().zip(whole) {
                let mut pieces = vec![Piece::None; words.len()];
                for word in whole.get_word_ids().iter().flatten() {
                    pieces[*word as usize] = Piece::Cut;
                }
                // A word whose first token is cut off is cut, whatever is left of it.
                let firsts: Vec<bool> = first_tokens(whole.get_word_ids());
                let all = whole.len();
                let (encoding, word_of) = guarded(|| self.finish_in_full(processor, whole, None, max_length))
                    .map(|(encoding, kept)| (encoding, kept.get_word_ids().to_vec()))?;
                let kept = word_of.iter().filter(|word| word.is_some()).count();
                let skipped = self.skipped(all, kept);
                let mut at_token = skipped;
                for (place, word) in word_of.iter().enumerate() {
                    let Some(word) = word else { continue };
                    if firsts[at_token] {
                        pieces[*word as usize] = Piece::At(place as u32);
                    }
                    at_token += 1;
                }
                made.push(Worded { encoding, word_of, pieces });
            }
        }
        Ok(made)
    }

    /// Encodes a text as [`Tokenizer::encode_pairs`] does, with the place of each token in it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_pairs`].
    pub fn encode_located(&self, text: &str, max_length: usize) -> Result<Located, Problem> {
        let processor = self.inner.get_post_processor();
        check_room(processor, max_length, true)?;
        // What is put around a text also trims the places of its tokens, and is to do so once.
        let whole = guarded(|| self.bare().encode(text, false))?;
        let (encoding, kept) = guarded(|| self.finish_in_full(processor, whole, None, max_length))?;
        let special = kept.get_special_tokens_mask();
        let place = |(&(start, end), special): (&(usize, usize), &u32)| (*special == 0).then_some(start..end);
        let offsets = kept.get_offsets().iter().zip(special).map(place).collect();
        Ok(Located { encoding, offsets })
    }

    /// Tokens that were cut off at the beginning, of `all` of which some are kept.
    fn skipped(&self, all: usize, kept: usize) -> usize {
        match self.cut_from {
            tokenizers::TruncationDirection::Left => all - kept,
            tokenizers::TruncationDirection::Right => 0,
        }
    }
}

/// For each token, whether a word begins there.
fn first_tokens(words: &[Option<u32>]) -> Vec<bool> {
    let before = |at: usize| at.checked_sub(1).and_then(|at| words[at]);
    (0..words.len()).map(|at| words[at].is_some() && words[at] != before(at)).collect()
}
