//! Headers of safetensors files, compared with the `safetensors` crate.

use formats::checkpoint::{Dtype, Header};
use formats::{Problem, ProblemKind};

use crate::common::{Random, file};

/// A file of this header, with as many zero bytes after it.
fn written(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn read(bytes: &[u8]) -> Result<Header, Problem> {
    let (_folder, path) = file("model.safetensors", bytes);
    Header::read(&path, "model.safetensors")
}

fn refused(header: &str, data: usize) -> String {
    let problem = read(&written(header, data)).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::CorruptWeights);
    problem.message
}

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[2,26]},"a":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}"#;

#[test]
fn a_header_gives_names_types_shapes_and_places() {
    let header = read(&written(GOOD, 26)).unwrap();
    let start = 8 + GOOD.len() as u64;
    let (a, b) = (&header.tensors["a"], &header.tensors["b"]);
    assert_eq!((a.dtype, a.elements(), a.start, a.end), (Dtype::F16, 1, start, start + 2));
    assert_eq!((b.dtype, &b.shape[..], b.bytes(), b.start), (Dtype::F32, &[2, 3][..], 24, start + 2));
    assert_eq!(header.metadata["format"], "pt");
}

#[test]
fn lengths_that_do_not_fit_are_told_in_numbers() {
    let whole = 8 + GOOD.len() + 26;
    assert!(
        refused(GOOD, 25)
            .contains(&format!("accounts for {whole} bytes, the file has {}: 1 are missing", whole - 1))
    );
    assert!(refused(GOOD, 30).contains("4 are too many"));
    let short = read(b"abc").unwrap_err();
    assert!(short.message.contains("3 bytes"), "{short}");
    let absurd = read(&[0xFF; 64]).unwrap_err();
    assert!(absurd.message.contains("18446744073709551615"), "{absurd}");
    let cut = read(&written(GOOD, 26)[..40]).unwrap_err();
    assert!(cut.message.contains("the file has 40"), "{cut}");
}

#[test]
fn places_that_contradict_each_other_are_told_by_tensor() {
    let overlapping = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    assert!(refused(overlapping, 6).contains("`b` overlaps"));
    let gap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}}"#;
    assert!(refused(gap, 10).contains("`b` leaves a gap"));
    let size = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,15]}}"#;
    assert!(refused(size, 15).contains("takes 16 bytes, its place has 15"));
    let backwards = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[4,0]}}"#;
    assert!(refused(backwards, 4).contains("before it begins"));
    let huge = r#"{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#;
    assert!(refused(huge, 8).contains("impossibly large"));
    let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    assert!(refused(twice, 1).contains("occurs twice"));
    let unknown = r#"{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,1]}}"#;
    assert!(refused(unknown, 1).contains("Q4"));
}

#[test]
fn what_the_format_s_own_reader_accepts_or_refuses_is_accepted_or_refused() {
    let mut random = Random(5);
    let pieces = ["U8", "F32", "BF16", "I64", "BOOL"];
    let (mut accepted, mut refused) = (0, 0);
    let (_folder, path) = file("model.safetensors", "");
    for _ in 0..3000 {
        let mut offset = 0;
        let tensors: Vec<String> = (0..random.below(4))
            .map(|number| {
                let dtype = pieces[random.below(pieces.len())];
                let width = [1, 4, 2, 8, 1][pieces.iter().position(|piece| *piece == dtype).unwrap()];
                let shape: Vec<usize> = (0..random.below(3)).map(|_| random.below(4)).collect();
                let end = offset + shape.iter().product::<usize>() * width;
                let tensor = format!(
                    r#""t{number}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{offset},{end}]}}"#
                );
                offset = end;
                tensor
            })
            .collect();
        let header = format!("{{{}}}", tensors.join(","));
        let mut bytes = written(&header, offset);
        if random.below(2) == 0 {
            let place = random.below(bytes.len());
            bytes[place] = b"0123456789{}[]\",:".to_vec()[random.below(17)];
        }
        if random.below(4) == 0 {
            bytes.truncate(random.below(bytes.len() + 1));
        }
        let theirs = safetensors::SafeTensors::deserialize(&bytes);
        std::fs::write(&path, &bytes).unwrap();
        let ours = Header::read(&path, "model.safetensors");
        assert_eq!(
            ours.is_ok(),
            theirs.is_ok(),
            "{:?}\n{:?}\n{:?}",
            String::from_utf8_lossy(&bytes),
            ours,
            theirs.err()
        );
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            accepted += 1;
            for (name, view) in theirs.iter() {
                let info = &ours.tensors[name];
                assert_eq!((info.dtype, info.bytes()), (view.dtype(), view.data().len() as u64));
            }
        } else {
            refused += 1;
        }
    }
    assert!(accepted > 500 && refused > 500, "{accepted} accepted, {refused} refused");
}
