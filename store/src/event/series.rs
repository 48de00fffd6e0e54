//! Curves, thinned in the database.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;

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

/// Points of a curve by step, at most `max_points`, with the shape kept: of each bucket of steps the first and the last
/// point, and for each field those with the smallest and the largest value.
///
/// `fields` are names of the event's `values` or `data`; with few enough points all are given. A bucket has room for
/// `2 + 2 × fields` points, so `max_points` below that gives one bucket.
pub async fn series(
    db: &PgPool,
    job: JobId,
    kind: Kind,
    fields: &[&str],
    max_points: i64,
) -> sqlx::Result<Vec<Point>> {
    let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
    let length = length(db, job, kind).await?;
    if length.points <= max_points {
        return points_at(db, job, kind, &fields, None).await;
    }
    let buckets = (max_points / (2 + 2 * fields.len() as i64)).max(1);
    // Blocks stand for their points where there are enough of them to fill the buckets evenly.
    let summed_up_to = if length.blocks >= 2 * buckets { length.summed_up_to } else { -1 };
    let steps = telling_steps(db, job, kind, &fields, buckets, summed_up_to).await?;
    points_at(db, job, kind, &fields, Some(&steps)).await
}

struct Length {
    points: i64,
    blocks: i64,
    /// Last step of the last block; -1 without one.
    summed_up_to: i64,
}

async fn length(db: &PgPool, job: JobId, kind: Kind) -> sqlx::Result<Length> {
    sqlx::query_as!(
        Length,
        r#"with block as (
            select count(*) as blocks, coalesce(sum(points), 0)::bigint as points, coalesce(max(last), -1) as last
            from job_curve where job_id = $1 and kind = $2
        )
        select blocks as "blocks!", last as "summed_up_to!", points + (
            select count(*) from job_event
            where job_id = $1 and kind = $2 and kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')
                and step > block.last
        ) as "points!"
        from block"#,
        job.0,
        kind.as_str()
    )
    .fetch_one(db)
    .await
}

/// Steps that show each bucket's extent: from blocks up to a step, from the points themselves behind it.
///
/// A pair of value and step compares by value first, so the least pair tells the step of the least value.
async fn telling_steps(
    db: &PgPool,
    job: JobId,
    kind: Kind,
    fields: &[String],
    buckets: i64,
    summed_up_to: i64,
) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        r#"with piece as (
            select first, last, low, high from job_curve where job_id = $1 and kind = $2 and last <= $5
            union all
            select step, step, pair, pair from job_event, lateral (
                select coalesce(jsonb_object_agg(field, jsonb_build_array(value, step)), '{}') as pair
                from unnest($3::text[]) as field, coalesce("values" -> field, data -> field) as value
                where jsonb_typeof(value) = 'number') p
            where job_id = $1 and kind = $2 and kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')
                and step > $5
        ),
        span as (select min(first) as low, max(last) - min(first) + 1 as wide from piece),
        placed as (select piece.*, (first - span.low) * $4 / wide as bucket from piece, span),
        extreme as (
            select min(array[(low -> field ->> 0)::float8, (low -> field ->> 1)::float8]) as low,
                max(array[(high -> field ->> 0)::float8, (high -> field ->> 1)::float8]) as high
            from placed, unnest($3::text[]) as field
            where low ? field
            group by bucket, field
        )
        select step as "step!" from (
            select unnest(array[min(first), max(last)]) as step from placed group by bucket
            union select unnest(array[low[2], high[2]])::bigint from extreme
        ) as telling"#,
        job.0,
        kind.as_str(),
        fields,
        buckets,
        summed_up_to,
    )
    .fetch_all(db)
    .await
}

/// The points of some steps, or of all.
async fn points_at(
    db: &PgPool,
    job: JobId,
    kind: Kind,
    fields: &[String],
    steps: Option<&[i64]>,
) -> sqlx::Result<Vec<Point>> {
    sqlx::query_as!(
        Point,
        r#"select number, attempt, step as "step!", at, (
            select coalesce(jsonb_object_agg(field, coalesce("values" -> field, data -> field)), '{}')
            from unnest($3::text[]) as field
        ) as "values!"
        from job_event
        where job_id = $1 and kind = $2 and kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')
            and ($4::bigint[] is null or step = any($4))
        order by step"#,
        job.0,
        kind.as_str(),
        fields,
        steps,
    )
    .fetch_all(db)
    .await
}
