//! Marian's tokenizers (opus-mt): a SentencePiece model for each of two languages, and one list of numbers.
//!
//! After `tokenization_marian.py` of transformers 5.24
//! (<https://github.com/huggingface/transformers/blob/main/src/transformers/models/marian/tokenization_marian.py>). A text is cut
//! by the model of its side and each piece is looked up in `vocab.json`, which has more pieces than either model.

use std::collections::BTreeMap;
use std::path::Path;

use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    DecoderWrapper, Encoding, NormalizerWrapper, OffsetReferential, OffsetType, PostProcessorWrapper, Token,
};

use super::names::Names;
use super::sentencepiece::SentencePiece;
use super::{VOCABULARY, guarded_in};
use crate::checkpoint::read_json;
use crate::problem::{Problem, ProblemKind};

pub(super) const SOURCE: &str = "source.spm";
pub(super) const TARGET: &str = "target.spm";
/// The longest input where the configuration does not say.
pub(super) const LONGEST: usize = 512;

/// Which of the two languages a text is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

/// The two models.
pub(super) struct Marian {
    source: SentencePiece,
    target: SentencePiece,
    unknown: String,
}

impl Marian {
    /// Reads the models, and makes the tokenizer that knows numbers and special tokens and cuts nothing itself.
    pub(super) fn load(dir: &Path, names: &Names) -> Result<(Self, tokenizers::Tokenizer), Problem> {
        if names.flag("separate_vocabs") == Some(true) {
            let message = "vocabularies of their own for the two languages are not supported";
            return Err(Problem::new(ProblemKind::Tokenizer, "tokenizer_config.json", message)
                .in_column("separate_vocabs")
                .hint("choose a model with one vocabulary"));
        }
        let (source, target) = (SentencePiece::load(dir, SOURCE)?, SentencePiece::load(dir, TARGET)?);
        let vocabulary: BTreeMap<String, u32> = read_json(dir, VOCABULARY, ProblemKind::Tokenizer)?;
        let word = |name: &str, usual: &str| {
            names.token(name).map_or_else(|| usual.to_owned(), |token| token.content)
        };
        let (unknown, end) = (word("unk_token", "<unk>"), word("eos_token", "</s>"));
        for token in [&unknown, &end] {
            if !vocabulary.contains_key(token) {
                let message = format!("there is no token `{token}`");
                return Err(Problem::new(ProblemKind::Tokenizer, VOCABULARY, message)
                    .hint("upload the original file again"));
            }
        }
        let end_id = vocabulary[&end];
        let inner = guarded_in(VOCABULARY, || {
            let vocabulary = vocabulary.into_iter().collect();
            let model = WordLevel::builder().vocab(vocabulary).unk_token(unknown.clone()).build()?;
            let mut inner = tokenizers::Tokenizer::new(model);
            let template = TemplateProcessing::builder()
                .try_single(format!("$A {end}"))?
                .try_pair(format!("$A $B {end}"))?
                .special_tokens(vec![(end, end_id)])
                .build()?;
            inner.with_post_processor(Some(PostProcessorWrapper::Template(template)));
            // Texts are not decoded by it; it says how tokens are spelt.
            let spelling = Metaspace::new('▁', PrependScheme::Always, true);
            inner.with_decoder(Some(DecoderWrapper::Metaspace(spelling)));
            Ok(inner)
        })?;
        Ok((Self { source, target, unknown }, inner))
    }

    /// A text in tokens, with special ones only where it spells them out.
    pub(super) fn encode(&self, inner: &tokenizers::Tokenizer, text: &str, side: Side) -> Encoding {
        let model = if side == Side::Source { &self.source } else { &self.target };
        let unknown = inner.token_to_id(&self.unknown).unwrap_or_default();
        let mut tokens = Vec::new();
        let split = inner.get_added_vocabulary().extract_and_normalize(None::<&NormalizerWrapper>, text);
        for (part, (start, _), found) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            if let Some(found) = found {
                let found = found.iter();
                tokens.extend(
                    found.map(|token| Token::new(token.id, token.value.clone(), (start, start + part.len()))),
                );
                continue;
            }
            let code = part.starts_with(">>").then(|| part.find("<<")).flatten().map_or(0, |end| end + 2);
            let id = |piece: &str| inner.token_to_id(piece).unwrap_or(unknown);
            if code > 0 {
                let name = &part[..code];
                tokens.push(Token::new(id(name), name.to_owned(), (start, start + code)));
            }
            let start = start + code;
            tokens.extend(model.encode(&part[code..]).into_iter().map(|part| {
                let place = (start + part.range.start, start + part.range.end);
                Token::new(id(&part.piece), part.piece, place)
            }));
        }
        Encoding::from_tokens(tokens, 0)
    }

    /// The text of tokens, as transformers decodes: by the source's model, whatever language they are in.
    pub(super) fn decode(&self, inner: &tokenizers::Tokenizer, ids: &[u32], with_special: bool) -> String {
        let special = inner.get_added_tokens_decoder();
        let mut text = String::new();
        let mut waiting = Vec::new();
        for id in ids {
            match special.get(id).filter(|token| token.special) {
                Some(_) if !with_special => {}
                Some(token) => {
                    text.push_str(&self.source.decode(&waiting));
                    waiting.clear();
                    text.push_str(&token.content);
                    text.push(' ');
                }
                None => waiting.push(inner.id_to_token(*id).unwrap_or_else(|| self.unknown.clone())),
            }
        }
        text.push_str(&self.source.decode(&waiting));
        text.replace('▁', " ").trim().to_owned()
    }
}
