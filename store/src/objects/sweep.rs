//! What lies in the store, for whoever clears it up.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::ObjectStore;

use super::put::blocking;
use super::{Hash, Objects, ObjectsError};

/// Longer than any pause in an upload.
const UNDER_WAY: Duration = Duration::from_secs(600);

impl Objects {
    /// Objects last written before `time`.
    pub(crate) async fn older_than(&self, time: DateTime<Utc>) -> Result<Vec<Hash>, ObjectsError> {
        let mut found = Vec::new();
        let mut listed = self.inner.list(Some(&self.prefix));
        while let Some(meta) = listed.try_next().await? {
            let name = meta.location.filename().unwrap_or_default();
            if let Ok(hash) = Hash::from_str(name)
                && meta.last_modified < time
                && meta.location == self.key(&hash)
            {
                found.push(hash);
            }
        }
        Ok(found)
    }

    /// Removes scratch files that a killed process left, once they are older than this; gives how many.
    ///
    /// One that was written to in the last ten minutes may belong to an upload that is under way and stays.
    pub(crate) async fn clear_scratch(&self, age: Duration) -> Result<u64, ObjectsError> {
        let folder = self.scratch.clone();
        let old = SystemTime::now() - age.max(UNDER_WAY);
        blocking(move || {
            let mut removed = 0;
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let ours = entry.file_name().to_string_lossy().starts_with("luthier-");
                // Gone meanwhile, or not ours to read: nothing to clear up.
                let Ok(meta) = entry.metadata() else { continue };
                if ours
                    && meta.is_file()
                    && meta.modified()? < old
                    && std::fs::remove_file(entry.path()).is_ok()
                {
                    removed += 1;
                }
            }
            Ok(removed)
        })
        .await
        .map_err(ObjectsError::io(&self.scratch))
    }
}
