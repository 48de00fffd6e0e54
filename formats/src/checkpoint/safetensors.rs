//! The header of a safetensors file, read and checked without its tensors.
//!
//! The file is an 8-byte little-endian length, that many bytes of JSON, then the tensors' bytes without gaps
//! (<https://huggingface.co/docs/safetensors>).

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::problem::{Problem, ProblemKind};

/// The format's own limit on the header.
const MAX_HEADER: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;
const LFS_MARK: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its dimensions; none for a scalar.
    pub shape: Vec<u64>,
    /// Where its bytes begin, counted from the start of the file.
    pub start: u64,
    /// Where they end.
    pub end: u64,
}

impl TensorInfo {
    /// How many elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// What a safetensors file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The file's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of the whole file.
    pub file_bytes: u64,
}

impl Header {
    /// Reads and checks the header of a file; `name` is what problems call it.
    ///
    /// Every tensor's place is checked against its type and shape, against the other tensors and against the file's
    /// length, so that what the header says can be relied upon.
    ///
    /// # Errors
    /// [`ProblemKind::LfsPointer`], [`ProblemKind::CorruptWeights`] with the numbers, or [`ProblemKind::Unreadable`].
    pub fn read(path: &Path, name: &str) -> Result<Self, Problem> {
        let unreadable = |error: io::Error| Problem::from_io(error, name);
        let mut file = File::open(path).map_err(unreadable)?;
        let file_bytes = file.metadata().map_err(unreadable)?.len();
        let mut head = Vec::new();
        file.by_ref().take(256).read_to_end(&mut head).map_err(unreadable)?;
        if let Some(problem) = lfs_pointer(&head, name) {
            return Err(problem);
        }
        let length = header_length(&head, file_bytes, name)?;
        let known = (head.len() as u64).min(LENGTH_BYTES + length);
        let mut json = head[LENGTH_BYTES as usize..known as usize].to_vec();
        file.take(length - json.len() as u64).read_to_end(&mut json).map_err(unreadable)?;
        let entries: Entries = serde_json::from_slice(&json)
            .map_err(|error| corrupt(name, format!("the header is not valid: {error}")))?;
        Self::checked(entries, LENGTH_BYTES + length, file_bytes, name)
    }

    fn checked(entries: Entries, data_start: u64, file_bytes: u64, name: &str) -> Result<Self, Problem> {
        let mut tensors = BTreeMap::new();
        for (tensor, entry) in entries.tensors {
            let info = entry
                .checked(data_start)
                .map_err(|what| corrupt(name, format!("tensor `{tensor}`: {what}")))?;
            tensors.insert(tensor, info);
        }
        let mut by_place: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
        by_place.sort_by_key(|(_, info)| (info.start, info.end));
        let mut end = data_start;
        for (tensor, info) in by_place {
            if info.start != end {
                let how =
                    if info.start < end { "overlaps the one before it" } else { "leaves a gap before it" };
                let message = format!(
                    "tensor `{tensor}` {how}: it begins at byte {}, the one before ends at {end}",
                    info.start
                );
                return Err(corrupt(name, message));
            }
            end = info.end;
        }
        check_length(end, file_bytes, name)?;
        Ok(Self { tensors, metadata: entries.metadata, file_bytes })
    }
}

fn check_length(accounted: u64, file_bytes: u64, name: &str) -> Result<(), Problem> {
    let message = format!("the header accounts for {accounted} bytes, the file has {file_bytes}");
    match file_bytes.cmp(&accounted) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => {
            Err(corrupt(name, format!("{message}: {} are missing", accounted - file_bytes))
                .hint("the file was cut short, upload it again"))
        }
        std::cmp::Ordering::Greater => {
            Err(corrupt(name, format!("{message}: {} are too many", file_bytes - accounted)))
        }
    }
}

/// A Git LFS pointer's problem, where `head` is the beginning of one.
pub(crate) fn lfs_pointer(head: &[u8], name: &str) -> Option<Problem> {
    if !head.starts_with(LFS_MARK) {
        return None;
    }
    let text = String::from_utf8_lossy(head);
    let size = text.lines().find_map(|line| line.strip_prefix("size "));
    let expected = size.map_or(String::new(), |size| format!(" ({} bytes expected)", size.trim()));
    Some(
        Problem::new(
            ProblemKind::LfsPointer,
            name,
            format!("this is a Git LFS pointer, not the file itself{expected}"),
        )
        .hint("run `git lfs pull` and upload the file it fetches"),
    )
}

fn header_length(head: &[u8], file_bytes: u64, name: &str) -> Result<u64, Problem> {
    let Some(bytes) = head.first_chunk::<8>() else {
        return Err(corrupt(
            name,
            format!("the file has {file_bytes} bytes, too few for a safetensors header"),
        ));
    };
    let length = u64::from_le_bytes(*bytes);
    if length > MAX_HEADER {
        let message = format!("the header would have {length} bytes, the format allows {MAX_HEADER}");
        return Err(corrupt(name, message).hint("this is not a safetensors file, or it is damaged"));
    }
    if LENGTH_BYTES + length > file_bytes {
        let wanted = LENGTH_BYTES + length;
        let message = format!("the header alone takes {wanted} bytes, the file has {file_bytes}");
        return Err(corrupt(name, message).hint("the file was cut short, upload it again"));
    }
    Ok(length)
}

fn corrupt(name: &str, message: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::CorruptWeights, name, message).hint("upload the original file again")
}

/// The header as written.
#[derive(Default)]
struct Entries {
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    fn checked(self, data_start: u64) -> Result<TensorInfo, String> {
        let Self { dtype, shape, data_offsets: (from, to) } = self;
        let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let bits = elements.and_then(|elements| elements.checked_mul(dtype.bitsize() as u64));
        let Some(bits) = bits else {
            return Err(format!("the shape {shape:?} is impossibly large"));
        };
        if bits % 8 != 0 {
            return Err(format!("the shape {shape:?} of {dtype:?} does not fill whole bytes"));
        }
        let wanted = bits / 8;
        let has = to.checked_sub(from).ok_or(format!("it ends at {to}, before it begins at {from}"))?;
        if has != wanted {
            return Err(format!(
                "the shape {shape:?} of {dtype:?} takes {wanted} bytes, its place has {has}"
            ));
        }
        let place = data_start.checked_add(from).zip(data_start.checked_add(to));
        let Some((start, end)) = place else {
            return Err(format!("it ends at byte {to}, which no file has"));
        };
        Ok(TensorInfo { dtype, shape, start, end })
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        entries.metadata = map.next_value()?;
                        continue;
                    }
                    let entry = map.next_value()?;
                    if entries.tensors.insert(name.clone(), entry).is_some() {
                        return Err(A::Error::custom(format!("the tensor `{name}` occurs twice")));
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Map)
    }
}
