//! Tokenizers that are made for a user's own texts.
//!
//! The learning is that of the `tokenizers` crate. Around it are what a service needs: settings that are checked, memory that
//! is bounded, the same result for the same texts, and the files that transformers loads.

mod count;
mod learn;
mod parts;
mod write;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::problem::{Problem, ProblemKind};
use count::Counts;

/// What problems of settings and texts are told of.
const NAME: &str = "tokenizer";

/// How texts are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Byte-level BPE (GPT-2, BART): every text can be spelt, in bytes if need be.
    Bpe,
    /// WordPiece (BERT): words by spaces and punctuation, the rest of a word marked with `##`.
    WordPiece,
    /// Unigram (SentencePiece, T5, mBART): the likeliest row of pieces, a space marked with `▁`.
    Unigram,
}

impl Kind {
    /// The special tokens, in the order of their ids, which begin at 0. Bytes leave nothing unknown.
    pub fn special_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Bpe => &["<pad>", "<s>", "</s>", "<mask>"],
            Self::WordPiece | Self::Unigram => &["<pad>", "<s>", "</s>", "<unk>", "<mask>"],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpe => "byte-level BPE",
            Self::WordPiece => "WordPiece",
            Self::Unigram => "Unigram",
        })
    }
}

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// How texts are cut.
    pub kind: Kind,
    /// Tokens at most, special ones included; fewer where the texts have not more to learn.
    pub vocab_size: usize,
    /// How often two parts must stand together to become a token (BPE, WordPiece); how often a word must be there to be
    /// learnt from (Unigram).
    #[serde(default = "Recipe::usual_frequency")]
    pub min_frequency: u64,
    /// Whether characters are written in one way where Unicode has several that mean the same (NFKC).
    #[serde(default)]
    pub nfkc: bool,
    /// Whether upper and lower case are one.
    #[serde(default)]
    pub lowercase: bool,
    /// The longest input that the model will take, in tokens; none where it has no limit.
    #[serde(default)]
    pub model_max_length: Option<usize>,
    /// Memory for counted words, in bytes; texts after it is full are not learnt from. Learning itself takes some times as much.
    #[serde(default = "Recipe::usual_memory")]
    pub max_memory: usize,
}

impl Recipe {
    /// The most tokens that are made; the embeddings of more would be larger than any model that is made here.
    pub const MOST: usize = 1_000_000;

    /// A recipe with the usual settings.
    pub fn new(kind: Kind, vocab_size: usize) -> Self {
        Self {
            kind,
            vocab_size,
            min_frequency: Self::usual_frequency(),
            nfkc: false,
            lowercase: false,
            model_max_length: None,
            max_memory: Self::usual_memory(),
        }
    }

    fn usual_frequency() -> u64 {
        2
    }

    fn usual_memory() -> usize {
        512 << 20
    }
}

/// Where the making stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Texts are read and their words counted.
    Reading {
        /// Texts so far.
        texts: u64,
        /// Different words so far.
        words: u64,
    },
    /// Tokens are chosen, which takes most of the time and does not tell how far it is.
    Learning {
        /// Different words.
        words: u64,
    },
}

/// What was learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learnt {
    /// Texts that were given.
    pub texts: u64,
    /// Texts that were learnt from: fewer where the memory was full.
    pub texts_used: u64,
    /// Different words in them.
    pub words: u64,
    /// Tokens of the vocabulary, special ones included.
    pub vocab_size: usize,
}

/// A tokenizer that was made, and can be written.
pub struct Trained {
    inner: tokenizers::Tokenizer,
    recipe: Recipe,
    learnt: Learnt,
}

impl Trained {
    /// What it was made from.
    pub fn learnt(&self) -> Learnt {
        self.learnt
    }
}

/// Makes a tokenizer for texts.
///
/// The same recipe and texts, in the same order, make the same tokenizer. `tell` is called now and then; a text that it is an
/// error to read ends the making.
///
/// # Errors
/// [`ProblemKind::InvalidValue`] where the recipe cannot be kept: no room in the vocabulary for the characters of the texts,
/// which is told with the size that has it. [`ProblemKind::MissingText`] where there is nothing to learn from. Those of the
/// texts.
pub fn train<T: AsRef<str>>(
    texts: impl IntoIterator<Item = Result<T, Problem>>,
    recipe: &Recipe,
    mut tell: impl FnMut(Progress),
) -> Result<Trained, Problem> {
    check(recipe)?;
    let mut inner = parts::around(recipe)?;
    let mut counts = Counts::new(recipe);
    counts.read(&inner, texts, &mut tell)?;
    if counts.words.is_empty() {
        let message = match counts.texts {
            0 => "there are no texts to learn from".to_owned(),
            _ if counts.used == 0 => "the first text alone has more than 2 GiB".to_owned(),
            texts => format!("there is nothing but blank text in {texts} texts"),
        };
        return Err(Problem::new(ProblemKind::MissingText, NAME, message));
    }
    tell(Progress::Learning { words: counts.words.len() as u64 });
    learn::learn(&mut inner, &counts, recipe)?;
    parts::finish(&mut inner, recipe)?;
    let learnt = Learnt {
        texts: counts.texts,
        texts_used: counts.used,
        words: counts.words.len() as u64,
        vocab_size: inner.get_vocab_size(true),
    };
    Ok(Trained { inner, recipe: recipe.clone(), learnt })
}

fn check(recipe: &Recipe) -> Result<(), Problem> {
    if recipe.vocab_size > Recipe::MOST {
        let message = format!("{} tokens are more than {}", recipe.vocab_size, Recipe::MOST);
        return Err(invalid("vocab_size", message).hint("choose a smaller vocabulary"));
    }
    if recipe.max_memory == 0 {
        return Err(invalid("max_memory", "there is no room for a word".to_owned()));
    }
    if recipe.model_max_length == Some(0) {
        return Err(invalid("model_max_length", "there is no room for a token".to_owned()));
    }
    Ok(())
}

/// A problem with a field of the recipe.
fn invalid(field: &str, message: String) -> Problem {
    Problem::new(ProblemKind::InvalidValue, NAME, message).in_column(field)
}

/// The same steps as elsewhere, told as a problem of what is being made.
fn guarded<T>(step: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Problem> {
    super::guarded_in(NAME, step).map_err(|mut problem| {
        problem.hint = Some("make it with another size of vocabulary, or of another kind".into());
        problem
    })
}
