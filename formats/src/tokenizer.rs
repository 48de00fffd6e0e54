//! `tokenizer.json` as transformers' `AutoTokenizer` uses it.
//!
//! Beside the file itself transformers looks at `tokenizer_config.json` and `special_tokens_map.json`, and so does this:
//! - BERT's and DistilBERT's classes take lower-casing, accents and Chinese characters from the configuration (lower case
//!   where it says nothing), RoBERTa's takes `add_prefix_space`, whatever `tokenizer.json` says.
//! - Special tokens that are named and not yet known as such are added.
//! - Truncation and padding settings of `tokenizer.json` are not used; the side to cut from is `truncation_side`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, EncodeInput, NormalizerWrapper, PostProcessor, PostProcessorWrapper, PreTokenizerWrapper,
    TruncationDirection, TruncationParams, TruncationStrategy,
};

use crate::checkpoint::{read_json, read_text};
use crate::problem::{Problem, ProblemKind};

pub(crate) const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
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

/// A tokenizer, ready to encode.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
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
        let inner = tokenizers::Tokenizer::from_bytes(text).map_err(|error| unusable(&error))?;
        let names = Names::read(dir)?;
        let mut tokenizer = Self {
            inner,
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
        tokenizer.adopt(&names).map_err(|error| unusable(&error))?;
        tokenizer.pad = names
            .token("pad_token")
            .and_then(|token| Some((tokenizer.inner.token_to_id(&token.content)?, token.content)));
        Ok(tokenizer)
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
            let inputs: Vec<EncodeInput<'_>> = batch
                .iter()
                .map(|(text, pair)| match pair {
                    Some(pair) => EncodeInput::Dual((*text).into(), (*pair).into()),
                    None => EncodeInput::Single((*text).into()),
                })
                .collect();
            let encoded = inner.encode_batch_fast(inputs, true).map_err(|error| unusable(&error))?;
            encodings.extend(encoded.into_iter().map(|encoding| Encoding {
                ids: encoding.get_ids().to_vec(),
                type_ids: if self.has_segments {
                    encoding.get_type_ids().to_vec()
                } else {
                    vec![0; encoding.len()]
                },
                truncated: !encoding.get_overflowing().is_empty(),
            }));
        }
        Ok(encodings)
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
        inner.with_truncation(Some(truncation)).map_err(|error| unusable(&error))?;
        let inner = Arc::new(inner);
        *cached = Some((max_length, Arc::clone(&inner)));
        Ok(inner)
    }
}

fn unusable(error: &tokenizers::Error) -> Problem {
    Problem::new(ProblemKind::Tokenizer, FILE, format!("the tokenizer cannot be used: {error}"))
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

/// Classes whose parts transformers sets up itself.
enum Family {
    Bert,
    Roberta,
}

/// What the small files beside `tokenizer.json` say.
struct Names {
    config: Map<String, Value>,
    class: Option<String>,
}

const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Names {
    fn read(dir: &Path) -> Result<Self, Problem> {
        let read = |name: &str| -> Result<Map<String, Value>, Problem> {
            if dir.join(name).is_file() {
                read_json(dir, name, ProblemKind::Tokenizer)
            } else {
                Ok(Map::new())
            }
        };
        let mut config = read(CONFIG)?;
        // A configuration that lists its tokens is newer than the map of special tokens, and complete.
        if !config.contains_key("added_tokens_decoder") {
            config.extend(read(SPECIAL)?);
        }
        let class = match config.get("tokenizer_class").and_then(Value::as_str) {
            Some(class) => Some(class.trim_end_matches("Fast").to_owned()),
            None => class_of_model(dir),
        };
        Ok(Self { config, class })
    }

    fn family(&self) -> Option<Family> {
        match self.class.as_deref()? {
            "BertTokenizer" | "DistilBertTokenizer" => Some(Family::Bert),
            "RobertaTokenizer" => Some(Family::Roberta),
            _ => None,
        }
    }

    /// Whether transformers hands `token_type_ids` to the model.
    fn has_segments(&self) -> bool {
        match self.config.get("model_input_names").and_then(Value::as_array) {
            Some(inputs) => inputs.iter().any(|input| input == "token_type_ids"),
            None => !matches!(
                self.class.as_deref(),
                Some("DistilBertTokenizer" | "RobertaTokenizer" | "XLMRobertaTokenizer")
            ),
        }
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name)?.as_bool()
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.config.get(name)?.as_f64()
    }

    /// A named special token, or the default of its class.
    fn token(&self, name: &str) -> Option<AddedToken> {
        if let Some(written) = self.config.get(name) {
            return added_token(written, true);
        }
        let default = match (self.family()?, name) {
            (Family::Bert, "unk_token") => "[UNK]",
            (Family::Bert, "sep_token") => "[SEP]",
            (Family::Bert, "pad_token") => "[PAD]",
            (Family::Bert, "cls_token") => "[CLS]",
            (Family::Bert, "mask_token") => "[MASK]",
            (Family::Roberta, "bos_token" | "cls_token") => "<s>",
            (Family::Roberta, "eos_token" | "sep_token") => "</s>",
            (Family::Roberta, "unk_token") => "<unk>",
            (Family::Roberta, "pad_token") => "<pad>",
            (Family::Roberta, "mask_token") => "<mask>",
            _ => return None,
        };
        Some(AddedToken::from(default, true))
    }

    fn special_tokens(&self) -> Vec<AddedToken> {
        let mut tokens: Vec<AddedToken> = NAMED_TOKENS.iter().filter_map(|name| self.token(name)).collect();
        let further = ["extra_special_tokens", "additional_special_tokens"];
        let lists = further.iter().filter_map(|name| self.config.get(*name)?.as_array());
        tokens.extend(lists.flatten().filter_map(|written| added_token(written, true)));
        tokens
    }

    /// `added_tokens_decoder`, by number.
    fn listed_tokens(&self) -> Vec<AddedToken> {
        let Some(listed) = self.config.get("added_tokens_decoder").and_then(Value::as_object) else {
            return Vec::new();
        };
        let mut tokens: Vec<(u32, AddedToken)> = listed
            .iter()
            .filter_map(|(id, token)| Some((id.parse().ok()?, added_token(token, false)?)))
            .collect();
        tokens.sort_by_key(|(id, _)| *id);
        tokens.into_iter().map(|(_, token)| token).collect()
    }

    fn make_bert(&self, inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let normalizer = BertNormalizer::new(
            true,
            self.flag("tokenize_chinese_chars").unwrap_or(true),
            self.flag("strip_accents"),
            self.flag("do_lower_case").unwrap_or(true),
        );
        inner.with_normalizer(Some(NormalizerWrapper::BertNormalizer(normalizer)))?;
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::BertPreTokenizer(BertPreTokenizer)));
        let id = |name: &str| {
            let token = self.token(name)?.content;
            Some((token.clone(), inner.token_to_id(&token)?))
        };
        if let (Some(cls), Some(sep)) = (id("cls_token"), id("sep_token")) {
            let template = TemplateProcessing::builder()
                .try_single(format!("{}:0 $A:0 {}:0", cls.0, sep.0))?
                .try_pair(format!("{}:0 $A:0 {}:0 $B:1 {}:1", cls.0, sep.0, sep.0))?
                .special_tokens(vec![cls, sep])
                .build()?;
            inner.with_post_processor(Some(PostProcessorWrapper::Template(template)));
        }
        Ok(())
    }

    fn make_roberta(&self, inner: &mut tokenizers::Tokenizer) {
        let prefix_space = self.flag("add_prefix_space").unwrap_or(false);
        let trim_offsets = self.flag("trim_offsets").unwrap_or(true);
        let byte_level = ByteLevel::new(prefix_space, true, true);
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level)));
        let id = |name: &str| {
            let token = self.token(name)?.content;
            Some((token.clone(), inner.token_to_id(&token)?))
        };
        if let (Some(sep), Some(cls)) = (id("sep_token"), id("cls_token")) {
            let processing =
                RobertaProcessing::new(sep, cls).trim_offsets(trim_offsets).add_prefix_space(prefix_space);
            inner.with_post_processor(Some(PostProcessorWrapper::Roberta(processing)));
        }
    }
}

/// The class that transformers takes for the model type of `config.json`.
fn class_of_model(dir: &Path) -> Option<String> {
    let config: Map<String, Value> = read_json(dir, "config.json", ProblemKind::Config).ok()?;
    let class = match config.get("model_type")?.as_str()? {
        "bert" => "BertTokenizer",
        "distilbert" => "DistilBertTokenizer",
        "roberta" => "RobertaTokenizer",
        "xlm-roberta" => "XLMRobertaTokenizer",
        _ => return None,
    };
    Some(class.to_owned())
}

/// A token as text, or as an object with its rules.
fn added_token(written: &Value, special: bool) -> Option<AddedToken> {
    let Some(rules) = written.as_object() else {
        return Some(AddedToken::from(written.as_str()?, special));
    };
    let flag = |name: &str| rules.get(name).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    Some(
        AddedToken::from(rules.get("content")?.as_str()?, special)
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .single_word(flag("single_word").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special)),
    )
}
