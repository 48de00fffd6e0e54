//! Tokenizers through GGUF files.

use std::path::Path;

use formats::gguf::{self, Kind};
use formats::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::gguf::{checkpoint, fixture, json, returned};

fn ids(folder: &Path, text: &str) -> Vec<u32> {
    let encoded = Tokenizer::load(folder).unwrap().encode_pairs(&[(text, None)], 4096).unwrap();
    encoded.into_iter().next().unwrap().ids
}

fn texts() -> Vec<String> {
    serde_json::from_value(json(&fixture("gguf_tokens.json"))["texts"].clone()).unwrap()
}

#[test]
fn tokens_are_those_of_transformers_conversion() {
    let expected = json(&fixture("gguf_tokens.json"));
    for name in ["llama", "pieces"] {
        let folder = tempfile::tempdir().unwrap();
        gguf::import(&fixture(&format!("gguf_{name}.gguf")), folder.path()).unwrap();
        let mut compared = 0;
        for (text, expected) in texts().iter().zip(expected[name].as_array().unwrap()) {
            // transformers puts no space before a text that has one, and none behind a special token; SentencePiece, and
            // Llama 2's own tokenizer.json, put one in either case.
            if name == "pieces" && (text.starts_with(' ') || text.contains("<s>") || text.is_empty()) {
                continue;
            }
            compared += 1;
            assert_eq!(json!(ids(folder.path(), text)), *expected, "{name} {text:?}");
        }
        assert!(compared >= 18);
    }
}

/// A tokenizer with another way of cutting, through a GGUF and back.
fn check(change: impl Fn(&mut Value), pre: &str) {
    let folder = checkpoint("llama", "llama");
    let path = folder.path().join("tokenizer.json");
    let mut whole = json(&path);
    change(&mut whole);
    std::fs::write(&path, whole.to_string()).unwrap();
    let (back, ..) = returned(folder.path(), Kind::F16);
    let file = gguf::Gguf::open(&back.path().join("model.gguf")).unwrap();
    assert_eq!(file.metadata.text("tokenizer.ggml.pre").unwrap(), Some(pre));
    let after = back.path().join("model");
    for text in texts() {
        assert_eq!(ids(folder.path(), &text), ids(&after, &text), "{pre} {text:?}");
    }
    let (before, after) = (Tokenizer::load(folder.path()).unwrap(), Tokenizer::load(&after).unwrap());
    assert_eq!((before.bos_id(), before.eos_id()), (after.bos_id(), after.eos_id()));
    assert_eq!(before.leading_ids(), after.leading_ids());
}

fn split(expression: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]})
}

#[test]
fn byte_level_tokenizers_come_back() {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    check(|_| {}, "gpt-2");
    check(
        |whole| {
            let byte_level = whole["pre_tokenizer"].clone();
            let digits = json!({"type": "Digits", "individual_digits": true});
            whole["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [digits, byte_level]});
        },
        "smollm",
    );
    check(
        |whole| {
            whole["pre_tokenizer"] = split(LLAMA3);
            whole["model"]["ignore_merges"] = true.into();
        },
        "llama-bpe",
    );
    check(
        |whole| {
            whole["pre_tokenizer"] = split(&LLAMA3.replace("{1,3}", ""));
            whole["normalizer"] = json!({"type": "NFC"});
        },
        "qwen2",
    );
    // No token before a text, a token that is no special one.
    check(
        |whole| {
            whole["post_processor"] = Value::Null;
            whole["added_tokens"][2]["special"] = false.into();
        },
        "gpt-2",
    );
}

#[test]
fn sentence_pieces_come_back() {
    let folder = tempfile::tempdir().unwrap();
    gguf::import(&fixture("gguf_pieces.gguf"), folder.path()).unwrap();
    for gemma in [false, true] {
        let path = folder.path().join("tokenizer.json");
        if gemma {
            let mut whole = json(&path);
            whole["normalizer"] = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
            whole["decoder"]["decoders"].as_array_mut().unwrap().pop();
            std::fs::write(&path, whole.to_string()).unwrap();
        }
        let (back, ..) = returned(folder.path(), Kind::F32);
        for text in texts() {
            let (before, after) = (ids(folder.path(), &text), ids(&back.path().join("model"), &text));
            assert_eq!(before, after, "{text:?}");
            let tokenizer = Tokenizer::load(&back.path().join("model")).unwrap();
            if !text.contains("<s>") && !text.contains('\u{0}') {
                assert_eq!(tokenizer.decode(&after, false).unwrap(), text);
            }
        }
    }
}

#[test]
fn a_tokenizer_that_a_gguf_cannot_express_is_refused() {
    let folder = checkpoint("llama", "llama");
    let path = folder.path().join("tokenizer.json");
    let whole = json(&path);
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut changed = whole.clone();
        change(&mut changed);
        std::fs::write(&path, changed.to_string()).unwrap();
        gguf::export(folder.path(), &folder.path().join("model.gguf"), Kind::F16).unwrap_err().to_string()
    };
    assert!(refused(&|whole| whole["pre_tokenizer"] = split("x+")).contains("the expression x+"));
    let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]});
    assert!(refused(&|whole| whole["model"] = unigram.clone()).contains("Unigram"));
    let many = refused(&|whole| whole["model"]["vocab"]["extra"] = 400.into());
    assert!(many.contains("400") && many.contains("288 rows"), "{many}");
}
