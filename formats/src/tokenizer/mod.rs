//! A checkpoint's tokenizer as transformers' `AutoTokenizer` uses it.
//!
//! Beside `tokenizer.json` itself transformers looks at `tokenizer_config.json` and `special_tokens_map.json`, and so does this:
//! - BERT's and DistilBERT's classes take lower-casing, accents and Chinese characters from the configuration (lower case
//!   where it says nothing), RoBERTa's and BART's take `add_prefix_space`, whatever `tokenizer.json` says.
//! - Special tokens that are named and not yet known as such are added.
//! - Truncation and padding settings of `tokenizer.json` are not used; the side to cut from is `truncation_side`.
//!
//! Without a `tokenizer.json` the older files of T5, mBART, BART and RoBERTa are read, and Marian's always.

mod bytes;
mod encode;
mod languages;
mod marian;
mod names;
mod older;
mod sentencepiece;
pub mod train;
mod windows;
mod words;

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::{PostProcessorWrapper, TruncationDirection};

use crate::chat_template::SpecialTokens;
use crate::checkpoint::read_text;
use crate::problem::{Problem, ProblemKind};
use marian::Marian;
use names::{Family, Names};
pub use windows::{Window, WindowError};
pub use words::{Located, Piece, Worded};

pub(crate) const FILE: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
/// The files that a tokenizer is read from, where they are there.
pub const FILES: [&str; 9] = [
    FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    VOCABULARY,
    MERGES,
    marian::SOURCE,
    marian::TARGET,
    older::T5,
    older::MBART_FILE,
];
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
    family: Option<Family>,
    /// Cuts texts in place of `inner`.
    marian: Option<Marian>,
    /// What is put around targets, where it is not the same as around sources.
    of_targets: Option<PostProcessorWrapper>,
    /// The language that a model for one pair writes.
    language_of_pair: Option<String>,
    pad: Option<(u32, String)>,
    pad_type_id: u32,
    has_segments: bool,
    model_max_length: Option<usize>,
    cut_from: TruncationDirection,
    /// Whether padding, and the second text of a pair, are to come first.
    pads_left: bool,
    /// The same without a post-processor, made when it is first needed.
    bare: OnceLock<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// Loads the tokenizer of a checkpoint folder.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where its files are absent (naming what is there instead) or cannot be read.
    pub fn load(dir: &Path) -> Result<Self, Problem> {
        let names = Names::read(dir)?;
        let (marian, inner) = read(dir, &names)?;
        let family = names.family();
        let mut tokenizer = Self {
            inner,
            special: SpecialTokens::new(),
            leading: Vec::new(),
            class: names.class.clone(),
            family,
            marian,
            of_targets: None,
            language_of_pair: None,
            pad: None,
            pad_type_id: names.number("pad_token_type_id").unwrap_or(0.0) as u32,
            has_segments: names.has_segments(),
            model_max_length: names
                .number("model_max_length")
                .filter(|length| (1.0..LONGEST).contains(length))
                .map(|length| length as usize)
                .or((family == Some(Family::Marian)).then_some(marian::LONGEST)),
            cut_from: match names.config.get("truncation_side").and_then(Value::as_str) {
                Some("left") => TruncationDirection::Left,
                _ => TruncationDirection::Right,
            },
            pads_left: names.config.get("padding_side").and_then(Value::as_str) == Some("left"),
            bare: OnceLock::new(),
        };
        guarded(|| tokenizer.adopt(&names))?;
        tokenizer.pad = names
            .token("pad_token")
            .and_then(|token| Some((tokenizer.inner.token_to_id(&token.content)?, token.content)));
        tokenizer.special = names.named_tokens();
        tokenizer.adopt_languages(&names)?;
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
            _ => {}
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
}

/// Whether the text of a `tokenizer.json` makes a tokenizer.
pub(crate) fn check(text: Vec<u8>) -> Result<(), Problem> {
    guarded(|| tokenizers::Tokenizer::from_bytes(text)).map(drop)
}

/// The tokenizer of a folder, and what cuts texts in its place.
fn read(dir: &Path, names: &Names) -> Result<(Option<Marian>, tokenizers::Tokenizer), Problem> {
    let family = names.family();
    let has = |name: &str| dir.join(name).exists();
    // transformers cuts with Marian's models themselves, even beside a tokenizer.json.
    if family == Some(Family::Marian) && (has(marian::SOURCE) || !has(FILE)) {
        let (marian, inner) = Marian::load(dir, names)?;
        return Ok((Some(marian), inner));
    }
    if !has(FILE)
        && let Some(inner) = older::load(dir, family, names)?
    {
        return Ok((None, inner));
    }
    let text =
        read_text(dir, FILE, ProblemKind::Tokenizer).map_err(|problem| explain_absence(dir, problem))?;
    Ok((None, guarded(|| tokenizers::Tokenizer::from_bytes(text))?))
}

/// Runs a step of the `tokenizers` crate, which panics on some damaged files.
fn guarded<T>(step: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Problem> {
    guarded_in(FILE, step)
}

/// The same where another file is to blame.
fn guarded_in<T>(file: &str, step: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Problem> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(outcome) => outcome.map_err(|error| unusable(file, &error.to_string())),
        Err(panic) => Err(unusable(file, panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it contradicts itself")
}

fn unusable(file: &str, why: &str) -> Problem {
    Problem::new(ProblemKind::Tokenizer, file, format!("the tokenizer cannot be used: {why}"))
        .hint("upload the original file again, or save it anew with transformers' `save_pretrained`")
}

/// Names the vocabulary that is there in place of `tokenizer.json`.
fn explain_absence(dir: &Path, problem: Problem) -> Problem {
    const OTHERS: [&str; 7] = [
        "vocab.txt",
        "vocab.json",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
        "source.spm",
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
             tokenizer.json; read as they are the files of T5, mBART, BART, RoBERTa and Marian, where \
             tokenizer_config.json or config.json says which",
        ),
        None => Problem::new(ProblemKind::Tokenizer, FILE, "the checkpoint has no tokenizer: the file is missing")
            .hint("add the tokenizer.json that the model was trained with"),
    }
}
