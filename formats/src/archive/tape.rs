//! tar archives, plain or in gzip.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, EntryType};

use super::{Sink, corrupt, unsafe_entry};
use crate::problem::Problem;

/// Room for one entry's headers, long names included.
const HEADERS: u64 = 1 << 20;

/// Unpacks entry by entry. Every entry is read to its end before the next one is looked for, so that what is read between
/// two entries is headers alone, and can be bounded: long names are held in memory by the `tar` crate.
pub(super) fn unpack(source: impl Read, sink: &mut Sink<'_>) -> Result<(), Problem> {
    let allowance = Rc::new(Cell::new(None));
    let mut archive = Archive::new(Bounded { source, allowance: Rc::clone(&allowance) });
    let mut entries = archive.entries().map_err(|error| corrupt(sink.name, error))?;
    loop {
        allowance.set(Some(HEADERS));
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(|error| corrupt(sink.name, error))?;
        allowance.set(None);
        let written = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if std::str::from_utf8(&entry.path_bytes()).is_err() {
            return Err(unsafe_entry(sink.name, &written, "has a name that is not text"));
        }
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            // Comments of the program that made the archive, such as a commit's hash; they name no file.
            io::copy(&mut entry.take(HEADERS), &mut io::sink()).map_err(|error| corrupt(sink.name, error))?;
            continue;
        }
        let is_folder = kind == EntryType::Directory;
        if !is_folder && !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return Err(unsafe_entry(sink.name, &written, "is a link or a device, not a file"));
        }
        match sink.admit(&written)? {
            None => {}
            Some(name) if is_folder && name.is_junk => {}
            Some(name) if is_folder => sink.folder(&name)?,
            Some(name) => {
                let size = entry.size();
                sink.file(&name, &mut entry, Some(size))?;
            }
        }
    }
    Ok(())
}

/// A reader that ends with an error where more is read than was allowed.
struct Bounded<R> {
    source: R,
    allowance: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.allowance.get() else {
            return self.source.read(buffer);
        };
        if left == 0 {
            return Err(io::Error::other("the headers of an entry take more than 1 MiB"));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.source.read(&mut buffer[..most])?;
        self.allowance.set(Some(left - n as u64));
        Ok(n)
    }
}
