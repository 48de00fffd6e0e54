//! How targets are learnt and written by a model with an encoder and a decoder.

use serde_json::{Map, Value};
use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, flag, named, or_empty};
use crate::pages::view::text::setting;

/// Where the tasks of these settings are asked for.
pub(super) const WHEN: &str = "task=translation,summarization,text2text-generation";

/// Where targets are written in evaluations, and where beams are weighed.
const WRITTEN: &str = "text_to_text.predict_with_generate=true";
const BEAMS: &str = "text_to_text.num_beams=2,3,4,5,6,8,10,12,16";

/// What T5 was taught to be asked with, and how Marian's models of several languages are told which one to write.
const PREFIXES: &[&str] = &[
    "translate English to French: ",
    "translate English to German: ",
    "translate English to Romanian: ",
    "summarize: ",
    ">>fra<< ",
];

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "text_to_text.source_prefix",
        "Before each source",
        "Written in front of every source, with the blank at its end: T5 is told so what to do, and Marian's models of several \
         languages which one to write.",
        Kind::Exact,
    )
    .suggest(PREFIXES),
    field(
        "text_to_text.source_lang",
        "Language of the sources",
        "For models that know languages by a code, such as mBART's en_XX.",
        Kind::Text,
    )
    .empty("none"),
    field(
        "text_to_text.target_lang",
        "Language of the targets",
        "Its code, such as fr_XX. Targets begin with it.",
        Kind::Text,
    )
    .empty("none"),
    field(
        "text_to_text.max_target_length",
        "Longest target",
        "Longer targets are cut when they are learnt, and no longer ones are written.",
        Kind::Number,
    )
    .unit("tokens")
    .empty("128"),
    field(
        "text_to_text.predict_with_generate",
        "Write targets in evaluations",
        "They are compared with the right ones by BLEU, chrF and ROUGE. Else evaluations look at the loss alone.",
        Kind::Flag,
    ),
    field(
        "text_to_text.generated_rows",
        "Rows written for at an evaluation",
        "At most so many of the validation rows while it trains; writing is slow. 0 for none. The test writes for all of its rows.",
        Kind::Number,
    )
    .unit("rows")
    .empty("200")
    .when(WRITTEN),
    field(
        "text_to_text.num_beams",
        "Beams",
        "Targets that are kept beside each other while one is written. 1 is fastest.",
        Kind::Choice(&[
            ("1", "1, the likeliest token"),
            ("2", "2"),
            ("3", "3"),
            ("4", "4"),
            ("5", "5"),
            ("6", "6"),
            ("8", "8"),
            ("10", "10"),
            ("12", "12"),
            ("16", "16"),
        ]),
    ),
    field(
        "text_to_text.length_penalty",
        "Length penalty",
        "Above 0 prefers longer targets, below 0 shorter ones.",
        Kind::Number,
    )
    .when(BEAMS),
    field(
        "text_to_text.early_stopping",
        "End the search early",
        "As soon as there are as many whole targets as beams.",
        Kind::Flag,
    )
    .when(BEAMS),
    field(
        "text_to_text.no_repeat_ngram_size",
        "Written once at most",
        "So many tokens in a row are not written twice. 0 for no such limit; 3 is usual for summaries.",
        Kind::Number,
    )
    .unit("tokens in a row"),
    field(
        "text_to_text.forced_bos_token",
        "First token of a target",
        "Where the checkpoint and the language say none.",
        Kind::Text,
    )
    .empty("as the model is made"),
    field(
        "text_to_text.bleu_tokenizer",
        "BLEU takes texts apart by",
        "Values are comparable where this is the same.",
        Kind::Choice(&[
            ("13a", "13a, as WMT did"),
            ("intl", "intl, by Unicode's classes"),
            ("char", "char, every character"),
            ("zh", "zh, for Chinese"),
            ("none", "none, at blanks"),
        ]),
    )
    .when(WRITTEN),
    field(
        "text_to_text.rouge_stemmer",
        "ROUGE compares",
        "Stems are those of English.",
        Kind::Choice(&[
            ("", "As usual: stems in summaries"),
            ("true", "Stems of words"),
            ("false", "Words as they are"),
        ]),
    )
    .when(WRITTEN),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let settings = spec.training.text_to_text.clone().unwrap_or_default();
    let usual = spec.usual_rouge_stemmer();
    let stems = settings.rouge_stemmer.filter(|stems| *stems != usual);
    named([
        ("text_to_text.source_prefix", settings.source_prefix),
        ("text_to_text.source_lang", settings.source_lang.unwrap_or_default()),
        ("text_to_text.target_lang", settings.target_lang.unwrap_or_default()),
        ("text_to_text.max_target_length", or_empty(settings.max_target_length)),
        ("text_to_text.predict_with_generate", flag(settings.predict_with_generate)),
        ("text_to_text.generated_rows", or_empty(settings.generated_rows)),
        ("text_to_text.num_beams", settings.num_beams.to_string()),
        ("text_to_text.length_penalty", setting(settings.length_penalty)),
        ("text_to_text.early_stopping", flag(settings.early_stopping)),
        ("text_to_text.no_repeat_ngram_size", settings.no_repeat_ngram_size.to_string()),
        ("text_to_text.forced_bos_token", settings.forced_bos_token.unwrap_or_default()),
        ("text_to_text.bleu_tokenizer", settings.bleu_tokenizer),
        ("text_to_text.rouge_stemmer", or_empty(stems)),
    ])
}

/// Makes the API's numbers and switches of choices.
pub(super) fn join(fields: &mut Map<String, Value>) {
    let Some(own) = fields.get_mut("text_to_text").and_then(Value::as_object_mut) else { return };
    let word =
        |own: &Map<String, Value>, name: &str| own.get(name).and_then(Value::as_str).map(str::to_owned);
    if let Some(beams) = word(own, "num_beams").and_then(|beams| beams.parse::<u32>().ok()) {
        own.insert("num_beams".to_owned(), beams.into());
    }
    if let Some(stems) = word(own, "rouge_stemmer") {
        own.insert("rouge_stemmer".to_owned(), (stems == "true").into());
    }
}
