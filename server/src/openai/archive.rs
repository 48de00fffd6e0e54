//! A model's files as one archive, made while it is sent.
//!
//! A tar has a layout that follows from names and sizes, so its length is known before and any part of it can be sent.
//! A zip holds checksums that are known only once the bytes have gone by; it has no length and no parts.

use std::io::{self, BufWriter, Write};
use std::ops::Range;

use axum::body::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use store::{Hash, Objects, ObjectsError, StoredFile};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// A tar is made of blocks of so many bytes.
const BLOCK: u64 = 512;

/// An archive to be.
pub struct Archive {
    /// Folder that all files are in.
    pub folder: String,
    /// Seconds since 1970, the time of each file.
    pub time: u64,
    /// The files, by path.
    pub files: Vec<StoredFile>,
}

/// A run of bytes of a tar.
enum Piece {
    Literal(Vec<u8>),
    Object(Hash, u64),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Piece::Literal(bytes) => bytes.len() as u64,
            Piece::Object(_, bytes) => *bytes,
        }
    }
}

/// A tar, laid out.
pub struct Tar(Vec<Piece>);

impl Archive {
    /// A word that changes with the content.
    pub fn tag(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(format!("{} {}\n", self.folder, self.time));
        for file in &self.files {
            hasher.update(format!("{} {}\n", file.hash, file.path));
        }
        format!("\"{}\"", hex::encode(&hasher.finalize()[..16]))
    }

    /// Lays a tar out.
    pub fn tar(&self) -> io::Result<Tar> {
        let mut pieces = Vec::new();
        for file in &self.files {
            let bytes = file.bytes.unsigned_abs();
            pieces.push(Piece::Literal(self.header(&file.path, bytes)?));
            pieces.push(Piece::Object(file.hash.clone(), bytes));
            pieces.push(Piece::Literal(vec![0; padding(bytes)]));
        }
        pieces.push(Piece::Literal(vec![0; 2 * BLOCK as usize]));
        Ok(Tar(pieces))
    }

    /// The blocks in front of a file's bytes; a name too long for one block gets more.
    fn header(&self, path: &str, bytes: u64) -> io::Result<Vec<u8>> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(self.time);
        header.set_entry_type(tar::EntryType::Regular);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, format!("{}/{path}", self.folder), io::empty())?;
        let mut blocks = builder.into_inner()?;
        // Without the two empty blocks that end an archive.
        blocks.truncate(blocks.len() - 2 * BLOCK as usize);
        Ok(blocks)
    }

    /// Sends a zip; the files are stored as they are, since weights do not get smaller.
    pub fn zip(self, objects: Objects) -> impl Stream<Item = io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = self.write_zip(&objects, &sender) {
                // The receiver must see that this is no end; one that is gone has stopped the download itself.
                drop(sender.blocking_send(Err(error)));
            }
        });
        ReceiverStream::new(receiver)
    }

    fn write_zip(&self, objects: &Objects, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let runtime = tokio::runtime::Handle::current();
        let mut zip = zip::ZipWriter::new_stream(BufWriter::with_capacity(1 << 18, Outlet(sender)));
        for file in &self.files {
            let options = zip::write::SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Stored)
                .unix_permissions(0o644)
                .large_file(file.bytes >= u32::MAX.into());
            zip.start_file(format!("{}/{}", self.folder, file.path), options)?;
            let mut content = runtime.block_on(objects.read(&file.hash, None)).map_err(io::Error::other)?;
            while let Some(chunk) = runtime.block_on(content.next()) {
                zip.write_all(&chunk.map_err(io::Error::other)?)?;
            }
        }
        zip.finish()?.into_inner().flush()
    }
}

impl Tar {
    /// Length of the whole.
    pub fn len(&self) -> u64 {
        self.0.iter().map(Piece::len).sum()
    }

    /// Sends a part.
    pub fn stream(
        self,
        objects: Objects,
        part: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, ObjectsError>> {
        let mut start = 0;
        let mut wanted = Vec::new();
        for piece in self.0 {
            let end = start + piece.len();
            let (from, to) = (part.start.max(start), part.end.min(end));
            if from < to {
                wanted.push((piece, from - start..to - start));
            }
            start = end;
        }
        futures::stream::iter(wanted)
            .then(move |(piece, range)| open(objects.clone(), piece, range))
            .try_flatten()
    }
}

async fn open(
    objects: Objects,
    piece: Piece,
    range: Range<u64>,
) -> Result<BoxStream<'static, Result<Bytes, ObjectsError>>, ObjectsError> {
    match piece {
        Piece::Literal(bytes) => {
            let part = Bytes::from(bytes).slice(range.start as usize..range.end as usize);
            Ok(futures::stream::once(async { Ok(part) }).boxed())
        }
        Piece::Object(hash, _) => objects.read(&hash, Some(range)).await,
    }
}

fn padding(bytes: u64) -> usize {
    (bytes.next_multiple_of(BLOCK) - bytes) as usize
}

/// Bytes go out through a channel; full, it makes the writer wait for the reader.
struct Outlet<'a>(&'a mpsc::Sender<io::Result<Bytes>>);

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
