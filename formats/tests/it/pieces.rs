//! Tokenizers without a `tokenizer.json`, compared with what transformers gives (fixtures/make_pieces.py).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use formats::ProblemKind;
use formats::tokenizer::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::common::Random;

#[derive(Deserialize)]
struct Expected {
    languages: Option<[String; 2]>,
    rows: Vec<Row>,
    cut: Cut,
    special: BTreeMap<String, Option<u32>>,
    size: u64,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    source: Vec<u32>,
    target: Vec<u32>,
    decoded: String,
    plain: String,
}

#[derive(Deserialize)]
struct Cut {
    text: String,
    max_length: usize,
    source: Vec<u32>,
    target: Vec<u32>,
}

fn pieces() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pieces")
}

fn expected() -> BTreeMap<String, Expected> {
    serde_json::from_slice(&fs::read(pieces().join("expected.json")).unwrap()).unwrap()
}

fn source(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_pairs(&[(text, None)], 4096).unwrap().remove(0).ids
}

fn target(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_targets(&[text], 4096).unwrap().remove(0).ids
}

/// A folder with the files of a fixture, to be changed.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(pieces().join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

#[test]
fn texts_encode_and_decode_as_with_transformers() {
    let expected = expected();
    assert_eq!(expected.len(), 7);
    for (name, expected) in expected {
        let mut tokenizer = Tokenizer::load(&pieces().join(&name)).unwrap();
        if let Some([from, to]) = &expected.languages {
            tokenizer.set_languages(Some(from), Some(to)).unwrap();
        }
        assert!(expected.rows.len() >= 40);
        for row in &expected.rows {
            let text = &row.text;
            assert_eq!(source(&tokenizer, text), row.source, "{name}: source {text:?}");
            assert_eq!(target(&tokenizer, text), row.target, "{name}: target {text:?}");
            assert_eq!(tokenizer.decode(&row.target, true).unwrap(), row.decoded, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&row.target, false).unwrap(), row.plain, "{name}: {text:?}");
        }
        let cut = &expected.cut;
        let encoded = tokenizer.encode_pairs(&[(&cut.text, None)], cut.max_length).unwrap().remove(0);
        assert_eq!((encoded.ids, encoded.truncated), (cut.source.clone(), true), "{name}");
        let encoded = tokenizer.encode_targets(&[&cut.text], cut.max_length).unwrap().remove(0);
        assert_eq!((encoded.ids, encoded.truncated), (cut.target.clone(), true), "{name}");
        for (token, id) in &expected.special {
            let found = tokenizer.special_tokens().get(token).and_then(|token| tokenizer.token_id(token));
            assert_eq!(found, *id, "{name}: {token}");
        }
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.pad_id()),
            (expected.size, expected.special["pad_token"])
        );
    }
}

#[test]
fn tokens_of_marian_tell_which_bytes_they_stand_for() {
    let tokenizer = Tokenizer::load(&pieces().join("marian")).unwrap();
    let text = ">>fra<<  the ﬁles 日本 of</s> end";
    let tokens = tokenizer.encode_plain(text).unwrap();
    let of = |token: &str| {
        let id = tokenizer.token_id(token).unwrap();
        let at = tokens.ids.iter().position(|found| *found == id).unwrap();
        &text[tokens.offsets[at].clone()]
    };
    assert_eq!((of(">>fra<<"), of("<unk>"), of("</s>"), of("▁of")), (">>fra<<", "日本", "</s>", " of"));
    let ends: Vec<usize> = tokens.offsets.iter().map(|range| range.end).collect();
    assert!(ends.is_sorted() && ends.last() == Some(&text.len()), "{ends:?}");
    assert_eq!(tokenizer.token_bytes(tokenizer.token_id("▁of").unwrap()), b" of");
    assert_eq!((tokenizer.model_max_length(), tokenizer.class()), (Some(512), Some("MarianTokenizer")));
}

#[test]
fn a_language_without_a_code_is_refused_with_those_that_there_are() {
    let refused = |name: &str, from: Option<&str>, to: Option<&str>| {
        let mut tokenizer = Tokenizer::load(&pieces().join(name)).unwrap();
        let problem = tokenizer.set_languages(from, to).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Tokenizer);
        problem.to_string()
    };
    let told = refused("mbart", Some("xx_XX"), None);
    assert!(told.contains("`xx_XX`") && told.contains("en_XX") && told.contains("zh_CN"), "{told}");
    let told = refused("mbart", None, Some("af_ZA"));
    assert!(told.contains("`af_ZA`") && told.contains("zh_CN"), "a language of mBART-50 alone: {told}");
    let told = refused("marian", Some("en"), Some("spa"));
    assert!(told.ends_with("there are deu, fra"), "{told}");
    assert!(refused("t5", Some("en"), None).contains("leave the languages out"));
}

#[test]
fn languages_are_put_where_each_model_has_them() {
    let load = |name: &str| Tokenizer::load(&pieces().join(name)).unwrap();
    let mut marian = load("marian");
    assert_eq!(marian.languages(), ["deu", "fra"]);
    let plain = source(&marian, "Hello world");
    marian.set_languages(Some("anything"), Some("fra")).unwrap();
    let code = marian.language_id("fra").unwrap();
    assert_eq!(source(&marian, "Hello world"), [vec![code], plain.clone()].concat());
    assert_eq!(source(&load("marian"), ">>fra<< Hello world"), [vec![code], plain].concat());
    assert_eq!(target(&marian, "Hello world"), target(&load("marian"), "Hello world"));
    assert_eq!(marian.leading_ids(), [code]);

    let mut mbart = load("mbart50");
    assert_eq!(mbart.languages().len(), 52);
    let german = mbart.language_id("de_DE").unwrap();
    assert_eq!(source(&mbart, "x")[0], german, "the configuration's");
    assert_eq!(target(&mbart, "x")[0], german, "the same where it names no target");
    mbart.set_languages(None, Some("gl_ES")).unwrap();
    assert_eq!(
        (source(&mbart, "x")[0], target(&mbart, "x")[0]),
        (german, mbart.language_id("gl_ES").unwrap())
    );
}

#[test]
fn a_marian_model_for_one_pair_takes_the_pair_that_it_names() {
    let folder = copied("marian");
    let path = folder.path().join("vocab.json");
    let mut vocabulary: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let entries = vocabulary.as_object_mut().unwrap();
    assert!(entries.remove(">>fra<<").is_some() && entries.remove(">>deu<<").is_some());
    fs::write(&path, vocabulary.to_string()).unwrap();
    let mut tokenizer = Tokenizer::load(folder.path()).unwrap();
    tokenizer.set_languages(Some("en"), Some("fr")).unwrap();
    let told = tokenizer.set_languages(None, Some("de")).unwrap_err().to_string();
    assert!(told.contains("vocab.json") && told.contains("one pair of languages"), "{told}");
}

#[test]
fn a_tokenizer_json_goes_before_older_files_but_not_for_marian() {
    let bert = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures/bert/tokenizer.json");
    for (name, is_read) in [("t5", true), ("mbart", true), ("marian", false)] {
        let folder = copied(name);
        fs::copy(&bert, folder.path().join("tokenizer.json")).unwrap();
        fs::write(
            folder.path().join("tokenizer_config.json"),
            json!({"tokenizer_class": match name {
                "t5" => "T5Tokenizer",
                "mbart" => "MBartTokenizerFast",
                _ => "MarianTokenizer",
            }})
            .to_string(),
        )
        .unwrap();
        assert_eq!(Tokenizer::load(folder.path()).unwrap().token_id("[CLS]").is_some(), is_read, "{name}");
    }
}

#[test]
fn codes_of_languages_follow_a_tokenizer_json_too() {
    // transformers writes such a file for mBART; made here of a small vocabulary.
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "en_XX", "fr_XX", "<mask>"];
    let vocabulary: Vec<Value> = vocabulary.iter().map(|token| json!([token, 0.0])).collect();
    let mark = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let whole = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": mark, "decoder": mark,
        "post_processor": null, "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary},
    });
    fs::write(folder.path().join("tokenizer.json"), whole.to_string()).unwrap();
    let config = json!({"tokenizer_class": "MBartTokenizer", "src_lang": "fr_XX", "tgt_lang": "en_XX"});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let mut tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!((source(&tokenizer, "a"), target(&tokenizer, "a")), (vec![4, 2, 6], vec![4, 2, 5]));
    assert_eq!(tokenizer.languages(), ["en_XX", "fr_XX"]);
    tokenizer.set_languages(Some("en_XX"), Some("fr_XX")).unwrap();
    assert_eq!((source(&tokenizer, "a"), target(&tokenizer, "a")), (vec![4, 2, 5], vec![4, 2, 6]));
    let config = json!({"tokenizer_class": "MBartTokenizer", "src_lang": "ro_RO"});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let told = Tokenizer::load(folder.path()).err().unwrap().to_string();
    assert!(told.contains("`ro_RO`") && told.contains("there are en_XX, fr_XX"), "{told}");
}

#[test]
fn what_is_wrong_with_the_files_is_told_by_name() {
    let told = |name: &str, change: &dyn Fn(&Path)| {
        let folder = copied(name);
        change(folder.path());
        let problem = Tokenizer::load(folder.path()).err().expect("it loads");
        assert_eq!(problem.kind, ProblemKind::Tokenizer);
        problem.to_string()
    };
    let without = |file: &'static str| move |folder: &Path| fs::remove_file(folder.join(file)).unwrap();
    assert!(told("marian", &without("target.spm")).starts_with("target.spm: the file is missing"));
    assert!(told("marian", &without("source.spm")).starts_with("source.spm: the file is missing"));
    assert!(told("marian", &without("vocab.json")).starts_with("vocab.json: the file is missing"));
    assert!(told("bart", &without("merges.txt")).contains("there is `vocab.json`"));
    assert!(told("t5", &without("config.json")).contains("config.json says which"));
    let put = |file: &'static str, content: &'static str| {
        move |folder: &Path| fs::write(folder.join(file), content).unwrap()
    };
    let found = told("bart", &put("merges.txt", "#version: 0.2\ne d\ne  d\n"));
    assert!(found.starts_with("merges.txt, line 3:"), "{found}");
    let found = told("bart", &put("merges.txt", "e 日\n"));
    assert!(found.starts_with("merges.txt, line 1: `日` is no token"), "{found}");
    assert!(told("marian", &put("vocab.json", "{\"</s>\": 0}")).contains("no token `<unk>`"));
    assert!(told("t5", &put("spiece.model", "")).contains("it has no pieces"));
    let config = r#"{"extra_ids": -1}"#;
    assert!(told("t5", &put("tokenizer_config.json", config)).contains("`extra_ids`: -1 is no number"));
    let config = r#"{"tokenizer_class": "MarianTokenizer", "separate_vocabs": true}"#;
    assert!(told("marian", &put("tokenizer_config.json", config)).contains("separate_vocabs"));
    let found = told("t5", &|folder| {
        fs::copy(pieces().join("marian_bpe/source.spm"), folder.join("spiece.model")).map(drop).unwrap();
    });
    assert!(found.starts_with("spiece.model: it is a model of BPE"), "{found}");
}

#[test]
fn a_damaged_model_ends_in_a_problem_or_in_tokens_never_in_a_panic() {
    let mut random = Random(23);
    for (name, file) in [("marian_bpe", "source.spm"), ("marian_bpe", "target.spm"), ("t5", "spiece.model")] {
        let folder = copied(name);
        let whole = fs::read(folder.path().join(file)).unwrap();
        let mut problems = 0;
        for round in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(4) {
                let place = random.below(bytes.len());
                bytes[place] = random.next() as u8;
            }
            if round % 3 == 0 {
                bytes.truncate(random.below(bytes.len()));
            }
            fs::write(folder.path().join(file), &bytes).unwrap();
            match Tokenizer::load(folder.path()) {
                Ok(tokenizer) => {
                    let text = "the film <lang> was ﬁne, Café \u{3000}x 日本";
                    let _ = tokenizer.encode_pairs(&[(text, None)], 12);
                    let _ = tokenizer.encode_targets(&[text], 12);
                    let _ = tokenizer.decode(&[1, 5, 40, 3000], true);
                }
                Err(_) => problems += 1,
            }
        }
        assert!(problems > 20, "{problems} problems");
    }
}
