//! zip archives.

use std::fs::File;
use std::io::BufReader;

use zip::ZipArchive;
use zip::result::ZipError;

use super::{Sink, corrupt, unsafe_entry};
use crate::problem::{Problem, ProblemKind};

const FILE_TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// Checks every name and type in the directory of the archive first, then unpacks.
pub(super) fn unpack(source: File, sink: &mut Sink<'_>) -> Result<(), Problem> {
    let mut archive = ZipArchive::new(BufReader::new(source)).map_err(|error| broken(sink.name, &error))?;
    let mut names = Vec::new();
    let mut declared: u64 = 0;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| broken(sink.name, &error))?;
        let written = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let name =
            entry.name().map_err(|_| unsafe_entry(sink.name, &written, "has a name that is not text"))?;
        let kind = entry.unix_mode().map_or(0, |mode| mode & FILE_TYPE);
        if entry.is_symlink() || !matches!(kind, 0 | REGULAR | DIRECTORY) {
            return Err(unsafe_entry(sink.name, &name, "is a link or a device, not a file"));
        }
        if entry.encrypted() {
            return Err(corrupt(sink.name, format!("`{}` is encrypted", name.escape_debug())));
        }
        declared = declared.saturating_add(entry.size());
        names.push((sink.admit(&name)?, entry.is_dir()));
    }
    if declared > sink.limits.max_unpacked_bytes {
        let limit = sink.limits.max_unpacked_bytes;
        let message = format!("the archive declares {declared} bytes, more than the limit of {limit} bytes");
        return Err(Problem::new(ProblemKind::LimitExceeded, sink.name, message).hint("upload less at once"));
    }
    for (index, (name, is_folder)) in names.into_iter().enumerate() {
        let Some(name) = name else { continue };
        if is_folder {
            if !name.is_junk {
                sink.folder(&name)?;
            }
            continue;
        }
        let mut entry = archive.by_index(index).map_err(|error| broken(sink.name, &error))?;
        let size = entry.size();
        sink.file(&name, &mut entry, Some(size))?;
    }
    Ok(())
}

fn broken(name: &str, error: &ZipError) -> Problem {
    match error {
        ZipError::Io(error) => corrupt(name, error),
        ZipError::CompressionMethodNotSupported(method) => {
            let message = format!("an entry is compressed by method {method}, which is not supported");
            Problem::new(ProblemKind::UnsupportedFormat, name, message)
                .hint("compress with deflate, the usual method")
        }
        other => corrupt(name, other),
    }
}
