//! What a job says: an append-only list, numbered from 1 without gaps.

mod append;
mod curve;
mod series;

use std::fmt;

pub(crate) use append::append_held;
pub use append::{AppendError, Appended, append};
use chrono::{DateTime, Utc};
pub use curve::roll_up;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
pub use series::{Point, series};
use sqlx::{PgConnection, PgExecutor};

use crate::Page;
use crate::ids::{EventId, JobId};
use crate::text::{clean, clean_json};

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Kind {
    /// The trainer goes over to something else; `data.phase`.
    Phase,
    /// A line for people.
    Log,
    /// A point of the training curves.
    Train,
    /// An evaluation on the validation rows.
    Eval,
    /// The evaluation on the test rows.
    Test,
    /// Rows with what the model says of them.
    Examples,
    /// Prompts with what a language model answers; `values.samples`.
    Samples,
    /// A checkpoint.
    Checkpoint,
    /// A new attempt goes on from a checkpoint; `data.from_step`.
    Resume,
    /// The end of an attempt.
    Result,
}

impl Kind {
    /// The word used in the database and the event file.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Phase => "phase",
            Kind::Log => "log",
            Kind::Train => "train",
            Kind::Eval => "eval",
            Kind::Test => "test",
            Kind::Examples => "examples",
            Kind::Samples => "samples",
            Kind::Checkpoint => "checkpoint",
            Kind::Resume => "resume",
            Kind::Result => "result",
        }
    }

    /// Whether a step has one event of this kind, however often it is computed.
    pub fn is_curve(self) -> bool {
        use Kind::{Checkpoint, Eval, Examples, Samples, Test, Train};
        matches!(self, Train | Eval | Test | Examples | Samples | Checkpoint)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Level {
    /// As expected.
    #[default]
    Info,
    /// Worth a look.
    Warn,
    /// The reason of a failure.
    Error,
}

impl Level {
    /// The word used in the database and the event file.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// A line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Its number in the file among those of its attempt, from 0.
    pub line: i64,
    /// The attempt that wrote it.
    #[serde(default = "first")]
    pub attempt: i32,
    /// What it is.
    pub kind: Kind,
    /// Optimizer steps done; needed for the kinds of curves.
    #[serde(default)]
    pub step: Option<i64>,
    /// When, by the trainer's clock.
    pub at: DateTime<Utc>,
    /// How much it matters.
    #[serde(default)]
    pub level: Level,
    /// A sentence.
    #[serde(default)]
    pub message: String,
    /// Numbers of the curves; a replay is compared by these.
    #[serde(default)]
    pub values: Map<String, Value>,
    /// Everything else.
    #[serde(default)]
    pub data: Map<String, Value>,
}

fn first() -> i32 {
    1
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// The job.
    pub job_id: JobId,
    /// Its number in the job, from 1, without gaps: the cursor of readers.
    pub number: i64,
    /// The attempt that it comes from; 0 before the first claim.
    pub attempt: i32,
    /// What it is.
    pub kind: Kind,
    /// Optimizer steps done.
    pub step: Option<i64>,
    /// When.
    pub at: DateTime<Utc>,
    /// How much it matters.
    pub level: Level,
    /// A sentence.
    pub message: String,
    /// Numbers of the curves, an object.
    pub values: Value,
    /// Everything else, an object.
    pub data: Value,
}

impl Event {
    /// Its id.
    pub fn id(&self) -> EventId {
        EventId { job: self.job_id, number: self.number }
    }
}

/// Events behind a number, oldest first. Numbers are committed in order, so that a reader who goes on from the last
/// one it got misses none.
pub async fn since(db: impl PgExecutor<'_>, job: JobId, after: i64, limit: i64) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as!(
        Event,
        r#"select job_id as "job_id: JobId", number, attempt, kind as "kind: Kind", step, at, level as "level: Level",
            message, "values", data
        from job_event where job_id = $1 and number > $2 order by number limit $3"#,
        job.0,
        after,
        limit
    )
    .fetch_all(db)
    .await
}

/// Events before a number (`None`: before the end), newest first.
pub async fn page(
    db: impl PgExecutor<'_>,
    job: JobId,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Page<Event>> {
    let events = sqlx::query_as!(
        Event,
        r#"select job_id as "job_id: JobId", number, attempt, kind as "kind: Kind", step, at, level as "level: Level",
            message, "values", data
        from job_event where job_id = $1 and number < $2 order by number desc limit $3"#,
        job.0,
        before.unwrap_or(i64::MAX),
        limit + 1
    )
    .fetch_all(db)
    .await?;
    Ok(Page::of(events, limit))
}

/// The newest events of some kinds, newest first: the log, the last evaluation, the last examples.
pub async fn latest(
    db: impl PgExecutor<'_>,
    job: JobId,
    kinds: &[Kind],
    limit: i64,
) -> sqlx::Result<Vec<Event>> {
    let kinds: Vec<String> = kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
    sqlx::query_as!(
        Event,
        r#"select job_id as "job_id: JobId", number, attempt, kind as "kind: Kind", step, at, level as "level: Level",
            message, "values", data
        from job_event where job_id = $1 and kind = any($2) order by number desc limit $3"#,
        job.0,
        &kinds,
        limit
    )
    .fetch_all(db)
    .await
}

/// One event of a curve, by its step.
pub async fn at_step(
    db: impl PgExecutor<'_>,
    job: JobId,
    kind: Kind,
    step: i64,
) -> sqlx::Result<Option<Event>> {
    sqlx::query_as!(
        Event,
        r#"select job_id as "job_id: JobId", number, attempt, kind as "kind: Kind", step, at, level as "level: Level",
            message, "values", data
        from job_event
        where job_id = $1 and kind = $2 and step = $3
            and kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')"#,
        job.0,
        kind.as_str(),
        step
    )
    .fetch_optional(db)
    .await
}

/// Steps that have an event of a curve, in order.
pub async fn steps(db: impl PgExecutor<'_>, job: JobId, kind: Kind) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        r#"select step as "step!" from job_event
        where job_id = $1 and kind = $2
            and kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')
        order by step"#,
        job.0,
        kind.as_str()
    )
    .fetch_all(db)
    .await
}

/// Events of a curve at some steps, by step.
pub async fn at_steps(
    db: impl PgExecutor<'_>,
    job: JobId,
    kind: Kind,
    steps: &[i64],
) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as!(
        Event,
        r#"select job_id as "job_id: JobId", number, attempt, kind as "kind: Kind", step, at, level as "level: Level",
            message, "values", data
        from job_event
        where job_id = $1 and kind = $2 and step = any($3)
            and kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')
        order by step"#,
        job.0,
        kind.as_str(),
        steps
    )
    .fetch_all(db)
    .await
}

/// Lets the queue itself speak: a log event of the job's present attempt, under the job row's lock.
pub async fn note(
    conn: &mut PgConnection,
    job: JobId,
    level: Level,
    message: &str,
    data: &Value,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with held as (
            update job set last_event = last_event + 1 where job_id = $1 returning last_event, attempt
        )
        insert into job_event (job_id, number, attempt, kind, at, level, message, data)
        select $1, last_event, attempt, 'log', now(), $2, $3, $4 from held",
        job.0,
        level.as_str(),
        clean(message),
        clean_json(data),
    )
    .execute(conn)
    .await
    .map(drop)
}
