//! Stored bytes, by content: an object's name is the SHA-256 of what it holds.
//!
//! Local folders and S3 alike. What comes in is first written to a scratch file while it is hashed, so that memory stays
//! constant, content that is there already is not sent again, and nothing half-written ever has a name.

mod fetch;
mod location;
mod put;
mod sweep;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub use fetch::ByteStream;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
pub use put::Scratch;
use serde::{Deserialize, Deserializer, Serialize, de};

/// A SHA-256 in 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Hash(String);

impl Hash {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a finished digest.
    pub fn of_digest(digest: &[u8]) -> Self {
        Hash(hex::encode(digest))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Hash {
    type Err = ObjectsError;

    fn from_str(text: &str) -> Result<Self, ObjectsError> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(digit) {
            Ok(Hash(text.to_owned()))
        } else {
            Err(ObjectsError::BadHash(text.chars().take(80).collect()))
        }
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Content in the object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its name.
    pub hash: Hash,
    /// Its size.
    pub bytes: i64,
}

/// What goes wrong with stored bytes.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The place cannot be understood or opened.
    #[error("cannot use \"{place}\" as object store: {reason}")]
    Location {
        /// As given, without secrets.
        place: String,
        /// Why.
        reason: String,
    },
    /// Not a hash.
    #[error("\"{0}\" is no SHA-256 in 64 lower-case hexadecimal digits")]
    BadHash(String),
    /// A row names it, the store lacks it.
    #[error("the object {0} is missing from the object store")]
    Missing(Hash),
    /// Its content has changed.
    #[error("the object {expected} is damaged: its content has SHA-256 {found}")]
    Damaged {
        /// Its name.
        expected: Hash,
        /// What its content says.
        found: Hash,
    },
    /// A range that does not lie in the object.
    #[error("the range {start}..{end} does not lie in an object of {bytes} bytes")]
    Range {
        /// First byte.
        start: u64,
        /// Behind the last byte.
        end: u64,
        /// Size of the object.
        bytes: u64,
    },
    /// More bytes than allowed.
    #[error("the content has more than the allowed {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The stream of the sender broke off.
    #[error("the content could not be read to its end: {0}")]
    Source(String),
    /// A local file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The object store's own error.
    #[error("the object store failed: {0}")]
    Backend(#[from] object_store::Error),
}

impl ObjectsError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| ObjectsError::Io { path, source }
    }
}

/// Where objects lie. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The folder, where it is one.
    folder: Option<PathBuf>,
    /// Where content is written while it is hashed; on the folder's file system, where there is a folder.
    scratch: PathBuf,
    /// The address without secrets.
    shown: String,
}

/// Shows the address alone: the store behind it knows credentials.
impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("location", &self.shown).finish_non_exhaustive()
    }
}

impl Objects {
    /// The address, without secrets.
    pub fn location(&self) -> &str {
        &self.shown
    }

    /// Whether the object is there.
    pub async fn has(&self, hash: &Hash) -> Result<bool, ObjectsError> {
        match self.inner.head(&self.key(hash)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an object; one that is not there is no error.
    pub(crate) async fn remove(&self, hash: &Hash) -> Result<(), ObjectsError> {
        match self.inner.delete(&self.key(hash)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the store says whose it is.
    pub(crate) fn marker(&self) -> Path {
        self.prefix.clone().join(crate::marker::MARKER)
    }

    pub(crate) fn backend(&self) -> &dyn ObjectStore {
        &*self.inner
    }

    /// `ab/ab12…`: folders of a size that file systems and people can handle.
    fn key(&self, hash: &Hash) -> Path {
        self.prefix.clone().join(&hash.0[..2]).join(hash.0.as_str())
    }

    fn local_path(&self, hash: &Hash) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(&hash.0[..2]).join(&hash.0))
    }
}
