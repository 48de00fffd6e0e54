//! Memory of this process, as the kernel counts it in `/proc/self/status`.

use std::ops::Deref;
use std::path::Path;
use std::{fs, io};

use crate::ffi;

/// A file's bytes, read as they are looked at. Files that are mapped are written once and renamed into place; one that
/// another program shortens meanwhile ends this process.
pub struct Mapped(memmap2::Mmap);

impl Mapped {
    /// Maps a file; the first byte lies at the start of a page.
    ///
    /// # Errors
    /// When it cannot be opened or mapped, as an empty one cannot.
    pub fn open(path: &Path) -> io::Result<Self> {
        ffi::map(&fs::File::open(path)?).map(Mapped)
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Memory that is resident now, in bytes.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn rss_bytes() -> io::Result<u64> {
    field("VmRSS:")
}

/// The most memory that was resident at once since the process began, in bytes.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn peak_rss_bytes() -> io::Result<u64> {
    field("VmHWM:")
}

/// Memory that the C allocator has given out and not got back, in bytes: what tensors on the CPU hold, and all else.
///
/// As glibc counts it (`mallinfo2`); 0 where another allocator has taken its place.
#[must_use]
pub fn allocated_bytes() -> u64 {
    ffi::allocated_bytes()
}

fn field(name: &str) -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    kibibytes(&status, name)
        .map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in status")))
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_in_kibibytes() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(1024));
        assert_eq!(kibibytes(status, "VmHWM:"), Some(2048));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
    }

    #[test]
    fn what_is_allocated_is_counted_until_it_is_freed() {
        let size = 300 << 20;
        let before = allocated_bytes();
        let block = std::hint::black_box(vec![1u8; size]);
        assert!(allocated_bytes() >= before + size as u64 / 2);
        drop(block);
        assert!(allocated_bytes() < before + size as u64 / 2);
    }

    #[test]
    fn the_peak_keeps_what_was_given_back() {
        let size = 64 << 20;
        let block = std::hint::black_box(vec![1u8; size]);
        let held = rss_bytes().unwrap();
        drop(block);
        assert!(held >= size as u64);
        assert!(peak_rss_bytes().unwrap() >= size as u64);
    }
}
