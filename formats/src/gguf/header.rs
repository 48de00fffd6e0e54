//! The header of a GGUF file, read and checked without its tensors.
//!
//! Magic, version, two counts, the metadata, the list of tensors, then the tensors' bytes from the next multiple of
//! `general.alignment` (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). Every length and count is compared with
//! the bytes that are left before room is made for it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::kind::TensorKind;
use super::value::{Metadata, Value, decimal};
use crate::checkpoint::lfs_pointer;
use crate::problem::{Problem, ProblemKind};

const MAGIC: &[u8; 4] = b"GGUF";
/// More than any metadata: a vocabulary of 260,000 tokens with its merges takes 15 MB.
const MAX_METADATA: u64 = 512 * 1024 * 1024;
const MAX_ELEMENTS: u64 = 1 << 24;
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
const MAX_NAME: u64 = 1 << 16;
const MAX_DIMENSIONS: u32 = 4;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in llama.cpp's words, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How its elements are written.
    pub kind: TensorKind,
    /// Its dimensions in Hugging Face's order, the reverse of the file's: the last one is a row.
    pub shape: Vec<u64>,
    /// Where its bytes begin, counted from the start of the file.
    pub start: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// Elements of a row.
    pub fn row(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// How many rows.
    pub fn rows(&self) -> u64 {
        self.shape.iter().rev().skip(1).product()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        // `Reader::tensor` has checked it.
        self.kind.row_bytes(self.row()).unwrap_or(0)
    }
}

/// A GGUF file, open for reading.
#[derive(Debug)]
pub struct Gguf {
    /// Its version, 2 or 3.
    pub version: u32,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its tensors, in the order of the file.
    pub tensors: Vec<TensorInfo>,
    file: File,
}

impl Gguf {
    /// Reads and checks the header of a file.
    ///
    /// # Errors
    /// [`ProblemKind::UnsupportedFormat`] where it is no GGUF of version 2 or 3, or has a tensor of a type that is not read;
    /// [`ProblemKind::CorruptWeights`] with the place where it contradicts itself; [`ProblemKind::LfsPointer`];
    /// [`ProblemKind::TooLarge`]; [`ProblemKind::Unreadable`].
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let name = path.file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy());
        let unreadable = |error: io::Error| Problem::from_io(error, &name);
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut head = Vec::new();
        file.try_clone().map_err(unreadable)?.take(256).read_to_end(&mut head).map_err(unreadable)?;
        if let Some(problem) = lfs_pointer(&head, &name) {
            return Err(problem);
        }
        let bytes = BufReader::with_capacity(1 << 16, Whole { file: &file, at: 0 });
        let mut reader = Reader { bytes, at: 0, length, name: &name };
        let version = reader.version()?;
        let (tensors, keys) =
            (reader.count("tensors", MAX_TENSORS, 24)?, reader.count("keys", MAX_KEYS, 13)?);
        let mut metadata = Metadata { file: name.to_string(), ..Metadata::default() };
        for _ in 0..keys {
            reader.entry(&mut metadata)?;
        }
        let infos = (0..tensors).map(|_| reader.tensor()).collect::<Result<Vec<_>, _>>()?;
        let infos = place(infos, &metadata, reader.at, length)?;
        Ok(Self { version, metadata, tensors: infos, file })
    }

    /// What problems call the file.
    pub fn name(&self) -> &str {
        &self.metadata.file
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Reads rows of a tensor as they are written, as many as `buffer` has room for.
    ///
    /// # Errors
    /// [`ProblemKind::Tensor`] where the tensor has not as many, [`ProblemKind::Unreadable`] where the file cannot be read.
    pub fn read_rows(&self, tensor: &TensorInfo, first: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let from = first.checked_mul(tensor.row_bytes());
        let end = from.and_then(|from| from.checked_add(buffer.len() as u64));
        let Some((from, _)) = from.zip(end.filter(|end| *end <= tensor.bytes)) else {
            let message = format!("the tensor `{}` has {} rows", tensor.name, tensor.rows());
            return Err(Problem::new(ProblemKind::Tensor, self.name(), message));
        };
        self.file.read_exact_at(buffer, tensor.start + from).map_err(|error| {
            let message = format!("the tensor `{}` cannot be read: {error}", tensor.name);
            Problem::new(ProblemKind::Unreadable, self.name(), message)
        })
    }
}

/// Reads a shared file from its start, whatever its cursor.
struct Whole<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

struct Reader<'a> {
    bytes: BufReader<Whole<'a>>,
    at: u64,
    length: u64,
    name: &'a str,
}

/// Number, and least bytes of an element, of the types of values.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

fn least_bytes(sort: u32) -> Option<u64> {
    match sort {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        TEXT | 10..=12 => Some(8),
        _ => None,
    }
}

impl Reader<'_> {
    fn corrupt(&self, message: impl Into<String>) -> Problem {
        Problem::new(ProblemKind::CorruptWeights, self.name, message)
            .hint("download or upload the file again")
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Problem> {
        if self.length - self.at < buffer.len() as u64 {
            let message = format!("the header does not end within the file's {} bytes", self.length);
            return Err(self.corrupt(message));
        }
        if self.at > MAX_METADATA {
            return Err(Problem::new(ProblemKind::TooLarge, self.name, "the header has more than 512 MiB"));
        }
        self.bytes.read_exact(buffer).map_err(|error| Problem::from_io(error, self.name))?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn version(&mut self) -> Result<u32, Problem> {
        let other = |message: String| Problem::new(ProblemKind::UnsupportedFormat, self.name, message);
        if self.length < 24 {
            return Err(other(format!("the file has {} bytes, too few for a GGUF", self.length)));
        }
        let magic: [u8; 4] = self.take()?;
        let version = self.u32()?;
        let other = |message: String| Problem::new(ProblemKind::UnsupportedFormat, self.name, message);
        if &magic != MAGIC {
            return Err(other("this is no GGUF: it does not begin with these letters".to_owned()));
        }
        match version {
            2 | 3 => Ok(version),
            1 => Err(other("this is a GGUF of version 1; versions 2 and 3 are read".to_owned())
                .hint("convert the model again with a current llama.cpp")),
            _ if version.swap_bytes() <= 3 => Err(other("this is a GGUF of a big-endian machine".to_owned())
                .hint("convert it with gguf's `gguf-convert-endian`")),
            _ => Err(other(format!("this is a GGUF of version {version}; versions 2 and 3 are read"))),
        }
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, what: &str, most: u64, least: u64) -> Result<u64, Problem> {
        let at = self.at;
        let count = self.u64()?;
        if count > most || count.saturating_mul(least) > self.length - self.at {
            let message = format!("at byte {at}: {count} {what} are not possible in {} bytes", self.length);
            return Err(self.corrupt(message));
        }
        Ok(count)
    }

    fn text(&mut self, what: &str, most: u64) -> Result<Vec<u8>, Problem> {
        let at = self.at;
        let length = self.u64()?;
        if length > most.min(self.length - self.at) {
            let message =
                format!("at byte {at}: {what} would have {length} bytes, {} are left", self.length - self.at);
            return Err(self.corrupt(message));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A key, or a tensor's name.
    fn name_of(&mut self, what: &str) -> Result<String, Problem> {
        let at = self.at;
        String::from_utf8(self.text(what, MAX_NAME)?)
            .map_err(|_| self.corrupt(format!("at byte {at}: {what} is not UTF-8")))
    }

    fn entry(&mut self, metadata: &mut Metadata) -> Result<(), Problem> {
        let key = self.name_of("a key")?;
        let sort = self.u32()?;
        let value = match sort {
            ARRAY => self.array(&key)?,
            _ => self.value(&key, sort)?,
        };
        match metadata.values.insert(key.clone(), value) {
            None => Ok(()),
            Some(_) => Err(self.corrupt("the key occurs twice").in_column(key)),
        }
    }

    fn unknown_sort(&self, key: &str, sort: u32) -> Problem {
        self.corrupt(format!("the value before byte {} is of type {sort}, which is unknown", self.at))
            .in_column(key)
    }

    fn value(&mut self, key: &str, sort: u32) -> Result<Value, Problem> {
        Ok(match sort {
            6 => Value::Float(decimal(f32::from_le_bytes(self.take()?))),
            12 => Value::Float(f64::from_le_bytes(self.take()?)),
            7 => Value::Bool(self.take::<1>()? != [0]),
            TEXT => {
                let text = self.text("a text", MAX_METADATA).map_err(|problem| problem.in_column(key))?;
                Value::Text(lossy(text))
            }
            _ => Value::Int(self.int(key, sort)?),
        })
    }

    fn int(&mut self, key: &str, sort: u32) -> Result<i64, Problem> {
        Ok(match sort {
            0 => i64::from(u8::from_le_bytes(self.take()?)),
            1 => i64::from(i8::from_le_bytes(self.take()?)),
            2 => i64::from(u16::from_le_bytes(self.take()?)),
            3 => i64::from(i16::from_le_bytes(self.take()?)),
            4 => i64::from(self.u32()?),
            5 => i64::from(i32::from_le_bytes(self.take()?)),
            10 => i64::try_from(self.u64()?).unwrap_or(i64::MAX),
            11 => i64::from_le_bytes(self.take()?),
            _ => return Err(self.unknown_sort(key, sort)),
        })
    }

    fn array(&mut self, key: &str) -> Result<Value, Problem> {
        let sort = self.u32()?;
        if sort == ARRAY {
            return Err(self.corrupt("lists of lists are not read").in_column(key));
        }
        let Some(least) = least_bytes(sort) else { return Err(self.unknown_sort(key, sort)) };
        let count = self.count("elements", MAX_ELEMENTS, least).map_err(|problem| problem.in_column(key))?;
        Ok(match sort {
            6 => Value::Floats(self.list(count, |reader| Ok(decimal(f32::from_le_bytes(reader.take()?))))?),
            12 => Value::Floats(self.list(count, |reader| Ok(f64::from_le_bytes(reader.take()?)))?),
            7 => Value::Bools(self.list(count, |reader| Ok(reader.take::<1>()? != [0]))?),
            TEXT => Value::Texts(self.list(count, |reader| {
                let text = reader.text("a text", MAX_METADATA).map_err(|problem| problem.in_column(key))?;
                Ok(lossy(text))
            })?),
            _ => Value::Ints(self.list(count, |reader| reader.int(key, sort))?),
        })
    }

    fn list<T>(
        &mut self,
        count: u64,
        mut element: impl FnMut(&mut Self) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        (0..count).map(|_| element(self)).collect()
    }

    /// A tensor, whose `start` is still counted from where tensors begin.
    fn tensor(&mut self) -> Result<TensorInfo, Problem> {
        let name = self.name_of("a tensor's name")?;
        let wrong = |reader: &Self, what: String| reader.corrupt(format!("tensor `{name}`: {what}"));
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(wrong(self, format!("it has {dimensions} dimensions, four at most are possible")));
        }
        let mut shape = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let id = self.u32()?;
        let start = self.u64()?;
        let kind = TensorKind::of_id(id).map_err(|other| {
            let read: Vec<&str> = TensorKind::ALL.iter().map(|kind| kind.name()).collect();
            let message = format!("tensor `{name}` is of {other}, which is not read");
            Problem::new(ProblemKind::UnsupportedFormat, self.name, message)
                .hint(format!("take a file of another quantization; read are {}", read.join(", ")))
        })?;
        let row = shape.last().copied().unwrap_or(1);
        let Some(row_bytes) = kind.row_bytes(row) else {
            let message =
                format!("rows of {row} elements are no whole blocks of {kind}, which have {}", kind.block());
            return Err(wrong(self, message));
        };
        let rows = shape.iter().rev().skip(1).try_fold(1u64, |product, size| product.checked_mul(*size));
        let elements = rows.and_then(|rows| rows.checked_mul(row));
        let bytes = rows.and_then(|rows| rows.checked_mul(row_bytes)).filter(|_| elements.is_some());
        let Some(bytes) = bytes else {
            return Err(wrong(self, format!("the shape {shape:?} is impossibly large")));
        };
        Ok(TensorInfo { name, kind, shape, start, bytes })
    }
}

fn lossy(text: Vec<u8>) -> String {
    String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Finds the tensors' places in the file and checks them.
fn place(
    mut tensors: Vec<TensorInfo>,
    metadata: &Metadata,
    header_end: u64,
    length: u64,
) -> Result<Vec<TensorInfo>, Problem> {
    let corrupt = |message: String| {
        Problem::new(ProblemKind::CorruptWeights, &metadata.file, message)
            .hint("download or upload the file again")
    };
    let alignment = metadata.size("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(metadata.refused("general.alignment", format!("{alignment} is no usable alignment")));
    }
    let data = header_end.next_multiple_of(alignment);
    let mut names = HashSet::new();
    for tensor in &mut tensors {
        let wrong = |what: String| corrupt(format!("tensor `{}`: {what}", tensor.name));
        let end = data.checked_add(tensor.start).and_then(|start| start.checked_add(tensor.bytes));
        let Some(end) = end.filter(|end| *end <= length) else {
            let what = format!(
                "it has {} bytes at offset {}, and the file ends after {length}",
                tensor.bytes, tensor.start
            );
            return Err(wrong(what).hint("the file was cut short, download or upload it again"));
        };
        if tensor.start % alignment != 0 {
            return Err(wrong(format!("its offset {} is no multiple of {alignment}", tensor.start)));
        }
        if !names.insert(tensor.name.as_str().to_owned()) {
            return Err(wrong("it occurs twice".to_owned()));
        }
        tensor.start = end - tensor.bytes;
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|tensor| tensor.bytes > 0).collect();
    order.sort_by_key(|tensor| tensor.start);
    for pair in order.windows(2) {
        if pair[0].start + pair[0].bytes > pair[1].start {
            return Err(corrupt(format!("the tensors `{}` and `{}` overlap", pair[0].name, pair[1].name)));
        }
    }
    Ok(tensors)
}
