//! What the job writes on its standard error: a file of bounded size, and the last lines for a failure's reason.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Size at which the log moves to `log.1.txt`; two files are kept.
const MOST_BYTES: u64 = 8 * 1024 * 1024;
/// Lines that go with a failure.
const LAST_LINES: usize = 20;
/// Characters kept of a line that goes with a failure.
const MOST_CHARACTERS: usize = 1000;

/// The last lines of a log, shared between its writer and who reports a failure.
#[derive(Clone, Debug, Default)]
pub(super) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    /// The lines, oldest first.
    pub(super) fn get(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(text.trim_end().chars().filter(|c| *c != '\0').take(MOST_CHARACTERS).collect());
    }
}

/// The writer of `log.txt`.
#[derive(Debug)]
pub(super) struct JobLog {
    path: PathBuf,
    file: File,
    bytes: u64,
    line: Vec<u8>,
    last: LastLines,
}

impl JobLog {
    /// Opens the log for a new attempt, after what earlier attempts wrote.
    pub(super) fn open(path: PathBuf, attempt: i32) -> io::Result<(Self, LastLines)> {
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        if attempt > 1 {
            writeln!(file, "--- attempt {attempt} ---")?;
        }
        let last = LastLines::default();
        let log = JobLog { bytes: file.metadata()?.len(), path, file, line: Vec::new(), last: last.clone() };
        Ok((log, last))
    }

    /// Copies `from` until it ends. A full disk must not stop the job, so a line that cannot be written is only
    /// counted among the last ones.
    pub(super) async fn copy(mut self, mut from: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(read) = from.read(&mut chunk).await {
            if read == 0 {
                break;
            }
            if let Err(error) = self.write(&chunk[..read]) {
                tracing::warn!(%error, path = %self.path.display(), "the job's log cannot be written");
            }
            self.note(&chunk[..read]);
        }
        if !self.line.is_empty() {
            self.last.push(&self.line);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes > MOST_BYTES {
            std::fs::rename(&self.path, self.path.with_file_name("log.1.txt"))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn note(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = (4 * MOST_CHARACTERS).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.last.push(&self.line);
                self.line.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_is_bounded_and_the_last_lines_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.txt");
        let (log, last) = JobLog::open(path.clone(), 1).unwrap();
        let mut text = Vec::new();
        for number in 0..300_000 {
            writeln!(text, "line {number} {}", "x".repeat(60)).unwrap();
        }
        text.extend_from_slice(b"the end\0, without a newline");
        log.copy(text.as_slice()).await;
        let kept = last.get();
        assert_eq!(kept.len(), 20);
        assert_eq!(kept[19], "the end, without a newline");
        assert!(kept[18].starts_with("line 299999 "));
        for name in ["log.txt", "log.1.txt"] {
            let bytes = std::fs::metadata(dir.path().join(name)).unwrap().len();
            assert!(bytes <= MOST_BYTES + 16 * 1024, "{name} holds {bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_line_without_end_takes_bounded_memory() {
        let dir = tempfile::tempdir().unwrap();
        let (log, last) = JobLog::open(dir.path().join("log.txt"), 2).unwrap();
        let text = vec![b'y'; 1_000_000];
        log.copy(text.as_slice()).await;
        assert_eq!(last.get(), ["y".repeat(MOST_CHARACTERS)]);
        let file = std::fs::read_to_string(dir.path().join("log.txt")).unwrap();
        assert!(file.starts_with("--- attempt 2 ---\nyyy"));
    }
}
