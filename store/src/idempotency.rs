//! The same request sent twice makes one thing.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, PgExecutor};

use crate::ids::JobId;

/// What a key says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Unknown: make the thing and [`settle`] in the same transaction.
    New,
    /// The same request came before and made this.
    Seen(String),
    /// Another request came with this key and made this.
    Other(String),
}

/// Takes a key for a request; waits while another request with the same key is at work.
///
/// Must be called in the transaction that makes the thing: rolled back, the key is free again.
pub async fn claim(
    conn: &mut PgConnection,
    scope: &str,
    key: &str,
    request_hash: &str,
) -> sqlx::Result<Claim> {
    let taken = sqlx::query!(
        "insert into idempotency_key (scope, key, request_hash) values ($1, $2, $3) on conflict do nothing",
        scope,
        key,
        request_hash
    )
    .execute(&mut *conn)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(Claim::New);
    }
    let row = sqlx::query!(
        "select request_hash, resource from idempotency_key where scope = $1 and key = $2",
        scope,
        key
    )
    .fetch_one(conn)
    .await?;
    let resource = row.resource.unwrap_or_default();
    Ok(if row.request_hash == request_hash { Claim::Seen(resource) } else { Claim::Other(resource) })
}

/// Writes down what the request made.
pub async fn settle(conn: &mut PgConnection, scope: &str, key: &str, resource: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update idempotency_key set resource = $3 where scope = $1 and key = $2",
        scope,
        key,
        resource
    )
    .execute(conn)
    .await
    .map(drop)
}

/// The newest job that was made by a request with the same body within this time.
pub async fn recent_same(
    db: impl PgExecutor<'_>,
    request_hash: &str,
    within: Duration,
) -> sqlx::Result<Option<JobId>> {
    sqlx::query_scalar!(
        r#"select job_id as "job_id: JobId" from job
        where request_hash = $1 and created_at > now() - $2::interval
        order by created_at desc limit 1"#,
        request_hash,
        interval(within)
    )
    .fetch_optional(db)
    .await
}

/// Forgets keys older than this; gives how many.
pub async fn forget(db: impl PgExecutor<'_>, older_than: Duration) -> sqlx::Result<u64> {
    sqlx::query!("delete from idempotency_key where created_at < now() - $1::interval", interval(older_than))
        .execute(db)
        .await
        .map(|done| done.rows_affected())
}

pub(crate) fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}
