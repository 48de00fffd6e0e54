//! Blocks of a curve, summed up as the points come in.

use sqlx::PgConnection;

use super::{EventLine, Kind};
use crate::ids::JobId;

/// Points that one row of `job_curve` sums up.
pub(super) const BLOCK: i64 = 64;

/// Sums up the curves that these lines belong to, as far as whole blocks are there.
pub(super) async fn roll_up_lines(
    conn: &mut PgConnection,
    job: JobId,
    lines: &[EventLine],
) -> sqlx::Result<()> {
    for kind in [Kind::Train, Kind::Eval] {
        let steps = lines.iter().filter(|line| line.kind == kind).filter_map(|line| line.step);
        if let Some(from) = steps.min() {
            roll_up(conn, job, kind, from).await?;
        }
    }
    Ok(())
}

/// Sums up a curve (`train` or `eval`) from a step on, the blocks that hold it included.
///
/// [`super::append`] does so itself; this is for points that came into the table in another way. The job's row must be
/// locked, or nobody else at work on it.
pub async fn roll_up(conn: &mut PgConnection, job: JobId, kind: Kind, from: i64) -> sqlx::Result<()> {
    // A point that comes late, from an attempt that could not send it, opens its block and those behind it again.
    sqlx::query!(
        "delete from job_curve where job_id = $1 and kind = $2 and last >= $3",
        job.0,
        kind.as_str(),
        from
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        r#"with open as (
            select step, data || "values" as fields, (row_number() over (order by step) - 1) / $3 as block,
                count(*) over () / $3 as whole_blocks
            from job_event
            where job_id = $1 and kind = $2 and kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')
                and step > coalesce((select max(last) from job_curve where job_id = $1 and kind = $2), -1)
        ),
        point as (
            select step, fields, min(step) over block as first, max(step) over block as last
            from open where block < whole_blocks
            window block as (partition by block)
        ),
        field as (
            select first, last, key, min(array[value::float8, step]) as low, max(array[value::float8, step]) as high
            from point left join lateral jsonb_each(fields) as f on jsonb_typeof(value) = 'number'
            group by first, last, key
        )
        insert into job_curve (job_id, kind, first, last, points, low, high)
        select $1, $2, first, last, $3::bigint,
            coalesce(jsonb_object_agg(key, to_jsonb(low)) filter (where key is not null), '{}'),
            coalesce(jsonb_object_agg(key, to_jsonb(high)) filter (where key is not null), '{}')
        from field group by first, last"#,
        job.0,
        kind.as_str(),
        BLOCK,
    )
    .execute(conn)
    .await
    .map(drop)
}
