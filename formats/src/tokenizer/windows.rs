//! A question beside as much of its context as fits, again and again until all of the context was seen.
//!
//! What transformers' recipe for extractive questions gets by `truncation="only_second"`, `stride`,
//! `return_overflowing_tokens` and `return_offsets_mapping`: windows of the same length, each of which begins with the last
//! `stride` tokens of the one before.

use std::collections::HashMap;

use tokenizers::utils::truncation::truncate_encodings;
use tokenizers::{PostProcessor, PostProcessorWrapper, TruncationParams, TruncationStrategy};

use super::encode::BATCH;
use super::{FILE, Tokenizer, guarded};
use crate::problem::{Problem, ProblemKind};

/// A question and a part of its context as the model takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Token ids, special tokens included, without padding.
    pub ids: Vec<u32>,
    /// Segment of each token; all 0 where the model takes no `token_type_ids`.
    pub type_ids: Vec<u32>,
    /// The place of the token that stands for the whole sequence, and for "no answer".
    pub cls: usize,
    /// The place of the context's first token in this window.
    pub first: usize,
    /// The characters of the context that each of its tokens here stands for: first and one past the last.
    pub offsets: Vec<(u32, u32)>,
}

impl Window {
    /// The places of the first and the last token of a part of the context, given in characters; `None` where this window
    /// does not hold all of it.
    ///
    /// The rule is that of the Hugging Face course: the last token that begins no later than the part, and the first one
    /// that ends no earlier.
    pub fn place(&self, start: usize, end: usize) -> Option<(usize, usize)> {
        let (first, last) = (self.offsets.first()?, self.offsets.last()?);
        if first.0 as usize > start || (last.1 as usize) < end {
            return None;
        }
        // Offsets need not grow: a tokenizer may give several tokens the same characters.
        let begins = self.offsets.iter().position(|offset| offset.0 as usize > start);
        let begins = begins.unwrap_or(self.offsets.len()).saturating_sub(1);
        let ends = self.offsets.iter().rposition(|offset| (offset.1 as usize) < end).map_or(0, |at| at + 1);
        Some((self.first + begins, self.first + ends))
    }
}

/// Why there are no windows.
#[derive(Debug, PartialEq, Eq)]
pub enum WindowError {
    /// A question so long that hardly anything of its context fits beside it.
    TooLong {
        /// Which of the questions asked about.
        at: usize,
        /// Its tokens.
        tokens: usize,
        /// Tokens of the context that fit beside it; a window has to have more than `stride`.
        room: usize,
    },
    /// A tokenizer that cannot be used.
    Problem(Problem),
}

impl Tokenizer {
    /// The windows of each question and context, of at most `max_length` tokens; two that follow one another have `stride`
    /// tokens of the context in common. Offsets count Unicode characters.
    ///
    /// # Errors
    /// [`WindowError`] where a question leaves room for no more than `stride` tokens of its context and that has more, or the
    /// tokenizer pads on the left, where a context would stand before its question.
    pub fn windows(
        &self,
        asked: &[(&str, &str)],
        max_length: usize,
        stride: usize,
    ) -> Result<Vec<Vec<Window>>, WindowError> {
        if self.pads_left {
            let message = "padding_side is left: such a model takes a context before its question";
            return Err(WindowError::Problem(
                Problem::new(ProblemKind::Tokenizer, FILE, message)
                    .hint("choose a model that pads on the right"),
            ));
        }
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let mut windows = Vec::with_capacity(asked.len());
        for (number, batch) in asked.chunks(BATCH).enumerate() {
            // Many questions on one text: that is tokenized once.
            let mut places = HashMap::new();
            let mut texts: Vec<&str> = Vec::new();
            for (_, context) in batch {
                places.entry(*context).or_insert_with(|| {
                    texts.push(context);
                    texts.len() - 1
                });
            }
            let encode = |texts: Vec<&str>| {
                guarded(|| self.bare().encode_batch_char_offsets(texts, false)).map_err(WindowError::Problem)
            };
            let mut contexts = encode(texts)?;
            // The post-processor gives its segment to the first window alone.
            contexts.iter_mut().for_each(|context| context.set_type_ids(vec![1; context.len()]));
            let questions = encode(batch.iter().map(|(question, _)| *question).collect())?;
            for (at, (question, (_, context))) in questions.into_iter().zip(batch).enumerate() {
                let context = contexts[places[context]].clone();
                let (tokens, most) = (question.len(), max_length.saturating_sub(special));
                let room = most.saturating_sub(tokens);
                if tokens + context.len() > most && room <= stride {
                    return Err(WindowError::TooLong { at: number * BATCH + at, tokens, room });
                }
                let cut = guarded(|| self.cut_context(question, context, max_length, stride));
                windows.push(cut.map_err(WindowError::Problem)?);
            }
        }
        Ok(windows)
    }

    /// The same without a post-processor, which would trim the offsets of each part, and then again those of both.
    pub(super) fn bare(&self) -> &tokenizers::Tokenizer {
        self.bare.get_or_init(|| {
            let mut bare = self.inner.clone();
            bare.with_post_processor(None::<PostProcessorWrapper>);
            bare
        })
    }

    /// Cuts the context, and puts the question beside each part.
    fn cut_context(
        &self,
        question: tokenizers::Encoding,
        context: tokenizers::Encoding,
        max_length: usize,
        stride: usize,
    ) -> tokenizers::Result<Vec<Window>> {
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let params = TruncationParams {
            direction: self.cut_from,
            max_length: max_length.saturating_sub(special),
            strategy: TruncationStrategy::OnlySecond,
            stride,
        };
        let (question, context) = truncate_encodings(question, Some(context), &params)?;
        let mut whole = self.inner.post_process(question, context, true)?;
        let others = whole.take_overflowing();
        Ok(std::iter::once(whole).chain(others).map(|encoding| self.window(&encoding)).collect())
    }

    fn window(&self, encoding: &tokenizers::Encoding) -> Window {
        let ids = encoding.get_ids().to_vec();
        let type_ids = if self.has_segments { encoding.get_type_ids().to_vec() } else { vec![0; ids.len()] };
        let marks = ["cls_token", "bos_token"].into_iter().find_map(|name| self.special_id(name));
        let cls = marks.and_then(|mark| ids.iter().position(|id| *id == mark)).unwrap_or(0);
        let parts = encoding.get_sequence_ids();
        let of_context = parts.iter().zip(encoding.get_offsets()).filter(|(part, _)| **part == Some(1));
        Window {
            cls,
            first: parts.iter().position(|part| *part == Some(1)).unwrap_or(0),
            offsets: of_context.map(|(_, (start, end))| (*start as u32, *end as u32)).collect(),
            ids,
            type_ids,
        }
    }
}
