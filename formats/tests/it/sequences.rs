//! Sources and targets: rows, columns by name, texts whose lines belong together.

use std::fs;

use formats::dataset::Columns;
use formats::dataset::sequences::{check_sequences, overlap, read_sequences};
use formats::inspect::{Target, guess_sequences, inspect};
use formats::table::parallel::join;
use formats::{ProblemKind, Problems};

use crate::common::file;

fn columns(source: &str, target: &str) -> Columns {
    Columns { source: Some(source.to_owned()), target: Some(target.to_owned()), ..Columns::default() }
}

fn texts(name: &str, content: &str, columns: &Columns) -> Result<Vec<(u64, String, String)>, Problems> {
    let (_folder, path) = file(name, content);
    let rows = read_sequences(&path, name, columns)?;
    Ok(rows.into_iter().map(|row| (row.lines.first, row.source, row.target)).collect())
}

#[test]
fn sources_and_targets_are_columns_or_fields_of_objects() {
    let right = vec![
        (1, "Hello".to_owned(), "Bonjour".to_owned()),
        (2, "Good night".to_owned(), "Bonne nuit".to_owned()),
    ];
    let nested = "{\"id\": 1, \"translation\": {\"en\": \"Hello\", \"fr\": \"Bonjour\"}}\n{\"translation\": {\"fr\": \
                  \"Bonne nuit\", \"en\": \"Good night\", \"id\": 4}}\n";
    let found = texts("a.jsonl", nested, &columns("translation.en", "translation.fr")).unwrap();
    assert_eq!(found, right);
    let flat = "en\tfr\nHello\tBonjour\nGood night\tBonne nuit\n";
    let found = texts("a.tsv", flat, &columns("en", "fr")).unwrap();
    assert_eq!(found.into_iter().map(|(line, a, b)| (line - 1, a, b)).collect::<Vec<_>>(), right);
    let dotted = "{\"translation.en\": \"Hello\", \"translation.fr\": \"Bonjour\"}\n";
    assert_eq!(
        texts("a.jsonl", dotted, &columns("translation.en", "translation.fr")).unwrap(),
        right[..1],
        "a column of this very name goes first"
    );
}

#[test]
fn what_is_missing_or_no_text_is_named_by_line_and_column() {
    let content = "{\"en\": \"a\", \"fr\": \"\"}\n{\"en\": \" \", \"fr\": \"b\"}\n{\"fr\": \"c\"}\n{\"en\": [\"d\"], \"fr\": \"d\"}\n";
    let problems = texts("a.jsonl", content, &columns("en", "fr")).unwrap_err();
    let found: Vec<String> = problems.listed.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "a.jsonl, line 1, `fr`: the target is missing; fill it in or remove the row",
            "a.jsonl, line 2, `en`: the source is missing; fill it in or remove the row",
            "a.jsonl, line 3, `en`: the source is missing; fill it in or remove the row",
            "a.jsonl, line 4, `en`: expected a text, found a list; write one text",
        ]
    );
    let content = "{\"t\": {\"en\": \"a\", \"fr\": \"b\"}}\n{\"t\": {\"en\": \"a\"}}\n{\"t\": \"text\"}\n{\"t\": {\"en\": \"a\", \"fr\": 3}}\n\
                   {\"t\": {\"en\": \"a\", \"en\": \"b\", \"fr\": \"c\"}}\n";
    let problems = texts("a.jsonl", content, &columns("t.en", "t.fr")).unwrap_err();
    let found: Vec<(u64, &str, &str)> = problems
        .listed
        .iter()
        .map(|problem| {
            (problem.line.unwrap().first, problem.column.as_deref().unwrap(), problem.message.as_str())
        })
        .collect();
    assert_eq!(
        found,
        [
            (2, "t.fr", "the target is missing"),
            (3, "t.en", "expected an object with the field `en`"),
            (3, "t.fr", "expected an object with the field `fr`"),
            (5, "t.en", "the key `en` occurs twice in this object"),
        ]
    );
    let absent = texts("a.csv", "en,fr\na,b\n", &columns("en", "de")).unwrap_err();
    assert_eq!(absent.listed[0].kind, ProblemKind::UnknownColumn);
    let twice = texts("a.csv", "en,fr\na,b\n", &columns("en", "en ")).unwrap_err();
    assert_eq!(twice.listed[0].kind, ProblemKind::AmbiguousColumns);
    let none = texts("a.csv", "en,fr\na,b\n", &Columns::default()).unwrap_err();
    assert!(none.listed[0].message.contains("source"), "{none}");
}

#[test]
fn a_summary_counts_lengths_and_what_is_worth_a_look() {
    let (_folder, path) = file("a.csv", "en,fr\naa,bbb\naa,bbb\naa,cccc\nsame, same\n");
    let summary = check_sequences(&path, "a.csv", &columns("en", "fr")).unwrap();
    assert_eq!((summary.rows, summary.mean_source, summary.mean_target), (4, 2.5, 3.75));
    assert_eq!(
        summary.notices,
        [
            "1 of 4 rows repeat an earlier source with its target",
            "1 of 4 rows have the source of an earlier row and another target",
            "1 of 4 rows have a target that is the source itself",
        ]
    );
    let rows = read_sequences(&path, "a.csv", &columns("en", "fr")).unwrap();
    assert_eq!(overlap(&rows[..1], &rows[1..]), 1);
}

#[test]
fn columns_are_told_by_their_names() {
    let guess = |name: &str, content: &str| {
        let (_folder, path) = file(name, content);
        guess_sequences(&inspect(&path, name))
    };
    let nested = "{\"id\": \"7\", \"translation\": {\"en\": \"a\", \"pt_BR\": \"b\"}}\n";
    let (found, target) = guess("a.jsonl", nested).unwrap();
    assert_eq!((found, target), (columns("translation.en", "translation.pt_BR"), Target::Translation));
    assert_eq!(
        guess("a.csv", "id,article,highlights\n1,a,b\n").unwrap(),
        (columns("article", "highlights"), Target::Summary)
    );
    assert_eq!(guess("a.csv", "input,output\na,b\n").unwrap(), (columns("input", "output"), Target::Text));
    assert_eq!(
        guess("a.csv", "No,en,fr\n1,a,b\n").unwrap(),
        (columns("en", "fr"), Target::Translation),
        "rows are numbered"
    );
    assert_eq!(guess("a.csv", "German,English\na,b\n").unwrap().1, Target::Translation);
    for (content, words) in [
        ("en,fr,de\na,b,c\n", "which of the languages"),
        ("enough,free\na,b\n", "source and the target"),
        ("article,summary,highlights\na,b,c\n", "source and the target"),
    ] {
        let unclear = guess("a.csv", content).unwrap_err();
        assert!(unclear.message.contains(words), "{content}: {unclear}");
        assert!(unclear.message.contains("the file has"), "{unclear}");
    }
}

#[test]
fn two_texts_become_a_table_and_unequal_ones_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    put("train.en", "\u{feff}Hello\r\n\"Good\tnight\"\n");
    put("train.fr", "Bonjour\nBonne nuit");
    put("LICENSE", "free");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let to = folder.path().join("out.jsonl");
    let joined = join(folder.path(), &names(&["LICENSE", "train.en", "train.fr"]), "a.zip", &to).unwrap();
    assert_eq!(
        (joined.name.as_str(), joined.columns, joined.rows),
        ("train.jsonl", ["en".to_owned(), "fr".to_owned()], 2)
    );
    let rows = read_sequences(&to, "train.jsonl", &columns("en", "fr")).unwrap();
    assert_eq!((rows[0].source.as_str(), rows[0].target.as_str()), ("Hello", "Bonjour"));
    assert_eq!((rows[1].source.as_str(), rows[1].lines.first), ("\"Good\tnight\"", 2));

    put("train.fr", "Bonjour\n\nBonne nuit\nEncore\n");
    let unequal = join(folder.path(), &names(&["train.en", "train.fr"]), "a.zip", &to).unwrap_err();
    assert_eq!(unequal.message, "train.en has 2 lines and train.fr has 4: line 3 of train.fr has no partner");
    put("dev.en.txt", "a");
    put("dev.fr.txt", "b");
    let several = names(&["dev.en.txt", "dev.fr.txt", "train.en", "train.fr"]);
    let ambiguous = join(folder.path(), &several, "a.zip", &to).unwrap_err();
    assert!(ambiguous.message.contains("several texts"), "{ambiguous}");
    let dev = join(folder.path(), &several[..2], "a.zip", &to).unwrap();
    assert_eq!((dev.name.as_str(), dev.rows), ("dev.jsonl", 1));
    let alone = join(folder.path(), &names(&["LICENSE", "train.en"]), "a.zip", &to).unwrap_err();
    assert!(alone.message.contains("no two texts"), "{alone}");
}
