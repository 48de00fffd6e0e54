//! Bytes go out.

use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::{GetOptions, GetRange, ObjectStore};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::put::blocking;
use super::{Hash, Objects, ObjectsError};

/// Bytes as they come.
pub type ByteStream = BoxStream<'static, Result<Bytes, ObjectsError>>;

impl Objects {
    /// Opens an object for reading, or a part of it; memory stays constant.
    pub async fn read(&self, hash: &Hash, range: Option<Range<u64>>) -> Result<ByteStream, ObjectsError> {
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(futures::stream::empty().boxed());
        }
        let got =
            self.inner.get_opts(&self.key(hash), options).await.map_err(|error| missing(error, hash))?;
        if let Some(range) = range.filter(|range| range.end > got.meta.size) {
            return Err(ObjectsError::Range { start: range.start, end: range.end, bytes: got.meta.size });
        }
        Ok(got.into_stream().map(|chunk| chunk.map_err(ObjectsError::from)).boxed())
    }

    /// Reads a whole small object; more than `limit` bytes are refused.
    pub async fn read_all(&self, hash: &Hash, limit: u64) -> Result<Bytes, ObjectsError> {
        let mut stream = self.read(hash, None).await?;
        let mut all = Vec::new();
        while let Some(chunk) = stream.next().await {
            all.extend_from_slice(&chunk?);
            if all.len() as u64 > limit {
                return Err(ObjectsError::TooLarge { limit });
            }
        }
        Ok(all.into())
    }

    /// Puts an object at a path and checks its content; folders are made, a file that is there is replaced.
    ///
    /// On the file system of a local store this is a hard link: read it, never write to it.
    pub async fn fetch(&self, hash: &Hash, to: &FsPath) -> Result<(), ObjectsError> {
        let folder = to.parent().unwrap_or(FsPath::new(".")).to_owned();
        tokio::fs::create_dir_all(&folder).await.map_err(ObjectsError::io(&folder))?;
        let scratch = scratch_beside(to).await?;
        let found = if self.linked(hash, &scratch).await? {
            hash_file(scratch.to_path_buf()).await?
        } else {
            self.copy(hash, &scratch).await?
        };
        if found != *hash {
            let expected = hash.clone();
            return Err(ObjectsError::Damaged { expected, found });
        }
        let target = to.to_owned();
        blocking(move || scratch.persist(&target).map_err(|error| error.error))
            .await
            .map_err(ObjectsError::io(to))
    }

    /// Links an object to `to` where both are on one file system; false where that cannot be.
    async fn linked(&self, hash: &Hash, to: &FsPath) -> Result<bool, ObjectsError> {
        let Some(from) = self.local_path(hash) else {
            return Ok(false);
        };
        let to = to.to_owned();
        let linked = blocking(move || {
            // The name is held by an empty file, and a link does not replace one.
            std::fs::remove_file(&to)?;
            std::fs::hard_link(&from, &to)
        });
        match linked.await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(ObjectsError::Missing(hash.clone()))
            }
            Err(_) => Ok(false),
        }
    }

    /// Copies an object to `to`; gives the hash of what was copied.
    async fn copy(&self, hash: &Hash, to: &FsPath) -> Result<Hash, ObjectsError> {
        let mut stream = self.read(hash, None).await?;
        let mut file = tokio::fs::File::create(to).await.map_err(ObjectsError::io(to))?;
        let mut hasher = Sha256::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(ObjectsError::io(to))?;
        }
        file.flush().await.map_err(ObjectsError::io(to))?;
        Ok(Hash::of_digest(&hasher.finalize()))
    }
}

fn missing(error: object_store::Error, hash: &Hash) -> ObjectsError {
    match error {
        object_store::Error::NotFound { .. } => ObjectsError::Missing(hash.clone()),
        other => other.into(),
    }
}

async fn scratch_beside(to: &FsPath) -> Result<tempfile::TempPath, ObjectsError> {
    let folder = to.parent().unwrap_or(FsPath::new(".")).to_owned();
    blocking(move || {
        tempfile::Builder::new()
            .prefix(".fetch-")
            .tempfile_in(&folder)
            .map(tempfile::NamedTempFile::into_temp_path)
    })
    .await
    .map_err(ObjectsError::io(to))
}

async fn hash_file(path: PathBuf) -> Result<Hash, ObjectsError> {
    let shown = path.clone();
    blocking(move || {
        let mut file = std::fs::File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = std::io::Read::read(&mut file, &mut buffer)?;
            if read == 0 {
                return Ok(Hash::of_digest(&hasher.finalize()));
            }
            hasher.update(&buffer[..read]);
        }
    })
    .await
    .map_err(ObjectsError::io(shown))
}
