//! `tokenizer.json` and what lies beside it, from the metadata of a GGUF.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::config_in::special_id;
use super::family::Family;
use super::pre::Cut;
use super::value::Metadata;
use crate::problem::{Problem, ProblemKind};

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
/// Longer tokens are nowhere found by merging: trying every cut of one takes the square of its length.
const MAX_CUT: usize = 256;

/// What a token is, by the format's numbers.
pub(super) const NORMAL: i64 = 1;
pub(super) const UNKNOWN: i64 = 2;
pub(super) const CONTROL: i64 = 3;
pub(super) const USER_DEFINED: i64 = 4;
pub(super) const UNUSED: i64 = 5;
pub(super) const BYTE: i64 = 6;

/// The files of a tokenizer.
pub(super) struct Files {
    pub(super) tokenizer: Value,
    pub(super) config: Map<String, Value>,
    pub(super) chat_template: Option<String>,
}

/// A file's vocabulary.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: Vec<String>,
    sorts: Vec<i64>,
}

/// Makes the files of the tokenizer.
pub(super) fn tokenizer(
    metadata: &Metadata,
    family: &Family,
    notices: &mut Vec<String>,
) -> Result<Files, Problem> {
    let model =
        metadata.text("tokenizer.ggml.model")?.ok_or_else(|| metadata.missing("tokenizer.ggml.model"))?;
    let vocabulary = Vocabulary::of(metadata)?;
    let (mut tokenizer, adds_first) = match model {
        "gpt2" => byte_level(&vocabulary, notices)?,
        "llama" => (sentence_piece(&vocabulary, family)?, true),
        other => {
            let message = format!("tokenizers of sort `{other}` are not read");
            return Err(Problem::new(ProblemKind::Tokenizer, &metadata.file, message)
                .in_column("tokenizer.ggml.model")
                .hint("read are gpt2 (byte-level BPE) and llama (SentencePiece's BPE)"));
        }
    };
    tokenizer["added_tokens"] = vocabulary.added();
    let named = vocabulary.named()?;
    let adds = |name: &str, usual: bool| -> Result<bool, Problem> {
        Ok(metadata.flag(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(usual))
    };
    let (adds_first, adds_last) = (adds("bos", adds_first)?, adds("eos", false)?);
    let first = named.get("bos_token").filter(|_| adds_first);
    let last = named.get("eos_token").filter(|_| adds_last);
    tokenizer["post_processor"] = vocabulary.around(first, last);
    check(&tokenizer, metadata)?;
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    for (name, id) in &named {
        config.insert((*name).to_owned(), json!(vocabulary.tokens[*id as usize]));
    }
    if let Some(length) = metadata.size(&family.key("context_length"))? {
        config.insert("model_max_length".to_owned(), json!(length));
    }
    let chat_template = metadata.text("tokenizer.chat_template")?.map(str::to_owned);
    if metadata.get("tokenizer.chat_templates").is_some() {
        notices.push("of several chat templates the default one was taken".to_owned());
    }
    Ok(Files { tokenizer, config, chat_template })
}

/// Whether what was made is a tokenizer.
fn check(tokenizer: &Value, metadata: &Metadata) -> Result<(), Problem> {
    let text = serde_json::to_vec(tokenizer).unwrap_or_default();
    crate::tokenizer::check(text).map_err(|problem| {
        Problem::new(ProblemKind::Tokenizer, &metadata.file, problem.message).in_column(TOKENS)
    })
}

impl<'a> Vocabulary<'a> {
    fn of(metadata: &'a Metadata) -> Result<Self, Problem> {
        let tokens = metadata.texts(TOKENS)?.ok_or_else(|| metadata.missing(TOKENS))?.to_vec();
        let sorts = match metadata.ints("tokenizer.ggml.token_type")? {
            None => vec![NORMAL; tokens.len()],
            Some(sorts) if sorts.len() == tokens.len() => sorts.to_vec(),
            Some(sorts) => {
                let message = format!("{} sorts of {} tokens", sorts.len(), tokens.len());
                return Err(Problem::new(ProblemKind::Tokenizer, &metadata.file, message)
                    .in_column("tokenizer.ggml.token_type"));
            }
        };
        Ok(Self { metadata, tokens, sorts })
    }

    /// Whether a token only fills the embedding up.
    fn is_filling(&self, id: usize) -> bool {
        self.sorts[id] == UNUSED && self.tokens[id] == format!("[PAD{id}]")
    }

    /// Numbers by token; the first of several that are the same, since the others cannot be told from it.
    fn numbers(&self) -> HashMap<&str, usize> {
        let mut numbers = HashMap::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| !self.is_filling(*id)) {
            numbers.entry(token.as_str()).or_insert(id);
        }
        numbers
    }

    /// `vocab`, in the order of the numbers.
    fn written(&self, numbers: &HashMap<&str, usize>) -> Value {
        let kept =
            self.tokens.iter().enumerate().filter(|(id, token)| numbers.get(token.as_str()) == Some(id));
        Value::Object(kept.map(|(id, token)| (token.clone(), json!(id))).collect())
    }

    /// Tokens that are found in a text before anything else.
    fn added(&self) -> Value {
        let numbers = self.numbers();
        let sorts = self.tokens.iter().zip(&self.sorts).enumerate();
        let added = sorts.filter(|(id, (token, sort))| {
            matches!(**sort, UNKNOWN | CONTROL | USER_DEFINED)
                && !token.is_empty()
                && numbers.get(token.as_str()) == Some(id)
        });
        let written = added.map(|(id, (token, sort))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *sort != USER_DEFINED,
            })
        });
        Value::Array(written.collect())
    }

    /// The special tokens that have a name.
    fn named(&self) -> Result<BTreeMap<&'static str, u64>, Problem> {
        const KEYS: [(&str, &str); 5] = [
            ("bos_token", "tokenizer.ggml.bos_token_id"),
            ("eos_token", "tokenizer.ggml.eos_token_id"),
            ("unk_token", "tokenizer.ggml.unknown_token_id"),
            ("pad_token", "tokenizer.ggml.padding_token_id"),
            ("mask_token", "tokenizer.ggml.mask_token_id"),
        ];
        let mut named = BTreeMap::new();
        for (name, key) in KEYS {
            match special_id(self.metadata, key)? {
                Some(id) if id >= self.tokens.len() as u64 => {
                    let message = format!("the token {id} is none of {}", self.tokens.len());
                    return Err(
                        Problem::new(ProblemKind::Tokenizer, &self.metadata.file, message).in_column(key)
                    );
                }
                Some(id) => drop(named.insert(name, id)),
                None => {}
            }
        }
        Ok(named)
    }

    /// A post-processor that puts tokens before and after a text.
    fn around(&self, first: Option<&u64>, last: Option<&u64>) -> Value {
        if first.is_none() && last.is_none() {
            return Value::Null;
        }
        let token = |id: &u64| self.tokens[*id as usize].as_str();
        let piece = |id: &u64, sort: u8| json!({"SpecialToken": {"id": token(id), "type_id": sort}});
        let text = |name: &str, sort: u8| -> Vec<Value> {
            let own = json!({"Sequence": {"id": name, "type_id": sort}});
            let pieces = [first.map(|id| piece(id, sort)), Some(own), last.map(|id| piece(id, sort))];
            pieces.into_iter().flatten().collect()
        };
        let special: Map<String, Value> = [first, last]
            .into_iter()
            .flatten()
            .map(|id| (token(id).to_owned(), json!({"id": token(id), "ids": [id], "tokens": [token(id)]})))
            .collect();
        json!({
            "type": "TemplateProcessing",
            "single": text("A", 0),
            "pair": ([text("A", 0), text("B", 1)].concat()),
            "special_tokens": special,
        })
    }

    /// The merges of the file, in pairs.
    fn merges(&self, numbers: &HashMap<&str, usize>) -> Result<Option<Value>, Problem> {
        let Some(merges) = self.metadata.texts(MERGES)? else { return Ok(None) };
        let mut pairs = Vec::with_capacity(merges.len());
        for (at, merge) in merges.iter().enumerate() {
            let wrong = |what: &str| {
                let message = format!("merge {at}, `{merge}`, {what}");
                Problem::new(ProblemKind::Tokenizer, &self.metadata.file, message).in_column(MERGES)
            };
            // A part may begin with a space, so that the first one is no separator.
            let cut = merge.char_indices().skip(1).find(|(_, letter)| *letter == ' ');
            let Some((cut, _)) = cut else { return Err(wrong("is no two tokens with a space between")) };
            let (left, right) = (&merge[..cut], &merge[cut + 1..]);
            let whole = format!("{left}{right}");
            if [left, right, whole.as_str()].iter().any(|token| !numbers.contains_key(token)) {
                return Err(wrong("is made of, or makes, something that is no token"));
            }
            pairs.push(json!([left, right]));
        }
        Ok(Some(Value::Array(pairs)))
    }
}

/// Byte-level BPE, and whether a text begins with the token of its beginning where the file does not say.
fn byte_level(vocabulary: &Vocabulary<'_>, notices: &mut Vec<String>) -> Result<(Value, bool), Problem> {
    const KEY: &str = "tokenizer.ggml.pre";
    let metadata = vocabulary.metadata;
    let name = metadata.text(KEY)?.unwrap_or("default");
    if name == "default" {
        notices
            .push("the file does not say how its tokenizer cuts texts; it was taken for GPT-2's".to_owned());
    }
    let cut = Cut::named(name).ok_or_else(|| {
        Problem::new(
            ProblemKind::Tokenizer,
            &metadata.file,
            format!("the pre-tokenizer `{name}` is not known"),
        )
        .in_column(KEY)
        .hint(format!("known are {}", Cut::known()))
    })?;
    let numbers = vocabulary.numbers();
    let merges = vocabulary.merges(&numbers)?.ok_or_else(|| metadata.missing(MERGES))?;
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": cut.normalizer(), "pre_tokenizer": cut.pre_tokenizer(), "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": cut.ignores_merges(), "vocab": vocabulary.written(&numbers), "merges": merges,
        },
    });
    Ok((tokenizer, cut.is_llama3))
}

/// SentencePiece's BPE: spaces are `▁`, what is in no token is spelled in bytes.
fn sentence_piece(vocabulary: &Vocabulary<'_>, family: &Family) -> Result<Value, Problem> {
    let is_gemma = family.architecture.starts_with("gemma");
    let vocabulary = Vocabulary {
        tokens: spaced(&vocabulary.tokens, is_gemma),
        sorts: vocabulary.sorts.clone(),
        ..*vocabulary
    };
    let numbers = vocabulary.numbers();
    let merges = match vocabulary.merges(&numbers)? {
        Some(merges) => merges,
        None => derived_merges(&vocabulary, &numbers, is_gemma)?,
    };
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let back = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let mut decoders = vec![back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let has_prefix = vocabulary.metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(!is_gemma);
    let (normalizer, pre_tokenizer) = match (has_prefix, is_gemma) {
        (true, _) => {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            let prepend = json!({"type": "Prepend", "prepend": "▁"});
            (json!({"type": "Sequence", "normalizers": [prepend, space]}), Value::Null)
        }
        (false, true) => {
            let split = json!({
                "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false,
            });
            (space, split)
        }
        (false, false) => (space, Value::Null),
    };
    let unknown = vocabulary.sorts.iter().position(|sort| *sort == UNKNOWN);
    let unknown =
        unknown.map(|id| vocabulary.tokens[id].clone()).filter(|token| numbers.contains_key(token.as_str()));
    let has_bytes = numbers.contains_key("<0x00>");
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": has_bytes,
            "ignore_merges": false, "vocab": vocabulary.written(&numbers), "merges": merges,
        },
    }))
}

/// Gemma's files spell runs of spaces as such.
fn spaced(tokens: &[String], is_gemma: bool) -> Vec<String> {
    let respelled =
        |token: &String| match is_gemma && !token.is_empty() && token.bytes().all(|byte| byte == b' ') {
            true => "▁".repeat(token.len()),
            false => token.clone(),
        };
    tokens.iter().map(respelled).collect()
}

/// The merges that scores imply: every cut of a token into two others, best token first.
///
/// Of tokens with the same score, and of the cuts of one, those with the longer first part go first, as in transformers'
/// conversion. Gemma's scores do not follow the order of its merges, its numbers do.
fn derived_merges(
    vocabulary: &Vocabulary<'_>,
    numbers: &HashMap<&str, usize>,
    by_number: bool,
) -> Result<Value, Problem> {
    const KEY: &str = "tokenizer.ggml.scores";
    let metadata = vocabulary.metadata;
    let scores = match by_number {
        true => (0..vocabulary.tokens.len()).map(|id| -(id as f64)).collect(),
        false => metadata.floats(KEY)?.ok_or_else(|| metadata.missing(KEY))?.to_vec(),
    };
    if scores.len() != vocabulary.tokens.len() {
        let message = format!("{} scores of {} tokens", scores.len(), vocabulary.tokens.len());
        return Err(Problem::new(ProblemKind::Tokenizer, &metadata.file, message).in_column(KEY));
    }
    let mut merges = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        if numbers.get(token.as_str()) != Some(&id) || token.len() > MAX_CUT {
            continue;
        }
        let from = merges.len();
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(first), Some(second)) = (numbers.get(left), numbers.get(right)) {
                merges.push((scores[id], (*first, *second), left, right));
            }
        }
        merges[from..].sort_by_key(|(_, numbers, ..)| *numbers);
    }
    let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
    merges.sort_by(|(score, _, left, right), (other_score, _, other_left, other_right)| {
        other_score.total_cmp(score).then_with(|| lengths(other_left, other_right).cmp(&lengths(left, right)))
    });
    Ok(merges.into_iter().map(|(_, _, left, right)| json!([left, right])).collect())
}
