//! `tokenizer.json` as transformers' `AutoTokenizer` uses it.
//!
//! Beside the file itself transformers looks at `tokenizer_config.json` and `special_tokens_map.json`, and so does this:
//! - BERT's and DistilBERT's classes take lower-casing, accents and Chinese characters from the configuration (lower case
//!   where it says nothing), RoBERTa's takes `add_prefix_space`, whatever `tokenizer.json` says.
//! - Special tokens that are named and not yet known as such are added.
//! - Truncation and padding settings of `tokenizer.json` are not used; the side to cut from is `truncation_side`.

mod bytes;
mod names;
mod words;

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::chat_template::SpecialTokens;
use crate::checkpoint::read_text;
use crate::problem::{Problem, ProblemKind};
use names::{Family, Names};
pub use words::{Located, Piece, Worded};

pub(crate) const FILE: &str = "tokenizer.json";
/// Texts given to the tokenizer at once.
const BATCH: usize = 1024;
/// The longest input that is taken for one: transformers writes 10^30 for "no limit".
const LONGEST: f64 = 1e9;

/// One text or pair as the model takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, special tokens included, without padding.
    pub ids: Vec<u32>,
    /// Segment of each token; all 0 where the model takes no `token_type_ids`.
    pub type_ids: Vec<u32>,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

/// A text in tokens, without special ones beside those that it spells out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The bytes of the text that each token stands for.
    pub offsets: Vec<Range<usize>>,
}

/// A tokenizer, ready to encode.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    leading: Vec<u32>,
    class: Option<String>,
    pad: Option<(u32, String)>,
    pad_type_id: u32,
    has_segments: bool,
    model_max_length: Option<usize>,
    cut_from: TruncationDirection,
    /// The same with truncation to the length that was last asked for.
    truncating: Mutex<Option<(usize, Arc<tokenizers::Tokenizer>)>>,
}

impl Tokenizer {
    /// Loads the tokenizer of a checkpoint folder.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where `tokenizer.json` is absent (naming what is there instead) or cannot be read.
    pub fn load(dir: &Path) -> Result<Self, Problem> {
        let text =
            read_text(dir, FILE, ProblemKind::Tokenizer).map_err(|problem| explain_absence(dir, problem))?;
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(text))?;
        let names = Names::read(dir)?;
        let mut tokenizer = Self {
            inner,
            special: SpecialTokens::new(),
            leading: Vec::new(),
            class: names.class.clone(),
            pad: None,
            pad_type_id: names.number("pad_token_type_id").unwrap_or(0.0) as u32,
            has_segments: names.has_segments(),
            model_max_length: names
                .number("model_max_length")
                .filter(|length| (1.0..LONGEST).contains(length))
                .map(|length| length as usize),
            cut_from: match names.config.get("truncation_side").and_then(Value::as_str) {
                Some("left") => TruncationDirection::Left,
                _ => TruncationDirection::Right,
            },
            truncating: Mutex::new(None),
        };
        guarded(|| tokenizer.adopt(&names))?;
        tokenizer.pad = names
            .token("pad_token")
            .and_then(|token| Some((tokenizer.inner.token_to_id(&token.content)?, token.content)));
        tokenizer.special = names.named_tokens();
        tokenizer.leading = guarded(|| tokenizer.find_leading())?;
        Ok(tokenizer)
    }

    /// What the post-processor puts before a text, seen at a token of no vocabulary.
    fn find_leading(&self) -> tokenizers::Result<Vec<u32>> {
        let text = tokenizers::Token::new(u32::MAX, "a".to_owned(), (0, 1));
        let text = tokenizers::Encoding::from_tokens(vec![text], 0);
        let whole = self.inner.post_process(text, None, true)?;
        Ok(whole.get_ids().iter().copied().take_while(|id| *id != u32::MAX).collect())
    }

    /// Applies what transformers applies beyond `tokenizer.json`.
    fn adopt(&mut self, names: &Names) -> tokenizers::Result<()> {
        self.inner.with_truncation(None)?;
        self.inner.with_padding(None);
        match names.family() {
            Some(Family::Bert) => names.make_bert(&mut self.inner)?,
            Some(Family::Roberta) => names.make_roberta(&mut self.inner),
            None => {}
        }
        self.inner.add_tokens(names.listed_tokens())?;
        let known: Vec<String> =
            self.inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        let named = names.special_tokens().into_iter().filter(|token| !known.contains(&token.content));
        self.inner.add_tokens(named)?;
        self.inner.set_encode_special_tokens(names.flag("split_special_tokens").unwrap_or(false));
        Ok(())
    }

    /// `tokenizer_class`, or the one that belongs to the model type; without `Fast`.
    pub fn class(&self) -> Option<&str> {
        self.class.as_deref()
    }

    /// One more than the greatest token id: the rows that a word embedding needs.
    pub fn vocab_size(&self) -> u64 {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| u64::from(id) + 1)
    }

    /// The longest input it was made for, in tokens, where it says so.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// The id of the padding token.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad.as_ref().map(|(id, _)| *id)
    }

    /// The padding token.
    pub fn pad_token(&self) -> Option<&str> {
        self.pad.as_ref().map(|(_, token)| token.as_str())
    }

    /// The segment of padding.
    pub fn pad_type_id(&self) -> u32 {
        self.pad_type_id
    }

    /// A token's characters.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The named special tokens, such as `bos_token`, as chat templates know them.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The id of a special token by its name, such as `bos_token`.
    pub(crate) fn special_id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(self.special.get(name)?)
    }

    /// The id of the token at the beginning of a sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.special_id("bos_token")
    }

    /// The id of the token that ends a sequence.
    pub fn eos_id(&self) -> Option<u32> {
        self.special_id("eos_token")
    }

    /// The id of a token.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The special tokens that are put before each text.
    pub fn leading_ids(&self) -> &[u32] {
        &self.leading
    }

    /// Encodes a text as it is: nothing is put around it, and nothing cut off.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where the tokenizer cannot encode it.
    pub fn encode_plain(&self, text: &str) -> Result<Tokens, Problem> {
        let encoding = guarded(|| self.inner.encode(text, false))?;
        let offsets = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok(Tokens { ids: encoding.get_ids().to_vec(), offsets })
    }

    /// The text of tokens, with or without special ones.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32], with_special: bool) -> Result<String, Problem> {
        guarded(|| self.inner.decode(ids, !with_special))
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
        let inner = self.truncating_to(max_length)?;
        let mut encodings = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            let parts: Vec<&str> =
                batch.iter().flat_map(|(text, pair)| [Some(*text), *pair]).flatten().collect();
            // Without its special tokens, and in full: given a pair and a length at once, the crate stops each text at that
            // length and can no longer tell which of the two was longer.
            let mut parts = guarded(|| self.inner.encode_batch_fast(parts, false))?.into_iter();
            for (_, pair) in batch {
                let first = parts.next().unwrap_or_default();
                let second = pair.and_then(|_| parts.next());
                encodings.push(guarded(|| self.finish(&inner, first, second, max_length))?);
            }
        }
        Ok(encodings)
    }

    /// Cuts the parts, puts them together and adds special tokens.
    fn finish(
        &self,
        truncating: &tokenizers::Tokenizer,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
        max_length: usize,
    ) -> tokenizers::Result<Encoding> {
        Ok(self.finish_in_full(truncating, first, second, max_length)?.0)
    }

    /// The same, with what the crate says of each token.
    fn finish_in_full(
        &self,
        truncating: &tokenizers::Tokenizer,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
        max_length: usize,
    ) -> tokenizers::Result<(Encoding, tokenizers::Encoding)> {
        let special =
            self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(second.is_some()));
        let length = first.len() + second.as_ref().map_or(0, tokenizers::Encoding::len) + special;
        let encoding = truncating.post_process(first, second, true)?;
        let type_ids =
            if self.has_segments { encoding.get_type_ids().to_vec() } else { vec![0; encoding.len()] };
        let ids = encoding.get_ids().to_vec();
        Ok((Encoding { ids, type_ids, truncated: length > max_length }, encoding))
    }

    fn truncating_to(&self, max_length: usize) -> Result<Arc<tokenizers::Tokenizer>, Problem> {
        let mut cached = self.truncating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, inner)) = cached.as_ref().filter(|(length, _)| *length == max_length) {
            return Ok(Arc::clone(inner));
        }
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        if max_length <= special {
            let message =
                format!("a length of {max_length} tokens leaves no room beside {special} special ones");
            return Err(
                Problem::new(ProblemKind::Tokenizer, FILE, message).hint("choose a greater max_length")
            );
        }
        let mut inner = self.inner.clone();
        let truncation = TruncationParams {
            direction: self.cut_from,
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        guarded(|| inner.with_truncation(Some(truncation)).map(drop))?;
        let inner = Arc::new(inner);
        *cached = Some((max_length, Arc::clone(&inner)));
        Ok(inner)
    }
}

/// Whether the text of a `tokenizer.json` makes a tokenizer.
pub(crate) fn check(text: Vec<u8>) -> Result<(), Problem> {
    guarded(|| tokenizers::Tokenizer::from_bytes(text)).map(drop)
}

/// Runs a step of the `tokenizers` crate, which panics on some damaged files.
fn guarded<T>(step: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Problem> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(outcome) => outcome.map_err(|error| unusable(&error.to_string())),
        Err(panic) => Err(unusable(panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it contradicts itself")
}

fn unusable(why: &str) -> Problem {
    Problem::new(ProblemKind::Tokenizer, FILE, format!("the tokenizer cannot be used: {why}"))
        .hint("upload the original file again, or save it anew with transformers' `save_pretrained`")
}

/// Names the vocabulary that is there in place of `tokenizer.json`.
fn explain_absence(dir: &Path, problem: Problem) -> Problem {
    const OTHERS: [&str; 6] = [
        "vocab.txt",
        "vocab.json",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
        "merges.txt",
    ];
    if dir.join(FILE).exists() {
        return problem;
    }
    match OTHERS.iter().find(|name| dir.join(name).is_file()) {
        Some(other) => Problem::new(
            ProblemKind::Tokenizer,
            FILE,
            format!("the file is missing; there is `{other}`, a vocabulary in an older form"),
        )
        .hint(
            "convert it with transformers: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` writes \
             tokenizer.json",
        ),
        None => Problem::new(ProblemKind::Tokenizer, FILE, "the checkpoint has no tokenizer: the file is missing")
            .hint("add the tokenizer.json that the model was trained with"),
    }
}
