//! Uploaded files, and those that jobs make.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgExecutor, PgPool};

use crate::Page;
use crate::ids::{FileId, JobId};
use crate::objects::{Hash, Stored};
use crate::text::{clean, clean_json};

/// Whether a file can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum FileStatus {
    /// Here, not looked at yet.
    Uploaded,
    /// Looked at and usable.
    Processed,
    /// Unusable; `status_details` says why.
    Error,
}

impl FileStatus {
    /// The word used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            FileStatus::Uploaded => "uploaded",
            FileStatus::Processed => "processed",
            FileStatus::Error => "error",
        }
    }
}

/// What inspection found.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Usable or not.
    pub status: FileStatus,
    /// The sentence that says why not; needed with [`FileStatus::Error`].
    pub details: Option<String>,
    /// Format, columns, rows, problems.
    pub report: Option<Value>,
}

/// A file that is about to be kept; its bytes are in the object store already.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// The name that its sender gave it.
    pub name: String,
    /// `fine-tune`, `fine-tune-results`, …
    pub purpose: String,
    /// Its content.
    pub content: Stored,
    /// When it may be deleted.
    pub expires_at: Option<DateTime<Utc>>,
    /// What inspection found, where that was before the row.
    pub inspected: Option<Inspected>,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct File {
    /// Its id.
    pub file_id: FileId,
    /// The name that its sender gave it.
    pub name: String,
    /// `fine-tune`, `fine-tune-results`, …
    pub purpose: String,
    /// SHA-256 of its content.
    pub hash: Hash,
    /// Size.
    pub bytes: i64,
    /// Whether it can be used.
    pub status: FileStatus,
    /// Why not.
    pub status_details: Option<String>,
    /// What inspection found.
    pub report: Option<Value>,
    /// When it came.
    pub created_at: DateTime<Utc>,
    /// When it may be deleted.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Makes a row for stored content.
pub async fn create(db: impl PgExecutor<'_>, file: &NewFile) -> sqlx::Result<File> {
    let inspected = file.inspected.as_ref();
    sqlx::query_as!(
        File,
        r#"insert into file (file_id, name, purpose, hash, bytes, expires_at, status, status_details, report)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        returning file_id as "file_id: FileId", name, purpose, hash as "hash: Hash", bytes,
            status as "status: FileStatus", status_details, report, created_at, expires_at"#,
        FileId::new().0,
        clean(&file.name),
        file.purpose,
        file.content.hash.as_str(),
        file.content.bytes,
        file.expires_at,
        inspected.map_or(FileStatus::Uploaded, |i| i.status).as_str(),
        inspected.and_then(|i| i.details.as_deref()).map(clean),
        inspected.and_then(|i| i.report.as_ref()).map(clean_json),
    )
    .fetch_one(db)
    .await
}

/// Writes down what inspection found; false when the file is gone.
pub async fn set_inspected(db: impl PgExecutor<'_>, file: FileId, found: &Inspected) -> sqlx::Result<bool> {
    sqlx::query!(
        "update file set status = $2, status_details = $3, report = $4 where file_id = $1",
        file.0,
        found.status.as_str(),
        found.details.as_deref().map(clean),
        found.report.as_ref().map(clean_json),
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Finds a file.
pub async fn get(db: impl PgExecutor<'_>, file: FileId) -> sqlx::Result<Option<File>> {
    sqlx::query_as!(
        File,
        r#"select file_id as "file_id: FileId", name, purpose, hash as "hash: Hash", bytes,
            status as "status: FileStatus", status_details, report, created_at, expires_at
        from file where file_id = $1"#,
        file.0
    )
    .fetch_optional(db)
    .await
}

/// Which files to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those behind this one, in the order of the list.
    pub after: Option<FileId>,
    /// Those of this purpose.
    pub purpose: Option<String>,
    /// Oldest first, instead of newest.
    pub ascending: bool,
}

/// Lists files.
pub async fn list(db: impl PgExecutor<'_>, filter: &Filter, limit: i64) -> sqlx::Result<Page<File>> {
    let files = sqlx::query_as!(
        File,
        r#"select file_id as "file_id: FileId", name, purpose, hash as "hash: Hash", bytes,
            status as "status: FileStatus", status_details, report, created_at, expires_at
        from file
        where ($1::uuid is null or case when $3 then file_id > $1 else file_id < $1 end)
            and ($2::text is null or purpose = $2)
        order by case when $3 then file_id end, case when not $3 then file_id end desc
        limit $4"#,
        filter.after.map(|file| file.0),
        filter.purpose.as_deref(),
        filter.ascending,
        limit + 1,
    )
    .fetch_all(db)
    .await?;
    Ok(Page::of(files, limit))
}

/// What became of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Done,
    /// There was none.
    Missing,
    /// This job, which has not ended, needs it.
    Needed(JobId),
}

/// Deletes a file, unless a job that has not ended needs it; its bytes go with the next sweep.
pub async fn delete(db: &PgPool, file: FileId) -> sqlx::Result<Deleted> {
    let mut tx = db.begin().await?;
    // Waits for a job that is being created with it, which holds the row.
    let found = sqlx::query!("select file_id from file where file_id = $1 for update", file.0)
        .fetch_optional(&mut *tx)
        .await?;
    if found.is_none() {
        return Ok(Deleted::Missing);
    }
    let job = sqlx::query_scalar!(
        r#"select job_id as "job_id: JobId" from job
        where status in ('queued', 'running', 'paused') and $1 in (training_file, validation_file, test_file)
        limit 1"#,
        file.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(job) = job {
        return Ok(Deleted::Needed(job));
    }
    sqlx::query!("delete from file where file_id = $1", file.0).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Deleted::Done)
}

/// Files whose time is over; delete each with [`delete`].
pub async fn expired(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<FileId>> {
    sqlx::query_scalar!(
        r#"select file_id as "file_id: FileId" from file where expires_at < now() order by expires_at"#
    )
    .fetch_all(db)
    .await
}
