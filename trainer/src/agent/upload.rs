//! Files on their way to the object store.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use store::StoredFile;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::run::Run;
use super::workdir::{files_below, join_inside};

/// How long a store that does not take a file is tried again once the job's process has ended.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stores every file below `folder`; content that is there already is not sent again.
pub(super) async fn upload_folder(run: &Run<'_>, folder: &Path) -> anyhow::Result<Vec<StoredFile>> {
    let mut stored = Vec::new();
    for path in files_below(folder)? {
        let file = upload(run, &join_inside(folder, &path)?).await.with_context(|| path.clone())?;
        stored.push(StoredFile { path, hash: file.hash, bytes: file.bytes });
    }
    Ok(stored)
}

/// Stores a file, again and again while the job runs: it loses nothing by the wait.
pub(super) async fn upload(run: &Run<'_>, path: &Path) -> anyhow::Result<store::Stored> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut give_up = None;
    loop {
        let error = match run.agent.store.put_path(path).await {
            Ok(stored) => return Ok(stored),
            Err(error) => anyhow::Error::from(error),
        };
        if !path.exists() {
            return Err(error);
        }
        if *run.ended.borrow() {
            let until = *give_up.get_or_insert_with(|| Instant::now() + PATIENCE);
            if Instant::now() >= until {
                return Err(error);
            }
        }
        let wait = backoff.next();
        tracing::warn!(error = format!("{error:#}"), path = %path.display(), "a file could not be stored; trying again");
        tokio::time::sleep(wait).await;
    }
}
