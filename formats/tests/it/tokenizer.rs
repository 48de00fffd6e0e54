//! Tokenizers, compared with what transformers' `AutoTokenizer` gives.

use std::fs;
use std::path::Path;

use formats::ProblemKind;
use formats::tokenizer::{Encoding, Tokenizer};
use serde::Deserialize;

use crate::common::{Random, at_hand, case, root};

#[derive(Deserialize)]
struct Expected {
    pad_token_id: u32,
    tokenization: Vec<Tokenized>,
}

#[derive(Deserialize)]
struct Tokenized {
    name: String,
    text: String,
    text_pair: Option<String>,
    max_length: usize,
    input_ids: Vec<u32>,
    token_type_ids: Option<Vec<u32>>,
    truncated: bool,
}

fn encode(tokenizer: &Tokenizer, text: &str, pair: Option<&str>, max_length: usize) -> Encoding {
    tokenizer.encode_pairs(&[(text, pair)], max_length).unwrap().remove(0)
}

#[test]
fn each_family_encodes_as_transformers_does() {
    for name in ["bert", "distilbert", "roberta", "xlm_roberta"] {
        let fixtures = root().join("trainer/tests/fixtures");
        let tokenizer = Tokenizer::load(&fixtures.join(name)).unwrap();
        let text = fs::read(fixtures.join(format!("expected/{name}.json"))).unwrap();
        let expected: Expected = serde_json::from_slice(&text).unwrap();
        assert_eq!(tokenizer.pad_id(), Some(expected.pad_token_id));
        assert_eq!(tokenizer.model_max_length(), Some(64));
        assert!(expected.tokenization.len() > 10);
        for case in expected.tokenization {
            let encoding = encode(&tokenizer, &case.text, case.text_pair.as_deref(), case.max_length);
            let types = case.token_type_ids.unwrap_or_else(|| vec![0; case.input_ids.len()]);
            let wanted = Encoding { ids: case.input_ids, type_ids: types, truncated: case.truncated };
            assert_eq!(encoding, wanted, "{name}: {}", case.name);
        }
    }
}

/// Ids by transformers 5.24.0 for the sample checkpoint.
#[test]
fn the_sample_checkpoint_encodes_as_transformers_does() {
    let Some(folder) = at_hand(root().join("target/samples/minilm"), "minilm", "samples") else { return };
    let tokenizer = Tokenizer::load(&folder).unwrap();
    assert_eq!((tokenizer.model_max_length(), tokenizer.pad_token()), (Some(512), Some("[PAD]")));
    let single = encode(&tokenizer, "Hello, naïve World! 电影 unaffable", None, 512);
    assert_eq!(single.ids, MINILM_SINGLE);
    let pair = encode(&tokenizer, "the first text is a long one", Some("second"), 9);
    assert_eq!(
        (pair.ids, pair.type_ids, pair.truncated),
        (MINILM_PAIR.to_vec(), MINILM_TYPES.to_vec(), true)
    );
}

const MINILM_SINGLE: [u32; 12] = [101, 7592, 1010, 15743, 2088, 999, 100, 100, 14477, 20961, 3468, 102];
const MINILM_PAIR: [u32; 9] = [101, 1996, 2034, 3793, 2003, 1037, 102, 2117, 102];
const MINILM_TYPES: [u32; 9] = [0, 0, 0, 0, 0, 0, 0, 1, 1];

#[test]
fn a_plain_fast_tokenizer_is_taken_as_it_is() {
    let Some(folder) = case("_models/bert_tiny") else { return };
    let tokenizer = Tokenizer::load(&folder).unwrap();
    assert_eq!((tokenizer.class(), tokenizer.model_max_length()), (Some("PreTrainedTokenizer"), Some(128)));
    // [CLS] is 2, [SEP] 3, the letters begin at 5 with `a`.
    assert_eq!(encode(&tokenizer, "U v", Some("W"), 128).ids, [2, 25, 26, 3, 27, 3]);
    assert_eq!(encode(&tokenizer, "U v", Some("W"), 128).type_ids, [0; 6], "as since transformers 5");
}

fn bert_with(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = root().join("trainer/tests/fixtures/bert");
    fs::copy(source.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    folder
}

fn load(folder: &Path) -> Tokenizer {
    Tokenizer::load(folder).unwrap()
}

#[test]
fn the_configuration_decides_on_upper_and_lower_case() {
    let lower = load(bert_with(r#"{"tokenizer_class": "BertTokenizerFast", "do_lower_case": true}"#).path());
    let unsaid = load(bert_with(r#"{"tokenizer_class": "BertTokenizer"}"#).path());
    let cased = load(bert_with(r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false}"#).path());
    let ids = |tokenizer: &Tokenizer| encode(tokenizer, "FILM", None, 16).ids;
    assert_eq!(ids(&lower), ids(&unsaid));
    assert_eq!(ids(&lower), encode(&cased, "film", None, 16).ids);
    assert_ne!(ids(&lower), ids(&cased));
}

#[test]
fn the_side_to_cut_from_follows_the_configuration() {
    let right = load(bert_with(r#"{"tokenizer_class": "BertTokenizer"}"#).path());
    let left = load(bert_with(r#"{"tokenizer_class": "BertTokenizer", "truncation_side": "left"}"#).path());
    let text = "the film was good";
    let whole = encode(&right, text, None, 64).ids;
    let (cls, sep) = (whole[0], whole[whole.len() - 1]);
    assert_eq!(encode(&right, text, None, 4).ids, [cls, whole[1], whole[2], sep]);
    assert_eq!(encode(&left, text, None, 4).ids, [cls, whole[3], whole[4], sep]);
}

/// Lengths by transformers 5.24.0; the last two are told wrongly where each text is cut before they are compared.
#[test]
fn the_longer_text_of_a_pair_is_cut_first_and_keeps_the_odd_token() {
    let tokenizer = load(bert_with(r#"{"tokenizer_class": "BertTokenizer"}"#).path());
    let cases = [
        (20, 20, 4, 5),
        (20, 5, 5, 4),
        (5, 20, 4, 5),
        (3, 20, 3, 6),
        (20, 2, 7, 2),
        (34, 27, 5, 4),
        (27, 34, 4, 5),
    ];
    for (first, second, kept, kept_of_second) in cases {
        let encoding = encode(&tokenizer, &"film ".repeat(first), Some(&"good ".repeat(second)), 12);
        let of_second = encoding.type_ids.iter().filter(|segment| **segment == 1).count() - 1;
        assert_eq!(
            (encoding.ids.len() - of_second - 3, of_second),
            (kept, kept_of_second),
            "{first} and {second}"
        );
        assert!(encoding.truncated);
    }
}

#[test]
fn a_length_without_room_for_a_token_is_refused() {
    let tokenizer = load(bert_with("{}").path());
    for length in [0, 2, 3] {
        let problem = tokenizer.encode_pairs(&[("a", Some("b"))], length).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Tokenizer);
    }
    assert_eq!(encode(&tokenizer, "film film", None, 4).ids.len(), 4);
}

#[test]
fn no_limit_and_no_padding_token_are_told_apart_from_given_ones() {
    let folder = bert_with(r#"{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1e30}"#);
    let tokenizer = load(folder.path());
    assert_eq!((tokenizer.model_max_length(), tokenizer.pad_id(), tokenizer.pad_type_id()), (None, None, 0));
}

#[test]
fn named_tokens_that_are_new_are_added() {
    let config = r#"{"tokenizer_class": "BertTokenizer", "additional_special_tokens": ["<new>"],
        "pad_token": {"content": "[PAD]", "lstrip": false}}"#;
    let (plain, more) =
        (load(bert_with(r#"{"tokenizer_class": "BertTokenizer"}"#).path()), load(bert_with(config).path()));
    assert_eq!(more.vocab_size(), plain.vocab_size() + 1);
    let ids = encode(&more, "film<new>film", None, 64).ids;
    assert!(ids.contains(&(plain.vocab_size() as u32)));
    assert_eq!(more.token(plain.vocab_size() as u32).as_deref(), Some("<new>"));
}

#[test]
fn many_texts_come_back_in_their_order() {
    let tokenizer = load(bert_with("{}").path());
    let texts: Vec<String> = (0..3000).map(|number| "film ".repeat(number % 17)).collect();
    let inputs: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (text.as_str(), None)).collect();
    let encodings = tokenizer.encode_pairs(&inputs, 12).unwrap();
    assert_eq!(encodings.len(), 3000);
    for (number, encoding) in encodings.iter().enumerate() {
        assert_eq!(encoding.ids.len(), (number % 17 + 2).min(12));
        assert_eq!(encoding.truncated, number % 17 > 10);
    }
}

#[test]
fn a_damaged_tokenizer_ends_in_a_problem_or_in_tokens_never_in_a_panic() {
    let mut random = Random(19);
    for name in ["bert", "roberta", "xlm_roberta"] {
        let whole = fs::read(root().join(format!("trainer/tests/fixtures/{name}/tokenizer.json"))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<usize> = (0..whole.len()).filter(|place| whole[*place].is_ascii_digit()).collect();
        for round in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(3) {
                let place = if round % 2 == 0 {
                    numbers[random.below(numbers.len())]
                } else {
                    random.below(bytes.len())
                };
                bytes[place] =
                    if round % 2 == 0 { b'0' + random.below(10) as u8 } else { 32 + random.below(95) as u8 };
            }
            fs::write(folder.path().join("tokenizer.json"), &bytes).unwrap();
            if let Ok(tokenizer) = Tokenizer::load(folder.path()) {
                let _ = tokenizer.encode_pairs(&[("the film was good", Some("Café \u{3000}x"))], 12);
            }
        }
    }
}
