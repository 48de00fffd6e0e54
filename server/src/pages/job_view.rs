//! A job's state and log as its page shows them.

use chrono::Utc;
use serde_json::Value;
use store::event::{Event, Kind, Level};
use store::job::{Asked, Job, Status as JobState};
use store::spec::Task;

use super::convert::{self, metric_name};
use super::sentence;
use super::view::Fact;
use super::view::job::{JobStatus, LogLine, Trouble};
use super::view::text::{self, Moment};

/// The part of the page that changes most.
pub fn status(job: &Job, can_train: bool, position: Option<i64>) -> JobStatus {
    let now = Utc::now();
    let href = convert::job_href(job.job_id);
    let model = job.fine_tuned_model.as_deref();
    let live = !job.status.is_final();
    JobStatus {
        status: convert::status(job),
        live,
        phase: job.phase.clone().filter(|_| job.status == JobState::Running).unwrap_or_default(),
        progress: convert::progress(job),
        tiles: tiles(job),
        last_event: job.last_event_at.filter(|_| live).map(|at| Moment::at(at, now)),
        trouble: trouble(job),
        attempts: attempts(job),
        can_pause: matches!(job.status, JobState::Queued | JobState::Running) && job.asked.is_none(),
        can_resume: job.status == JobState::Paused || job.asked == Some(Asked::Pause),
        can_cancel: live && job.asked != Some(Asked::Cancel),
        again: format!("/jobs/new?from={}", job.job_id),
        playground: model.map(|id| playground(job, id)).unwrap_or_default(),
        model_href: model.map(convert::model_href).unwrap_or_default(),
        download: model.map(|id| format!("/v1/models/{id}/content?format=zip")).unwrap_or_default(),
        waiting: waiting(job, can_train, position),
        href,
    }
}

fn playground(job: &Job, model: &str) -> String {
    match job.spec.task {
        Task::TextGeneration => convert::playground_href(model),
        Task::TextClassification | Task::SentenceSimilarity | Task::TokenClassification => String::new(),
    }
}

fn waiting(job: &Job, can_train: bool, position: Option<i64>) -> String {
    match job.status {
        JobState::Queued if !can_train => {
            "No trainer is connected. The run starts as soon as one is.".to_owned()
        }
        JobState::Queued if job.missing_devices.is_some_and(|missing| missing > 0) => {
            let devices =
                text::plural(job.missing_devices.unwrap_or(0) as u64, "more device", "more devices");
            format!(
                "It waits for {devices}: it takes {}, more than the trainers at hand have together. Start a trainer on \
                 another machine, or start again with fewer.",
                job.spec.resources.devices
            )
        }
        JobState::Queued if job.missing_devices == Some(0) && job.retry_at.is_none() => {
            format!("It starts as soon as {} devices are free at once.", job.spec.resources.devices)
        }
        JobState::Queued => match (position, job.retry_at.filter(|at| *at > Utc::now())) {
            (_, Some(at)) => format!("It is tried again at {}.", at.format("%H:%M:%S UTC")),
            (Some(before), _) if before > 0 => {
                format!("{} before this one.", text::plural(before as u64, "run is", "runs are"))
            }
            _ => "It starts as soon as a trainer is free.".to_owned(),
        },
        JobState::Paused => {
            "Paused. Resume goes on from its last checkpoint, with the same order of rows.".to_owned()
        }
        JobState::Running => match job.asked {
            Some(Asked::Pause) => "It finishes its step and writes a checkpoint, then pauses.".to_owned(),
            Some(Asked::Cancel) => "It finishes its step, then stops.".to_owned(),
            None => String::new(),
        },
        _ => String::new(),
    }
}

fn tiles(job: &Job) -> Vec<Fact> {
    let number = |name: &str| job.progress.get(name).and_then(Value::as_f64);
    let metric = |name: &str| job.metrics.get(name).and_then(Value::as_f64);
    let mut tiles = Vec::new();
    let mut put = |name: &str, value: Option<String>| tiles.extend(value.map(|value| Fact::new(name, value)));
    put("Training loss", number("loss").map(text::value));
    put("Validation loss", metric("loss").map(text::value));
    let first = ["accuracy", "subset_accuracy", "r2", "f1_macro", "ndcg_at_10", "spearman"]
        .into_iter()
        .find(|name| metric(name).is_some());
    if let Some(name) = first {
        put(&metric_name(name), metric(name).map(text::value));
    }
    put("Speed", number("samples_per_second").map(|rate| format!("{rate:.1} rows/s")));
    put("Memory", number("memory_bytes").map(|bytes| text::bytes(bytes.max(0.0) as u64)));
    put("Ran for", convert::ran_for(job, Utc::now()).map(text::duration));
    put("Device", job.device.clone());
    put("Attempt", (job.attempt > 1).then(|| job.attempt.to_string()));
    put("Best step", job.best_step.map(|step| text::count(step.max(0) as u64)));
    tiles
}

fn trouble(job: &Job) -> Option<Trouble> {
    let error = job.error.as_ref().filter(|_| job.status == JobState::Failed)?;
    let step = error.get("step").and_then(Value::as_i64).filter(|step| *step > 0);
    let heading = match step {
        Some(step) => format!("It failed at step {step}."),
        None => "It failed before its first step.".to_owned(),
    };
    Some(Trouble { heading, message: message_of(error), log: log_of(error), style: "bad" })
}

/// Attempts that ended early and were followed by another one.
fn attempts(job: &Job) -> Vec<Trouble> {
    let last = job.error.as_ref().and_then(|error| error.get("attempt")).and_then(Value::as_i64);
    let followed = |error: &&Value| last.is_none() || error.get("attempt").and_then(Value::as_i64) != last;
    let describe = |error: &Value| {
        let attempt = error.get("attempt").and_then(Value::as_i64).unwrap_or(0);
        let at = error.get("step").and_then(Value::as_i64).filter(|step| *step > 0);
        let at = at.map_or("before its first step".to_owned(), |step| format!("at step {step}"));
        Trouble {
            heading: format!("Attempt {attempt} ended {at}"),
            message: message_of(error),
            log: log_of(error),
            style: "warn",
        }
    };
    job.errors.iter().filter(followed).map(describe).collect()
}

fn message_of(error: &Value) -> String {
    let text = |name: &str| error.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let message = sentence(text("message").unwrap_or("the trainer gave no reason"));
    match text("param") {
        Some(param) => format!("{message} (Setting {param}.)"),
        None => message,
    }
}

fn log_of(error: &Value) -> String {
    match error.get("log") {
        Some(Value::String(log)) => log.clone(),
        Some(Value::Array(lines)) => lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// What the log says of an event; nothing for training steps and for changes of phase that come with every evaluation.
pub fn log_message(event: &Event) -> String {
    match event.kind {
        Kind::Train | Kind::Examples | Kind::Samples => String::new(),
        Kind::Phase => phase_message(event),
        _ => event.message.clone(),
    }
}

fn phase_message(event: &Event) -> String {
    let data = |name: &str| {
        event.data.get(name).map(|value| value.as_str().map_or(value.to_string(), str::to_owned))
    };
    match data("phase").as_deref() {
        Some("loading") => match (data("device"), data("threads"), data("libtorch")) {
            (Some(device), Some(threads), Some(torch)) => {
                let precision = data("precision").map(|name| format!(", {name}")).unwrap_or_default();
                format!("Loading on {device} ({threads} threads, libtorch {torch}{precision}).")
            }
            _ => "Loading.".to_owned(),
        },
        Some("exporting") => "Writing the model.".to_owned(),
        _ => String::new(),
    }
}

/// An event as a line of the log on the job's page.
pub fn log_line(event: &Event) -> Option<LogLine> {
    let message = log_message(event);
    (!message.is_empty()).then(|| line(event, message))
}

/// An event as a line of the whole log.
pub fn any_line(event: &Event) -> Option<LogLine> {
    (!event.message.is_empty()).then(|| line(event, event.message.clone()))
}

fn line(event: &Event, message: String) -> LogLine {
    let style = match (event.level, event.kind) {
        (Level::Warn, _) => "warn",
        (Level::Error, _) => "error-line",
        (_, Kind::Checkpoint | Kind::Eval | Kind::Test | Kind::Result | Kind::Resume) => "mark",
        _ => "",
    };
    LogLine {
        number: event.number,
        at: Moment::at(event.at, Utc::now()),
        level: event.level.as_str(),
        style,
        message,
    }
}

/// What the run can be repeated from; nothing before it ended.
pub fn manifest(job: &Job) -> String {
    match &job.manifest {
        Value::Object(fields) if !fields.is_empty() => {
            serde_json::to_string_pretty(&job.manifest).unwrap_or_default()
        }
        _ => String::new(),
    }
}
