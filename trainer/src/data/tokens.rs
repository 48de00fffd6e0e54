//! Tokenized rows, kept flat; on a second run they are mapped from the file that the first one wrote.
//!
//! Tokenizing is a function of the tokenizer's files, the longest length and the texts. Their hash names the file, so
//! that jobs on the same data share it and nothing stale is ever read. The file is native-endian: `HEADER` words
//! (magic, version, rows, tokens, truncated rows), `rows + 1` offsets of 64 bits, token ids of 32 bits, and for each token
//! a mark of 8 bits: its type id, or whether it counts in the loss.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use formats::tokenizer::{Encoding, Tokenizer};
use native::memory::Mapped;
use sha2::{Digest, Sha256};

const MAGIC: u64 = u64::from_le_bytes(*b"luthtok1");
const HEADER: usize = 4;

/// A cache of tokenized rows, for one tokenizer.
pub struct Cache {
    folder: Option<PathBuf>,
    tokenizer: Vec<u8>,
}

impl Cache {
    /// Rows tokenized by the checkpoint in `model` are kept in `folder`, where that is a folder; else nowhere.
    pub fn open(folder: &Path, model: &Path) -> Result<Self> {
        let mut hash = Sha256::new();
        for name in formats::tokenizer::FILES.into_iter().chain(["config.json"]) {
            let content = fs::read(model.join(name)).unwrap_or_default();
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
        let folder = folder.is_dir().then(|| folder.to_path_buf());
        Ok(Cache { folder, tokenizer: hash.finalize().to_vec() })
    }

    /// Tokenizes texts and pairs, cut to `max_length` tokens, or finds them tokenized.
    pub fn tokenize(
        &self,
        tokenizer: &Tokenizer,
        texts: &[(&str, Option<&str>)],
        max_length: usize,
    ) -> Result<Tokens> {
        let Some(folder) = &self.folder else {
            return Ok(Tokens::of(&tokenizer.encode_pairs(texts, max_length)?));
        };
        let path = folder.join(format!("tokens-{}", self.key(texts, max_length)));
        if let Some(tokens) = Tokens::map(&path, texts.len()) {
            // What was used last is removed last.
            if let Ok(file) = fs::File::open(&path) {
                let _unsupported = file.set_modified(std::time::SystemTime::now());
            }
            return Ok(tokens);
        }
        let tokens = Tokens::of(&tokenizer.encode_pairs(texts, max_length)?);
        match tokens.write(&path) {
            Ok(()) => Ok(Tokens::map(&path, texts.len()).unwrap_or(tokens)),
            Err(error) => {
                tracing::warn!("the tokenized rows could not be kept for the next run: {error:#}");
                Ok(tokens)
            }
        }
    }

    fn key(&self, texts: &[(&str, Option<&str>)], max_length: usize) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.tokenizer);
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update((max_length as u64).to_le_bytes());
        for (text, pair) in texts {
            for part in [Some(*text), *pair] {
                // No text is told from an empty one.
                hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
                hash.update(part.unwrap_or_default());
            }
        }
        hex::encode(hash.finalize())
    }
}

/// Token ids of many rows, and a mark beside each.
pub struct Tokens(Memory);

enum Memory {
    Owned { offsets: Vec<u64>, ids: Vec<u32>, marks: Vec<u8>, truncated: u64 },
    Mapped { file: Mapped, rows: usize, tokens: usize },
}

impl Tokens {
    /// Those of encodings, one a row.
    pub fn of(encodings: &[Encoding]) -> Self {
        let ends = encodings.iter().scan(0, |at, encoding| {
            *at += encoding.ids.len() as u64;
            Some(*at)
        });
        Tokens(Memory::Owned {
            offsets: std::iter::once(0).chain(ends).collect(),
            ids: encodings.iter().flat_map(|encoding| encoding.ids.iter().copied()).collect(),
            marks: encodings
                .iter()
                .flat_map(|encoding| encoding.type_ids.iter().map(|&id| u8::try_from(id).unwrap_or(u8::MAX)))
                .collect(),
            truncated: encodings.iter().filter(|encoding| encoding.truncated).count() as u64,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets().len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows that were longer than the limit and were cut.
    pub fn truncated(&self) -> usize {
        match &self.0 {
            Memory::Owned { truncated, .. } => *truncated as usize,
            Memory::Mapped { file, .. } => words(file)[HEADER - 1] as usize,
        }
    }

    /// Tokens of all rows together.
    pub fn total(&self) -> u64 {
        self.offsets()[self.len()]
    }

    /// Tokens of each row, in order.
    pub fn lengths(&self) -> impl Iterator<Item = u64> {
        self.offsets().windows(2).map(|ends| ends[1] - ends[0])
    }

    /// A row's token ids and their marks.
    pub fn row(&self, at: usize) -> (&[u32], &[u8]) {
        let span = self.offsets()[at] as usize..self.offsets()[at + 1] as usize;
        let (ids, marks) = match &self.0 {
            Memory::Owned { ids, marks, .. } => (ids.as_slice(), marks.as_slice()),
            Memory::Mapped { file, rows, tokens } => {
                let rest = &file[8 * (HEADER + rows + 1)..];
                (bytemuck::cast_slice(&rest[..4 * tokens]), &rest[4 * tokens..])
            }
        };
        (&ids[span.clone()], &marks[span])
    }

    fn offsets(&self) -> &[u64] {
        match &self.0 {
            Memory::Owned { offsets, .. } => offsets,
            Memory::Mapped { file, rows, .. } => &words(file)[HEADER..HEADER + rows + 1],
        }
    }

    /// A file of `rows` rows; `None` where there is none, or it is not whole.
    fn map(path: &Path, rows: usize) -> Option<Self> {
        let file = Mapped::open(path).ok()?;
        if file.len() < 8 * (HEADER + rows + 1) {
            return None;
        }
        let head = &words(&file)[..HEADER + rows + 1];
        let tokens = usize::try_from(head[2]).ok()?;
        let whole = head[0] == MAGIC
            && head[1] == rows as u64
            && file.len() == 8 * (HEADER + rows + 1) + 5 * tokens
            && head[HEADER + rows] == head[2]
            && head[HEADER..].is_sorted();
        whole.then_some(Tokens(Memory::Mapped { file, rows, tokens }))
    }

    /// Writes the file beside its place and renames it: a half-written one is never found.
    fn write(&self, path: &Path) -> Result<()> {
        let Memory::Owned { offsets, ids, marks, truncated } = &self.0 else { return Ok(()) };
        let folder = path.parent().context("a file lies in a folder")?;
        let mut file = tempfile::Builder::new().prefix(".tokens-").tempfile_in(folder)?;
        let head = [MAGIC, self.len() as u64, ids.len() as u64, *truncated];
        for bytes in [
            bytemuck::cast_slice(&head),
            bytemuck::cast_slice(offsets),
            bytemuck::cast_slice(ids),
            marks.as_slice(),
        ] {
            file.write_all(bytes)?;
        }
        file.persist(path).with_context(|| format!("writing {}", path.display()))?;
        Ok(())
    }
}

/// The part of a file that is words of 64 bits.
fn words(file: &[u8]) -> &[u64] {
    bytemuck::cast_slice(&file[..file.len() / 8 * 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encodings() -> Vec<Encoding> {
        [(vec![5, 6, 7], true), (vec![], false), (vec![8], false)]
            .map(|(ids, truncated)| Encoding { type_ids: vec![1; ids.len()], ids, truncated })
            .into()
    }

    fn check(tokens: &Tokens) {
        assert_eq!((tokens.len(), tokens.truncated(), tokens.total()), (3, 1, 4));
        assert_eq!(tokens.lengths().collect::<Vec<_>>(), [3, 0, 1]);
        assert_eq!(tokens.row(0), (&[5, 6, 7][..], &[1, 1, 1][..]));
        assert_eq!(tokens.row(2).0, [8]);
    }

    #[test]
    fn a_file_gives_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens-x");
        let tokens = Tokens::of(&encodings());
        check(&tokens);
        tokens.write(&path).unwrap();
        check(&Tokens::map(&path, 3).unwrap());
    }

    #[test]
    fn a_file_that_is_cut_or_of_other_rows_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens-x");
        Tokens::of(&encodings()).write(&path).unwrap();
        assert!(Tokens::map(&path, 2).is_none());
        let whole = fs::read(&path).unwrap();
        for length in [0, 16, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(Tokens::map(&path, 3).is_none(), "{length} bytes");
        }
    }
}
