//! Everything that a job reads, laid into its folder before it starts.

use std::path::Path;

use store::StoredFile;
use store::checkpoint::{self, Checkpoint};

use super::db::until_answered;
use super::run::{Run, Stop};
use super::workdir::{Note, join_inside, remove};

/// Lays out the folder of an attempt; the note says up to where its events are stored.
pub(super) async fn prepare(run: &Run<'_>) -> Result<Note, Stop> {
    let note = lay_out(run).await?;
    fetch_checkpoints(run).await?;
    trim(run);
    Ok(note)
}

/// What every machine of a job needs; the one that holds it hands checkpoints to the others.
pub(super) async fn lay_out(run: &Run<'_>) -> Result<Note, Stop> {
    let spec = serde_json::to_value(run.lease.spec()).map_err(|error| unprepared("its settings", error))?;
    let note = run.dir.lay(&spec, run.lease.attempt).map_err(|error| unprepared("its folder", error))?;
    place_all(run, &run.lease.files, run.dir.path()).await?;
    if let Err(error) = run.dir.link_cache(run.agent.cache.folder()) {
        tracing::warn!(%error, "the job has no cache for its tokenized rows");
    }
    trim(run);
    Ok(note)
}

fn trim(run: &Run<'_>) {
    if let Err(error) = run.agent.cache.trim() {
        tracing::warn!(%error, "the cache of artifacts could not be trimmed");
    }
}

/// Fetches the newest stored checkpoint, from which the job goes on, and the best one, which its end may need, unless
/// this folder has got as far by itself.
async fn fetch_checkpoints(run: &Run<'_>) -> Result<(), Stop> {
    let local = run.dir.local_checkpoints();
    let newest_here = local.iter().max().copied().unwrap_or(-1);
    let (db, job) = (&run.agent.store.db, run.lease.job_id());
    let latest = until_answered("looking for checkpoints", || checkpoint::latest(db, job)).await;
    let Some(latest) = latest.map_err(|error| unprepared("its newest checkpoint", error))? else {
        return Ok(());
    };
    let best = until_answered("looking for checkpoints", || checkpoint::best(db, job)).await;
    let best = best.map_err(|error| unprepared("its best checkpoint", error))?;
    if let Some(best) = best.filter(|best| best.step != latest.step && !local.contains(&best.step)) {
        fetch(run, &best).await?;
    }
    if latest.step > newest_here {
        fetch(run, &latest).await?;
    }
    Ok(())
}

/// The folder appears in one step: one that is half fetched must not be taken for a checkpoint.
async fn fetch(run: &Run<'_>, found: &Checkpoint) -> Result<(), Stop> {
    let what = format!("the checkpoint of step {}", found.step);
    let files = until_answered("looking for a checkpoint's files", || {
        checkpoint::files(&run.agent.store.db, found.checkpoint_id)
    })
    .await
    .map_err(|error| unprepared(&what, error))?;
    let partial = run.dir.path().join("fetching");
    remove(&partial).map_err(|error| unprepared(&what, error))?;
    place_all(run, &files, &partial).await?;
    let target = run.dir.checkpoint(found.step);
    let moved =
        std::fs::create_dir_all(run.dir.checkpoints()).and_then(|()| std::fs::rename(&partial, &target));
    moved.map_err(|error| unprepared(&what, error))?;
    tracing::info!(job.step = found.step, "fetched a checkpoint");
    Ok(())
}

async fn place_all(run: &Run<'_>, files: &[StoredFile], folder: &Path) -> Result<(), Stop> {
    for file in files {
        let to = join_inside(folder, &file.path).map_err(|error| unprepared(&file.path, error))?;
        let bytes = file.bytes.cast_unsigned();
        let placed = run.agent.cache.place(&run.agent.store.objects, &file.hash, bytes, &to).await;
        placed.map_err(|error| unprepared(&file.path, format!("{error:#}")))?;
    }
    Ok(())
}

fn unprepared(what: &str, error: impl std::fmt::Display) -> Stop {
    Stop::failed("job_not_prepared", &format!("The agent could not prepare {what}"), error)
}
