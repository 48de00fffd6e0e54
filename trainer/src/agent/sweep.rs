//! Work folders that are no longer needed.

use std::path::PathBuf;
use std::time::SystemTime;

use store::PgPool;
use store::job::{self, Status};

use super::workdir::WorkDir;

/// Folders of jobs that may go on here; what they hold is stored, so that the oldest can go.
const MOST_WAITING: usize = 3;
/// Folders of failed jobs, for whoever looks into a failure.
const MOST_FAILED: usize = 1;

/// Removes the folders of finished jobs and the oldest of the others.
pub(super) async fn sweep(db: &PgPool, work: &std::path::Path) -> anyhow::Result<()> {
    let mut waiting = Vec::new();
    let mut failed = Vec::new();
    for entry in std::fs::read_dir(work)?.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let changed = entry.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        match job::get(db, id).await?.map(|job| job.status) {
            Some(Status::Failed) => failed.push((changed, entry.path())),
            Some(status) if !status.is_final() => waiting.push((changed, entry.path())),
            _ => remove(entry.path()),
        }
    }
    for (mut folders, most) in [(waiting, MOST_WAITING), (failed, MOST_FAILED)] {
        folders.sort();
        let over = folders.len().saturating_sub(most);
        folders.drain(..over).for_each(|(_, folder)| remove(folder));
    }
    Ok(())
}

fn remove(folder: PathBuf) {
    tracing::info!(folder = %folder.display(), "removing a work folder that is no longer needed");
    let (Some(work), Some(name)) = (folder.parent(), folder.file_name().and_then(|name| name.to_str()))
    else {
        return;
    };
    if let Err(error) = WorkDir::new(work, name).remove() {
        tracing::warn!(%error, folder = %folder.display(), "a work folder could not be removed");
    }
}
