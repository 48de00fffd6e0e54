//! Exports: models in other formats, made by jobs, each with a certificate of what it is worth.
//!
//! The job has the queue's side (leases, retries, events), the export what comes out. Both have the same number.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::event::{Level, note};
use crate::ids::{ExportId, JobId};
use crate::job::{Asked, Status};
use crate::model::{Model, columns};
use crate::queue::enqueue::insert;
use crate::queue::{EnqueueError, Lease, NewJob};
use crate::spec::{self, DataFiles, JobSpec, Resources, Task, Work};
use crate::text::clean_json;
use crate::{Page, StoredFile};

/// Failures by our fault after which an export is given up.
const ATTEMPTS: i32 = 3;

/// An export, and how far it is.
#[derive(Clone, Debug, Serialize)]
pub struct Export {
    /// Its id.
    pub export_id: ExportId,
    /// What is exported.
    pub model_id: String,
    /// What is written.
    pub format: String,
    /// How numbers are kept; none for an adapter.
    pub number_kind: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// What someone asked of it while it runs.
    pub asked: Option<Asked>,
    /// What the trainer is at: loading, writing, checking, …
    pub phase: Option<String>,
    /// How far that is: `done`, `of`, `what`.
    pub progress: Value,
    /// Size of its files, once it is made.
    pub bytes: Option<i64>,
    /// What came of loading it again and comparing it with the model.
    pub certificate: Option<Value>,
    /// Whether all of that lies within the format's bounds.
    pub ready: Option<bool>,
    /// Why it failed.
    pub error: Option<Value>,
    /// Claims so far.
    pub attempt: i32,
    /// Who holds it or held it last.
    pub agent_name: Option<String>,
    /// What it runs or ran on.
    pub device: Option<String>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was first claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// An export that was asked for, or that was there already.
#[derive(Clone, Debug)]
pub struct Made {
    /// The export.
    pub export: Export,
    /// False when an earlier request had asked for it.
    pub created: bool,
}

/// Asks for an export, unless the same one is made or under way.
///
/// It reads the files of the job that tuned the model as long as they are kept, so that the rows held out there are the
/// ones that it is checked on; `task` is what a model without such a job is there for.
pub async fn create(
    db: &PgPool,
    model: &Model,
    wanted: spec::Export,
    task: Task,
) -> Result<Made, EnqueueError> {
    let mut tx = db.begin().await?;
    let missing = || EnqueueError::Missing { param: "model", id: model.model_id.clone() };
    // One at a time for a model: two requests for the same are one export.
    sqlx::query!("select model_id from model where model_id = $1 for update", model.model_id)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(missing)?;
    if let Some(id) = same(&mut tx, &model.model_id, wanted).await? {
        let export = get(&mut *tx, id).await?.ok_or(sqlx::Error::RowNotFound)?;
        return Ok(Made { export, created: false });
    }
    let (spec, source) = spec_of(&mut tx, model, wanted, task).await?;
    let job = insert(&mut tx, &new_job(model, spec), None).await?.job_id;
    if let Some(source) = source {
        copy_data(&mut tx, source, job).await?;
    }
    let id = ExportId::of(job);
    sqlx::query!(
        "insert into export (export_id, model_id, format, number_kind) values ($1, $2, $3, $4)",
        id.0,
        model.model_id,
        wanted.format.as_str(),
        wanted.kind.map(|kind| kind.name()),
    )
    .execute(&mut *tx)
    .await?;
    let export = get(&mut *tx, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    tx.commit().await?;
    Ok(Made { export, created: true })
}

/// An export of the same, made or under way.
async fn same(conn: &mut PgConnection, model: &str, wanted: spec::Export) -> sqlx::Result<Option<ExportId>> {
    sqlx::query_scalar!(
        r#"select export_id as "export_id: ExportId" from export join job on job.job_id = export.export_id
        where export.model_id = $1 and format = $2 and number_kind is not distinct from $3
            and status in ('queued', 'running', 'succeeded') and asked is distinct from 'cancel'
        order by export_id desc limit 1"#,
        model,
        wanted.format.as_str(),
        wanted.kind.map(|kind| kind.name()),
    )
    .fetch_optional(conn)
    .await
}

/// The settings of the job that tuned the model, with other work to do, and that job where its files are all there.
async fn spec_of(
    conn: &mut PgConnection,
    model: &Model,
    wanted: spec::Export,
    task: Task,
) -> sqlx::Result<(JobSpec, Option<JobId>)> {
    let source = match model.job_id {
        Some(job) => crate::job::get(&mut *conn, job).await?,
        None => None,
    };
    let Some(source) = source else {
        return Ok((plain(task, model, wanted), None));
    };
    let tuned = source.spec.0;
    let kept: Vec<String> =
        crate::job::inputs(conn, source.job_id).await?.into_iter().map(|file| file.path).collect();
    let DataFiles { train, validation, test } = &tuned.data;
    let mut names = [Some(train), validation.as_ref(), test.as_ref()].into_iter().flatten();
    let is_whole = names.all(|name| kept.iter().any(|path| path.strip_prefix("data/") == Some(name)));
    let resources = Resources { device: tuned.resources.device, ..Resources::default() };
    let data = if is_whole { tuned.data.clone() } else { DataFiles::default() };
    let (work, base_model) = (Work::Export(wanted), model.model_id.clone());
    let spec = JobSpec { work, resources, data, base_model, name: String::new(), ..tuned };
    Ok((spec, is_whole.then_some(source.job_id)))
}

/// Settings of a model that no job of ours has tuned.
fn plain(task: Task, model: &Model, wanted: spec::Export) -> JobSpec {
    JobSpec {
        work: Work::Export(wanted),
        task,
        problem_type: None,
        columns: Default::default(),
        data: DataFiles::default(),
        split: Default::default(),
        training: Default::default(),
        resources: Resources::default(),
        seed: 0,
        base_model: model.model_id.clone(),
        name: String::new(),
    }
}

fn new_job(model: &Model, spec: JobSpec) -> NewJob {
    NewJob {
        spec,
        suffix: None,
        model_id: model.model_id.clone(),
        training_file: None,
        validation_file: None,
        test_file: None,
        metadata: Default::default(),
        priority: 0,
        max_attempts: ATTEMPTS,
        request: json!({}),
        manifest: json!({}),
        notes: Vec::new(),
    }
}

async fn copy_data(conn: &mut PgConnection, from: JobId, to: JobId) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into job_input (job_id, path, hash, bytes)
        select $2, path, hash, bytes from job_input where job_id = $1 and starts_with(path, 'data/')",
        from.0,
        to.0,
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Finds an export.
pub async fn get(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Option<Export>> {
    sqlx::query_as!(
        Export,
        r#"select export_id as "export_id: ExportId", export.model_id, format, number_kind,
            status as "status: Status", asked as "asked: Asked", phase, progress, export.bytes, certificate, ready, error,
            attempt, agent_name, device, job.created_at, started_at, finished_at
        from export join job on job.job_id = export.export_id
        where export_id = $1"#,
        id.0
    )
    .fetch_optional(db)
    .await
}

/// Exports of a model, newest first.
pub async fn list(
    db: impl PgExecutor<'_>,
    model: &str,
    after: Option<ExportId>,
    limit: i64,
) -> sqlx::Result<Page<Export>> {
    let exports = sqlx::query_as!(
        Export,
        r#"select export_id as "export_id: ExportId", export.model_id, format, number_kind,
            status as "status: Status", asked as "asked: Asked", phase, progress, export.bytes, certificate, ready, error,
            attempt, agent_name, device, job.created_at, started_at, finished_at
        from export join job on job.job_id = export.export_id
        where export.model_id = $1 and ($2::uuid is null or export_id < $2)
        order by export_id desc limit $3"#,
        model,
        after.map(|export| export.0),
        limit + 1,
    )
    .fetch_all(db)
    .await?;
    Ok(Page::of(exports, limit))
}

/// An export's files, by path; none before it is made.
pub async fn files(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Vec<StoredFile>> {
    sqlx::query_as!(
        StoredFile,
        r#"select path, hash as "hash: crate::Hash", bytes from export_file where export_id = $1 order by path"#,
        id.0
    )
    .fetch_all(db)
    .await
}

/// What a job of this kind leaves behind when it ends well; all files are in the object store already.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The artefact, relative to its folder.
    pub files: Vec<StoredFile>,
    /// What came of loading it again and comparing it with the model.
    pub certificate: Value,
    /// Whether all of that lies within the format's bounds.
    pub ready: bool,
}

/// Ends an export well: its files, its certificate and its status in one transaction. False: the lease is lost, nothing is
/// kept.
pub async fn finish(db: &PgPool, held: &Lease, end: &Finished) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    let id = ExportId::of(held.job_id());
    let ended = sqlx::query!(
        "update job set status = 'succeeded', phase = null, asked = null, agent_id = null, lease_until = null,
            finished_at = now(), last_event_at = now()
        where job_id = $1 and agent_id = $2 and attempt = $3 and status = 'running'",
        id.0,
        held.agent.0,
        held.attempt,
    )
    .execute(&mut *tx)
    .await?;
    if ended.rows_affected() == 0 {
        return Ok(false);
    }
    let bytes: i64 = end.files.iter().map(|file| file.bytes).sum();
    sqlx::query!(
        "update export set certificate = $2, ready = $3, bytes = $4 where export_id = $1",
        id.0,
        Json(clean_json(&end.certificate)) as _,
        end.ready,
        bytes,
    )
    .execute(&mut *tx)
    .await?;
    let (paths, hashes, sizes) = columns(&end.files);
    sqlx::query!(
        "insert into export_file (export_id, path, hash, bytes)
        select $1, path, hash, bytes from unnest($2::text[], $3::text[], $4::bigint[]) as f (path, hash, bytes)",
        id.0,
        &paths,
        &hashes,
        &sizes,
    )
    .execute(&mut *tx)
    .await?;
    let message = match end.ready {
        true => "The export is made, and ready.",
        false => "The export is made, but lies beyond a bound of its certificate.",
    };
    let level = if end.ready { Level::Info } else { Level::Warn };
    note(&mut tx, held.job_id(), level, message, &json!({"export": id, "ready": end.ready})).await?;
    tx.commit().await?;
    Ok(true)
}

/// What became of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone; its bytes go with the next sweep.
    Done,
    /// There was none.
    Missing,
    /// It has not ended.
    Alive,
}

/// Deletes an export that has ended, with its job.
pub async fn delete(db: &PgPool, id: ExportId) -> sqlx::Result<Deleted> {
    let mut tx = db.begin().await?;
    let ended = sqlx::query_scalar!(
        r#"select status in ('succeeded', 'failed', 'cancelled') as "ended!" from job
        where job_id = $1 and kind = 'export' for update"#,
        id.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    match ended {
        None => return Ok(Deleted::Missing),
        Some(false) => return Ok(Deleted::Alive),
        Some(true) => {}
    }
    sqlx::query!("delete from job where job_id = $1", id.0).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Deleted::Done)
}
