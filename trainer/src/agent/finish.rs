//! The finished model or artefact on its way to the store, and the job's good end.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use formats::checkpoint::CheckpointInfo;
use serde_json::Value;
use store::export;
use store::queue::{self, Finished, ResultFile};
use store::spec::Work;

use super::db::until_answered;
use super::outcome::Success;
use super::run::{Run, Stop};
use super::supervise::Over;
use super::upload::{upload, upload_folder};
use super::workdir::join_inside;

/// The curves as CSV within the finished model, and the name that they have as a file of their own.
const CURVES: (&str, &str) = ("metrics.csv", "step_metrics.csv");

/// Stores what was made, then ends the job in one fenced statement.
pub(super) async fn finish(run: &Run<'_>, success: Success) -> Result<Over, Stop> {
    let (db, lease) = (&run.agent.store.db, &run.lease);
    let not_stored = |error: anyhow::Error| {
        Stop::failed("model_not_stored", "What was made could not be stored", format!("{error:#}"))
    };
    let told = match run.lease.spec().work {
        Work::Train => {
            let end = finished(run, success).await.map_err(not_stored)?;
            until_answered("finishing the job", || queue::finish(db, lease, &end)).await
        }
        Work::Export(_) => {
            let end = exported(run, success).await.map_err(not_stored)?;
            until_answered("finishing the job", || export::finish(db, lease, &end)).await
        }
    };
    match told {
        Ok(true) => Ok(Over::Succeeded),
        Ok(false) => Err(run.lost()),
        Err(error) => Err(Stop::failed("model_not_stored", "The job could not be finished", error)),
    }
}

async fn exported(run: &Run<'_>, success: Success) -> Result<export::Finished> {
    let name = success.artifact.context("the result names no artefact")?;
    let files = upload_folder(run, &join_inside(&run.dir.out(), &name)?).await?;
    anyhow::ensure!(!files.is_empty(), "the folder of the artefact is empty");
    let certificate = success.certificate.context("the result has no certificate")?;
    // Without a word of that it was not judged, and nobody is to take it for good.
    Ok(export::Finished { files, certificate, ready: success.ready.unwrap_or(false) })
}

async fn finished(run: &Run<'_>, success: Success) -> Result<Finished> {
    let name = success.model.context("the result names no model")?;
    let folder = join_inside(&run.dir.out(), &name)?;
    let files = upload_folder(run, &folder).await?;
    anyhow::ensure!(!files.is_empty(), "the folder of the model is empty");
    let curves = folder.join(CURVES.0);
    let result_file = match curves.exists() {
        true => Some(ResultFile { name: CURVES.1.to_owned(), content: upload(run, &curves).await? }),
        false => None,
    };
    let about = inspect(&folder).await?;
    Ok(Finished {
        files,
        result_file,
        metrics: Value::Object(success.metrics),
        steps: success.steps,
        best_step: success.best_step,
        trained_tokens: success.trained_tokens,
        manifest: success.manifest,
        architecture: about.architectures.first().cloned(),
        parameters: i64::try_from(about.parameters).ok(),
        report: serde_json::to_value(&about)?,
    })
}

/// Looks at a checkpoint folder as at an uploaded one.
pub(super) async fn inspect(folder: &Path) -> Result<CheckpointInfo> {
    let folder: PathBuf = folder.to_owned();
    Ok(tokio::task::spawn_blocking(move || formats::checkpoint::inspect_checkpoint(&folder)).await?)
}
