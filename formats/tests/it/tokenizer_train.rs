//! Tokenizers made for texts, compared with what transformers makes of the written files.

use std::fs;
use std::path::Path;
use std::process::Command;

use formats::tokenizer::Tokenizer;
use formats::tokenizer::train::{Kind, Learnt, Progress, Recipe, Trained, train};
use formats::{Problem, ProblemKind};
use serde_json::{Value, json};

use crate::common::root;

const KINDS: [Kind; 3] = [Kind::Bpe, Kind::WordPiece, Kind::Unigram];

/// Lines of this repository's documents, and some of other scripts.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for name in ["docs/architecture.md", "docs/chat-data.md", "docs/serving.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        texts.extend(text.lines().map(|line| line.chars().filter(char::is_ascii).collect()));
    }
    texts.extend(["Où est la gare, s'il vous plaît ?", "<s> in a text</s>", "ﬁne ＡＢＣ"].map(str::to_owned));
    texts
}

fn made(recipe: &Recipe, texts: &[String]) -> Trained {
    train(texts.iter().map(Ok), recipe, |_| {}).unwrap()
}

fn loaded(trained: &Trained) -> (tempfile::TempDir, Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    trained.write(folder.path()).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    (folder, tokenizer)
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_pairs(&[(text, None)], 4096).unwrap().remove(0).ids
}

#[test]
fn each_kind_learns_to_write_its_texts_in_few_tokens_and_reads_them_back() {
    let texts = texts();
    for kind in KINDS {
        let trained = made(&Recipe::new(kind, 600), &texts);
        let learnt = trained.learnt();
        assert_eq!((learnt.texts, learnt.texts_used), (texts.len() as u64, texts.len() as u64));
        assert!((450..=600).contains(&learnt.vocab_size), "{kind}: {}", learnt.vocab_size);
        let (_folder, tokenizer) = loaded(&trained);
        assert_eq!(tokenizer.vocab_size(), learnt.vocab_size as u64);
        for (id, token) in kind.special_tokens().iter().enumerate() {
            assert_eq!(tokenizer.token_id(token), Some(id as u32), "{kind}: {token}");
        }
        assert_eq!((tokenizer.pad_id(), tokenizer.bos_id(), tokenizer.eos_id()), (Some(0), Some(1), Some(2)));
        let text = "the model of a job, and its files";
        let ids = encode(&tokenizer, text);
        assert_eq!(ids.last(), Some(&2));
        assert!(ids.len() < text.len() * 2 / 3, "{kind}: {} tokens", ids.len());
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{kind}");
        let targets = tokenizer.encode_targets(&[text], 5).unwrap().remove(0);
        assert_eq!((targets.ids.len(), targets.ids[4], targets.truncated), (5, 2, true));
    }
}

#[test]
fn the_same_texts_make_the_same_files() {
    let texts = texts();
    for kind in KINDS {
        let files = || {
            let (folder, _) = loaded(&made(&Recipe::new(kind, 500), &texts));
            fs::read_to_string(folder.path().join("tokenizer.json")).unwrap()
        };
        let first = files();
        // Maps of words are in another order each time.
        for _ in 0..3 {
            assert!(first == files(), "{kind} comes out otherwise");
        }
    }
}

#[test]
fn characters_are_normalized_where_the_recipe_says_so() {
    let texts = texts();
    for kind in KINDS {
        let plain = loaded(&made(&Recipe::new(kind, 500), &texts)).1;
        assert_ne!(encode(&plain, "The ﬁles"), encode(&plain, "the files"));
        let recipe = Recipe { nfkc: true, lowercase: true, ..Recipe::new(kind, 500) };
        let normalizing = loaded(&made(&recipe, &texts)).1;
        assert_eq!(encode(&normalizing, "The ﬁles ＡＢＣ"), encode(&normalizing, "the files abc"), "{kind}");
    }
}

#[test]
fn bytes_spell_what_was_never_seen_and_other_kinds_say_that_it_is_unknown() {
    for kind in KINDS {
        let (_folder, tokenizer) = loaded(&made(&Recipe::new(kind, 400), &texts()));
        let ids = encode(&tokenizer, "日本 model");
        match kind {
            Kind::Bpe => assert_eq!(tokenizer.decode(&ids, false).unwrap(), "日本 model"),
            _ => assert!(ids.contains(&3), "{kind}: {ids:?}"),
        }
    }
}

#[test]
fn a_vocabulary_without_room_for_the_characters_is_refused_with_the_size_that_has_it() {
    for kind in KINDS {
        let texts = texts();
        let refused = |size: usize| match train(texts.iter().map(Ok), &Recipe::new(kind, size), |_| {}) {
            Ok(trained) => Ok(trained.learnt().vocab_size),
            Err(problem) => Err(problem),
        };
        let problem = refused(40).unwrap_err();
        assert_eq!(
            (problem.kind, problem.column.as_deref()),
            (ProblemKind::InvalidValue, Some("vocab_size"))
        );
        let hint = problem.hint.unwrap();
        let least: usize = hint
            .chars()
            .skip_while(|letter| !letter.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap();
        assert!(refused(least - 1).is_err());
        assert!(refused(least).unwrap() <= least, "{kind}: {least}");
        if kind == Kind::Bpe {
            assert_eq!(least, 260);
        }
    }
}

#[test]
fn texts_with_nothing_to_learn_are_refused() {
    for kind in KINDS {
        let recipe = Recipe::new(kind, 500);
        let told = |texts: &[&str]| {
            train(texts.iter().map(Ok), &recipe, |_| {}).err().expect("it was made").to_string()
        };
        assert!(told(&[]).contains("no texts to learn from"));
        // For byte-level BPE a space is something to learn.
        assert!(told(&["", ""]).contains("nothing but blank text in 2 texts"));
    }
    let rare = Recipe { min_frequency: 100, ..Recipe::new(Kind::Unigram, 500) };
    let problem = train(["a b c"].map(Ok), &rare, |_| {}).err().unwrap();
    assert_eq!(problem.column.as_deref(), Some("min_frequency"));
    let many = train(["a"].map(Ok), &Recipe::new(Kind::Bpe, 2_000_000), |_| {}).err().unwrap();
    assert_eq!(many.column.as_deref(), Some("vocab_size"));
    let broken = Problem::new(ProblemKind::Encoding, "texts.txt", "the text is not in UTF-8");
    let texts = [Ok("a"), Err(broken.clone())];
    assert_eq!(train(texts, &Recipe::new(Kind::Bpe, 500), |_| {}).err(), Some(broken));
}

#[test]
fn memory_that_is_full_ends_the_learning_and_is_told() {
    let texts: Vec<String> = (0..20_000).map(|number| format!("word{number}")).collect();
    let recipe = Recipe { max_memory: 100_000, min_frequency: 1, ..Recipe::new(Kind::WordPiece, 100) };
    let mut told = Vec::new();
    let trained = train(texts.iter().map(Ok), &recipe, |progress| told.push(progress)).unwrap();
    let Learnt { texts, texts_used, words, .. } = trained.learnt();
    assert_eq!((texts, texts_used, words), (20_000, words, words));
    assert!((1000..1300).contains(&words), "{words} words of 85 to 90 bytes each");
    let reading = |texts| Progress::Reading { texts, words };
    assert_eq!(told, [reading(10_000), reading(20_000), reading(20_000), Progress::Learning { words }]);
}

/// Ids by transformers, of files of each kind that are read there.
const SCRIPT: &str = r#"
import json, sys
from transformers import PreTrainedTokenizerFast
told = []
for folder in sys.argv[2:]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    texts = json.load(open(sys.argv[1]))
    ids = [tokenizer(text).input_ids for text in texts]
    told.append({"ids": ids, "texts": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
                 "special": [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id],
                 "size": len(tokenizer), "longest": tokenizer.model_max_length,
                 "pair": tokenizer("the files", "of a model").input_ids})
print(json.dumps(told))
"#;

#[test]
fn transformers_loads_the_files_and_gives_the_same_ids() {
    let Some(python) = reference_python("tokenizers in transformers") else { return };
    let hard = [
        "Hello world",
        "  two  spaces ",
        "\n\tlines\n",
        "don't can't",
        "1234567890 3.14",
        "日本語 text",
        "emoji 😀👩‍👩‍👧‍👦",
        "nai\u{308}ve cafe\u{301} ﬁne ＡＢＣ",
        " ",
        "",
        "x\u{1}y",
        "<s>inside</s> of<pad>text <mask> x",
        "▁marked",
        "the files of a model.",
        &"a".repeat(120),
    ];
    let folders: Vec<_> = KINDS
        .iter()
        .map(|kind| {
            let recipe = Recipe {
                nfkc: true,
                lowercase: *kind == Kind::WordPiece,
                model_max_length: Some(64),
                ..Recipe::new(*kind, 400)
            };
            loaded(&made(&recipe, &texts()))
        })
        .collect();
    let inputs = folders[0].0.path().join("texts.json");
    fs::write(&inputs, json!(hard).to_string()).unwrap();
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(&inputs)
        .args(folders.iter().map(|(folder, _)| folder.path()))
        .env("USE_TORCH", "0")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for ((kind, (_, tokenizer)), told) in KINDS.iter().zip(&folders).zip(told) {
        for (text, (ids, back)) in
            hard.iter().zip(told["ids"].as_array().unwrap().iter().zip(told["texts"].as_array().unwrap()))
        {
            let own = encode(tokenizer, text);
            assert_eq!(json!(own), *ids, "{kind}: {text:?}");
            assert_eq!(json!(tokenizer.decode(&own, false).unwrap()), *back, "{kind}: {text:?}");
        }
        let mask = tokenizer.token_id("<mask>");
        assert_eq!(told["special"], json!([0, 1, 2, mask]));
        assert_eq!((&told["size"], &told["longest"]), (&json!(tokenizer.vocab_size()), &json!(64)));
        let pair = tokenizer.encode_pairs(&[("the files", Some("of a model"))], 64).unwrap().remove(0);
        assert_eq!(told["pair"], json!(pair.ids), "{kind}");
    }
}

/// The Python of the reference environment; without it the test is skipped by name, in CI it fails.
fn reference_python(test: &str) -> Option<String> {
    let python = std::env::var("LUTHIER_REFERENCE_PYTHON").ok();
    if python.as_ref().is_none_or(|python| !Path::new(python).is_file()) {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "LUTHIER_REFERENCE_PYTHON is not set, and this is CI");
        println!("SKIPPED {test}: reference venv not installed");
        return None;
    }
    python
}
