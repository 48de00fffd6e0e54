//! Bytes come in.

use std::path::{Path as FsPath, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::{ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::{Hash, Objects, ObjectsError, Stored};

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Bytes of a part of an upload to S3, which allows 10,000 parts.
const PART: usize = 16 * 1024 * 1024;
/// Parts under way at once.
const PARTS_AT_ONCE: usize = 4;

/// Content that was received and hashed, but has no name yet; dropped, it is gone.
#[derive(Debug)]
pub struct Scratch {
    path: TempPath,
    stored: Stored,
}

impl Scratch {
    /// The name and size that it will have.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The file, for looking into it before it is kept.
    pub fn path(&self) -> &FsPath {
        &self.path
    }
}

impl Objects {
    /// Receives a stream into a scratch file while hashing it; memory stays constant.
    ///
    /// More than `limit` bytes are refused as soon as they come. Nothing is left behind by a stream that breaks off.
    pub async fn receive<S, E>(&self, stream: S, limit: Option<u64>) -> Result<Scratch, ObjectsError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let path = self.scratch_file().await?;
        let mut file = File::create(&path).await.map_err(ObjectsError::io(&*path))?;
        let mut hasher = Sha256::new();
        let mut bytes = 0u64;
        let mut stream = std::pin::pin!(stream);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| ObjectsError::Source(error.to_string()))?;
            bytes += chunk.len() as u64;
            if let Some(limit) = limit.filter(|limit| bytes > *limit) {
                return Err(ObjectsError::TooLarge { limit });
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(ObjectsError::io(&*path))?;
        }
        // The row that names it is durable, so its bytes must be as well.
        file.flush().await.map_err(ObjectsError::io(&*path))?;
        file.sync_all().await.map_err(ObjectsError::io(&*path))?;
        let stored = Stored { hash: Hash::of_digest(&hasher.finalize()), bytes: bytes as i64 };
        Ok(Scratch { path, stored })
    }

    /// Receives a copy of a local file.
    pub async fn receive_path(&self, path: &FsPath) -> Result<Scratch, ObjectsError> {
        let file = File::open(path).await.map_err(ObjectsError::io(path))?;
        self.receive(ReaderStream::with_capacity(file, CHUNK), None).await
    }

    /// Gives received content its name, unless the same content has it already.
    pub(crate) async fn keep(&self, scratch: &Scratch) -> Result<(), ObjectsError> {
        let hash = &scratch.stored.hash;
        if let Some(target) = self.local_path(hash) {
            return link(scratch.path.to_path_buf(), target).await;
        }
        if !self.has(hash).await? {
            self.upload(scratch).await?;
        }
        Ok(())
    }

    async fn upload(&self, scratch: &Scratch) -> Result<(), ObjectsError> {
        let mut file = File::open(&scratch.path).await.map_err(ObjectsError::io(&*scratch.path))?;
        let upload = self.inner.put_multipart(&self.key(&scratch.stored.hash)).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = file.read(&mut buffer).await.map_err(ObjectsError::io(&*scratch.path))?;
            if read == 0 {
                break;
            }
            upload.wait_for_capacity(PARTS_AT_ONCE).await?;
            upload.write(&buffer[..read]);
        }
        // An upload that fails is aborted by `finish` itself.
        upload.finish().await?;
        Ok(())
    }

    async fn scratch_file(&self) -> Result<TempPath, ObjectsError> {
        let folder = self.scratch.clone();
        let made = blocking(move || {
            tempfile::Builder::new()
                .prefix("luthier-")
                .tempfile_in(&folder)
                .map(tempfile::NamedTempFile::into_temp_path)
        });
        made.await.map_err(ObjectsError::io(&self.scratch))
    }
}

/// Gives a scratch file a second name, which is what makes it an object: at once, whole, and never over another.
async fn link(from: PathBuf, to: PathBuf) -> Result<(), ObjectsError> {
    let shown = to.clone();
    blocking(move || {
        let folder = to.parent().unwrap_or(FsPath::new("."));
        std::fs::create_dir_all(folder)?;
        // Objects are shared by hard links; a program that opens one for writing by mistake is stopped here.
        let mut permissions = std::fs::metadata(&from)?.permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&from, permissions)?;
        match std::fs::hard_link(&from, &to) {
            Ok(()) => std::fs::File::open(folder)?.sync_all(),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await
    .map_err(ObjectsError::io(shown))
}

pub(super) async fn blocking<T, F>(work: F) -> std::io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> std::io::Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
