//! Tables as text.

use formats::table::{Cell, Encoding, Format, Rows, Table};
use formats::{LineRange, Problem, ProblemKind};

use crate::common::{Random, cells, file, table};

fn refused(name: &str, content: impl AsRef<[u8]>) -> Problem {
    let (_folder, path) = file(name, content);
    Table::open(&path, name).unwrap_err()
}

fn problems(name: &str, content: impl AsRef<[u8]>) -> Vec<Problem> {
    let (_folder, path) = file(name, content);
    Rows::open(&path, name).unwrap().filter_map(Result::err).collect()
}

fn utf16(text: &str, big_endian: bool) -> Vec<u8> {
    let mark = std::iter::once(0xFEFF);
    let bytes = |unit: u16| if big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() };
    mark.chain(text.encode_utf16()).flat_map(bytes).collect()
}

#[test]
fn utf16_with_a_mark_reads_as_utf8_does() {
    let text = "text,label\nnaïve 🎬,pos\n";
    for (big_endian, encoding) in [(false, Encoding::Utf16Le), (true, Encoding::Utf16Be)] {
        let (_folder, table) = table("a.csv", utf16(text, big_endian));
        assert_eq!(table.encoding(), encoding);
        assert_eq!(cells(&table)[0][0].as_deref(), Some("naïve 🎬"));
    }
}

#[test]
fn a_byte_that_is_not_utf8_is_named_by_line_and_place() {
    let problem = refused("a.csv", b"text,label\ngood,pos\nna\xEFve,neg\n");
    assert_eq!(problem.kind, ProblemKind::Encoding);
    assert_eq!(problem.line, Some(LineRange::one(3)));
    assert_eq!(problem.message, "byte 23 of the file (0xEF) is not UTF-8");
    assert!(problem.hint.unwrap().contains("Windows-1252"));
}

#[test]
fn a_bad_byte_far_into_the_file_is_found_at_its_place() {
    let mut content = b"text,label\n".to_vec();
    for _ in 0..30_000 {
        content.extend(b"some text,pos\n");
    }
    let place = content.len();
    content.extend(b"\xC3");
    let (_folder, path) = file("a.csv", &content);
    let mut rows = Rows::open(&path, "a.csv").unwrap();
    let problem = rows.find_map(Result::err).unwrap();
    assert_eq!(problem.line, Some(LineRange::one(30_002)));
    assert!(problem.message.starts_with(&format!("byte {} of the file", place + 1)), "{problem}");
    assert!(rows.next().is_none());
    assert!(rows.is_cut_off());
}

#[test]
fn utf16_without_a_mark_is_not_taken_for_text() {
    let text: Vec<u8> = "text,label\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let problem = refused("a.csv", text);
    assert_eq!(problem.kind, ProblemKind::Encoding);
    assert!(problem.hint.unwrap().contains("UTF-16"));
}

#[test]
fn what_is_no_text_at_all_is_called_by_its_name() {
    let problem = refused("a.csv", b"PK\x03\x04rest");
    assert_eq!(problem.kind, ProblemKind::UnsupportedFormat);
    assert!(problem.message.contains("Excel"));
    assert!(refused("a.parquet", b"PAR1....").message.contains("Parquet"));
}

#[test]
fn header_names_are_trimmed_and_given_where_empty() {
    let (_folder, table) = table("a.csv", ", text ,,label\n1,2,3,4\n");
    assert_eq!(table.columns(), ["column 1", "text", "column 3", "label"]);
}

#[test]
fn a_repeated_name_in_the_header_is_refused() {
    let problem = refused("a.csv", "text, label,text\na,b,c\n");
    assert_eq!((problem.kind, problem.line), (ProblemKind::Header, Some(LineRange::one(1))));
    assert!(problem.message.contains("`text`"));
}

#[test]
fn line_ends_of_every_kind_and_blank_lines_are_no_rows() {
    for end in ["\n", "\r\n", "\r"] {
        let content = ["text,label", "a,b", "", "c,d", "   ", ""].join(end);
        let (_folder, table) = table("a.csv", content);
        assert_eq!(table.row_count(), 2, "{end:?}");
        assert!(table.problems().is_empty());
    }
    let (_folder, table) = table("a.csv", "text,label\r\na,b\r\n\r\nc,\"d\r\ne\"\r\nf,g");
    let lines: Vec<String> = table.read_strict().unwrap().iter().map(|row| row.lines.to_string()).collect();
    assert_eq!(lines, ["line 2", "lines 4–5", "line 6"]);
}

#[test]
fn a_quotation_mark_that_is_never_closed_is_named_where_it_opens() {
    for content in ["text,label\na,b\n\"c,d\ne,f\n", "text,label\na,b\n\"c,d\ne,f"] {
        let found = problems("a.csv", content);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].kind, found[0].line), (ProblemKind::UnclosedQuote, Some(LineRange::one(3))));
    }
}

#[test]
fn quotation_marks_inside_of_a_plain_field_are_text() {
    let (_folder, table) = table("a.csv", "text,label\nsay \"hi\",b\n\"a\"\"b\",c\n");
    assert_eq!(cells(&table)[0][0].as_deref(), Some("say \"hi\""));
    assert_eq!(cells(&table)[1][0].as_deref(), Some("a\"b"));
}

#[test]
fn delimiters_inside_of_a_quoted_header_do_not_count() {
    let (_folder, semicolons) = table("a.csv", "\"a,b,c,d\";label\nx;y\n");
    assert_eq!((semicolons.delimiter(), semicolons.columns().len()), (Some(';'), 2));
    let (_folder, bars) = table("a.txt", "text|label\nx, y|z\n");
    assert_eq!(bars.delimiter(), Some('|'));
    let (_folder, said) = table("a.csv", "sep=;\na,b;c\n1;2\n");
    assert_eq!((said.delimiter(), said.columns()), (Some(';'), &["a,b".to_owned(), "c".to_owned()][..]));
}

#[test]
fn a_file_of_one_column_is_a_table() {
    let (_folder, table) = table("a.csv", "text\na\n\nb\n");
    assert_eq!((table.columns(), table.row_count()), (&["text".to_owned()][..], 2));
}

#[test]
fn nothing_and_a_header_alone_are_refused() {
    for (name, content) in [("a.csv", ""), ("a.csv", "\n \n"), ("a.jsonl", " \n"), ("a.json", "\u{feff}")] {
        assert_eq!(refused(name, content).kind, ProblemKind::EmptyFile, "{content:?}");
    }
    assert_eq!(refused("a.csv", "text,label\n").kind, ProblemKind::NoRows);
    assert_eq!(refused("a.json", "[]").kind, ProblemKind::NoRows);
}

#[test]
fn json_values_are_taken_as_written() {
    let content =
        r#"{"a":1.0,"b":true,"c":[1, 2],"d":{"x":1},"e":"\u00e9\n","f":null,"g":12345678901234567890123}"#;
    let (_folder, table) = table("a.jsonl", content);
    let rows = table.read_strict().unwrap();
    let expected = [
        Cell::Number("1.0".to_owned()),
        Cell::Bool(true),
        Cell::List("[1, 2]".to_owned()),
        Cell::Object(r#"{"x":1}"#.to_owned()),
        Cell::Text("é\n".to_owned()),
        Cell::Missing,
        Cell::Number("12345678901234567890123".to_owned()),
    ];
    assert_eq!(rows[0].cells, expected);
}

#[test]
fn a_key_of_later_rows_is_missing_in_earlier_ones() {
    let (_folder, table) = table("a.jsonl", "{\"a\":1}\n{\"b\":2,\"a\":3}\n");
    assert_eq!(table.columns(), ["a", "b"]);
    let rows = table.read_strict().unwrap();
    assert_eq!((rows[0].cell(1), rows[1].cell(1)), (&Cell::Missing, &Cell::Number("2".to_owned())));
}

#[test]
fn one_bad_json_line_is_named_and_the_others_are_read() {
    let content =
        "{\"a\":1}\n{\"a\":NaN}\n[1]\n{\"a\":1,\"a\":2}\n{\"a\":\"x\\u0000\"}\n{\"a\":2\n{\"a\":3}\n";
    let (_folder, path) = file("a.jsonl", content);
    let table = Table::open(&path, "a.jsonl").unwrap();
    assert_eq!((table.row_count(), table.problems().total), (2, 5));
    let lines: Vec<u64> = table.problems().listed.iter().map(|problem| problem.line.unwrap().first).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6]);
    assert!(table.problems().listed.iter().all(|problem| problem.kind == ProblemKind::InvalidJson));
    assert!(table.problems().listed[0].to_string().contains("NaN and Infinity are no JSON values"));
    assert_eq!(table.read_strict().unwrap_err(), *table.problems());
}

#[test]
fn objects_of_a_list_know_their_lines() {
    let content = "\n[\n {\"a\": \"x]},{\\\"\",\n  \"b\": [1, {\"c\": 2}]},\n\n {\"a\": 1}\n]\n";
    let (_folder, table) = table("a.json", content);
    assert_eq!(table.format(), Format::JsonArray);
    let rows = table.read_strict().unwrap();
    assert_eq!(rows[0].cell(0), &Cell::Text("x]},{\"".to_owned()));
    assert_eq!(
        (rows[0].lines.to_string(), rows[1].lines.to_string()),
        ("lines 3–4".to_owned(), "line 6".to_owned())
    );
}

#[test]
fn a_list_that_is_cut_or_followed_by_more_is_refused() {
    let cut = problems("a.json", "[{\"a\":1},\n{\"a\":");
    assert_eq!((cut[0].kind, cut[0].line), (ProblemKind::InvalidJson, Some(LineRange::one(2))));
    for content in ["[{\"a\":1}]\n{\"a\":2}", "[{\"a\":1},]", "[,{\"a\":1}]"] {
        let found = problems("a.json", content);
        assert_eq!(found.len(), 1, "{content}");
        assert_eq!(found[0].kind, ProblemKind::UnsupportedFormat, "{content}");
    }
    let scalars = problems("a.json", "[1, \"x\", {\"a\": tru}]");
    assert_eq!(scalars.len(), 3);
}

#[test]
fn an_object_over_many_lines_outside_of_a_list_is_explained() {
    let found = problems("a.json", "{\n \"a\": 1\n}\n");
    assert!(found[0].to_string().contains("put all of them into one list"), "{}", found[0]);
}

#[test]
fn the_ending_decides_between_formats_and_else_the_first_character() {
    let (_folder, named) = table("a.csv", "{x},label\na,b\n");
    assert_eq!(named.format(), Format::Csv);
    let (_folder, lines) = table("upload", "{\"a\":1}\n");
    assert_eq!(lines.format(), Format::JsonLines);
    let (_folder, list) = table("upload", " [{\"a\":1}]");
    assert_eq!(list.format(), Format::JsonArray);
}

#[test]
fn a_written_table_reads_back_whatever_its_cells_hold() {
    let pieces = ["a", "\"", ",", ";", "\n", "\r\n", "\t", "é", "🎬", " ", "'", "|", "\u{2028}", "NA", ""];
    let mut random = Random(7);
    for _ in 0..200 {
        let width = 1 + random.below(4);
        let rows: Vec<Vec<String>> = (0..1 + random.below(8))
            .map(|_| {
                (0..width)
                    .map(|_| (0..random.below(6)).map(|_| pieces[random.below(pieces.len())]).collect())
                    .collect()
            })
            .collect();
        let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
        let header: Vec<String> = (0..width).map(|column| format!("c{column}")).collect();
        let mut content = header.join(",") + "\n";
        for row in &rows {
            content += &(row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n");
        }
        let (_folder, table) = table("a.csv", &content);
        let read: Vec<Vec<String>> =
            cells(&table).into_iter().map(|row| row.into_iter().map(Option::unwrap).collect()).collect();
        assert_eq!(read, rows, "{content:?}");
    }
}

#[test]
fn cut_and_changed_files_end_in_rows_or_problems_never_in_a_panic() {
    let whole =
        "text,label\n\"a\nb\",x\nc,\"d\"\"\"\n".repeat(3) + "{\"a\":[1,{\"b\":\"\\u00e9\"}]}\n[{\"a\":1}]";
    let mut random = Random(11);
    let (folder, _path) = file("a", "");
    for round in 0..2000 {
        let mut bytes = whole.as_bytes()[random.below(whole.len())..].to_vec();
        bytes.truncate(1 + random.below(bytes.len()));
        let place = random.below(bytes.len());
        bytes[place] = random.below(256) as u8;
        let name = ["a.csv", "a.json", "a.jsonl", "a"][round % 4];
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(rows) = Rows::open(&path, name) {
            assert!(rows.count() <= bytes.len());
        }
    }
}
