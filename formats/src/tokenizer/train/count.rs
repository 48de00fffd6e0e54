//! The words of texts, counted within a bound of memory.

use std::collections::HashMap;

use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use super::{Kind, Progress, Recipe, guarded};
use crate::problem::Problem;

/// What a counted word takes beside its letters: its place in the map and its allocation.
const OVERHEAD: usize = 80;
/// Counts stay below what the crate counts in 32 bits, whose words are added up for each pair.
const MOST_LETTERS: u64 = i32::MAX as u64;
/// Unigram weighs every row of pieces of a word, whose likelihood has no number any more for very long ones. SentencePiece's
/// trainer leaves longer sentences out.
const LONGEST_WORD: usize = 512;
/// Texts between two reports.
const REPORT: u64 = 10_000;

/// Words and how often each is there.
pub(super) struct Counts {
    pub(super) words: HashMap<String, u64>,
    /// Texts that were given.
    pub(super) texts: u64,
    /// Texts that are counted.
    pub(super) used: u64,
    memory: usize,
    letters: u64,
    max_memory: usize,
    cuts_words: bool,
}

impl Counts {
    pub(super) fn new(recipe: &Recipe) -> Self {
        Self {
            words: HashMap::new(),
            texts: 0,
            used: 0,
            memory: 0,
            letters: 0,
            max_memory: recipe.max_memory,
            cuts_words: recipe.kind == Kind::Unigram,
        }
    }

    /// Counts until the memory is full, and how many texts there are in any case.
    pub(super) fn read<T: AsRef<str>>(
        &mut self,
        inner: &tokenizers::Tokenizer,
        texts: impl IntoIterator<Item = Result<T, Problem>>,
        tell: &mut impl FnMut(Progress),
    ) -> Result<(), Problem> {
        for text in texts {
            let text = text?;
            self.texts += 1;
            let fits =
                self.memory < self.max_memory && self.letters + text.as_ref().len() as u64 <= MOST_LETTERS;
            if fits && self.used + 1 == self.texts {
                self.used += 1;
                self.letters += text.as_ref().len() as u64;
                self.add(inner, text.as_ref())?;
            }
            if self.texts.is_multiple_of(REPORT) {
                tell(Progress::Reading { texts: self.texts, words: self.words.len() as u64 });
            }
        }
        tell(Progress::Reading { texts: self.texts, words: self.words.len() as u64 });
        Ok(())
    }

    fn add(&mut self, inner: &tokenizers::Tokenizer, text: &str) -> Result<(), Problem> {
        let split = guarded(|| {
            let mut text = NormalizedString::from(text);
            if let Some(normalizer) = inner.get_normalizer() {
                normalizer.normalize(&mut text)?;
            }
            let mut split = PreTokenizedString::from(text);
            if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut split)?;
            }
            Ok(split)
        })?;
        for (word, ..) in split.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            let mut rest = word;
            while !rest.is_empty() {
                let cut = rest.char_indices().nth(LONGEST_WORD).filter(|_| self.cuts_words);
                let (word, after) = rest.split_at(cut.map_or(rest.len(), |(at, _)| at));
                self.count(word);
                rest = after;
            }
        }
        Ok(())
    }

    fn count(&mut self, word: &str) {
        match self.words.get_mut(word) {
            Some(count) => *count += 1,
            None => {
                self.memory += word.len() + OVERHEAD;
                self.words.insert(word.to_owned(), 1);
            }
        }
    }

    /// Words in their order, which is the same however the map has them.
    pub(super) fn sorted(&self) -> Vec<(&str, u64)> {
        let mut words: Vec<(&str, u64)> =
            self.words.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        words.sort_unstable();
        words
    }
}
