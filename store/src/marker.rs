//! Which installation an object store belongs to: a small object that the server writes and every trainer reads.
//!
//! A trainer on another machine is given a database and an object store by hand. With the wrong one of either it would
//! fail at its first job, for a file that is not there; a server with the wrong one would clear up another's objects.

use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Store;
use crate::objects::ObjectsError;

/// Name of the object, beside the folders of contents.
pub const MARKER: &str = "luthier.json";

/// What the object says.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    installation: Uuid,
}

/// Why a store cannot be used with this database; `Display` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// No server has used this store.
    #[error(
        "the object store {place} has no {MARKER}: no server that uses this database has been started with it. Give the \
         trainer the address that the server has (`--objects` or LUTHIER_OBJECTS; on another machine an s3:// address or \
         a folder that both machines mount), or start that server with this one first"
    )]
    Missing {
        /// The store's address.
        place: String,
    },
    /// It is another installation's.
    #[error(
        "the object store {place} belongs to another database (installation {theirs}, this database is {ours}). Give \
         DATABASE_URL and LUTHIER_OBJECTS of one and the same server; if that database is gone and the store is to serve \
         this one, remove {MARKER} from it and start the server again"
    )]
    Other {
        /// The store's address.
        place: String,
        /// What the object says.
        theirs: Uuid,
        /// What the database says.
        ours: Uuid,
    },
    /// The object is damaged.
    #[error(
        "{MARKER} in the object store {place} cannot be understood ({reason}): remove it and start the server again"
    )]
    Damaged {
        /// The store's address.
        place: String,
        /// Why.
        reason: String,
    },
    /// The store itself.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The database.
    #[error(transparent)]
    Db(#[from] sqlx::Error),
}

impl Store {
    /// Writes the marker where there is none, as a server does at its start; one of another installation is an error.
    pub async fn mark(&self) -> Result<(), MarkerError> {
        match self.check_mark().await {
            Err(MarkerError::Missing { .. }) => {}
            other => return other,
        }
        let marker = Marker { installation: self.installation().await? };
        let bytes = serde_json::to_vec(&marker).map_err(|error| self.damaged(error))?;
        self.objects.backend().put(&self.objects.marker(), bytes.into()).await.map_err(ObjectsError::from)?;
        Ok(())
    }

    /// Whether the store is this database's, as a trainer asks at its start.
    pub async fn check_mark(&self) -> Result<(), MarkerError> {
        let ours = self.installation().await?;
        let place = || self.objects.location().to_owned();
        let found = match self.objects.backend().get(&self.objects.marker()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Err(MarkerError::Missing { place: place() }),
            Err(error) => return Err(ObjectsError::from(error).into()),
        };
        let bytes = found.bytes().await.map_err(ObjectsError::from)?;
        let marker: Marker = serde_json::from_slice(&bytes).map_err(|error| self.damaged(error))?;
        match marker.installation == ours {
            true => Ok(()),
            false => Err(MarkerError::Other { place: place(), theirs: marker.installation, ours }),
        }
    }

    async fn installation(&self) -> sqlx::Result<Uuid> {
        sqlx::query_scalar!("select installation_id from installation").fetch_one(&self.db).await
    }

    fn damaged(&self, error: serde_json::Error) -> MarkerError {
        MarkerError::Damaged { place: self.objects.location().to_owned(), reason: error.to_string() }
    }
}
