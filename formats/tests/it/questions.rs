//! Questions on texts: what files say, what is wrong with them, and the windows over long contexts.

use std::fs;

use formats::Problems;
use formats::dataset::Columns;
use formats::dataset::questions::{Answer, Asking, Question, check_questions, read_questions};
use formats::inspect::{asks_questions, guess_questions, inspect};
use formats::table::Format;
use formats::tokenizer::{Tokenizer, WindowError};
use serde::Deserialize;

use crate::common::{file, root};

const NESTED: &str = r#"{"version": "v2.0", "data": [
  {"title": "Films", "paragraphs": [
    {"qas": [
      {"id": "a", "question": " Who?", "answers": [{"text": "Müller", "answer_start": 5}], "is_impossible": false},
      {"id": "b", "question": "When?", "answers": [], "is_impossible": true, "plausible_answers": []}],
     "context": "Café Müller, 電影"},
    {"context": "It ends.", "qas": [{"id": "c", "question": "What?",
      "answers": [{"text": "It", "answer_start": 0}, {"text": "It ends", "answer_start": 0}]}]}]}]}
"#;

/// Reads a file by the columns that its names tell.
fn read(name: &str, content: &str) -> Result<Vec<Question>, Problems> {
    let (_folder, path) = file(name, content);
    let columns = guess_questions(&inspect(&path, name)).unwrap();
    read_questions(&path, name, &Asking::of(&columns).unwrap())
}

fn wrong(name: &str, content: &str) -> String {
    let problems = read(name, content).unwrap_err();
    problems.listed.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn answers(question: &Question) -> Vec<(&str, usize)> {
    question.answers.iter().map(|answer| (answer.text.as_str(), answer.start)).collect()
}

#[test]
fn squads_own_file_is_a_table_of_questions() {
    let (_folder, path) = file("train-v2.0.json", NESTED);
    let inspection = inspect(&path, "train-v2.0.json");
    assert_eq!((inspection.format, inspection.rows), (Some(Format::Squad), 3));
    assert!(inspection.is_usable() && asks_questions(&inspection), "{:?}", inspection.problems);
    let questions = read("train-v2.0.json", NESTED).unwrap();
    assert_eq!(questions.len(), 3);
    assert_eq!(questions[0].question, "Who?");
    assert_eq!(answers(&questions[0]), [("Müller", 5)]);
    assert_eq!(answers(&questions[1]), []);
    assert_eq!(answers(&questions[2]), [("It", 0), ("It ends", 0)]);
    assert_eq!((questions[1].lines.first, questions[2].lines.first, questions[2].lines.last), (5, 7, 8));
    assert!(std::sync::Arc::ptr_eq(&questions[0].context, &questions[1].context), "kept once");
    let columns = guess_questions(&inspection).unwrap();
    let summary = check_questions(&path, "train-v2.0.json", &Asking::of(&columns).unwrap()).unwrap();
    assert_eq!((summary.rows, summary.unanswerable, summary.contexts), (3, 1, 2));
    assert_eq!(summary.notices, Vec::<String>::new());
}

#[test]
fn a_broken_paragraph_is_named_and_the_others_are_read() {
    let broken = NESTED.replace(r#""context": "Café Müller, 電影""#, r#""kontext": "x""#);
    let (_folder, path) = file("a.json", &broken);
    let inspection = inspect(&path, "a.json");
    assert_eq!(inspection.rows, 1);
    let said = inspection.problems.to_string();
    assert!(said.starts_with("a.json, line 3, `data[0].paragraphs[0]`: missing field `context`"), "{said}");
    let cut = inspect(&file("b.json", &NESTED[..NESTED.len() / 2]).1, "b.json");
    assert_eq!(cut.rows, 0);
}

#[test]
fn rows_as_the_datasets_library_has_them() {
    let rows = r#"{"id": "1", "title": "t", "context": "a b a", "question": "q", "answers": {"text": ["a"], "answer_start": [4]}}
{"id": "2", "title": "t", "context": "a b a", "question": "q", "answers": {"text": [], "answer_start": []}}"#;
    let questions = read("a.jsonl", rows).unwrap();
    assert_eq!(answers(&questions[0]), [("a", 4)]);
    assert_eq!(answers(&questions[1]), []);
    let csv =
        "context,question,answers\na b a,q,\"{\"\"text\"\": [\"\"b\"\"], \"\"answer_start\"\": [2]}\"\n";
    assert_eq!(answers(&read("a.csv", csv).unwrap()[0]), [("b", 2)]);
}

#[test]
fn plain_answers_stand_where_they_are_said_to_or_where_they_first_occur() {
    let questions = read("a.csv", "context,question,answer,answer_start\nné à né,q,né,5\nné,q,,\n").unwrap();
    assert_eq!(questions[0].answers, [Answer { text: "né".to_owned(), start: 5 }]);
    assert_eq!(questions[0].answers[0].end(), 7);
    assert_eq!(answers(&questions[1]), []);
    let (_folder, path) = file("b.csv", "context,question,answer\nné à né,q, né\nx,q,x\nx,q,\n");
    let columns = guess_questions(&inspect(&path, "b.csv")).unwrap();
    let asking = Asking::of(&columns).unwrap();
    assert_eq!(answers(&read_questions(&path, "b.csv", &asking).unwrap()[0]), [(" né", 4)]);
    let summary = check_questions(&path, "b.csv", &asking).unwrap();
    assert_eq!((summary.rows, summary.unanswerable), (3, 1));
    let notice = "2 answers come without answer_start and are taken where they first occur in their context";
    assert_eq!(summary.notices, [notice]);
}

#[test]
fn an_answer_that_is_not_in_its_context_is_shown_with_what_stands_there() {
    let moved = NESTED.replace("\"answer_start\": 5", "\"answer_start\": 4");
    let expected = "a.json, line 4, `answers`: the answer `Müller` is not in its context at character 4, where ` Mülle…` \
                    stands; it occurs at character 5; correct answer_start, which counts characters from 0";
    assert_eq!(wrong("a.json", &moved), expected);
    let rows = [
        (
            r#"{"context": "abc", "question": "q", "answers": {"text": ["z"], "answer_start": [9]}}"#,
            "has 3 characters",
        ),
        (
            r#"{"context": "abc", "question": "q", "answers": {"text": ["z"], "answer_start": [0]}}"#,
            "not occur",
        ),
        (
            r#"{"context": "abc", "question": "q", "answers": {"text": ["a", "b"], "answer_start": [0]}}"#,
            "2 answers and 1",
        ),
        (
            r#"{"context": "abc", "question": "q", "answers": {"text": [""], "answer_start": [0]}}"#,
            "an answer is empty",
        ),
        (
            r#"{"context": "abc", "question": "q", "answers": {"text": ["a"], "answer_start": [-1]}}"#,
            "found `-1`",
        ),
        (
            r#"{"context": "abc", "question": " ", "answers": {"text": ["a"], "answer_start": [0]}}"#,
            "`question`: the text is missing",
        ),
        (r#"{"context": "abc", "question": "q", "answers": null}"#, "the answers are missing"),
    ];
    let first = r#"{"context": "abc", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}}"#;
    for (row, part) in rows {
        let said = wrong("a.jsonl", &format!("{first}\n{row}\n"));
        assert!(said.contains(part) && said.starts_with("a.jsonl, line 2"), "{part:?} is not in {said}");
    }
    let both = r#"{"context": "abc", "question": "q", "answers": {"text": ["a"]}, "is_impossible": true}"#;
    assert!(wrong("a.jsonl", both).contains("said to have no answer"));
    let python = "context,question,answers\nabc,q,\"{'text': ['a'], 'answer_start': [0]}\"\n";
    assert!(wrong("a.csv", python).contains("as Python"));
}

#[test]
fn tables_for_something_else_ask_no_questions() {
    for content in ["text,label\na,b\n", "question,answer\na,b\n", "question,passage,label\na,b,c\n"] {
        let (_folder, path) = file("a.csv", content);
        assert!(!asks_questions(&inspect(&path, "a.csv")), "{content}");
    }
    assert_eq!(Asking::of(&Columns { context: Some("c".to_owned()), ..Columns::default() }), None);
}

#[derive(Deserialize)]
struct Expected {
    settings: Settings,
    questions: Vec<Asked>,
}

#[derive(Deserialize)]
struct Settings {
    max_length: usize,
    doc_stride: usize,
}

#[derive(Deserialize)]
struct Asked {
    question: String,
    context: String,
    answers: Vec<At>,
}

#[derive(Deserialize)]
struct At {
    text: String,
    answer_start: usize,
}

#[derive(Deserialize)]
struct Of {
    windows: Vec<Window>,
}

#[derive(Deserialize)]
struct Window {
    question: usize,
    ids: Vec<u32>,
    type_ids: Option<Vec<u32>>,
    cls: usize,
    first: usize,
    offsets: Vec<(u32, u32)>,
    start: usize,
    end: usize,
}

/// Values by `trainer/tests/fixtures/make_questions.py`.
#[test]
fn windows_and_places_of_answers_are_those_of_transformers() {
    let fixtures = root().join("trainer/tests/fixtures");
    let text = fs::read(fixtures.join("questions/expected.json")).unwrap();
    let Expected { settings, questions } = serde_json::from_slice(&text).unwrap();
    let all: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let asked: Vec<(&str, &str)> =
        questions.iter().map(|asked| (asked.question.trim_start(), asked.context.as_str())).collect();
    for name in ["bert", "roberta", "xlm_roberta", "distilbert"] {
        let tokenizer = Tokenizer::load(&fixtures.join(name)).unwrap();
        let of: Of = serde_json::from_value(all[name].clone()).unwrap();
        let made = tokenizer.windows(&asked, settings.max_length, settings.doc_stride).unwrap();
        let made: Vec<(usize, &formats::tokenizer::Window)> = made
            .iter()
            .enumerate()
            .flat_map(|(number, own)| own.iter().map(move |one| (number, one)))
            .collect();
        assert_eq!(made.len(), of.windows.len(), "{name}");
        for ((number, made), right) in made.into_iter().zip(&of.windows) {
            let at = format!("{name}: {:?}", questions[number].question);
            assert_eq!(number, right.question, "{at}");
            assert_eq!(made.ids, right.ids, "{at}");
            let types = right.type_ids.clone().unwrap_or_else(|| vec![0; right.ids.len()]);
            assert_eq!(made.type_ids, types, "{at}");
            assert_eq!((made.cls, made.first), (right.cls, right.first), "{at}");
            assert_eq!(made.offsets, right.offsets, "{at}");
            let answer = questions[number].answers.first();
            let place = answer.and_then(|answer| {
                made.place(answer.answer_start, answer.answer_start + answer.text.chars().count())
            });
            assert_eq!(place.unwrap_or((made.cls, made.cls)), (right.start, right.end), "{at}");
        }
    }
}

#[test]
fn a_question_that_leaves_no_room_is_told_of() {
    let tokenizer = Tokenizer::load(&root().join("trainer/tests/fixtures/bert")).unwrap();
    let long = "good ".repeat(30);
    let asked = [("what", "the film"), (long.as_str(), long.as_str())];
    let error = tokenizer.windows(&asked, 40, 12).unwrap_err();
    assert_eq!(error, WindowError::TooLong { at: 1, tokens: 30, room: 7 });
    // A context that fits is no trouble.
    assert_eq!(tokenizer.windows(&[(long.as_str(), "the film")], 40, 12).unwrap()[0].len(), 1);
}
