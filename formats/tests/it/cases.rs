//! The trouble cases that these readers decide, each with the answer that is stated as right.

use std::path::Path;

use formats::archive::{Limits, unpack};
use formats::checkpoint::{Weights, inspect_checkpoint};
use formats::dataset::tagged::{Tagging, survey_tagged};
use formats::dataset::{Columns, LabelMap, ProblemType, Summary, check_classification, read_classification};
use formats::inspect::{Inspection, guess_columns, inspect};
use formats::table::Table;
use formats::{Problem, ProblemKind, Problems};

use crate::common::{case, cells};

fn columns(text: &str, label: &str) -> Columns {
    Columns { text: text.to_owned(), label: label.to_owned(), ..Columns::default() }
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn open(path: &Path) -> Table {
    Table::open(path, name(path)).unwrap()
}

fn check(path: &Path, text: &str, label: &str) -> Result<Summary, Problems> {
    check_classification(path, name(path), &columns(text, label), ProblemType::SingleLabel, None)
}

fn counts(summary: &Summary) -> Vec<(&str, u64)> {
    summary.classes.iter().map(|class| (class.label.as_str(), class.rows)).collect()
}

fn lines(problems: &Problems) -> Vec<u64> {
    problems.listed.iter().map(|problem| problem.line.unwrap().first).collect()
}

#[test]
fn case_01_a_byte_order_mark_is_no_part_of_the_first_column() {
    let Some(folder) = case("01_bom") else { return };
    let table = open(&folder.join("bom.csv"));
    assert_eq!(table.columns(), ["text", "label"]);
    assert_eq!(table.columns()[0].as_bytes(), [0x74, 0x65, 0x78, 0x74]);
    assert_eq!(table.row_count(), 3);
    assert_eq!(cells(&table)[2][0].as_deref(), Some("naïve but fun"));
    assert_eq!(counts(&check(&folder.join("bom.csv"), "text", "label").unwrap()), [("neg", 1), ("pos", 2)]);

    let inspection = inspect(&folder.join("bom.jsonl"), "bom.jsonl");
    assert_eq!(inspection.rows, 2);
    assert_eq!(inspection.column_names().collect::<Vec<_>>(), ["text", "label"]);
    assert!(inspection.is_usable());
}

#[test]
fn case_02_quoted_line_breaks_keep_their_rows_and_line_numbers() {
    let Some(folder) = case("02_quoted_newlines") else { return };
    let table = open(&folder.join("quoted_newlines.csv"));
    assert_eq!((table.row_count(), table.columns().len()), (4, 3));
    let rows = table.read_strict().unwrap();
    let text = |row: usize| rows[row].cell(1).written().unwrap().into_owned();
    assert_eq!(text(0), "first line\nsecond line");
    assert_eq!(text(1), r#"she said "fine", then left"#);
    assert_eq!(text(2), "");
    assert_eq!(text(3), "ends with a break\n");
    assert_eq!(rows[3].lines.to_string(), "lines 6–7");
}

#[test]
fn case_04_ragged_rows_are_named_by_line_and_never_shifted() {
    let Some(folder) = case("04_ragged_rows") else { return };
    let path = folder.join("ragged.csv");
    let inspection = inspect(&path, "ragged.csv");
    assert_eq!(inspection.rows, 3);
    assert_eq!(inspection.problems.total, 2);
    assert_eq!(lines(&inspection.problems), [3, 5]);
    assert_eq!(inspection.problems.listed[0].message, "the row has 3 fields, the header has 2");
    assert_eq!(inspection.problems.listed[1].message, "the row has 1 field, the header has 2");
    let labels: Vec<&str> =
        inspection.column("label").unwrap().classes.iter().map(|class| &*class.label).collect();
    assert_eq!(labels, ["neg", "pos"]);

    let problems = check(&path, "text", "label").unwrap_err();
    assert_eq!(lines(&problems), [3, 5], "a job is refused, no row is left out in silence");
    assert_eq!(lines(&open(&path).read_strict().unwrap_err()), [3, 5]);
}

#[test]
fn case_05_words_that_look_like_missing_values_are_words() {
    let Some(folder) = case("05_na_words") else { return };
    let path = folder.join("na_words.csv");
    let inspection = inspect(&path, "na_words.csv");
    assert_eq!(inspection.rows, 7);
    let region = inspection.column("region").unwrap();
    let classes: Vec<(&str, u64)> = region.classes.iter().map(|class| (&*class.label, class.rows)).collect();
    assert_eq!(classes, [("EU", 3), ("NA", 4)]);
    let texts: Vec<&str> =
        inspection.preview.iter().take(5).map(|row| row.cells[0].as_deref().unwrap()).collect();
    assert_eq!(texts, ["null", "None", "nan", "N/A", "NULL"]);
    assert_eq!(inspection.column("text").unwrap().missing, 2);

    let problems = check(&path, "text", "region").unwrap_err();
    assert_eq!(problems.total, 2);
    assert!(problems.listed.iter().all(|problem| problem.kind == ProblemKind::MissingText));
    assert_eq!(lines(&problems), [7, 8]);
}

#[test]
fn case_07_one_class_spelt_several_ways_is_one_class() {
    let Some(folder) = case("07_label_spelling") else { return };
    let numeric = folder.join("labels_numeric.csv");
    assert_eq!(counts(&check(&numeric, "text", "label").unwrap()), [("0", 2), ("1", 4)]);
    let guess = guess_columns(&inspect(&numeric, "labels_numeric.csv"), "text-classification").unwrap();
    assert_eq!(guess.problem_type, ProblemType::SingleLabel);

    let spaces = folder.join("labels_spaces.csv");
    assert_eq!(open(&spaces).columns(), ["text", "label"]);
    assert_eq!(counts(&check(&spaces, "text", "label").unwrap()), [("neg", 2), ("pos", 3)]);
}

#[test]
fn case_08_json_lines_in_every_shape() {
    let Some(folder) = case("08_jsonl_shapes") else { return };
    let lines = inspect(&folder.join("blank_crlf.jsonl"), "blank_crlf.jsonl");
    assert!(lines.is_usable());
    assert_eq!(lines.rows, 3);
    let text = lines.preview[1].cells[0].as_deref().unwrap();
    assert_eq!(text.matches('\u{2028}').count(), 1);
    assert_eq!(text.matches('\u{85}').count(), 1);
    assert_eq!(lines.preview[2].lines.first, 5);

    for name in ["array.json", "array_in.jsonl"] {
        let list = inspect(&folder.join(name), name);
        assert!(list.is_usable(), "{name}: {}", list.problems);
        assert_eq!(list.rows, 3, "{name}");
    }
    for name in ["empty.jsonl", "only_blank.jsonl"] {
        let nothing = inspect(&folder.join(name), name);
        assert_eq!(nothing.rows, 0);
        assert_eq!(nothing.problems.listed[0].kind, ProblemKind::EmptyFile, "{name}");
        assert!(check(&folder.join(name), "text", "label").is_err(), "{name}");
    }
}

#[test]
fn case_10_json_types_may_change_from_row_to_row() {
    let Some(folder) = case("10_mixed_types") else { return };
    let path = folder.join("mixed_types.jsonl");
    let inspection = inspect(&path, "mixed_types.jsonl");
    assert_eq!(inspection.rows, 6);
    assert!(inspection.problems.is_empty());
    assert_eq!(inspection.preview[1].cells[0].as_deref(), Some("42"));
    let classes: Vec<(&str, u64)> =
        inspection.column("label").unwrap().classes.iter().map(|class| (&*class.label, class.rows)).collect();
    assert_eq!(classes, [("0", 2), ("1", 3)]);

    let problems = check(&path, "text", "label").unwrap_err();
    let found: Vec<(u64, ProblemKind)> =
        problems.listed.iter().map(|problem| (problem.line.unwrap().first, problem.kind)).collect();
    let expected =
        [(4, ProblemKind::MissingText), (5, ProblemKind::InvalidValue), (6, ProblemKind::MissingLabel)];
    assert_eq!(found, expected);

    let ids = inspect(&folder.join("big_ids.jsonl"), "big_ids.jsonl");
    let shown: Vec<Option<&str>> = ids.preview.iter().map(|row| row.cells[0].as_deref()).collect();
    assert_eq!(shown, [Some("9007199254740993"), None, Some("5")]);
}

#[test]
fn case_13_one_label_map_made_from_the_training_data() {
    let Some(folder) = case("13_label_map_by_name") else { return };
    let columns = columns("text", "label");
    let read = |name: &str| {
        read_classification(&folder.join(name), name, &columns, ProblemType::SingleLabel).unwrap()
    };
    let train = read("train.csv");
    let map = LabelMap::from_train("train.csv", train.iter().map(|example| &example.label)).unwrap();
    assert_eq!(map.names(), ["0", "90", "180", "270"]);
    assert_eq!((map.id("90"), map.id("270")), (Some(1), Some(3)));
    assert_eq!(map.id2label().len(), 4);
    assert!(map.id2label().iter().all(|(id, name)| map.label2id()[name] == *id));

    map.check("valid.csv", "label", &read("valid.csv")).unwrap();
    let problems = map.check("valid_unseen.csv", "label", &read("valid_unseen.csv")).unwrap_err();
    let unseen = &problems.listed[0];
    assert_eq!((problems.total, unseen.kind), (1, ProblemKind::UnknownLabel));
    assert_eq!((unseen.file.as_str(), unseen.line.unwrap().first), ("valid_unseen.csv", 3));
    assert!(unseen.message.contains("`45`"));

    let path = folder.join("valid_unseen.csv");
    let kind = ProblemType::SingleLabel;
    assert_eq!(
        check_classification(&path, "valid_unseen.csv", &columns, kind, Some(&map)).unwrap_err(),
        problems
    );
}

#[test]
fn case_14_columns_are_asked_for_and_named() {
    let Some(folder) = case("14_column_choice") else { return };
    let path = folder.join("reviews.csv");
    let asked = guess_columns(&inspect(&path, "reviews.csv"), "text-classification").unwrap_err();
    assert_eq!(asked.kind, ProblemKind::AmbiguousColumns);
    assert!(asked.message.contains("Review, Stars, Verdict"));

    let unknown = check(&path, "review", "Verdict").unwrap_err();
    assert_eq!(unknown.total, 1);
    let unknown = &unknown.listed[0];
    assert_eq!(unknown.kind, ProblemKind::UnknownColumn);
    assert_eq!(unknown.message, "there is no column `review`; the file has Review, Stars, Verdict");
    assert_eq!(unknown.hint.as_deref(), Some("did you mean `Review`?"));

    let summary = check(&path, "Review", "Verdict").unwrap();
    assert_eq!((summary.rows, counts(&summary)), (4, vec![("neg", 2), ("pos", 2)]));

    let absent = check(&folder.join("absent.csv"), "Review", "Verdict").unwrap_err();
    assert_eq!(absent.listed[0].kind, ProblemKind::Unreadable);
}

#[test]
fn case_16_the_delimiter_is_told_from_the_header() {
    let Some(folder) = case("16_delimiters") else { return };
    let table = open(&folder.join("semicolon.csv"));
    assert_eq!(
        (table.delimiter(), table.columns()),
        (Some(';'), &["text".to_owned(), "score".to_owned()][..])
    );
    assert_eq!(table.row_count(), 3);
    assert_eq!(cells(&table)[0][1].as_deref(), Some("1,5"));
    let notices = inspect(&folder.join("semicolon.csv"), "semicolon.csv").notices;
    assert!(notices.iter().any(|notice| notice.contains("`score`") && notice.contains("decimal comma")));

    for name in ["tabs.tsv", "tabs_named.csv"] {
        let table = open(&folder.join(name));
        assert_eq!((table.delimiter(), table.columns().len(), table.row_count()), (Some('\t'), 2, 3));
        assert_eq!(cells(&table)[0][0].as_deref(), Some("yes, sure"));
        assert_eq!(counts(&check(&folder.join(name), "text", "label").unwrap()), [("neg", 2), ("pos", 1)]);
    }
}

fn unpacked(archive: &Path, limits: &Limits) -> Result<formats::archive::Unpacked, Problem> {
    let parent = tempfile::tempdir().unwrap();
    let outcome = unpack(archive, name(archive), &parent.path().join("data"), limits);
    let left = std::fs::read_dir(parent.path()).unwrap().count();
    assert_eq!(
        left,
        usize::from(outcome.is_ok()),
        "nothing but the folder, and nothing at all after an error"
    );
    outcome
}

#[test]
fn case_19_wrapping_folder_and_companions_are_passed_over() {
    let Some(folder) = case("19_image_zip_junk") else { return };
    let shapes = unpacked(&folder.join("shapes.zip"), &Limits::default()).unwrap();
    let paths: Vec<&str> = shapes.files.iter().map(|(path, _)| path.as_str()).collect();
    let expected = [
        "train/cat/1.png",
        "train/cat/2.png",
        "train/dog/1.png",
        "validation/cat/3.png",
        "validation/dog/2.PNG",
    ];
    assert_eq!(paths, expected);
    assert_eq!((shapes.wrapper.as_deref(), shapes.passed_over), (Some("shapes"), 6));

    let flat = unpacked(&folder.join("flat.zip"), &Limits::default()).unwrap();
    let paths: Vec<&str> = flat.files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["cat/1.png", "cat/2.png", "dog/1.png", "readme.txt"]);
    assert_eq!((flat.wrapper, flat.passed_over), (None, 1));
}

#[test]
fn case_22_entries_that_point_outside_and_links_are_refused_by_name() {
    let Some(folder) = case("22_zip_slip") else { return };
    let refused = [
        ("dotdot.zip", "../luthier_evil.txt"),
        ("deep_dotdot.zip", "cat/../../../../../../tmp/luthier_evil.txt"),
        ("absolute.zip", "/tmp/luthier_evil.txt"),
        ("backslash.zip", "..\\\\..\\\\luthier_evil.txt"),
        ("symlink_file.zip", "cat/2.png"),
        ("symlink_dir.zip", "dog"),
    ];
    for (archive, entry) in refused {
        let problem = unpacked(&folder.join(archive), &Limits::default()).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::UnsafeEntry, "{archive}: {problem}");
        assert!(problem.message.contains(&format!("`{entry}`")), "{archive}: {problem}");
    }
    let trick = unpacked(&folder.join("strip_trick.zip"), &Limits::default()).unwrap();
    assert!(trick.files.iter().any(|(path, _)| path == ".../luthier_evil.txt"));
    assert!(!Path::new("/tmp/luthier_evil.txt").exists());
}

#[test]
fn case_23_small_files_that_unpack_to_huge_ones_stop_at_the_limit() {
    let Some(folder) = case("23_zip_bomb") else { return };
    let limits = Limits { max_unpacked_bytes: 50_000_000, ..Limits::default() };
    let bomb = unpacked(&folder.join("bomb_120MB.zip"), &limits).unwrap_err();
    assert_eq!(bomb.kind, ProblemKind::LimitExceeded);
    assert!(bomb.message.contains("50000000"), "{bomb}");
    let ratio = unpacked(&folder.join("bomb_120MB.zip"), &Limits::default()).unwrap_err();
    assert_eq!(ratio.kind, ProblemKind::LimitExceeded);
    assert!(ratio.message.contains("200 times"), "{ratio}");

    let lying = unpacked(&folder.join("lying_size.zip"), &limits).unwrap_err();
    assert_eq!(lying.kind, ProblemKind::CorruptArchive);
    assert!(lying.message.contains("cat/1.png"), "{lying}");

    let many = unpacked(&folder.join("many_entries.zip"), &limits).unwrap();
    assert_eq!((many.files.len(), many.bytes), (1400, 0));
    let few = Limits { max_entries: 1000, ..limits };
    let too_many = unpacked(&folder.join("many_entries.zip"), &few).unwrap_err();
    assert_eq!(too_many.kind, ProblemKind::LimitExceeded);
}

#[test]
fn case_28_incomplete_weights_are_named_with_the_numbers() {
    let Some(folder) = case("28_incomplete_weights") else { return };
    let problem = |name: &str| Weights::open(&folder.join(name)).unwrap_err();
    let missing = problem("sharded_missing");
    assert_eq!(missing.kind, ProblemKind::MissingWeights);
    assert!(missing.message.contains("model-00002-of-00002.safetensors"), "{missing}");
    let truncated = problem("truncated");
    assert_eq!(truncated.kind, ProblemKind::CorruptWeights);
    assert!(
        truncated.message.contains("the header accounts for 12552 bytes, the file has 12452"),
        "{truncated}"
    );
    let trailing = problem("trailing_bytes");
    assert!(
        trailing.message.contains("the header accounts for 12552 bytes, the file has 12616"),
        "{trailing}"
    );
    let pointer = problem("lfs_pointer");
    assert_eq!(pointer.kind, ProblemKind::LfsPointer);
    assert!(pointer.message.contains("(12552 bytes expected)"), "{pointer}");
    let none = problem("no_weights");
    assert_eq!(none.message, "no weights found");

    let whole = Weights::open(&folder.join("sharded_ok")).unwrap();
    assert_eq!((whole.len(), whole.files().count()), (11, 2));
    for name in ["sharded_missing", "truncated", "trailing_bytes", "lfs_pointer", "no_weights"] {
        let info = inspect_checkpoint(&folder.join(name));
        assert!(info.problems.listed.contains(&problem(name)), "{name}");
    }
}

#[test]
fn case_29_of_two_sets_of_weights_the_one_of_transformers_is_used() {
    let Some(folder) = case("29_two_sets_of_weights") else { return };
    let both = inspect_checkpoint(&folder.join("single_and_sharded"));
    assert_eq!(both.weights, ["model.safetensors"]);
    assert!(both.unused_weights.contains(&"model-00001-of-00001.safetensors".to_owned()));
    assert!(both.notices.iter().any(|notice| notice.contains("model.safetensors.index.json is ignored")));
    let weights = Weights::open(&folder.join("single_and_sharded")).unwrap();
    let embedding = weights.tensor("model.embed_tokens.weight").unwrap();
    assert!(embedding.bytes.iter().all(|byte| *byte == 0));

    let extra = inspect_checkpoint(&folder.join("extra_folder"));
    assert_eq!(extra.weights, ["model.safetensors"]);
    assert_eq!(extra.unused_weights, ["original.safetensors"]);
    assert!(extra.notices.iter().any(|notice| notice.contains("original.safetensors")));
}

#[test]
fn case_41_broken_rows_of_tagged_words_are_named_and_odd_tags_noted() {
    let Some(folder) = case("41_ner_alignment") else { return };
    let tagging = Tagging::Words { tokens: "tokens", tags: "tags" };
    let found = survey_tagged(&folder.join("bad.jsonl"), "bad.jsonl", tagging, None);
    assert_eq!(lines(&found.problems), [2, 3]);
    assert_eq!(found.problems.listed[0].message, "3 tokens, 2 tags");
    assert!(found.problems.listed[1].message.contains("empty"), "{}", found.problems.listed[1]);
    let notes = found.summary.notices;
    assert_eq!(notes, ["line 4: the tag `LOC` fits no scheme of the other tags (IOB2)"]);
    assert_eq!(found.summary.rows, 2);
}

#[test]
fn case_70_cells_are_kept_letter_by_letter() {
    let Some(folder) = case("70_cells_as_html") else { return };
    let inspection: Inspection = inspect(&folder.join("cells.csv"), "cells.csv");
    assert_eq!((inspection.rows, inspection.columns.len()), (5, 2));
    assert_eq!(inspection.columns[1].distinct, 3);
}
