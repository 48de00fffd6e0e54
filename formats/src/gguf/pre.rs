//! How a byte-level tokenizer cuts a text before it merges: `tokenizer.ggml.pre`, and `tokenizer.json`.

use serde_json::{Value, json};

/// A way of cutting.
#[derive(Debug)]
pub(super) struct Cut {
    /// Its names in GGUF; the first is written.
    pub(super) names: &'static [&'static str],
    /// What cuts.
    by: By,
    /// The normalizer of those tokenizers.
    normalizer: Option<&'static str>,
    /// Whether a word that is a token needs no merges, and whether a text begins with the token of its beginning where
    /// nothing is said: both go with Llama 3's.
    pub(super) is_llama3: bool,
}

#[derive(Debug)]
enum By {
    /// GPT-2's expression, which is the byte-level pre-tokenizer's own.
    Gpt2,
    /// Each digit first, then the same.
    DigitsGpt2,
    /// An expression; further ones are other spellings of the same.
    Expression(&'static [&'static str]),
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Phi-4's and others' spelling of Llama 3's.
const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

const CUTS: [Cut; 7] = [
    Cut {
        names: &[
            "gpt-2",
            "default",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "phi-2",
            "gigachat",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
        ],
        by: By::Gpt2,
        normalizer: None,
        is_llama3: false,
    },
    Cut {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"],
        by: By::DigitsGpt2,
        normalizer: None,
        is_llama3: false,
    },
    Cut {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        by: By::Expression(&[LLAMA3]),
        normalizer: None,
        is_llama3: true,
    },
    Cut {
        names: &["dbrx", "smaug-bpe"],
        by: By::Expression(&[LLAMA3, CL100K]),
        normalizer: None,
        is_llama3: false,
    },
    Cut {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "kormo", "stablelm2"],
        by: By::Expression(&[QWEN2]),
        normalizer: Some("NFC"),
        is_llama3: false,
    },
    Cut { names: &["tekken"], by: By::Expression(&[TEKKEN]), normalizer: None, is_llama3: false },
    Cut {
        names: &["gpt-4o", "llama4", "kanana2"],
        by: By::Expression(&[GPT4O]),
        normalizer: None,
        is_llama3: false,
    },
];

impl Cut {
    /// The way of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        CUTS.iter().find(|cut| cut.names.contains(&name))
    }

    /// Names of all ways.
    pub(super) fn known() -> String {
        CUTS.iter().flat_map(|cut| cut.names).copied().collect::<Vec<_>>().join(", ")
    }

    /// The way of a `tokenizer.json`, or what of it has no name.
    ///
    /// Llama 3's and DBRX's expressions are the same; they differ in whether a word that is a token is merged at all.
    pub(super) fn of(pre_tokenizer: &Value, ignore_merges: bool) -> Result<&'static Self, String> {
        let steps = match pre_tokenizer["type"].as_str() {
            Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice),
            _ => std::slice::from_ref(pre_tokenizer),
        };
        let sorts: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("nothing")).collect();
        let own_expression = steps.last().is_some_and(|step| step["use_regex"].as_bool().unwrap_or(true));
        let expression = match (&sorts[..], own_expression) {
            (["ByteLevel"], true) => return Ok(&CUTS[0]),
            (["Digits", "ByteLevel"], true) if steps[0]["individual_digits"] == true => return Ok(&CUTS[1]),
            (["Split", "ByteLevel"], false) => steps[0]["pattern"]["Regex"].as_str(),
            _ => None,
        };
        let Some(expression) = expression else {
            return Err(format!("it cuts texts by {}", sorts.join(" and ")));
        };
        let fitting = CUTS.iter().filter(|cut| match cut.by {
            By::Expression(all) => all.contains(&expression),
            By::Gpt2 | By::DigitsGpt2 => false,
        });
        let mut fitting: Vec<&Self> = fitting.collect();
        fitting.sort_by_key(|cut| cut.is_llama3 != ignore_merges);
        fitting.first().copied().ok_or_else(|| format!("it cuts texts by the expression {expression}"))
    }

    /// For `tokenizer.json`.
    pub(super) fn pre_tokenizer(&self) -> Value {
        let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let first = match self.by {
            By::Gpt2 => return byte_level(true),
            By::DigitsGpt2 => json!({"type": "Digits", "individual_digits": true}),
            By::Expression(all) => {
                json!({"type": "Split", "pattern": {"Regex": all[0]}, "behavior": "Isolated", "invert": false})
            }
        };
        let regex = matches!(self.by, By::DigitsGpt2);
        json!({"type": "Sequence", "pretokenizers": [first, byte_level(regex)]})
    }

    /// For `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Value {
        self.normalizer.map_or(Value::Null, |name| json!({"type": name}))
    }

    /// Whether words that are tokens are taken whole.
    pub(super) fn ignores_merges(&self) -> bool {
        self.is_llama3 || self.names[0] == "tekken"
    }
}
