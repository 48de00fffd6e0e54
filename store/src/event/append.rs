//! Events come in, each exactly once.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use super::EventLine;
use crate::queue::Lease;
use crate::text::{clean, clean_fields};

/// Rows of one insert; a longer list goes in several, in one transaction.
const BATCH: usize = 1000;

/// What an append did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Events that were new.
    pub added: u64,
    /// Number of the job's newest event.
    pub last: i64,
}

/// Why events were not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The lease is lost; nothing was written.
    #[error("the job is not held by this agent any more")]
    Lost,
    /// The database's own error; nothing was written.
    #[error(transparent)]
    Db(#[from] sqlx::Error),
}

/// Appends lines of the event file and brings the job's progress, phase and metrics up to date.
///
/// Sending a line again changes nothing. A step that was computed again after a restart is the same point: equal
/// `values` are passed over, others too, and a warning says that the replay differs.
pub async fn append(db: &PgPool, held: &Lease, lines: &[EventLine]) -> Result<Appended, AppendError> {
    let mut tx = db.begin().await?;
    let appended = append_held(&mut tx, held, lines).await?;
    tx.commit().await?;
    Ok(appended)
}

/// [`append`] as a part of a transaction.
pub(crate) async fn append_held(
    conn: &mut PgConnection,
    held: &Lease,
    lines: &[EventLine],
) -> Result<Appended, AppendError> {
    // A statement of its own: the next ones must see what whoever held this lock has committed.
    let last = sqlx::query_scalar!(
        "select last_event from job where job_id = $1 and agent_id = $2 and attempt = $3 and status = 'running'
        for update",
        held.job_id().0,
        held.agent.0,
        held.attempt
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(AppendError::Lost)?;
    let mut appended = Appended { added: 0, last };
    for batch in lines.chunks(BATCH) {
        let added = insert(conn, held, batch, appended.last).await?;
        appended.added += added;
        appended.last += added as i64;
    }
    if appended.added > 0 {
        super::curve::roll_up_lines(conn, held.job_id(), lines).await?;
    }
    note_progress(conn, held, lines, appended.last).await?;
    Ok(appended)
}

/// Lines as columns, for `unnest`.
#[derive(Default)]
struct Columns {
    line: Vec<i64>,
    attempt: Vec<i32>,
    kind: Vec<String>,
    curve: Vec<bool>,
    step: Vec<Option<i64>>,
    at: Vec<chrono::DateTime<chrono::Utc>>,
    level: Vec<String>,
    message: Vec<String>,
    values: Vec<Value>,
    data: Vec<Value>,
}

impl Columns {
    fn of(lines: &[EventLine]) -> Self {
        let mut columns = Columns::default();
        for line in lines {
            columns.line.push(line.line);
            columns.attempt.push(line.attempt);
            columns.kind.push(line.kind.as_str().to_owned());
            columns.curve.push(line.kind.is_curve());
            columns.step.push(line.step);
            columns.at.push(line.at);
            columns.level.push(line.level.as_str().to_owned());
            columns.message.push(clean(&line.message));
            columns.values.push(Value::Object(clean_fields(&line.values)));
            columns.data.push(Value::Object(clean_fields(&line.data)));
        }
        columns
    }
}

/// Inserts what is new of a batch; gives how many rows.
async fn insert(conn: &mut PgConnection, held: &Lease, lines: &[EventLine], last: i64) -> sqlx::Result<u64> {
    let c = Columns::of(lines);
    sqlx::query!(
        r#"with sent as (
            select distinct on (attempt, line) *
            from unnest($3::int[], $4::bigint[], $5::text[], $6::bool[], $7::bigint[], $8::timestamptz[], $9::text[],
                $10::text[], $11::jsonb[], $12::jsonb[])
                as s (attempt, line, kind, curve, step, at, level, message, "values", data)
            order by attempt, line
        ),
        -- A step's first point: the one that is kept, or the first of this batch.
        placed as (
            select s.*,
                e.number is not null or (s.curve and row_number() over same_step > 1) as repeated,
                coalesce(e."values", first_value(s."values") over same_step) as kept,
                coalesce(e.attempt, first_value(s.attempt) over same_step) as kept_attempt
            from sent s
            left join job_event e on s.curve and e.job_id = $1 and e.kind = s.kind and e.step = s.step
                and e.kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')
            where not exists (
                select from job_event seen where seen.job_id = $1 and seen.attempt = s.attempt and seen.line = s.line)
            window same_step as (partition by s.kind, s.step order by s.attempt, s.line)
        ),
        taken as (
            select attempt, line, kind, step, at, level, message, "values", data from placed where not repeated
            union all
            -- One warning for an attempt and kind: after the first difference the others are no news.
            (select distinct on (attempt, kind) attempt, line, 'log', step, at, 'warn',
                format('Step %s was computed again by attempt %s, and its %s values differ from those of attempt %s; '
                    'the first ones are kept.', step, attempt, kind, kept_attempt),
                '{}', jsonb_build_object('replay', kind, 'kept', kept, 'replayed', "values")
            from placed p
            where repeated and kept <> "values" and not exists (
                select from job_event w where w.job_id = $1 and w.attempt = p.attempt and w.kind = 'log'
                    and w.data ->> 'replay' = p.kind)
            order by attempt, kind, line)
        )
        insert into job_event (job_id, number, attempt, line, kind, step, at, level, message, "values", data)
        select $1, $2 + row_number() over (order by attempt, line), attempt, line, kind, step, at, level, message,
            "values", data
        from taken"#,
        held.job_id().0,
        last,
        &c.attempt,
        &c.line,
        &c.kind,
        &c.curve,
        &c.step as _,
        &c.at,
        &c.level,
        &c.message,
        &c.values,
        &c.data,
    )
    .execute(conn)
    .await
    .map(|done| done.rows_affected())
}

/// Brings the job's row up to date; its trigger wakes the listeners.
async fn note_progress(
    conn: &mut PgConnection,
    held: &Lease,
    lines: &[EventLine],
    last: i64,
) -> sqlx::Result<()> {
    use super::Kind;
    let newest = |kind: Kind| lines.iter().rev().find(|line| line.kind == kind);
    let progress = newest(Kind::Train).map(|line| {
        let mut fields = clean_fields(&line.data);
        fields.extend(clean_fields(&line.values));
        fields.insert("step".to_owned(), line.step.into());
        Value::Object(fields)
    });
    // Work without steps says with its phase how far it is; another phase begins anew.
    let progress = progress.or_else(|| {
        let data = &newest(Kind::Phase)?.data;
        data.get("progress").filter(|progress| progress.is_object()).map(crate::text::clean_json)
    });
    let metrics = newest(Kind::Eval).map(|line| {
        let mut fields = clean_fields(&line.values);
        fields.insert("step".to_owned(), line.step.into());
        Value::Object(fields)
    });
    let phase = newest(Kind::Phase).and_then(|line| line.data.get("phase")?.as_str().map(clean));
    let device = lines
        .iter()
        .rev()
        .filter(|line| line.kind == Kind::Phase)
        .find_map(|line| line.data.get("device")?.as_str().map(clean));
    sqlx::query!(
        "update job set last_event = $2, last_event_at = clock_timestamp(), progress = coalesce($3, progress),
            metrics = coalesce($4, metrics), phase = coalesce($5, phase), device = coalesce($6, device)
        where job_id = $1",
        held.job_id().0,
        last,
        progress,
        metrics,
        phase,
        device,
    )
    .execute(conn)
    .await
    .map(drop)
}
