//! Tagged words: every layout that people bring, and what is said of those that are broken.

use formats::ProblemKind;
use formats::dataset::Columns;
use formats::dataset::tagged::entities::{lenient, strict};
use formats::dataset::tagged::{Scheme, Survey, Tagging, read_tagged, survey_tagged};
use formats::inspect::{guess_tagged, inspect};
use formats::table::Format;
use formats::tokenizer::{Piece, Tokenizer};
use serde::Deserialize;

use crate::common::{file, root};

const WORDS: Tagging = Tagging::Words { tokens: "tokens", tags: "tags" };
const SPANS: Tagging = Tagging::Spans { text: "text", entities: "entities" };

fn survey(name: &str, content: &str, tagging: Tagging) -> Survey {
    let (_folder, path) = file(name, content);
    survey_tagged(&path, name, tagging, None)
}

/// Words and tags of each row, joined.
fn rows(name: &str, content: &str, tagging: Tagging) -> Vec<(String, String)> {
    let (_folder, path) = file(name, content);
    let read = read_tagged(&path, name, tagging).unwrap_or_else(|problems| panic!("{problems}"));
    read.iter().map(|row| (row.words.join(" "), row.tags.join(" "))).collect()
}

/// Line and sentence of each problem.
fn problems(survey: &Survey) -> Vec<(u64, String)> {
    let problem =
        |problem: &formats::Problem| (problem.line.map_or(0, |line| line.first), problem.message.clone());
    survey.problems.listed.iter().map(problem).collect()
}

#[test]
fn a_conll_file_is_a_table_of_sentences() {
    let text = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n# a comment\nPeter NNP I-NP B-PER\nBlackburn NNP I-NP I-PER\n";
    let (_folder, path) = file("train.txt", text);
    let seen = inspect(&path, "train.txt");
    assert_eq!(seen.format, Some(Format::Conll), "{:?}", seen.problems);
    assert_eq!(seen.column_names().collect::<Vec<_>>(), ["tokens", "column 2", "column 3", "tags"]);
    assert_eq!((seen.rows, seen.preview[1].lines.to_string().as_str()), (2, "lines 7–8"));
    let guess = guess_tagged(&seen).unwrap();
    assert_eq!((guess.tokens.as_deref(), guess.tags.as_deref()), (Some("tokens"), Some("tags")));
    let found = rows("train.txt", text, WORDS);
    assert_eq!(found[1], ("Peter Blackburn".to_owned(), "B-PER I-PER".to_owned()));
    let chosen = Tagging::Words { tokens: "tokens", tags: "column 2" };
    assert_eq!(rows("train.txt", text, chosen)[0].1, "NNP VBZ");
    let summary = survey("train.txt", text, chosen).checked().unwrap();
    assert_eq!((summary.scheme, summary.words), (Scheme::Plain, 4));
}

#[test]
fn tabs_let_words_hold_blanks_and_conllu_has_its_own_columns() {
    assert_eq!(rows("a.conll", "New York\tB-LOC\n.\tO\n", WORDS)[0].0, "New York .");
    let universal = "# text = vámonos al\n1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_\n1\tvamos\tir\tVERB\t_\t_\t0\troot\t_\t_\n2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_\n";
    let upos = Tagging::Words { tokens: "tokens", tags: "upos" };
    assert_eq!(rows("a.conllu", universal, upos), [("vamos nos".to_owned(), "VERB PRON".to_owned())]);
}

#[test]
fn a_line_of_other_width_is_named_and_its_sentence_left_out() {
    let found = survey("a.conll", "Anna B-PER\nsleeps\n\nRome B-LOC\n", WORDS);
    assert_eq!(problems(&found), [(2, "the line has 1 column, those before it have 2".to_owned())]);
    assert_eq!(found.problems.listed[0].kind, ProblemKind::RaggedRow);
    assert_eq!(found.summary.rows, 1);
}

#[test]
fn a_table_stays_a_table() {
    for (name, content) in [
        ("a.txt", "text label\ngood pos\nbad neg\n"),
        ("a.tsv", "text\tlabel\nthe film\tO\nthe plot\tB-x\n"),
        ("a.csv", "Anna,O\nRome,B-LOC\n"),
    ] {
        let (_folder, path) = file(name, content);
        assert_eq!(inspect(&path, name).format, Some(Format::Csv), "{name}");
    }
}

#[test]
fn numbers_need_names() {
    let row = r#"{"tokens": ["a", "b"], "tags": [1, 0]}"#;
    let names = r#"{"features": {"tags": {"feature": {"names": ["O", "B-X"]}}}}"#;
    let named = format!("{names}\n{row}\n");
    assert_eq!(rows("a.jsonl", &named, WORDS), [("a b".to_owned(), "B-X O".to_owned())]);
    let found = problems(&survey("a.jsonl", row, WORDS));
    assert_eq!(found, [(1, "the tag 1 is a number, and nothing says what it means".to_owned())]);
    let beyond = format!("{names}\n{}\n", r#"{"tokens": ["a"], "tags": [2]}"#);
    assert_eq!(problems(&survey("a.jsonl", &beyond, WORDS))[0].1, "there is no tag 2: the first row names 2");
}

#[test]
fn every_kind_of_broken_row_is_named_by_line() {
    let lines = [
        r#"{"tokens": ["a", "b"], "tags": ["O"]}"#,
        r#"{"tokens": [], "tags": []}"#,
        r#"{"tags": ["O"]}"#,
        r#"{"tokens": ["a"], "tags": null}"#,
        r#"{"tokens": "a", "tags": ["O"]}"#,
        r#"{"tokens": ["a"], "tags": [""]}"#,
    ];
    let found = problems(&survey("a.jsonl", &lines.join("\n"), WORDS));
    let said: Vec<&str> = found.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(
        said,
        [
            "2 tokens, 1 tag",
            "the row is empty: it has no tokens",
            "the tokens are missing",
            "the tags are missing",
            "expected a list, found `a`",
            "a tag is empty"
        ]
    );
    assert!(found.iter().zip(1..).all(|((line, _), right)| *line == right), "{found:?}");
}

#[test]
fn entities_become_words_with_tags() {
    let text = r#"{"text": "Émile works at Acme-Corp.", "entities": [{"start": 15, "end": 24, "label": "ORG"}, [0, 5, "PER"]]}"#;
    let found = rows("a.jsonl", text, SPANS);
    assert_eq!(found[0].0, "Émile works at Acme - Corp .");
    assert_eq!(found[0].1, "B-PER O O B-ORG I-ORG I-ORG O");
    // A border within a word cuts the word.
    let within =
        survey("a.jsonl", r#"{"text": "Londoner", "entities": [[0, 6, "LOC"]]}"#, SPANS).checked().unwrap();
    assert_eq!((within.words, within.notices.len()), (2, 1));
}

#[test]
fn spans_that_cannot_be_are_named() {
    let row = |spans: &str| format!(r#"{{"text": "Anna sleeps", "entities": {spans}}}"#);
    for (spans, right) in [
        (r#"[[0, 12, "PER"]]"#, "the entity 0–12 `PER` lies outside of its text, which has 11 characters"),
        (r#"[[3, 3, "PER"]]"#, "the entity 3–3 `PER` ends before it begins"),
        (r#"[[0, 4, ""]]"#, "the entity 0–4 `` has no label"),
        (r#"[[4, 5, "PER"]]"#, "the entity 4–5 `PER` covers no word"),
        (r#"[[0, 4, "PER"], [2, 6, "X"]]"#, "the entities 0–4 `PER` and 2–6 `X` lie over each other"),
        ("null", "the entities are missing"),
    ] {
        assert_eq!(problems(&survey("a.jsonl", &row(spans), SPANS)), [(1, right.to_owned())]);
    }
}

#[test]
fn schemes_are_told_from_their_tags() {
    let scheme = |tags: &str| {
        let words: Vec<&str> = tags.split(' ').map(|_| "x").collect();
        let tags: Vec<&str> = tags.split(' ').collect();
        let row = serde_json::json!({"tokens": words, "tags": tags}).to_string();
        survey("a.jsonl", &row, WORDS).checked().unwrap()
    };
    for (tags, right) in [
        ("B-A I-A O B-A", Scheme::Iob2),
        ("I-A I-A B-A O I-B", Scheme::Iob1),
        ("B-A I-A E-A O S-B", Scheme::Iobes),
        ("B-A L-A O U-B", Scheme::Bilou),
        ("DET NOUN VERB O", Scheme::Plain),
        ("B I O B", Scheme::Iob2),
    ] {
        assert_eq!(scheme(tags).scheme, right, "{tags}");
    }
    let broken = scheme("B-A O I-A B-B");
    assert_eq!(broken.scheme, Scheme::Iob2);
    assert!(broken.notices[0].starts_with("1 `I-` tag without"), "{:?}", broken.notices);
}

#[test]
fn bilou_is_iobes_in_other_letters() {
    let pairs = [("B-A L-A U-B O L-A", "B-A E-A S-B O E-A"), ("I-A L-A U-A U-A", "I-A E-A S-A S-A")];
    for (bilou, iobes) in pairs {
        let [bilou, iobes] = [bilou, iobes].map(|tags| tags.split(' ').collect::<Vec<_>>());
        assert_eq!(lenient(&bilou, Scheme::Bilou), lenient(&iobes, Scheme::Iobes));
        assert_eq!(strict(&bilou, Scheme::Bilou), strict(&iobes, Scheme::Iobes));
    }
}

#[test]
fn roles_of_both_layouts_are_no_layout() {
    let columns = |tokens: Option<&str>, text: &str| Columns {
        tokens: tokens.map(str::to_owned),
        tags: tokens.map(|_| "t".to_owned()),
        text: text.to_owned(),
        entities: (!text.is_empty()).then(|| "e".to_owned()),
        ..Columns::default()
    };
    assert!(Tagging::of(&columns(Some("w"), "")).is_some() && Tagging::of(&columns(None, "x")).is_some());
    assert!(Tagging::of(&columns(Some("w"), "x")).is_none() && Tagging::of(&columns(None, "")).is_none());
}

#[derive(Deserialize)]
struct Aligned {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    words: Vec<String>,
    input_ids: Vec<u32>,
    labels: Vec<i64>,
}

#[test]
fn words_begin_at_the_tokens_that_transformers_says() {
    let fixtures = root().join("trainer/tests/fixtures");
    let text = std::fs::read(fixtures.join("tagging/models.json")).unwrap();
    let all: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let (mut silent, mut cut) = (0, 0);
    for family in ["bert", "distilbert", "roberta", "xlm_roberta"] {
        let tokenizer = Tokenizer::load(&fixtures.join(family)).unwrap().for_words();
        let expected: Aligned = serde_json::from_value(all[family].clone()).unwrap();
        let words: Vec<&[String]> = expected.rows.iter().map(|row| row.words.as_slice()).collect();
        let made = tokenizer.encode_words(&words, all["max_length"].as_u64().unwrap() as usize).unwrap();
        for (row, made) in expected.rows.iter().zip(made) {
            assert_eq!(made.encoding.ids, row.input_ids, "{family}: {:?}", row.words);
            let right = row.labels.iter().enumerate().filter(|(_, label)| **label >= 0);
            let right: Vec<u32> = right.map(|(at, _)| at as u32).collect();
            let at = |piece: &Piece| if let Piece::At(token) = piece { Some(*token) } else { None };
            assert_eq!(
                made.pieces.iter().filter_map(at).collect::<Vec<_>>(),
                right,
                "{family}: {:?}",
                row.words
            );
            silent += made.pieces.iter().filter(|piece| **piece == Piece::None).count();
            cut += made.pieces.iter().filter(|piece| **piece == Piece::Cut).count();
        }
    }
    assert!(silent > 0 && cut > 0, "the fixtures hold words without a token, and rows that are too long");
}
