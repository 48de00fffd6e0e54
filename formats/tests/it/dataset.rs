//! Rows as examples, labels, splits.

use formats::dataset::related::{Relation, check_related, read_related};
use formats::dataset::{
    Columns, Example, Label, LabelMap, ProblemType, SplitSizes, check_classification, overlap, random_split,
    read_classification, split_examples, stratified_split,
};
use formats::{LineRange, ProblemKind, Problems};

use crate::common::{Random, file};

fn read(name: &str, content: &str, kind: ProblemType) -> Result<Vec<Example>, Problems> {
    let (_folder, path) = file(name, content);
    let columns = Columns { text: "text".to_owned(), label: "label".to_owned(), ..Columns::default() };
    read_classification(&path, name, &columns, kind)
}

fn labels(name: &str, content: &str, kind: ProblemType) -> Vec<Label> {
    read(name, content, kind).unwrap().into_iter().map(|example| example.label).collect()
}

fn classes(names: &[&[&str]]) -> Vec<Label> {
    names.iter().map(|row| Label::Classes(row.iter().map(|name| (*name).to_owned()).collect())).collect()
}

#[test]
fn a_row_becomes_an_example_with_its_place() {
    let examples =
        read("a.csv", "id,text,label\n1,\"a\nb\", pos \n2, c ,neg\n", ProblemType::SingleLabel).unwrap();
    assert_eq!(examples[0].lines, LineRange { first: 2, last: 3 });
    assert_eq!((examples[0].row, examples[0].text.as_str()), (0, "a\nb"));
    assert_eq!(examples[0].label, Label::Class("pos".to_owned()));
    assert_eq!((examples[1].row, examples[1].text.as_str()), (1, " c "), "a text keeps its blanks");
}

#[test]
fn pairs_are_read_and_a_missing_second_text_is_named() {
    let (_folder, path) = file("a.csv", "premise,hypothesis,label\na,b,x\nc,,y\n,,\n");
    let columns = Columns {
        text: "premise".to_owned(),
        text_pair: Some("hypothesis".to_owned()),
        label: "label".to_owned(),
        ..Columns::default()
    };
    let problems = read_classification(&path, "a.csv", &columns, ProblemType::SingleLabel).unwrap_err();
    let found: Vec<(u64, &str)> = problems
        .listed
        .iter()
        .map(|problem| (problem.line.unwrap().first, problem.column.as_deref().unwrap()))
        .collect();
    assert_eq!(found, [(3, "hypothesis"), (4, "premise"), (4, "hypothesis"), (4, "label")]);
    assert_eq!(problems.total, 4);
}

#[test]
fn a_problem_is_one_sentence_with_place_and_remedy() {
    let problems = read("reviews.csv", "text,label\n,pos\n", ProblemType::SingleLabel).unwrap_err();
    let expected = "reviews.csv, line 2, `text`: the text is missing; fill it in or remove the row";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn problems_are_counted_beyond_those_that_are_listed() {
    let content = "text,label\n".to_owned() + &"x,\n".repeat(250);
    let problems = read("a.csv", &content, ProblemType::SingleLabel).unwrap_err();
    assert_eq!((problems.listed.len(), problems.total), (Problems::LISTED, 250));
    assert!(problems.to_string().ends_with("(and 249 more)"));
}

#[test]
fn one_column_cannot_play_two_roles() {
    let (_folder, path) = file("a.csv", "text,label\na,b\n");
    let columns = Columns { text: "text".to_owned(), label: "text".to_owned(), ..Columns::default() };
    let problems = read_classification(&path, "a.csv", &columns, ProblemType::SingleLabel).unwrap_err();
    assert_eq!(problems.listed[0].kind, ProblemKind::AmbiguousColumns);
}

#[test]
fn an_unknown_column_of_json_lines_is_one_problem_not_one_a_row() {
    let problems = read(
        "a.jsonl",
        "{\"text\":\"a\",\"Label\":1}\n{\"text\":\"b\",\"Label\":2}\n",
        ProblemType::SingleLabel,
    );
    let problems = problems.unwrap_err();
    assert_eq!((problems.total, problems.listed[0].kind), (1, ProblemKind::UnknownColumn));
    assert_eq!(problems.listed[0].hint.as_deref(), Some("did you mean `Label`?"));
}

#[test]
fn a_column_that_first_occurs_in_a_later_row_is_a_missing_value_in_the_first() {
    let problems =
        read("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\",\"label\":2}\n", ProblemType::SingleLabel);
    let problems = problems.unwrap_err();
    assert_eq!((problems.total, problems.listed[0].kind), (1, ProblemKind::MissingLabel));
}

#[test]
fn names_that_are_the_same_number_are_one_class_and_codes_are_not_numbers() {
    let content = "text,label\na,1\na,1.0\na,+1\na, 1.00 \na,01\na,-0\na,0.0\na,0.50\na,.5\na,1e0\na,1.\n";
    let expected = ["1", "1", "1", "1", "01", "0", "0", "0.5", ".5", "1e0", "1"];
    let found = labels("a.csv", content, ProblemType::SingleLabel);
    assert_eq!(found, expected.map(|name| Label::Class(name.to_owned())));
    let big = labels(
        "a.jsonl",
        "{\"text\":\"a\",\"label\":123456789012345678901234567890}",
        ProblemType::SingleLabel,
    );
    assert_eq!(big, [Label::Class("123456789012345678901234567890".to_owned())]);
    let truth = labels("a.jsonl", "{\"text\":\"a\",\"label\":true}", ProblemType::SingleLabel);
    assert_eq!(truth, [Label::Class("true".to_owned())]);
}

#[test]
fn several_labels_come_as_a_list_or_between_bars_or_commas() {
    let lines = "{\"text\":\"a\",\"label\":[\"x\",1.0,\" x \"]}\n{\"text\":\"a\",\"label\":[]}\n{\"text\":\"a\",\"label\":\"y\"}";
    assert_eq!(labels("a.jsonl", lines, ProblemType::MultiLabel), classes(&[&["x", "1"], &[], &["y"]]));
    let csv = "text,label\na,x | y|x\na,\"x, y\"\na,\"x, y|z\"\na,\na,\"[\"\"x\"\", \"\"y,z\"\"]\"\na,solo\n";
    let expected: [&[&str]; 6] = [&["x", "y"], &["x", "y"], &["x, y", "z"], &[], &["x", "y,z"], &["solo"]];
    assert_eq!(labels("a.csv", csv, ProblemType::MultiLabel), classes(&expected));
}

#[test]
fn lists_that_are_no_lists_of_names_are_refused() {
    let lines = "{\"text\":\"a\",\"label\":[\"x\",null]}\n{\"text\":\"a\",\"label\":[[\"x\"]]}\n{\"text\":\"a\",\"label\":null}\n{\"text\":\"a\",\"label\":\"['x', 'y']\"}";
    let problems = read("a.jsonl", lines, ProblemType::MultiLabel).unwrap_err();
    let kinds: Vec<ProblemKind> = problems.listed.iter().map(|problem| problem.kind).collect();
    let value = ProblemKind::InvalidValue;
    assert_eq!(kinds, [value, value, ProblemKind::MissingLabel, value]);
    let single = read("a.jsonl", "{\"text\":\"a\",\"label\":[\"x\"]}", ProblemType::SingleLabel).unwrap_err();
    assert!(single.to_string().contains("multi_label"));
}

#[test]
fn numbers_to_learn_are_finite_and_have_a_point() {
    let content = "text,label\na,1.5\na, -2 \na,1e-3\n";
    let expected = [1.5, -2.0, 0.001].map(Label::Value);
    assert_eq!(labels("a.csv", content, ProblemType::Regression), expected);
    let bad =
        read("a.csv", "text;label\na;1,5\na;nan\na;inf\na;good\na;\n", ProblemType::Regression).unwrap_err();
    let lines: Vec<u64> = bad.listed.iter().map(|problem| problem.line.unwrap().first).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6]);
    assert_eq!(bad.listed[0].hint.as_deref(), Some("write decimals with a point"));
    assert_eq!(bad.listed[4].kind, ProblemKind::MissingLabel);
    let truth = read("a.jsonl", "{\"text\":\"a\",\"label\":true}", ProblemType::Regression).unwrap_err();
    assert_eq!(truth.listed[0].kind, ProblemKind::InvalidValue);
}

#[test]
fn one_class_alone_is_refused() {
    let rows = labels("a.csv", "text,label\na,x\nb,x\n", ProblemType::SingleLabel);
    let problem = LabelMap::from_train("a.csv", &rows).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::OneClass);
    assert!(problem.message.contains("`x`"));
    LabelMap::from_train("a.csv", &classes(&[&["x"], &[]])).unwrap();
    assert!(LabelMap::from_train("a.csv", &classes(&[&[], &[]])).is_err());
}

#[test]
fn names_are_sorted_as_numbers_only_when_all_are_numbers() {
    let sorted =
        |names: &[&str]| LabelMap::from_names(names.iter().map(|name| (*name).to_owned())).names().to_vec();
    assert_eq!(sorted(&["10", "9", "-1", "9.5"]), ["-1", "9", "9.5", "10"]);
    assert_eq!(sorted(&["10", "9", "x"]), ["10", "9", "x"]);
    assert_eq!(sorted(&["é", "a", "Z", "inf"]), ["Z", "a", "inf", "é"]);
    let map = LabelMap::from_names(["b", "a", "b"].map(str::to_owned));
    let text = serde_json::to_string(&map).unwrap();
    assert_eq!((text.as_str(), serde_json::from_str::<LabelMap>(&text).unwrap()), ("[\"a\",\"b\"]", map));
}

#[test]
fn a_summary_counts_what_was_read() {
    let (_folder, path) = file("a.csv", "text,label\na,x\nb,X\nc,x\n");
    let columns = Columns { text: "text".to_owned(), label: "label".to_owned(), ..Columns::default() };
    let summary = check_classification(&path, "a.csv", &columns, ProblemType::SingleLabel, None).unwrap();
    let counts: Vec<(&str, u64)> = summary.classes.iter().map(|class| (&*class.label, class.rows)).collect();
    assert_eq!((summary.rows, counts), (3, vec![("X", 1), ("x", 2)]));
    assert!(summary.notices.iter().any(|notice| notice.contains("upper and lower case")));
    let (_folder, path) = file("a.csv", "text,label\na,3\nb,-1\n");
    let summary = check_classification(&path, "a.csv", &columns, ProblemType::Regression, None).unwrap();
    assert_eq!((summary.range, summary.classes.len()), (Some((-1.0, 3.0)), 0));
}

#[test]
fn rows_in_both_parts_are_counted() {
    let train = read("a.csv", "text,label\na,x\nb,y\n", ProblemType::SingleLabel).unwrap();
    let valid = read("a.csv", "text,label\na,y\nc,y\na,x\n", ProblemType::SingleLabel).unwrap();
    assert_eq!(overlap(&train, &valid), 2);
}

const SIZES: SplitSizes = SplitSizes { validation: 0.1, test: 0.2 };

#[test]
fn each_class_keeps_its_share_in_each_part() {
    let rows: Vec<&str> = (0..1000)
        .map(|row| {
            if row < 700 {
                "a"
            } else if row < 990 {
                "b"
            } else {
                "c"
            }
        })
        .collect();
    let split = stratified_split(&rows, SIZES, 1);
    let count = |part: &[usize], class: &str| part.iter().filter(|row| rows[**row] == class).count();
    assert_eq!((split.train.len(), split.validation.len(), split.test.len()), (700, 100, 200));
    assert_eq!(["a", "b", "c"].map(|class| count(&split.validation, class)), [70, 29, 1]);
    assert_eq!(["a", "b", "c"].map(|class| count(&split.test, class)), [140, 58, 2]);
}

#[test]
fn a_split_holds_every_row_once_and_a_rare_class_in_each_part_it_can() {
    let mut random = Random(3);
    for _ in 0..300 {
        let classes: Vec<usize> =
            (0..1 + random.below(60)).map(|_| random.below(7) * random.below(3)).collect();
        let sizes = SplitSizes {
            validation: 0.05 + random.below(40) as f64 / 100.0,
            test: random.below(3) as f64 / 10.0,
        };
        let split = stratified_split(&classes, sizes, random.next());
        let mut all: Vec<usize> = [&split.train[..], &split.validation, &split.test].concat();
        all.sort_unstable();
        assert_eq!(all, (0..classes.len()).collect::<Vec<_>>());
        for class in 0..15 {
            let count = |part: &[usize]| part.iter().filter(|row| classes[**row] == class).count();
            let rows = classes.iter().filter(|other| **other == class).count();
            assert!(rows == 0 || count(&split.train) >= 1, "{class} of {classes:?}");
            assert!(rows < 2 || count(&split.validation) >= 1, "{class} of {classes:?}");
            assert!(rows < 3 || sizes.test == 0.0 || count(&split.test) >= 1, "{class} of {classes:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_split_and_another_seed_another() {
    let classes: Vec<usize> = (0..200).map(|row| row % 3).collect();
    let split = stratified_split(&classes, SIZES, 42);
    assert_eq!(split, stratified_split(&classes, SIZES, 42));
    assert_ne!(split, stratified_split(&classes, SIZES, 43));
    // A split is part of what a job is run again from: it must be the same in every version.
    assert_eq!(random_split(10, SplitSizes { validation: 0.3, test: 0.1 }, 0).validation, SPLIT_OF_SEED_0);
}

const SPLIT_OF_SEED_0: [usize; 3] = [1, 4, 5];

#[test]
fn shares_that_leave_a_part_empty_are_refused() {
    let rows = read("a.csv", "text,label\na,x\nb,y\nc,x\nd,y\n", ProblemType::SingleLabel).unwrap();
    let split = |validation, test| split_examples("a.csv", &rows, SplitSizes { validation, test }, true, 0);
    for (validation, test) in [(1.0, 0.0), (-0.1, 0.0), (0.5, 0.5), (f64::NAN, 0.0)] {
        assert_eq!(split(validation, test).unwrap_err().kind, ProblemKind::InvalidValue);
    }
    let halves = split(0.5, 0.0).unwrap();
    assert_eq!((halves.train.len(), halves.validation.len()), (2, 2));
    assert!(split(0.25, 0.25).is_err(), "two rows of each class are too few for three parts");
    let two = &rows[..2];
    assert!(split_examples("a.csv", two, SplitSizes { validation: 0.1, test: 0.0 }, true, 0).is_err());
}

#[test]
fn numbers_and_several_labels_are_split_without_regard_to_them() {
    let rows =
        read("a.csv", &("text,label\n".to_owned() + &"a,1\n".repeat(50)), ProblemType::Regression).unwrap();
    let split = split_examples("a.csv", &rows, SIZES, true, 5).unwrap();
    assert_eq!(split, random_split(50, SIZES, 5));
    assert_eq!((split.train.len(), split.validation.len(), split.test.len()), (35, 5, 10));
}

#[test]
fn related_texts_are_read_and_what_is_wrong_is_named_by_line_and_column() {
    let (_folder, path) = file("a.csv", "q,a,n\nx,y,z\nx,,\"\"\nv,y,u\n");
    let negative = ["n".to_owned()];
    let relation = Relation::Ranked { anchor: "q", positive: "a", negative: &negative };
    let problems = read_related(&path, "a.csv", &relation, None).unwrap_err();
    let places: Vec<(u64, &str)> = problems
        .listed
        .iter()
        .map(|problem| (problem.line.unwrap().first, problem.column.as_deref().unwrap()))
        .collect();
    assert_eq!(places, [(3, "a"), (3, "n")]);
    let (_folder, path) = file("a.csv", "q,a\nx,y\nv,y\nw,w\n");
    let relation = Relation::Ranked { anchor: "q", positive: "a", negative: &[] };
    let rows = read_related(&path, "a.csv", &relation, None).unwrap();
    assert_eq!((rows.len(), &rows[1].texts[..]), (3, &["v".to_owned(), "y".to_owned()][..]));
    let summary = check_related(&path, "a.csv", &relation, None).unwrap();
    assert_eq!(summary.rows, 3);
    assert!(summary.notices[0].starts_with("1 of 3 positives repeat"), "{:?}", summary.notices);
    assert!(summary.notices[1].contains("anchor itself"), "{:?}", summary.notices);
    let twice = Relation::Ranked { anchor: "q", positive: " q", negative: &[] };
    assert_eq!(
        read_related(&path, "a.csv", &twice, None).unwrap_err().listed[0].column.as_deref(),
        Some("q")
    );
    let (_folder, path) = file("a.csv", "b,c,s\nx,y,0.5\nx,y,much\nx,y,3\n");
    let scored = Relation::Scored { text1: "b", text2: "c", score: "s" };
    let problems = read_related(&path, "a.csv", &scored, Some((-1.0, 1.0))).unwrap_err();
    let lines: Vec<u64> = problems.listed.iter().map(|problem| problem.line.unwrap().first).collect();
    assert_eq!(lines, [3, 4]);
}
