//! Tokenizers of checkpoints that have no `tokenizer.json`, as transformers makes them from older files.
//!
//! After `tokenization_t5.py`, `tokenization_mbart.py`, `tokenization_mbart50.py` and `tokenization_roberta.py` of transformers
//! 5.24 (<https://github.com/huggingface/transformers/tree/main/src/transformers/models>).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result,
};

use super::languages::{MBART, OF_MBART};
use super::names::{Family, Names};
use super::sentencepiece::{ModelFile, Sort, Way};
use super::{MERGES, VOCABULARY, guarded_in};
use crate::checkpoint::{read_json, read_text};
use crate::problem::{LineRange, Problem, ProblemKind};

pub(super) const T5: &str = "spiece.model";
pub(super) const MBART_FILE: &str = "sentencepiece.bpe.model";
/// `<extra_id_0>` … where the configuration does not say how many there are.
const EXTRA: usize = 100;
/// More are taken for a mistake.
const MOST_EXTRA: f64 = 100_000.0;

/// Makes the tokenizer of a family from its older files; none where they are not there.
pub(super) fn load(
    dir: &Path,
    family: Option<Family>,
    names: &Names,
) -> std::result::Result<Option<tokenizers::Tokenizer>, Problem> {
    let has = |name: &str| dir.join(name).is_file();
    match family {
        Some(Family::T5) if has(T5) => t5(dir, names).map(Some),
        Some(family @ (Family::MBart | Family::MBart50)) if has(MBART_FILE) => {
            mbart(dir, family, names).map(Some)
        }
        Some(Family::Roberta) if has(VOCABULARY) && has(MERGES) => byte_level(dir).map(Some),
        _ => Ok(None),
    }
}

/// A file whose pieces are chosen by their scores.
fn unigram(dir: &Path, name: &str) -> std::result::Result<ModelFile, Problem> {
    let model = ModelFile::read(dir, name)?;
    if model.way != Way::Unigram {
        let message = "it is a model of BPE, and transformers reads this file as one of Unigram";
        return Err(Problem::new(ProblemKind::Tokenizer, name, message)
            .hint("upload the tokenizer.json that belongs to the model"));
    }
    Ok(model)
}

fn t5(dir: &Path, names: &Names) -> std::result::Result<tokenizers::Tokenizer, Problem> {
    let model = unigram(dir, T5)?;
    let extra = match names.number("extra_ids") {
        None => EXTRA,
        Some(count) if (0.0..=MOST_EXTRA).contains(&count) && count.fract() == 0.0 => count as usize,
        Some(count) => {
            let message = format!("{count} is no number of tokens that a text can be masked with");
            return Err(
                Problem::new(ProblemKind::Tokenizer, "tokenizer_config.json", message).in_column("extra_ids")
            );
        }
    };
    let mut vocabulary: Vec<(String, f64)> =
        model.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score))).collect();
    vocabulary.extend((0..extra).rev().map(|number| (format!("<extra_id_{number}>"), 0.0)));
    let masks = (0..extra).map(|number| format!("<extra_id_{number}>"));
    let special = if names.lists_further() { Vec::new() } else { special(&model, masks) };
    guarded_in(T5, || {
        // transformers fixes the number of the unknown token, and so its place.
        let mut tokenizer = tokenizers::Tokenizer::new(Unigram::from(vocabulary, Some(2), false)?);
        let rules = precompiled(&model)?;
        tokenizer.with_normalizer(rules.map(NormalizerWrapper::Precompiled))?;
        by_words(&mut tokenizer);
        tokenizer.add_tokens(special)?;
        let end = tokenizer.token_to_id("</s>").ok_or("there is no token `</s>`")?;
        let template = TemplateProcessing::builder()
            .try_single("$A </s>")?
            .try_pair("$A </s> $B </s>")?
            .special_tokens(vec![("</s>", end)])
            .build()?;
        tokenizer.with_post_processor(Some(PostProcessorWrapper::Template(template)));
        Ok(tokenizer)
    })
}

/// mBART and mBART-50. fairseq has its own first tokens, so that numbers are one more than the file's.
fn mbart(dir: &Path, family: Family, names: &Names) -> std::result::Result<tokenizers::Tokenizer, Problem> {
    let model = unigram(dir, MBART_FILE)?;
    let word =
        |name: &str, usual: &str| names.token(name).map_or_else(|| usual.to_owned(), |token| token.content);
    let languages = if family == Family::MBart { &MBART[..OF_MBART] } else { &MBART[..] };
    let own = [("cls_token", "<s>"), ("pad_token", "<pad>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];
    let mut vocabulary: Vec<(String, f64)> =
        own.iter().map(|(name, usual)| (word(name, usual), 0.0)).collect();
    let pieces = model.pieces.iter().skip(3);
    vocabulary.extend(pieces.map(|piece| (piece.text.clone(), f64::from(piece.score))));
    vocabulary.extend(languages.iter().map(|code| ((*code).to_owned(), 0.0)));
    vocabulary.push((word("mask_token", "<mask>"), 0.0));
    let codes = languages.iter().map(|code| (*code).to_owned());
    let special = if names.lists_further() { Vec::new() } else { special(&model, codes) };
    guarded_in(MBART_FILE, || {
        let mut tokenizer = tokenizers::Tokenizer::new(Unigram::from(vocabulary, Some(3), false)?);
        if family == Family::MBart {
            // transformers does not rewrite characters here, whatever the file says.
            by_words(&mut tokenizer);
        } else {
            let spaces = Replace::new(ReplacePattern::Regex(" {2,}".to_owned()), " ")?;
            let rules = precompiled(&model)?.map(NormalizerWrapper::Precompiled);
            let rules = rules.into_iter().chain([NormalizerWrapper::Replace(spaces)]).collect();
            tokenizer.with_normalizer(Some(NormalizerWrapper::Sequence(Normalizers::new(rules))))?;
            tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Metaspace(marked())));
            tokenizer.with_decoder(Some(DecoderWrapper::Metaspace(marked())));
        }
        tokenizer.add_tokens(special)?;
        Ok(tokenizer)
    })
}

/// Tokens that are found before anything else: the file's own, and those of the class.
fn special(model: &ModelFile, further: impl Iterator<Item = String>) -> Vec<AddedToken> {
    let own = model.pieces.iter().filter_map(|piece| match piece.sort {
        Sort::Control => Some(AddedToken::from(piece.text.clone(), true)),
        Sort::UserDefined => Some(AddedToken::from(piece.text.clone(), false).normalized(false)),
        _ => None,
    });
    own.chain(further.map(|token| AddedToken::from(token, true))).collect()
}

fn precompiled(model: &ModelFile) -> Result<Option<Precompiled>> {
    Ok(if model.charsmap.is_empty() { None } else { Some(Precompiled::from(&model.charsmap)?) })
}

/// A mark before each word.
fn marked() -> Metaspace {
    Metaspace::new('▁', PrependScheme::Always, true)
}

/// Words by whitespace, each with its mark.
fn by_words(tokenizer: &mut tokenizers::Tokenizer) {
    let steps =
        vec![PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit), PreTokenizerWrapper::Metaspace(marked())];
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(steps))));
    tokenizer.with_decoder(Some(DecoderWrapper::Metaspace(marked())));
}

/// BART's and RoBERTa's `vocab.json` and `merges.txt`; what is put around texts is added later.
fn byte_level(dir: &Path) -> std::result::Result<tokenizers::Tokenizer, Problem> {
    let vocabulary: BTreeMap<String, u32> = read_json(dir, VOCABULARY, ProblemKind::Tokenizer)?;
    let text = read_text(dir, MERGES, ProblemKind::Tokenizer)?;
    let wrong = |message: &str| {
        Problem::new(ProblemKind::Tokenizer, MERGES, message).hint("upload the original file again")
    };
    let text = String::from_utf8(text).map_err(|_| wrong("the file is not in UTF-8"))?;
    let mut merges: Vec<Value> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let parts = line.split_once(' ').filter(|(left, right)| {
            ![*left, *right].iter().any(|part| part.is_empty() || part.contains(' '))
        });
        let Some((left, right)) = parts else {
            let message = "the line is not two tokens with a space between";
            return Err(wrong(message).at(LineRange::one(number)));
        };
        if let Some(token) = [left, right, &format!("{left}{right}")]
            .into_iter()
            .find(|token| !vocabulary.contains_key(*token))
        {
            let message = format!("`{token}` is no token of {VOCABULARY}");
            return Err(wrong(&message).at(LineRange::one(number)));
        }
        merges.push(json!([left, right]));
    }
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    });
    guarded_in(VOCABULARY, || tokenizers::Tokenizer::from_bytes(whole.to_string()))
}
