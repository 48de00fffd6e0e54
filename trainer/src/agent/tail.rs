//! Reading the job's `events.jsonl` while it grows.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes read at once; also bounds what one call of [`Tail::read`] holds beside a single long line.
const CHUNK: usize = 256 * 1024;

/// A complete line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Offset of its first byte.
    pub(super) start: u64,
    /// Offset after its newline.
    pub(super) end: u64,
    /// Its text without the newline.
    pub(super) text: String,
}

/// A reader that only gives complete lines: one without a newline yet is still being written and waits.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    offset: u64,
    file: Option<File>,
}

impl Tail {
    /// A reader from `offset`, which must be the start of a line. The file need not exist yet.
    pub(super) fn new(path: &Path, offset: u64) -> Self {
        Tail { path: path.to_owned(), offset, file: None }
    }

    /// Offset after the last line given.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Up to `most` complete lines after those given before; empty when there are none yet.
    pub(super) async fn read(&mut self, most: usize) -> io::Result<Vec<Line>> {
        let offset = self.offset;
        let Some(file) = self.open().await? else {
            return Ok(Vec::new());
        };
        file.seek(SeekFrom::Start(offset)).await?;
        let mut bytes = Vec::new();
        loop {
            let from = bytes.len();
            let read = file.take(CHUNK as u64).read_to_end(&mut bytes).await?;
            if read == 0 || bytes[from..].contains(&b'\n') {
                break;
            }
        }
        Ok(self.split(&bytes, most))
    }

    fn split(&mut self, bytes: &[u8], most: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        for text in bytes.split_inclusive(|byte| *byte == b'\n').take(most) {
            let Some(text) = text.strip_suffix(b"\n") else {
                break;
            };
            let start = self.offset;
            self.offset += text.len() as u64 + 1;
            lines.push(Line { start, end: self.offset, text: String::from_utf8_lossy(text).into_owned() });
        }
        lines
    }

    async fn open(&mut self) -> io::Result<Option<&mut File>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path).await {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        Ok(self.file.as_mut())
    }
}

/// Cuts off what stands after the last newline: a line that a killed job left half-written, which the next attempt
/// would otherwise continue.
pub(super) fn cut_torn_line(path: &Path) -> io::Result<u64> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() {
        std::fs::OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
    }
    Ok((bytes.len() - whole) as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[tokio::test]
    async fn a_torn_line_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut tail = Tail::new(&path, 0);
        assert!(tail.read(10).await.unwrap().is_empty());
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(texts(&tail.read(10).await.unwrap()), ["one"]);
        assert!(tail.read(10).await.unwrap().is_empty());
        file.write_all(b"o\nthree\n").unwrap();
        let lines = tail.read(10).await.unwrap();
        assert_eq!(texts(&lines), ["two", "three"]);
        assert_eq!((lines[1].start, lines[1].end), (8, 14));
    }

    #[tokio::test]
    async fn a_line_longer_than_a_chunk_is_given_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let long = "x".repeat(3 * CHUNK + 5);
        std::fs::write(&path, format!("a\n{long}\nb\n")).unwrap();
        let mut tail = Tail::new(&path, 2);
        let mut lines = Vec::new();
        while lines.len() < 2 {
            lines.extend(tail.read(10).await.unwrap());
        }
        assert_eq!(texts(&lines), [long.as_str(), "b"]);
    }

    #[tokio::test]
    async fn no_more_lines_than_asked_for_are_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        std::fs::write(&path, "a\nb\nc\n").unwrap();
        let mut tail = Tail::new(&path, 0);
        assert_eq!(texts(&tail.read(2).await.unwrap()), ["a", "b"]);
        assert_eq!(tail.offset(), 4);
        assert_eq!(texts(&tail.read(2).await.unwrap()), ["c"]);
    }

    #[test]
    fn what_a_killed_job_left_half_written_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        assert_eq!(cut_torn_line(&path).unwrap(), 0);
        std::fs::write(&path, "a\n{\"li").unwrap();
        assert_eq!(cut_torn_line(&path).unwrap(), 4);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\n");
        std::fs::write(&path, "{\"li").unwrap();
        assert_eq!(cut_torn_line(&path).unwrap(), 4);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
