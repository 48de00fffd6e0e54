//! Whether the object store that this agent was given is that of its database.

use std::time::Duration;

use anyhow::Context;
use store::Store;
use store::marker::MarkerError;

use super::db::is_outage;

/// A server that starts lays out its tables first and marks its store a moment later.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

/// Waits for a server that is still starting; refuses a store that no server has marked, or another one.
pub(super) async fn check(store: &Store) -> anyhow::Result<()> {
    let mut missing = 0;
    loop {
        match store.check_mark().await {
            Ok(()) => return Ok(()),
            Err(error @ MarkerError::Missing { .. }) => {
                missing += 1;
                if missing == TRIES {
                    return Err(error).context("this trainer cannot start");
                }
            }
            Err(MarkerError::Db(error)) if is_outage(&error) || is_unmade(&error) => {
                tracing::warn!(%error, "the database is not ready; trying again");
            }
            Err(error) => return Err(error).context("this trainer cannot start"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the tables are not there yet.
fn is_unmade(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("42P01"))
}
