//! Models: uploaded ones, tuned ones, and checkpoints by name.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool};

pub use crate::file::Deleted;
use crate::ids::JobId;
use crate::objects::Hash;
use crate::text::{clean, clean_json};
use crate::{Page, StoredFile};

/// Where a model comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum ModelKind {
    /// Uploaded.
    Base,
    /// The result of a job.
    Tuned,
    /// A checkpoint of a job.
    Checkpoint,
}

impl ModelKind {
    /// The word used in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            ModelKind::Base => "base",
            ModelKind::Tuned => "tuned",
            ModelKind::Checkpoint => "checkpoint",
        }
    }
}

/// A model that is about to be kept; its files are in the object store already.
#[derive(Clone, Debug)]
pub struct NewModel {
    /// Its id; for an uploaded one, see [`check_id`].
    pub model_id: String,
    /// Where it comes from.
    pub kind: ModelKind,
    /// The task's tag, where it has a head.
    pub task: Option<String>,
    /// `BertForSequenceClassification`, …
    pub architecture: Option<String>,
    /// Number of weights.
    pub parameters: Option<i64>,
    /// What it was tuned from.
    pub base_model: Option<String>,
    /// The job that made it.
    pub job_id: Option<JobId>,
    /// The optimizer step of its weights.
    pub step: Option<i64>,
    /// Its evaluation.
    pub metrics: Value,
    /// What inspection found.
    pub report: Value,
    /// Its files, relative to its folder.
    pub files: Vec<StoredFile>,
}

/// A model.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// Its id.
    pub model_id: String,
    /// Where it comes from.
    pub kind: ModelKind,
    /// The task's tag, where it has a head.
    pub task: Option<String>,
    /// `BertForSequenceClassification`, …
    pub architecture: Option<String>,
    /// Number of weights.
    pub parameters: Option<i64>,
    /// Size of all its files.
    pub bytes: i64,
    /// What it was tuned from.
    pub base_model: Option<String>,
    /// The job that made it.
    pub job_id: Option<JobId>,
    /// The optimizer step of its weights.
    pub step: Option<i64>,
    /// Its evaluation.
    pub metrics: Value,
    /// What inspection found.
    pub report: Value,
    /// When it came.
    pub created_at: DateTime<Utc>,
}

/// An id that a person may not give to a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadModelId {
    /// Too long, empty, or with other characters.
    #[error("a model id has 1 to 96 characters out of A-Z a-z 0-9 . _ -, found \"{0}\"")]
    Characters(String),
    /// Only dots, which is a folder.
    #[error("a model id needs a letter or a digit, found \"{0}\"")]
    Dots(String),
}

/// Checks an id that a person gives to an uploaded model.
pub fn check_id(id: &str) -> Result<(), BadModelId> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let shown = || id.chars().take(100).collect();
    if id.is_empty() || id.len() > 96 || !id.chars().all(allowed) {
        return Err(BadModelId::Characters(shown()));
    }
    if !id.contains(|c: char| c.is_ascii_alphanumeric()) {
        return Err(BadModelId::Dots(shown()));
    }
    Ok(())
}

/// The name of the model that a job makes: `ft:{base}:luthier:{suffix}:{short}`.
///
/// A base that is itself tuned gives its own base's name, so that names do not grow.
pub fn tuned_id(base: &str, suffix: Option<&str>, job: JobId) -> String {
    let root = match base.strip_prefix("ft:") {
        Some(rest) => rest.split(':').next().unwrap_or(rest),
        None => base,
    };
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }
    };
    let suffix: String = suffix.unwrap_or_default().chars().take(64).map(keep).collect();
    format!("ft:{root}:luthier:{suffix}:{}", job.short())
}

/// The name of a checkpoint's weights as a model.
pub fn checkpoint_id(tuned: &str, step: i64) -> String {
    format!("{tuned}:ckpt-step-{step}")
}

/// Why a model was not kept.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The id is in use.
    #[error("there is a model \"{0}\" already; choose another id or delete that one")]
    Taken(String),
    /// The database's own error.
    #[error(transparent)]
    Db(#[from] sqlx::Error),
}

/// Keeps a model with its files, in one transaction.
pub async fn create(db: &PgPool, model: &NewModel) -> Result<Model, CreateError> {
    let mut tx = db.begin().await?;
    if !insert(&mut tx, model).await? {
        return Err(CreateError::Taken(model.model_id.clone()));
    }
    let made = get(&mut *tx, &model.model_id).await?.ok_or(sqlx::Error::RowNotFound)?;
    tx.commit().await?;
    Ok(made)
}

/// Makes the rows; false when the id is in use.
pub(crate) async fn insert(conn: &mut PgConnection, model: &NewModel) -> sqlx::Result<bool> {
    let bytes: i64 = model.files.iter().map(|file| file.bytes).sum();
    let made = sqlx::query!(
        "insert into model (model_id, kind, task, architecture, parameters, bytes, base_model, job_id, step, metrics,
            report)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict (model_id) do nothing",
        model.model_id,
        model.kind.as_str(),
        model.task,
        model.architecture.as_deref().map(clean),
        model.parameters,
        bytes,
        model.base_model,
        model.job_id.map(|job| job.0),
        model.step,
        clean_json(&model.metrics),
        clean_json(&model.report),
    )
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 0 {
        return Ok(false);
    }
    let (paths, hashes, sizes) = columns(&model.files);
    sqlx::query!(
        "insert into model_file (model_id, path, hash, bytes)
        select $1, path, hash, bytes from unnest($2::text[], $3::text[], $4::bigint[]) as f (path, hash, bytes)",
        model.model_id,
        &paths,
        &hashes,
        &sizes,
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// Files as columns, for `unnest`.
pub(crate) fn columns(files: &[StoredFile]) -> (Vec<String>, Vec<String>, Vec<i64>) {
    let paths = files.iter().map(|file| clean(&file.path)).collect();
    let hashes = files.iter().map(|file| file.hash.as_str().to_owned()).collect();
    let sizes = files.iter().map(|file| file.bytes).collect();
    (paths, hashes, sizes)
}

/// Finds a model.
pub async fn get(db: impl PgExecutor<'_>, id: &str) -> sqlx::Result<Option<Model>> {
    sqlx::query_as!(
        Model,
        r#"select model_id, kind as "kind: ModelKind", task, architecture, parameters, bytes, base_model,
            job_id as "job_id: JobId", step, metrics, report, created_at
        from model where model_id = $1"#,
        id
    )
    .fetch_optional(db)
    .await
}

/// A model's files, by path.
pub async fn files(db: impl PgExecutor<'_>, id: &str) -> sqlx::Result<Vec<StoredFile>> {
    sqlx::query_as!(
        StoredFile,
        r#"select path, hash as "hash: Hash", bytes from model_file where model_id = $1 order by path"#,
        id
    )
    .fetch_all(db)
    .await
}

/// A model that has all of these files among its own: `preferred` where it has them, else the oldest one.
///
/// Adapters are none, as their weights are not whole.
pub async fn holding(
    db: impl PgExecutor<'_>,
    files: &[StoredFile],
    preferred: Option<&str>,
) -> sqlx::Result<Option<String>> {
    let (paths, hashes, _) = columns(files);
    sqlx::query_scalar!(
        r#"select model.model_id
        from model_file file
            join unnest($1::text[], $2::text[]) as wanted (path, hash)
                on wanted.path = file.path and wanted.hash = file.hash
            join model using (model_id)
        where not exists (
            select from model_file adapter
            where adapter.model_id = model.model_id and adapter.path = 'adapter_config.json'
        )
        group by model.model_id
        having count(*) = cardinality($1::text[])
        order by model.model_id is distinct from $3, model.created_at, model.model_id
        limit 1"#,
        &paths,
        &hashes,
        preferred,
    )
    .fetch_optional(db)
    .await
}

/// Which models to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those older than this one.
    pub after: Option<String>,
    /// Those of this kind.
    pub kind: Option<ModelKind>,
    /// Those made by this job.
    pub job_id: Option<JobId>,
}

/// Lists models, newest first.
pub async fn list(db: impl PgExecutor<'_>, filter: &Filter, limit: i64) -> sqlx::Result<Page<Model>> {
    let models = sqlx::query_as!(
        Model,
        r#"select model_id, kind as "kind: ModelKind", task, architecture, parameters, bytes, base_model,
            job_id as "job_id: JobId", step, metrics, report, created_at
        from model
        where ($1::text is null
                or (created_at, model_id) < (select created_at, model_id from model where model_id = $1))
            and ($2::text is null or kind = $2)
            and ($3::uuid is null or job_id = $3)
        order by created_at desc, model_id desc
        limit $4"#,
        filter.after.as_deref(),
        filter.kind.map(ModelKind::as_str),
        filter.job_id.map(|job| job.0),
        limit + 1,
    )
    .fetch_all(db)
    .await?;
    Ok(Page::of(models, limit))
}

/// Deletes a model, unless a job that has not ended starts from it; its bytes go with the next sweep.
pub async fn delete(db: &PgPool, id: &str) -> sqlx::Result<Deleted> {
    let mut tx = db.begin().await?;
    // Waits for a job that is being created with it, which holds the row.
    let found = sqlx::query!("select model_id from model where model_id = $1 for update", id)
        .fetch_optional(&mut *tx)
        .await?;
    if found.is_none() {
        return Ok(Deleted::Missing);
    }
    let job = sqlx::query_scalar!(
        r#"select job_id as "job_id: JobId" from job
        where status in ('queued', 'running', 'paused') and model_id = $1 limit 1"#,
        id
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(job) = job {
        return Ok(Deleted::Needed(job));
    }
    sqlx::query!("delete from model where model_id = $1", id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Deleted::Done)
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuned_name_has_one_base_and_no_odd_character() {
        let job = JobId::new();
        let first = tuned_id("minilm", Some("my reviews/1"), job);
        assert_eq!(first, format!("ft:minilm:luthier:my-reviews-1:{}", job.short()));
        let again = tuned_id(&checkpoint_id(&first, 50), None, job);
        assert_eq!(again, format!("ft:minilm:luthier::{}", job.short()));
    }

    #[test]
    fn an_id_that_is_a_path_is_refused() {
        assert!(check_id("all-MiniLM-L6_v2.1").is_ok());
        for bad in ["", "a/b", "..", ".", "a b", "ä", "a:b", &"x".repeat(97)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
