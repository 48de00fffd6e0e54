//! Curves, thinned in the database.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgExecutor;

use super::Kind;
use crate::ids::JobId;

/// A point of one or more curves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Number of its event.
    pub number: i64,
    /// The attempt that it comes from; a seam is where this changes.
    pub attempt: i32,
    /// Optimizer steps done.
    pub step: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The fields asked for, by name; one that the event lacks is null.
    pub values: Value,
}

/// Points of a curve by step, at most about `max_points`, with the shape kept: of each bucket of steps the first and
/// the last point, and for each field those with the smallest and the largest value.
///
/// `fields` are names of the event's `values` or `data`; with few enough points all are given.
pub async fn series(
    db: impl PgExecutor<'_>,
    job: JobId,
    kind: Kind,
    fields: &[&str],
    max_points: i64,
) -> sqlx::Result<Vec<Point>> {
    let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
    let per_bucket = 2 + 2 * fields.len() as i64;
    let buckets = (max_points / per_bucket).max(1);
    sqlx::query_as!(
        Point,
        r#"with span as (
            select min(step) as low, max(step) as high, count(*) > $4 as thin from job_event
            where job_id = $1 and kind = $2 and kind in ('train', 'eval', 'test', 'examples', 'checkpoint')
        ),
        point as (
            select step, case when thin then (step - low) * $5 / (high - low + 1) else step end as bucket,
                "values", data
            from job_event, span
            where job_id = $1 and kind = $2 and kind in ('train', 'eval', 'test', 'examples', 'checkpoint')
        ),
        -- A pair of value and step compares by value first: its minimum is the step of the smallest value.
        extreme as (
            select min(array[v, step]) as low, max(array[v, step]) as high
            from (
                select bucket, field, step::float8 as step,
                    case jsonb_typeof(raw) when 'number' then raw::float8 end as v
                from point, unnest($3::text[]) as field, lateral (
                    select coalesce("values" -> field, data -> field) as raw) r
            ) as value
            where v is not null
            group by bucket, field
        ),
        kept as (
            select unnest(array[min(step), max(step)]) as step from point group by bucket
            union select unnest(array[low[2], high[2]])::bigint from extreme
        )
        select number, attempt, e.step as "step!", at, (
            select coalesce(jsonb_object_agg(field, coalesce("values" -> field, data -> field)), '{}')
            from unnest($3::text[]) as field
        ) as "values!"
        from kept join job_event e on e.job_id = $1 and e.kind = $2 and e.step = kept.step
            and e.kind in ('train', 'eval', 'test', 'examples', 'checkpoint')
        order by e.step"#,
        job.0,
        kind.as_str(),
        &fields,
        max_points,
        buckets,
    )
    .fetch_all(db)
    .await
}
