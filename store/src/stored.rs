//! Bytes and rows together: content is kept by the object store and named by the table `object`.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use sqlx::PgPool;

use crate::Store;
use crate::idempotency::interval;
use crate::objects::{Hash, ObjectsError, Scratch, Stored};

/// Why content was not kept.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The bytes.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The row.
    #[error(transparent)]
    Db(#[from] sqlx::Error),
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects that no row needed.
    pub objects: u64,
    /// Bytes of these.
    pub bytes: i64,
    /// Objects without a row, left by a process that died between the two.
    pub strays: u64,
    /// Scratch files left by processes that died.
    pub scratch: u64,
}

impl Store {
    /// Keeps a stream; the same content is kept once. More than `limit` bytes are refused.
    pub async fn put_stream<S, E>(&self, stream: S, limit: Option<u64>) -> Result<Stored, PutError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let scratch = self.objects.receive(stream, limit).await?;
        self.keep(&scratch).await
    }

    /// Keeps a copy of a local file.
    pub async fn put_path(&self, path: &Path) -> Result<Stored, PutError> {
        let scratch = self.objects.receive_path(path).await?;
        self.keep(&scratch).await
    }

    /// Keeps bytes.
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<Stored, PutError> {
        let stream = futures::stream::iter([Ok::<_, std::convert::Infallible>(bytes)]);
        self.put_stream(stream, None).await
    }

    /// Keeps what [`crate::Objects::receive`] took in, after a look at it.
    pub async fn keep(&self, scratch: &Scratch) -> Result<Stored, PutError> {
        loop {
            self.objects.keep(scratch).await?;
            if self.name(scratch.stored()).await? {
                return Ok(scratch.stored().clone());
            }
            // A sweep took the same content away in between, as old and idle; now it is neither.
        }
    }

    /// Makes or renews the row of stored content; false when its bytes are gone.
    async fn name(&self, stored: &Stored) -> Result<bool, PutError> {
        let mut tx = self.db.begin().await?;
        // Waits for a sweep that is at this content, which holds the row; from here on none can take it.
        sqlx::query!(
            "insert into object (hash, bytes) values ($1, $2) on conflict (hash) do update set touched_at = now()",
            stored.hash.as_str(),
            stored.bytes
        )
        .execute(&mut *tx)
        .await?;
        if !self.objects.has(&stored.hash).await? {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Removes what nothing needs and nobody has sent for `age`: objects, stray bytes, scratch files.
    ///
    /// `age` must be longer than the time between an upload and the row that needs it; a day is usual.
    pub async fn sweep(&self, age: Duration) -> Result<Swept, PutError> {
        let mut swept = Swept { scratch: self.objects.clear_scratch(age).await?, ..Swept::default() };
        self.forget_inputs(age).await?;
        while let Some(bytes) = self.sweep_one(age).await? {
            swept.objects += 1;
            swept.bytes += bytes;
        }
        let old = chrono::Utc::now() - chrono::Duration::from_std(age).unwrap_or(chrono::Duration::MAX / 2);
        for hash in self.objects.older_than(old).await? {
            if self.sweep_stray(&hash).await? {
                swept.strays += 1;
            }
        }
        Ok(swept)
    }

    /// Lets go of what ended jobs read and nothing else names: the data that a person has deleted.
    async fn forget_inputs(&self, age: Duration) -> sqlx::Result<()> {
        sqlx::query!(
            "delete from job_input using job
            where job.job_id = job_input.job_id and job.finished_at < now() - $1::interval
                and not exists (select from file where file.hash = job_input.hash)
                and not exists (select from model_file where model_file.hash = job_input.hash)
                and not exists (select from checkpoint_file where checkpoint_file.hash = job_input.hash)",
            interval(age)
        )
        .execute(&self.db)
        .await
        .map(drop)
    }

    /// Removes one object that no row needs; the row goes with the bytes or not at all.
    async fn sweep_one(&self, age: Duration) -> Result<Option<i64>, PutError> {
        let mut tx = self.db.begin().await?;
        let gone = sqlx::query!(
            r#"with idle as (
                select hash from object
                where touched_at < now() - $1::interval
                    and not exists (select from file where file.hash = object.hash)
                    and not exists (select from model_file where model_file.hash = object.hash)
                    and not exists (select from checkpoint_file where checkpoint_file.hash = object.hash)
                    and not exists (select from export_file where export_file.hash = object.hash)
                    and not exists (select from job_input where job_input.hash = object.hash)
                limit 1 for update skip locked
            )
            delete from object using idle where object.hash = idle.hash
            returning object.hash as "hash: Hash", object.bytes"#,
            interval(age)
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(gone) = gone else {
            return Ok(None);
        };
        self.objects.remove(&gone.hash).await?;
        tx.commit().await?;
        Ok(Some(gone.bytes))
    }

    /// Removes bytes that have no row.
    async fn sweep_stray(&self, hash: &Hash) -> Result<bool, PutError> {
        let mut tx = self.db.begin().await?;
        // Takes the name, so that an upload of this content waits until the bytes are gone and then sends them again.
        let taken = sqlx::query!(
            "insert into object (hash, bytes) values ($1, 0) on conflict (hash) do nothing",
            hash.as_str()
        )
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(false);
        }
        self.objects.remove(hash).await?;
        tx.rollback().await?;
        Ok(true)
    }
}

/// Sum of all stored bytes.
pub async fn stored_bytes(db: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select coalesce(sum(bytes), 0)::bigint as "bytes!" from object"#)
        .fetch_one(db)
        .await
}
