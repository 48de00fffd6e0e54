//! Texts in tokens, and tokens in texts.

use rayon::prelude::*;
use tokenizers::{
    PostProcessor, PostProcessorWrapper, TruncationParams, TruncationStrategy, truncate_encodings,
};

use super::marian::Side;
use super::{Encoding, FILE, Tokenizer, Tokens, guarded};
use crate::problem::{Problem, ProblemKind};

/// Texts given to the tokenizer at once.
pub(super) const BATCH: usize = 1024;

impl Tokenizer {
    /// Encodes a text as it is: nothing is put around it, and nothing cut off.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where the tokenizer cannot encode it.
    pub fn encode_plain(&self, text: &str) -> Result<Tokens, Problem> {
        let encoding = match &self.marian {
            Some(marian) => marian.encode(&self.inner, text, Side::Source),
            None => guarded(|| self.inner.encode(text, false))?,
        };
        let offsets = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok(Tokens { ids: encoding.get_ids().to_vec(), offsets })
    }

    /// The text of tokens, with or without special ones.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32], with_special: bool) -> Result<String, Problem> {
        match &self.marian {
            Some(marian) => Ok(marian.decode(&self.inner, ids, with_special)),
            None => guarded(|| self.inner.decode(ids, !with_special)),
        }
    }

    /// Encodes texts and pairs, on all cores, cutting the longer text of a pair first (transformers' `truncation=True`).
    ///
    /// `max_length` counts special tokens too.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where `max_length` leaves no room for a token, or the tokenizer cannot encode a text.
    pub fn encode_pairs(
        &self,
        texts: &[(&str, Option<&str>)],
        max_length: usize,
    ) -> Result<Vec<Encoding>, Problem> {
        let processor = self.inner.get_post_processor();
        self.encode_side(texts, max_length, Side::Source, processor, true)
    }

    /// Encodes what a model is to write, as transformers does for `text_target=`.
    ///
    /// Most tokenizers encode it as any text, with its special tokens. Marian cuts it by the target's model, and mBART marks it
    /// with the target's language ([`Self::set_languages`]).
    ///
    /// # Errors
    /// As [`Self::encode_pairs`].
    pub fn encode_targets(&self, texts: &[&str], max_length: usize) -> Result<Vec<Encoding>, Problem> {
        let texts: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
        let processor = self.of_targets.as_ref().or(self.inner.get_post_processor());
        self.encode_side(&texts, max_length, Side::Target, processor, false)
    }

    fn encode_side(
        &self,
        texts: &[(&str, Option<&str>)],
        max_length: usize,
        side: Side,
        processor: Option<&PostProcessorWrapper>,
        may_be_pairs: bool,
    ) -> Result<Vec<Encoding>, Problem> {
        check_room(processor, max_length, may_be_pairs)?;
        let mut encodings = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            let parts: Vec<&str> =
                batch.iter().flat_map(|(text, pair)| [Some(*text), *pair]).flatten().collect();
            // Without its special tokens, and in full: given a pair and a length at once, the crate stops each text at that
            // length and can no longer tell which of the two was longer.
            let mut parts = self.cut(parts, side)?.into_iter();
            for (_, pair) in batch {
                let first = parts.next().unwrap_or_default();
                let second = pair.and_then(|_| parts.next());
                encodings.push(guarded(|| self.finish(processor, first, second, max_length))?);
            }
        }
        Ok(encodings)
    }

    /// Texts in tokens, without what is put around them.
    fn cut(&self, texts: Vec<&str>, side: Side) -> Result<Vec<tokenizers::Encoding>, Problem> {
        match &self.marian {
            Some(marian) => {
                let texts = texts.par_iter();
                guarded(|| Ok(texts.map(|text| marian.encode(&self.inner, text, side)).collect()))
            }
            None => guarded(|| self.inner.encode_batch_fast(texts, false)),
        }
    }

    /// Cuts the parts, puts them together and adds special tokens.
    fn finish(
        &self,
        processor: Option<&PostProcessorWrapper>,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
        max_length: usize,
    ) -> tokenizers::Result<Encoding> {
        Ok(self.finish_in_full(processor, first, second, max_length)?.0)
    }

    /// The same, with what the crate says of each token.
    pub(super) fn finish_in_full(
        &self,
        processor: Option<&PostProcessorWrapper>,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
        max_length: usize,
    ) -> tokenizers::Result<(Encoding, tokenizers::Encoding)> {
        let special = processor.map_or(0, |processor| processor.added_tokens(second.is_some()));
        let length = first.len() + second.as_ref().map_or(0, tokenizers::Encoding::len) + special;
        let truncation = TruncationParams {
            direction: self.cut_from,
            max_length: max_length - special,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (first, second) = truncate_encodings(first, second, &truncation)?;
        let encoding = match processor {
            Some(processor) => processor.process(first, second, true)?,
            None => self.inner.post_process(first, second, true)?,
        };
        let type_ids =
            if self.has_segments { encoding.get_type_ids().to_vec() } else { vec![0; encoding.len()] };
        let ids = encoding.get_ids().to_vec();
        Ok((Encoding { ids, type_ids, truncated: length > max_length }, encoding))
    }
}

/// Whether a token fits beside the special ones.
pub(super) fn check_room(
    processor: Option<&PostProcessorWrapper>,
    max_length: usize,
    may_be_pairs: bool,
) -> Result<(), Problem> {
    let special = processor.map_or(0, |processor| processor.added_tokens(may_be_pairs));
    if max_length <= special {
        let message = format!("a length of {max_length} tokens leaves no room beside {special} special ones");
        return Err(Problem::new(ProblemKind::Tokenizer, FILE, message).hint("choose a greater max_length"));
    }
    Ok(())
}
