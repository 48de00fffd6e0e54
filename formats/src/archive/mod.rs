//! Uploaded archives, unpacked without trusting them.
//!
//! zip, tar and tar.gz. Names, types and sizes are checked before or while anything is written; everything is written to a
//! scratch folder beside the destination, which takes its place only when the whole archive was good. Sizes that the
//! archive declares are never relied upon: bytes are counted as they come out, and unpacking stops at the limit.

mod names;
mod tape;
mod zipped;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::problem::{Problem, ProblemKind};
use names::Name;

/// How much an archive may unpack to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of all entries together.
    pub max_unpacked_bytes: u64,
    /// Unpacked bytes for each byte of the archive; looked at once 16 MiB have come out.
    pub max_ratio: u64,
    /// Entries, folders and files passed over included.
    pub max_entries: u64,
}

impl Default for Limits {
    /// 32 GiB, 200 times the archive, 100,000 entries.
    fn default() -> Self {
        Self { max_unpacked_bytes: 32 << 30, max_ratio: 200, max_entries: 100_000 }
    }
}

/// Below this, a high ratio is a small file of zeros.
const RATIO_FLOOR: u64 = 16 << 20;

/// What came out of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Files with their sizes in bytes, by their path in the folder, sorted.
    pub files: Vec<(String, u64)>,
    /// Bytes of all files.
    pub bytes: u64,
    /// The one folder that everything was in, and that was taken away.
    pub wrapper: Option<String>,
    /// How many files were passed over because an operating system adds them: `__MACOSX`, `.DS_Store`, `Thumbs.db` and
    /// their like.
    pub passed_over: u64,
}

/// Whether a file begins as an archive that [`unpack`] takes.
pub fn is_archive(path: &Path) -> io::Result<bool> {
    Ok(kind_of(path)?.is_ok())
}

/// Unpacks an archive into `destination`, a folder that does not exist yet.
///
/// `name` is what problems call the archive. Files are plain and private to their owner; modes, owners and times of the
/// archive are not taken over.
///
/// # Errors
/// [`ProblemKind::UnsafeEntry`] naming the entry, [`ProblemKind::LimitExceeded`] naming the limit,
/// [`ProblemKind::CorruptArchive`], [`ProblemKind::UnsupportedFormat`], [`ProblemKind::EmptyFile`]. Nothing of the archive is
/// kept then.
pub fn unpack(archive: &Path, name: &str, destination: &Path, limits: &Limits) -> Result<Unpacked, Problem> {
    let unreadable = |error: io::Error| Problem::from_io(error, name);
    let kind = kind_of(archive).map_err(unreadable)?;
    let parent = destination.parent().unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".unpack-").tempdir_in(parent).map_err(unreadable)?;
    let source = File::open(archive).map_err(unreadable)?;
    let archive_bytes = source.metadata().map_err(unreadable)?.len();
    let root = scratch.path().join("root");
    fs::create_dir(&root).map_err(unreadable)?;
    let mut sink = Sink::new(name, root, *limits, archive_bytes);
    match kind {
        Ok(Kind::Zip) => zipped::unpack(source, &mut sink)?,
        Ok(Kind::Tar) => tape::unpack(source, &mut sink)?,
        Ok(Kind::TarGz) => {
            tape::unpack(flate2::read::MultiGzDecoder::new(io::BufReader::new(source)), &mut sink)?
        }
        Err(found) => return Err(unsupported(name, found)),
    }
    let unpacked = sink.finish()?;
    let root = scratch.path().join("root");
    let kept = unpacked.wrapper.as_ref().map_or(root.clone(), |wrapper| root.join(wrapper));
    fs::rename(kept, destination).map_err(unreadable)?;
    Ok(unpacked)
}

enum Kind {
    Zip,
    Tar,
    TarGz,
}

/// The kind of archive, or the name of what it is instead.
fn kind_of(path: &Path) -> io::Result<Result<Kind, &'static str>> {
    let mut head = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut head)?;
    Ok(match &head[..] {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Ok(Kind::Zip),
        [0x1f, 0x8b, ..] => Ok(Kind::TarGz),
        head if head.len() >= 512 && &head[257..262] == b"ustar" => Ok(Kind::Tar),
        [] => Err("an empty file"),
        [0x42, 0x5a, b'h', ..] => Err("a bzip2 file"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Err("an xz file"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Err("a zstd file"),
        [b'7', b'z', 0xbc, 0xaf, ..] => Err("a 7z archive"),
        [b'R', b'a', b'r', b'!', ..] => Err("a RAR archive"),
        _ => Err("no archive"),
    })
}

fn unsupported(name: &str, found: &str) -> Problem {
    Problem::new(ProblemKind::UnsupportedFormat, name, format!("this is {found}"))
        .hint("upload a zip, tar or tar.gz")
}

fn corrupt(name: &str, message: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::CorruptArchive, name, format!("the archive is damaged: {message}"))
        .hint("make it again, or upload it again")
}

fn unsafe_entry(name: &str, entry: &str, why: &str) -> Problem {
    Problem::new(ProblemKind::UnsafeEntry, name, format!("the entry `{}` {why}", entry.escape_debug()))
        .hint("make the archive of plain files and folders with relative names")
}

/// Where entries go: every check that does not depend on the kind of archive.
struct Sink<'a> {
    name: &'a str,
    root: PathBuf,
    limits: Limits,
    archive_bytes: u64,
    entries: u64,
    bytes: u64,
    files: Vec<(String, u64)>,
    taken: HashSet<String>,
    passed_over: u64,
}

impl<'a> Sink<'a> {
    fn new(name: &'a str, root: PathBuf, limits: Limits, archive_bytes: u64) -> Self {
        let (files, taken) = (Vec::new(), HashSet::new());
        Self { name, root, limits, archive_bytes, entries: 0, bytes: 0, files, taken, passed_over: 0 }
    }

    /// Counts an entry and reads its name; `None` where there is nothing to write.
    fn admit(&mut self, entry: &str) -> Result<Option<Name>, Problem> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            let message = format!("the archive has more than {} entries", self.limits.max_entries);
            return Err(
                Problem::new(ProblemKind::LimitExceeded, self.name, message).hint("upload it in parts")
            );
        }
        names::read(entry).map_err(|why| unsafe_entry(self.name, entry, why))
    }

    /// A folder; empty ones are kept.
    fn folder(&mut self, name: &Name) -> Result<(), Problem> {
        let path = self.root.join(&name.path);
        fs::create_dir_all(path)
            .map_err(|_| unsafe_entry(self.name, &name.path, "is both a file and a folder"))
    }

    /// A file, written as its bytes come out; `declared` is the size the archive states, if it states one.
    fn file(&mut self, name: &Name, content: &mut dyn Read, declared: Option<u64>) -> Result<(), Problem> {
        if name.is_junk {
            self.passed_over += 1;
            self.copy(name, content, &mut io::sink(), declared)?;
            return Ok(());
        }
        if !self.taken.insert(name.path.clone()) {
            return Err(unsafe_entry(self.name, &name.path, "occurs twice"));
        }
        let path = self.root.join(&name.path);
        let both = |_| unsafe_entry(self.name, &name.path, "is both a file and a folder");
        fs::create_dir_all(path.parent().unwrap_or(&self.root)).map_err(both)?;
        let mut target = File::create_new(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => both(error),
            _ => Problem::from_io(error, self.name),
        })?;
        let written = self.copy(name, content, &mut target, declared)?;
        self.files.push((name.path.clone(), written));
        Ok(())
    }

    fn copy(
        &mut self,
        name: &Name,
        content: &mut dyn Read,
        target: &mut dyn Write,
        declared: Option<u64>,
    ) -> Result<u64, Problem> {
        let mut buffer = vec![0; 64 * 1024];
        let mut written = 0;
        loop {
            let n = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(corrupt(self.name, format!("`{}`: {error}", name.path.escape_debug())));
                }
            };
            written += n as u64;
            self.bytes += n as u64;
            self.check_size()?;
            if let Some(declared) = declared.filter(|declared| written > *declared) {
                let what = format!("`{}` declares {declared} bytes and holds more", name.path.escape_debug());
                return Err(corrupt(self.name, what));
            }
            target.write_all(&buffer[..n]).map_err(|error| Problem::from_io(error, self.name))?;
        }
        match declared.filter(|declared| written < *declared) {
            Some(declared) => {
                let what =
                    format!("`{}` declares {declared} bytes and holds {written}", name.path.escape_debug());
                Err(corrupt(self.name, what))
            }
            None => Ok(written),
        }
    }

    fn check_size(&self) -> Result<(), Problem> {
        let limit = |message: String| {
            Err(Problem::new(ProblemKind::LimitExceeded, self.name, message).hint("upload less at once"))
        };
        if self.bytes > self.limits.max_unpacked_bytes {
            return limit(format!(
                "the archive unpacks to more than {} bytes",
                self.limits.max_unpacked_bytes
            ));
        }
        let ratio = self.limits.max_ratio;
        if self.bytes > RATIO_FLOOR && self.bytes / ratio.max(1) > self.archive_bytes {
            return limit(format!("the archive unpacks to more than {ratio} times its own size"));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Unpacked, Problem> {
        if self.files.is_empty() {
            return Err(Problem::new(ProblemKind::EmptyFile, self.name, "the archive holds no files")
                .hint("upload an archive with files in it"));
        }
        let wrapper = self.wrapper();
        if let Some(wrapper) = &wrapper {
            for (path, _) in &mut self.files {
                path.drain(..=wrapper.len());
            }
        }
        self.files.sort_unstable();
        let bytes = self.files.iter().map(|(_, bytes)| bytes).sum();
        Ok(Unpacked { files: self.files, bytes, wrapper, passed_over: self.passed_over })
    }

    /// The folder that all files are in, if it is one.
    fn wrapper(&self) -> Option<String> {
        let first = |path: &str| path.split_once('/').map(|(folder, _)| folder.to_owned());
        let wrapper = first(&self.files.first()?.0)?;
        let all = self.files.iter().all(|(path, _)| first(path).as_ref() == Some(&wrapper));
        all.then_some(wrapper)
    }
}
