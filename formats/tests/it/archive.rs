//! Archives, good and hostile ones.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use formats::archive::{Limits, Unpacked, is_archive, unpack};
use formats::{Problem, ProblemKind};
use tar::{Builder, EntryType, Header};
use zip::write::SimpleFileOptions;

use crate::common::{Random, file};

fn unpacked(name: &str, bytes: &[u8], limits: &Limits) -> (Result<Unpacked, Problem>, tempfile::TempDir) {
    let (_folder, path) = file(name, bytes);
    let parent = tempfile::tempdir().unwrap();
    let outcome = unpack(&path, name, &parent.path().join("data"), limits);
    let left = fs::read_dir(parent.path()).unwrap().count();
    assert_eq!(left, usize::from(outcome.is_ok()), "nothing is left of a refused archive");
    (outcome, parent)
}

fn refused(name: &str, bytes: &[u8]) -> Problem {
    unpacked(name, bytes, &Limits::default()).0.unwrap_err()
}

fn tar_of(entries: &[(EntryType, &[u8], &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Written by hand: the builder refuses names that a hostile archive has.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        if *kind == EntryType::Symlink || *kind == EntryType::Link {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

const FILE: EntryType = EntryType::Regular;

#[test]
fn every_kind_of_archive_gives_the_same_folder() {
    let entries: [(&str, &[u8]); 4] = [
        ("model/config.json", b"{}"),
        ("model/sub/weights.bin", b"1234"),
        ("model/.DS_Store", b"x"),
        ("__MACOSX/model/._config.json", b"x"),
    ];
    let tape = tar_of(&entries.map(|(name, content)| (FILE, name.as_bytes(), content)));
    for (name, bytes) in [("a.zip", zip_of(&entries)), ("a.tar.gz", gz(&tape)), ("a.tar", tape)] {
        let (outcome, parent) = unpacked(name, &bytes, &Limits::default());
        let outcome = outcome.unwrap();
        let files = [("config.json".to_owned(), 2), ("sub/weights.bin".to_owned(), 4)];
        let expected =
            Unpacked { files: files.to_vec(), bytes: 6, wrapper: Some("model".to_owned()), passed_over: 2 };
        assert_eq!(outcome, expected, "{name}");
        assert_eq!(fs::read(parent.path().join("data/sub/weights.bin")).unwrap(), b"1234");
    }
}

#[test]
fn a_leading_dot_is_the_root_and_a_commit_s_comment_no_file() {
    let tape = tar_of(&[
        (EntryType::XGlobalHeader, b"pax_global_header", b"18 comment=abcdef\n"),
        (EntryType::Directory, b"./", b""),
        (EntryType::Directory, b"./empty/", b""),
        (FILE, b"./a.txt", b"x"),
        (FILE, b"./b/c.txt", b"y"),
    ]);
    let (outcome, parent) = unpacked("a.tar", &tape, &Limits::default());
    let paths: Vec<String> = outcome.unwrap().files.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["a.txt", "b/c.txt"]);
    assert!(parent.path().join("data/empty").is_dir());
}

#[test]
fn long_names_are_read_and_absurd_ones_refused_in_bounded_memory() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let mut other = Header::new_gnu();
    other.set_size(1);
    builder.append_data(&mut other, "z", &b"x"[..]).unwrap();
    let (outcome, _parent) = unpacked("a.tar", &builder.into_inner().unwrap(), &Limits::default());
    assert_eq!(outcome.unwrap().files[0].0, long);

    let name = vec![b'n'; 64 << 20];
    let tape = gz(&tar_of(&[(EntryType::GNULongName, b"././@LongLink", &name), (FILE, b"a", b"x")]));
    let problem = refused("a.tar.gz", &tape);
    assert_eq!(problem.kind, ProblemKind::CorruptArchive);
    assert!(problem.message.contains("more than 1 MiB"), "{problem}");
}

#[test]
fn tape_entries_that_are_no_files_or_point_outside_are_refused_by_name() {
    let entries: [(EntryType, &[u8]); 9] = [
        (FILE, b"../evil.txt"),
        (FILE, b"/tmp/evil.txt"),
        (FILE, b"a/../../evil.txt"),
        (FILE, b"C:evil.txt"),
        (FILE, b"a\\evil.txt"),
        (EntryType::Symlink, b"evil"),
        (EntryType::Link, b"evil"),
        (EntryType::Char, b"evil"),
        (EntryType::Fifo, b"evil"),
    ];
    for (kind, name) in entries {
        let tape = tar_of(&[(FILE, b"good.txt", b"x"), (kind, name, b"")]);
        let problem = refused("a.tar", &tape);
        assert_eq!(problem.kind, ProblemKind::UnsafeEntry, "{problem}");
        assert!(problem.message.contains("evil"), "{problem}");
    }
    assert_eq!(refused("a.tar", &tar_of(&[(FILE, b"na\xFFme", b"x")])).kind, ProblemKind::UnsafeEntry);
}

#[test]
fn entries_that_collide_are_refused() {
    let twice = tar_of(&[(FILE, b"a/b", b"x"), (FILE, b"a/./b", b"y")]);
    assert!(refused("a.tar", &twice).message.contains("occurs twice"));
    for entries in
        [[(FILE, &b"a"[..], &b"x"[..]), (FILE, b"a/b", b"y")], [(FILE, b"a/b", b"x"), (FILE, b"a", b"y")]]
    {
        assert!(refused("a.tar", &tar_of(&entries)).message.contains("both a file and a folder"));
    }
}

#[test]
fn unpacking_stops_at_the_limit_for_tapes_too() {
    let zeros = vec![0; 40 << 20];
    let tape = gz(&tar_of(&[(FILE, b"zeros", &zeros)]));
    let bytes = Limits { max_unpacked_bytes: 1 << 20, ..Limits::default() };
    let outcome = unpacked("a.tar.gz", &tape, &bytes).0.unwrap_err();
    assert_eq!(outcome.kind, ProblemKind::LimitExceeded);
    assert!(outcome.message.contains("1048576 bytes"), "{outcome}");
    let ratio = unpacked("a.tar.gz", &tape, &Limits { max_ratio: 20, ..Limits::default() }).0.unwrap_err();
    assert!(ratio.message.contains("20 times"), "{ratio}");
    let junk = gz(&tar_of(&[(FILE, b"__MACOSX/zeros", &zeros), (FILE, b"a", b"x")]));
    assert!(unpacked("a.tar.gz", &junk, &bytes).0.is_err(), "what is passed over counts as well");
    let many = tar_of(&[(FILE, b"a", b""), (FILE, b"b", b""), (FILE, b"c", b"")]);
    let entries = Limits { max_entries: 2, ..Limits::default() };
    assert_eq!(unpacked("a.tar", &many, &entries).0.unwrap_err().kind, ProblemKind::LimitExceeded);
}

#[test]
fn what_is_no_archive_or_damaged_is_said_so() {
    assert!(refused("a.rar", b"Rar!....").message.contains("RAR"));
    assert!(refused("a.zip", b"").message.contains("empty file"));
    assert_eq!(refused("a.txt", b"hello").kind, ProblemKind::UnsupportedFormat);
    let whole = zip_of(&[("a.txt", b"hello"), ("b.txt", b"world")]);
    assert_eq!(refused("a.zip", &whole[..whole.len() - 30]).kind, ProblemKind::CorruptArchive);
    let tape = gz(&tar_of(&[(FILE, b"a", &[7; 5000])]));
    assert_eq!(refused("a.tar.gz", &tape[..tape.len() / 2]).kind, ProblemKind::CorruptArchive);
    assert_eq!(refused("a.zip", &zip_of(&[])).kind, ProblemKind::EmptyFile);
    let (_folder, path) = file("a.zip", &whole);
    assert!(is_archive(&path).unwrap());
}

#[test]
fn a_checksum_that_does_not_fit_is_damage() {
    let mut bytes = zip_of(&[("a.txt", b"hello hello hello")]);
    let place = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes[place + 16] ^= 1;
    assert_eq!(refused("a.zip", &bytes).kind, ProblemKind::CorruptArchive);
}

#[test]
fn whatever_the_names_are_nothing_is_written_outside() {
    let pieces = ["..", ".", "a", "/", "\\", "C:", "…", "._x", "__MACOSX", " ", "\u{202e}", "\0", "b/", "~"];
    let mut random = Random(13);
    for _ in 0..200 {
        let name: String = (0..1 + random.below(6)).map(|_| pieces[random.below(pieces.len())]).collect();
        let kind = [FILE, EntryType::Directory][random.below(2)];
        if name.len() > 100 {
            continue;
        }
        let tape = tar_of(&[(kind, name.as_bytes(), b""), (FILE, b"good/file", b"x")]);
        let (outcome, parent) = unpacked("a.tar", &tape, &Limits::default());
        if let Ok(unpacked) = outcome {
            for (path, _) in &unpacked.files {
                let inside = fs::canonicalize(parent.path().join("data").join(path)).unwrap();
                assert!(inside.starts_with(fs::canonicalize(parent.path()).unwrap()), "{name:?}");
                assert!(!Path::new(path).is_absolute() && !path.split('/').any(|part| part == ".."));
            }
        }
    }
}

#[test]
fn cut_and_changed_archives_end_in_a_folder_or_a_problem_never_in_a_panic() {
    let tape =
        tar_of(&[(FILE, b"a/b", b"hello"), (EntryType::Directory, b"c", b""), (FILE, b"d", &[9; 700])]);
    let wholes = [zip_of(&[("a/b", b"hello"), ("c", &[3; 900])]), gz(&tape), tape];
    let mut random = Random(17);
    for round in 0..300 {
        let mut bytes = wholes[round % 3].clone();
        for _ in 0..1 + random.below(3) {
            let place = random.below(bytes.len());
            bytes[place] = random.below(256) as u8;
        }
        if random.below(3) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        drop(unpacked("a", &bytes, &Limits { max_unpacked_bytes: 1 << 20, ..Limits::default() }));
    }
}
