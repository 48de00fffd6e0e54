//! `{"source_prefix": "summarize: ", "num_beams": 4}`.

use crate::spec::reader::Reader;
use crate::spec::{SpecError, TextToText};

pub(super) fn read(reader: &mut Reader) -> Result<Option<TextToText>, SpecError> {
    let Some(mut inner) = reader.object("text_to_text")? else {
        return Ok(None);
    };
    let usual = TextToText::default();
    let names = TextToText::BLEU_TOKENIZERS.map(|name| (name, name.to_owned()));
    let settings = TextToText {
        source_prefix: inner.text("source_prefix")?.map_or(usual.source_prefix, str::to_owned),
        source_lang: inner.text("source_lang")?.map(str::to_owned),
        target_lang: inner.text("target_lang")?.map(str::to_owned),
        max_target_length: inner.whole32("max_target_length")?,
        predict_with_generate: inner.flag("predict_with_generate")?.unwrap_or(usual.predict_with_generate),
        generated_rows: inner.whole32("generated_rows")?,
        num_beams: inner.whole32("num_beams")?.unwrap_or(usual.num_beams),
        length_penalty: inner.number("length_penalty")?.unwrap_or(usual.length_penalty),
        no_repeat_ngram_size: inner.whole32("no_repeat_ngram_size")?.unwrap_or(usual.no_repeat_ngram_size),
        early_stopping: inner.flag("early_stopping")?.unwrap_or(usual.early_stopping),
        forced_bos_token: inner.text("forced_bos_token")?.map(str::to_owned),
        bleu_tokenizer: inner.word("bleu_tokenizer", &names)?.unwrap_or(usual.bleu_tokenizer),
        rouge_stemmer: inner.flag("rouge_stemmer")?,
    };
    inner.finish()?;
    Ok(Some(settings))
}
