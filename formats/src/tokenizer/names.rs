//! What the small files beside `tokenizer.json` say, and what transformers makes of it.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use crate::chat_template::SpecialTokens;
use crate::checkpoint::read_json;
use crate::problem::{Problem, ProblemKind};

const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";

/// Classes whose parts transformers sets up itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Bert,
    /// BART's as well.
    Roberta,
    T5,
    MBart,
    MBart50,
    Marian,
}

/// What the small files beside `tokenizer.json` say.
pub(super) struct Names {
    pub(super) config: Map<String, Value>,
    pub(super) class: Option<String>,
}

const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

const FURTHER: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

impl Names {
    pub(super) fn read(dir: &Path) -> Result<Self, Problem> {
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

    pub(super) fn family(&self) -> Option<Family> {
        match self.class.as_deref()? {
            "BertTokenizer" | "DistilBertTokenizer" => Some(Family::Bert),
            "RobertaTokenizer" | "BartTokenizer" => Some(Family::Roberta),
            "T5Tokenizer" => Some(Family::T5),
            "MBartTokenizer" => Some(Family::MBart),
            "MBart50Tokenizer" => Some(Family::MBart50),
            "MarianTokenizer" => Some(Family::Marian),
            _ => None,
        }
    }

    /// Whether transformers hands `token_type_ids` to the model: where the configuration says so, else for BERT's own class.
    /// A BERT checkpoint with the plain `PreTrainedTokenizerFast` gets none since transformers 5.
    pub(super) fn has_segments(&self) -> bool {
        match self.config.get("model_input_names").and_then(Value::as_array) {
            Some(inputs) => inputs.iter().any(|input| input == "token_type_ids"),
            None => self.class.as_deref() == Some("BertTokenizer"),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name)?.as_bool()
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.config.get(name)?.as_f64()
    }

    /// A named special token, or the default of its class.
    pub(super) fn token(&self, name: &str) -> Option<AddedToken> {
        if let Some(written) = self.config.get(name) {
            return added_token(written, true);
        }
        let default = match (self.family()?, name) {
            (Family::Bert, "unk_token") => "[UNK]",
            (Family::Bert, "sep_token") => "[SEP]",
            (Family::Bert, "pad_token") => "[PAD]",
            (Family::Bert, "cls_token") => "[CLS]",
            (Family::Bert, "mask_token") => "[MASK]",
            (Family::Bert, _) => return None,
            (Family::Roberta | Family::MBart, "bos_token") => "<s>",
            (Family::Roberta | Family::MBart | Family::MBart50, "cls_token") => "<s>",
            (Family::Roberta | Family::MBart | Family::MBart50, "sep_token") => "</s>",
            (Family::MBart | Family::MBart50, "mask_token") => {
                return Some(AddedToken::from("<mask>", true).lstrip(true));
            }
            (Family::Roberta, "mask_token") => "<mask>",
            (_, "eos_token") => "</s>",
            (_, "unk_token") => "<unk>",
            (_, "pad_token") => "<pad>",
            _ => return None,
        };
        Some(AddedToken::from(default, true))
    }

    /// The named tokens by name.
    pub(super) fn named_tokens(&self) -> SpecialTokens {
        let named =
            NAMED_TOKENS.iter().filter_map(|name| Some(((*name).to_owned(), self.token(name)?.content)));
        named.collect()
    }

    /// A word of the configuration.
    pub(super) fn word(&self, name: &str) -> Option<&str> {
        self.config.get(name)?.as_str()
    }

    /// Whether further special tokens are listed: those that belong to the class are then not added.
    pub(super) fn lists_further(&self) -> bool {
        FURTHER.iter().any(|name| self.config.contains_key(*name))
    }

    pub(super) fn special_tokens(&self) -> Vec<AddedToken> {
        let mut tokens: Vec<AddedToken> = NAMED_TOKENS.iter().filter_map(|name| self.token(name)).collect();
        let lists = FURTHER.iter().filter_map(|name| self.config.get(*name)?.as_array());
        tokens.extend(lists.flatten().filter_map(|written| added_token(written, true)));
        tokens
    }

    /// `added_tokens_decoder`, by number.
    pub(super) fn listed_tokens(&self) -> Vec<AddedToken> {
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

    pub(super) fn make_bert(&self, inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
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

    pub(super) fn make_roberta(&self, inner: &mut tokenizers::Tokenizer) {
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

/// The class that `config.json` names, or that transformers takes for its model type.
fn class_of_model(dir: &Path) -> Option<String> {
    let config: Map<String, Value> = read_json(dir, "config.json", ProblemKind::Config).ok()?;
    if let Some(class) = config.get("tokenizer_class").and_then(Value::as_str) {
        return Some(class.trim_end_matches("Fast").to_owned());
    }
    let class = match config.get("model_type")?.as_str()? {
        "bert" => "BertTokenizer",
        "distilbert" => "DistilBertTokenizer",
        "roberta" => "RobertaTokenizer",
        "xlm-roberta" => "XLMRobertaTokenizer",
        "bart" => "BartTokenizer",
        "t5" | "mt5" | "switch_transformers" => "T5Tokenizer",
        "mbart" => "MBartTokenizer",
        "marian" => "MarianTokenizer",
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
