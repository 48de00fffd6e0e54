//! A look at a table, and columns told from names.

use formats::ProblemKind;
use formats::dataset::{Columns, ProblemType};
use formats::inspect::{ColumnKind, Inspection, guess_columns, guess_related, inspect};

use crate::common::file;

fn look(name: &str, content: &str) -> Inspection {
    let (_folder, path) = file(name, content);
    inspect(&path, name)
}

/// A CSV of these columns, with three rows of two classes in the last one.
fn guessed(header: &str) -> Result<Columns, ProblemKind> {
    let width = header.split(',').count();
    let row = |number: usize, label: &str| {
        let texts: Vec<String> = (1..width).map(|column| format!("text {number} {column}")).collect();
        format!("{},{label}\n", texts.join(","))
    };
    let content = format!("{header}\n{}{}{}", row(1, "x"), row(2, "y"), row(3, "x"));
    let guess = guess_columns(&look("a.csv", &content), "text-classification");
    guess.map(|guess| guess.columns).map_err(|problem| problem.kind)
}

fn columns(text: &str, pair: Option<&str>, label: &str) -> Result<Columns, ProblemKind> {
    let text_pair = pair.map(str::to_owned);
    Ok(Columns { text: text.to_owned(), text_pair, label: label.to_owned(), ..Columns::default() })
}

#[test]
fn columns_are_told_by_kind_with_their_counts() {
    let content = "text,stars,sentiment,note\na long one,1.5,pos,\nb,2,neg,\na long one,7,pos,\nc,4,,\n";
    let inspection = look("a.csv", content);
    let kinds: Vec<ColumnKind> = inspection.columns.iter().map(|column| column.kind).collect();
    assert_eq!(kinds, [ColumnKind::Text, ColumnKind::Number, ColumnKind::Label, ColumnKind::Empty]);
    let text = &inspection.columns[0];
    assert_eq!((text.distinct, text.distinct_is_exact, text.missing), (3, true, 0));
    assert_eq!((text.lengths.min, text.lengths.median, text.lengths.max), (1, 1, 10));
    assert!((text.lengths.mean - 5.5).abs() < 1e-12);
    assert_eq!(text.examples, ["a long one", "b", "c"]);
    assert_eq!(inspection.columns[2].missing, 1);
    assert!(inspection.columns[1].has_fractions);
    assert!(inspection.notices.iter().any(|notice| notice.contains("`note` is empty")));
}

#[test]
fn a_preview_has_the_first_rows_and_cuts_long_cells() {
    let long = "x".repeat(3000);
    let content = "text,label\n".to_owned() + &format!("{long},y\n").repeat(30);
    let inspection = look("a.csv", &content);
    assert_eq!((inspection.preview.len(), inspection.rows), (20, 30));
    let cell = inspection.preview[0].cells[0].as_deref().unwrap();
    assert_eq!((cell.chars().count(), cell.ends_with('…')), (1001, true));
    let lines = look("a.jsonl", "{\"a\":null}\n{\"a\":\"\",\"b\":1}\n");
    assert_eq!(lines.preview[0].cells, [None, None]);
    assert_eq!(lines.preview[1].cells, [Some(String::new()), Some("1".to_owned())]);
    assert_eq!((lines.columns[0].missing, lines.columns[1].missing), (2, 1));
}

#[test]
fn an_inspection_survives_being_written_and_read() {
    let inspection =
        look("a.jsonl", "{\"text\":\"a\",\"tags\":[\"x\",\"y\"]}\n{\"text\":\"b\",\"tags\":[\"x\"]}\n[1]\n");
    let text = serde_json::to_string(&inspection).unwrap();
    assert_eq!(serde_json::from_str::<Inspection>(&text).unwrap(), inspection);
    let tags = inspection.column("tags").unwrap();
    let classes: Vec<(&str, u64)> = tags.classes.iter().map(|class| (&*class.label, class.rows)).collect();
    assert_eq!((tags.kind, classes), (ColumnKind::List, vec![("x", 2), ("y", 1)]));
    assert!(!inspection.is_usable());
}

#[test]
fn a_file_that_is_no_table_is_described_by_its_problem() {
    let inspection = look("a.csv", "");
    assert_eq!((inspection.format, inspection.rows, inspection.problems.total), (None, 0, 1));
    let (folder, _path) = file("a.csv", "");
    let absent = inspect(&folder.path().join("absent"), "absent.csv");
    assert_eq!(absent.problems.listed[0].kind, ProblemKind::Unreadable);
}

#[test]
fn more_classes_than_can_be_counted_are_text() {
    let content: String = (0..3000).map(|row| format!("{},w{}\n", row, row % 1500)).collect();
    let inspection = look("a.csv", &("text,label\n".to_owned() + &content));
    let label = inspection.column("label").unwrap();
    assert_eq!((label.kind, label.distinct, label.classes.len()), (ColumnKind::Text, 1500, 0));
}

#[test]
fn usual_names_are_known() {
    assert_eq!(guessed("text,label"), columns("text", None, "label"));
    assert_eq!(guessed("Review,Sentiment"), columns("Review", None, "Sentiment"));
    assert_eq!(guessed("id,comment,other,class"), columns("comment", None, "class"));
    assert_eq!(guessed("premise,hypothesis,label"), columns("premise", Some("hypothesis"), "label"));
    assert_eq!(guessed("sentence1,sentence2,gold,label"), columns("sentence1", Some("sentence2"), "label"));
    assert_eq!(guessed("text,text_pair,label"), columns("text", Some("text_pair"), "label"));
    assert_eq!(guessed("text,content,label"), columns("text", None, "label"), "the role's own name decides");
}

#[test]
fn the_one_column_that_is_left_takes_the_role_that_is_left() {
    assert_eq!(guessed("review,verdict"), columns("review", None, "verdict"));
    assert_eq!(guessed("id,utterings,label"), columns("utterings", None, "label"));
}

#[test]
fn where_names_do_not_tell_the_caller_is_asked() {
    for header in ["Review,Stars,Verdict", "content,comment,label", "a,b", "text,one,two", "x,y,label"] {
        assert_eq!(guessed(header), Err(ProblemKind::AmbiguousColumns), "{header}");
    }
    let other = guess_columns(&look("a.csv", "text,label\na,b\n"), "translation").unwrap_err();
    assert_eq!(other.kind, ProblemKind::AmbiguousColumns);
}

#[test]
fn the_kind_of_problem_follows_the_labels() {
    let kind = |name: &str, content: &str| {
        guess_columns(&look(name, content), "text-classification").unwrap().problem_type
    };
    assert_eq!(kind("a.csv", "text,label\na,x\nb,y\n"), ProblemType::SingleLabel);
    assert_eq!(kind("a.csv", "text,label\na,1\nb,0\nc,1\n"), ProblemType::SingleLabel);
    assert_eq!(kind("a.csv", "text,label\na,1.5\nb,0.25\nc,3.1\n"), ProblemType::Regression);
    assert_eq!(kind("a.jsonl", "{\"text\":\"a\",\"label\":[\"x\"]}\n"), ProblemType::MultiLabel);
}

#[test]
fn columns_of_related_texts_are_told_from_their_names() {
    let guess = |header: &str, row: &str| {
        let content = format!("{header}\n{row}\n{row}\n");
        guess_related(&look("a.csv", &content)).map_err(|problem| problem.kind)
    };
    let ranked = |anchor: &str, positive: &str, negative: &[&str]| {
        Ok(Columns {
            anchor: Some(anchor.to_owned()),
            positive: Some(positive.to_owned()),
            negative: negative.iter().map(|name| (*name).to_owned()).collect(),
            ..Columns::default()
        })
    };
    assert_eq!(guess("anchor,positive", "a b,c d"), ranked("anchor", "positive", &[]));
    assert_eq!(
        guess("id,Query,Passage,negative_1,negative_2", "1,a b,c d,e f,g h"),
        ranked("Query", "Passage", &["negative_1", "negative_2"])
    );
    assert_eq!(guess("sentence1,sentence2", "a b,c d"), ranked("sentence1", "sentence2", &[]));
    let scored = Columns {
        text1: Some("sentence1".to_owned()),
        text2: Some("sentence2".to_owned()),
        score: Some("score".to_owned()),
        ..Columns::default()
    };
    assert_eq!(guess("sentence1,sentence2,score", "a b,c d,0.5"), Ok(scored));
    // A label in words is no score.
    assert_eq!(guess("sentence1,sentence2,label", "a b,c d,same"), ranked("sentence1", "sentence2", &[]));
    assert_eq!(guess("left,right", "a b,c d"), Err(ProblemKind::AmbiguousColumns));
    assert_eq!(guess("query,answer,passage", "a b,c d,e f"), Err(ProblemKind::AmbiguousColumns));
}
