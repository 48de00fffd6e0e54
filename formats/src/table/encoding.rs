//! Bytes of a file to UTF-8 text, with the place of the first byte that is not text.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

use encoding_rs::{Decoder, DecoderResult, UTF_8, UTF_16BE, UTF_16LE};
use serde::{Deserialize, Serialize};

use crate::problem::{LineRange, Problem, ProblemKind};

const CHUNK: usize = 64 * 1024;

/// How the text of a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// UTF-8 without a byte-order mark.
    #[serde(rename = "UTF-8")]
    Utf8,
    /// UTF-8 after a byte-order mark.
    #[serde(rename = "UTF-8 with BOM")]
    Utf8Bom,
    /// UTF-16, low byte first, told by its byte-order mark.
    #[serde(rename = "UTF-16LE")]
    Utf16Le,
    /// UTF-16, high byte first, told by its byte-order mark.
    #[serde(rename = "UTF-16BE")]
    Utf16Be,
}

impl Encoding {
    /// The encoding that the first bytes show, and how many of them are its mark.
    fn of_mark(head: &[u8]) -> (Self, usize) {
        match head {
            [0xEF, 0xBB, 0xBF, ..] => (Self::Utf8Bom, 3),
            [0xFF, 0xFE, ..] => (Self::Utf16Le, 2),
            [0xFE, 0xFF, ..] => (Self::Utf16Be, 2),
            _ => (Self::Utf8, 0),
        }
    }

    fn decoder(self) -> Decoder {
        match self {
            Self::Utf8 | Self::Utf8Bom => UTF_8,
            Self::Utf16Le => UTF_16LE,
            Self::Utf16Be => UTF_16BE,
        }
        .new_decoder_without_bom_handling()
    }
}

/// A file as UTF-8 text, decoded and checked as it is read.
///
/// Bytes that are not text end the reading with an [`io::Error`] that holds a [`Problem`].
pub(crate) struct TextReader {
    source: File,
    name: String,
    encoding: Encoding,
    decoder: Decoder,
    raw: Vec<u8>,
    raw_at: usize,
    source_done: bool,
    text: Vec<u8>,
    text_at: usize,
    done: bool,
    /// Bytes of the file decoded so far, the mark included.
    offset: u64,
    /// Line ends in the text so far.
    newlines: u64,
}

impl TextReader {
    pub(crate) fn open(path: &Path, name: &str) -> Result<Self, Problem> {
        Self::try_open(path, name).map_err(|error| Problem::from_io(error, name))
    }

    fn try_open(path: &Path, name: &str) -> io::Result<Self> {
        let mut source = File::open(path)?;
        let mut raw = Vec::with_capacity(CHUNK);
        source.by_ref().take(CHUNK as u64).read_to_end(&mut raw)?;
        if let Some(format) = binary_format(&raw) {
            return Err(io::Error::other(not_text(name, format)));
        }
        let (encoding, mark) = Encoding::of_mark(&raw);
        Ok(Self {
            source,
            name: name.to_owned(),
            encoding,
            decoder: encoding.decoder(),
            raw,
            raw_at: mark,
            source_done: false,
            text: Vec::new(),
            text_at: 0,
            done: false,
            offset: mark as u64,
            newlines: 0,
        })
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    fn read_source(&mut self) -> io::Result<()> {
        self.raw.resize(CHUNK, 0);
        let n = loop {
            match self.source.read(&mut self.raw) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.raw.truncate(n);
        self.raw_at = 0;
        self.source_done = n == 0;
        Ok(())
    }

    /// Decodes until there is some text, or the file has ended.
    fn fill(&mut self) -> io::Result<()> {
        self.text_at = 0;
        self.text.clear();
        while self.text.is_empty() && !self.done {
            if self.raw_at == self.raw.len() && !self.source_done {
                self.read_source()?;
            }
            let input = &self.raw[self.raw_at..];
            self.text.resize(3 * CHUNK + 16, 0);
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(input, &mut self.text, self.source_done);
            self.text.truncate(written);
            self.raw_at += read;
            self.offset += read as u64;
            self.check_nul()?;
            self.newlines += self.text.iter().filter(|byte| **byte == b'\n').count() as u64;
            match result {
                DecoderResult::InputEmpty => self.done = self.source_done,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(bad, after) => return Err(self.malformed(bad, after)),
            }
        }
        Ok(())
    }

    fn check_nul(&self) -> io::Result<()> {
        let Some(at) = self.text.iter().position(|byte| *byte == 0) else {
            return Ok(());
        };
        let before = self.text[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        let line = LineRange::one(self.newlines + before + 1);
        let problem =
            Problem::new(ProblemKind::Encoding, &self.name, "there is a NUL byte, so this is not text")
                .at(line)
                .hint("save the file as UTF-8 (UTF-16 needs its byte-order mark)");
        Err(io::Error::other(problem))
    }

    fn malformed(&self, bad: u8, after: u8) -> io::Error {
        let length = u64::from(bad);
        let start = self.offset - length - u64::from(after);
        let end = self.raw_at.saturating_sub(usize::from(after));
        let bytes: Vec<String> = self.raw[end.saturating_sub(usize::from(bad))..end]
            .iter()
            .map(|byte| format!("0x{byte:02X}"))
            .collect();
        let encoding = match self.encoding {
            Encoding::Utf8 | Encoding::Utf8Bom => "UTF-8",
            Encoding::Utf16Le | Encoding::Utf16Be => "UTF-16",
        };
        let message = format!("byte {} of the file ({}) is not {encoding}", start + 1, bytes.join(" "));
        io::Error::other(
            Problem::new(ProblemKind::Encoding, &self.name, message)
                .at(LineRange::one(self.newlines + 1))
                .hint("save the file as UTF-8 (spreadsheets often write Windows-1252)"),
        )
    }
}

impl BufRead for TextReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.text_at == self.text.len() {
            self.fill()?;
        }
        Ok(&self.text[self.text_at..])
    }

    fn consume(&mut self, amount: usize) {
        self.text_at = (self.text_at + amount).min(self.text.len());
    }
}

impl Read for TextReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// The name of a known format that is not text.
fn binary_format(head: &[u8]) -> Option<&'static str> {
    const MARKS: [(&[u8], &str); 10] = [
        (b"PK\x03\x04", "a zip archive or an Excel workbook"),
        (b"\x1f\x8b", "a gzip file"),
        (b"PAR1", "a Parquet file"),
        (b"%PDF", "a PDF document"),
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"\xd0\xcf\x11\xe0", "an old Excel or Word file"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"ARROW1", "an Arrow file"),
    ];
    MARKS.iter().find(|(mark, _)| head.starts_with(mark)).map(|(_, format)| *format)
}

fn not_text(name: &str, format: &str) -> Problem {
    Problem::new(ProblemKind::UnsupportedFormat, name, format!("this is {format}, not a table as text"))
        .hint(
            "export it as CSV, TSV, JSON Lines or a JSON array in UTF-8; an archive may hold two texts with a line for each \
             row, such as train.en and train.fr",
        )
}
