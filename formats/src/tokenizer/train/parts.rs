//! The parts of a tokenizer around its model: what is done to a text before it is cut, and to tokens behind.

use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::normalizers::utils::{Lowercase, Sequence};
use tokenizers::normalizers::{NormalizerWrapper, Strip};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, DecoderWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::{Kind, Recipe, guarded};
use crate::problem::Problem;

/// What marks the rest of a word in WordPiece.
pub(super) const REST: &str = "##";
const END: &str = "</s>";

/// A tokenizer without a vocabulary, which normalizes and splits texts as the finished one will.
pub(super) fn around(recipe: &Recipe) -> Result<tokenizers::Tokenizer, Problem> {
    guarded(|| {
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        let mut steps = Vec::new();
        if recipe.nfkc {
            steps.push(NormalizerWrapper::NFKC(NFKC));
        }
        if recipe.lowercase {
            steps.push(NormalizerWrapper::Lowercase(Lowercase));
        }
        if recipe.kind == Kind::Unigram {
            // As SentencePiece does: one space for several, none at the ends.
            let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
            steps.push(NormalizerWrapper::Replace(spaces));
            steps.push(NormalizerWrapper::StripNormalizer(Strip::new(true, true)));
        }
        if !steps.is_empty() {
            inner.with_normalizer(Some(NormalizerWrapper::Sequence(Sequence::new(steps))))?;
        }
        let (pre_tokenizer, decoder) = match recipe.kind {
            Kind::Bpe => {
                let bytes = ByteLevel::new(false, true, true);
                (PreTokenizerWrapper::ByteLevel(bytes), DecoderWrapper::ByteLevel(bytes))
            }
            Kind::WordPiece => {
                let decoder = WordPieceDecoder::new(REST.to_owned(), true);
                (PreTokenizerWrapper::BertPreTokenizer(BertPreTokenizer), DecoderWrapper::WordPiece(decoder))
            }
            Kind::Unigram => {
                let mark = Metaspace::new('▁', PrependScheme::Always, true);
                (PreTokenizerWrapper::Metaspace(mark.clone()), DecoderWrapper::Metaspace(mark))
            }
        };
        inner.with_pre_tokenizer(Some(pre_tokenizer));
        inner.with_decoder(Some(decoder));
        Ok(inner)
    })
}

/// Adds special tokens, and the end behind each text.
pub(super) fn finish(inner: &mut tokenizers::Tokenizer, recipe: &Recipe) -> Result<(), Problem> {
    guarded(|| {
        let special = recipe.kind.special_tokens();
        inner.add_tokens(special.iter().map(|token| {
            // A mask stands for a word, with the space before it.
            AddedToken::from(*token, true).lstrip(*token == "<mask>")
        }))?;
        let end = inner.token_to_id(END).ok_or("there is no token that ends a text")?;
        let template = TemplateProcessing::builder()
            .try_single(format!("$A {END}"))?
            .try_pair(format!("$A {END} $B {END}"))?
            .special_tokens(vec![(END, end)])
            .build()?;
        inner.with_post_processor(Some(PostProcessorWrapper::Template(template)));
        Ok(())
    })
}
