//! Rows as the API shows them: OpenAI's fields first, ours after.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use store::StoredFile;
use store::checkpoint::Checkpoint;
use store::event::{Event, Kind};
use store::export::Export;
use store::file::File;
use store::job::{Asked, Job, Status};
use store::model::{Model, checkpoint_id};
use store::spec::request::BASE_LEARNING_RATE;
use store::spec::{JobSpec, Task};

use crate::inference::Loaded;

/// A file.
pub fn file_json(file: &File) -> Value {
    json!({
        "id": file.file_id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at.timestamp(),
        "expires_at": seconds(file.expires_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.status_details,
        "sha256": file.hash,
        "report": file.report,
    })
}

/// A job.
pub fn job_json(job: &Job) -> Value {
    let hyperparameters = hyperparameters(job);
    let mut shown = json!({
        "id": job.job_id,
        "object": "fine_tuning.job",
        "created_at": job.created_at.timestamp(),
        "model": job.model_id,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "status": job.status,
        "fine_tuned_model": job.fine_tuned_model,
        "finished_at": seconds(job.finished_at),
        "estimated_finish": seconds(estimated_finish(job)),
        "trained_tokens": job.trained_tokens,
        "hyperparameters": {
            "n_epochs": epochs(job),
            "batch_size": job.spec.training.batch_size,
            "learning_rate_multiplier": job.spec.training.learning_rate / BASE_LEARNING_RATE,
        },
        "method": method_json(job, hyperparameters),
        "seed": job.spec.seed,
        "organization_id": "luthier",
        "result_files": job.result_file.iter().collect::<Vec<_>>(),
        "error": job.error.as_ref().map(error_json),
        "integrations": [],
        "metadata": job.metadata.0,
        "user_provided_suffix": job.suffix,
    });
    extend(&mut shown, our_fields(job));
    shown
}

/// OpenAI's way to learn, or ours, with all settings.
fn method_json(job: &Job, mut hyperparameters: Value) -> Value {
    let (kind, lifted): (_, &[&str]) = match &job.spec.training.preference {
        None => ("supervised", &[]),
        Some(rule) if rule.loss.is_unpaired() => ("kto", &["beta", "desirable_weight", "undesirable_weight"]),
        Some(_) => ("dpo", &["beta"]),
    };
    for name in lifted {
        // Once, so that the same can be asked for again.
        let own = hyperparameters["preference"].as_object_mut().and_then(|rule| rule.remove(*name));
        hyperparameters[*name] = own.unwrap_or_default();
    }
    if let Some(rule) = hyperparameters["preference"].as_object_mut().filter(|_| kind == "dpo") {
        rule.retain(|name, _| !name.ends_with("desirable_weight"));
    }
    json!({"type": kind, kind: {"hyperparameters": hyperparameters}})
}

/// What OpenAI's job does not have.
fn our_fields(job: &Job) -> Value {
    json!({
        "name": job.name,
        "task": job.task,
        "problem_type": job.spec.problem_type,
        "columns": columns_json(&job.spec),
        "validation_split": job.spec.split,
        "test_file": job.test_file,
        "resources": job.spec.resources,
        "priority": job.priority,
        "missing_devices": job.missing_devices,
        "phase": phase(job),
        "progress": job.progress,
        "metrics": job.metrics,
        "steps": job.steps,
        "best_step": job.best_step,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "errors": job.errors,
        "agent": job.agent_name,
        "device": job.device,
        "started_at": seconds(job.started_at),
        "last_event_at": seconds(job.last_event_at),
        "manifest": job.manifest,
    })
}

/// Role → column; null where rows say by their keys what they are.
pub fn columns_json(spec: &JobSpec) -> Value {
    match spec.task {
        Task::TextClassification | Task::SentenceSimilarity | Task::TokenClassification => {
            json!(spec.columns)
        }
        Task::TextGeneration => Value::Null,
    }
}

/// The finer state: what the trainer is at, or what it was asked for and has not done yet.
fn phase(job: &Job) -> Option<&str> {
    match job.asked {
        Some(Asked::Cancel) => Some("cancelling"),
        Some(Asked::Pause) => Some("pausing"),
        None => job.phase.as_deref(),
    }
}

/// All settings by the names that a request has for them.
fn hyperparameters(job: &Job) -> Value {
    let mut all = json!(job.spec.training);
    if let Some(fields) = all.as_object_mut() {
        fields.remove("epochs");
        fields.insert("n_epochs".to_owned(), epochs(job));
    }
    all
}

/// A whole number where it is one, as OpenAI has it.
fn epochs(job: &Job) -> Value {
    let epochs = job.spec.training.epochs;
    if epochs.fract() == 0.0 { json!(epochs as u64) } else { json!(epochs) }
}

fn estimated_finish(job: &Job) -> Option<DateTime<Utc>> {
    let left = job.progress.get("eta_seconds").and_then(Value::as_f64)?;
    let since = job.last_event_at.filter(|_| job.status == Status::Running)?;
    Some(since + TimeDelta::milliseconds((left.clamp(0.0, 1e9) * 1000.0) as i64))
}

/// Why a job failed, in one text for clients that show no more than that; the parts stand beside it.
fn error_json(error: &Value) -> Value {
    let cause = error["message"].as_str().unwrap_or_default();
    let mut message = cause.to_owned();
    if let Some(step) = error["step"].as_i64() {
        message.push_str(&format!("\nStep reached: {step}."));
    }
    let log: Vec<&str> = error["log"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !log.is_empty() {
        message.push_str("\nLast lines of the log:\n");
        message.push_str(&log.join("\n"));
    }
    json!({
        "code": error["code"],
        "message": message,
        "param": error["param"],
        "cause": cause,
        "step": error["step"],
        "log": error["log"],
        "attempt": error["attempt"],
    })
}

/// An event.
pub fn event_json(event: &Event) -> Value {
    let is_curve = matches!(event.kind, Kind::Train | Kind::Eval | Kind::Test);
    let mut data = if is_curve { metrics(event) } else { event.data.clone() };
    if event.kind == Kind::Samples {
        extend(&mut data, event.values.clone());
    }
    json!({
        "id": event.id().to_string(),
        "object": "fine_tuning.job.event",
        "created_at": event.at.timestamp(),
        "level": event.level,
        "message": message(event),
        "type": if is_curve { "metrics" } else { "message" },
        "data": data,
        "kind": event.kind,
        "number": event.number,
        "attempt": event.attempt,
        "step": event.step,
    })
}

/// A sentence for an event that has none.
fn message(event: &Event) -> String {
    if !event.message.is_empty() {
        return event.message.clone();
    }
    let step = event.step.map(|step| format!("Step {step}")).unwrap_or_default();
    let loss = event.values["loss"].as_f64().map(|loss| format!("={loss:.4}")).unwrap_or_default();
    match event.kind {
        Kind::Train => match event.data["total_steps"].as_i64() {
            Some(total) => format!("{step}/{total}: training loss{loss}"),
            None => format!("{step}: training loss{loss}"),
        },
        Kind::Eval => format!("{step}: validation loss{loss}"),
        Kind::Test => format!("{step}: test loss{loss}"),
        Kind::Phase => format!("Now {}", event.data["phase"].as_str().unwrap_or("at work")),
        Kind::Checkpoint => format!("{step}: checkpoint written"),
        Kind::Examples => format!("{step}: example predictions"),
        Kind::Samples => format!("{step}: answers to prompts"),
        Kind::Resume => format!("Going on from step {}", event.data["from_step"]),
        Kind::Result | Kind::Log => event.kind.to_string(),
    }
}

/// Numbers by OpenAI's names, and all of ours.
fn metrics(event: &Event) -> Value {
    let mut numbers = Map::from_iter([("step".to_owned(), json!(event.step))]);
    if let Some(total) = event.data.get("total_steps") {
        numbers.insert("total_steps".to_owned(), total.clone());
    }
    let loss = match event.kind {
        Kind::Train => "train_loss",
        Kind::Eval => "valid_loss",
        _ => "test_loss",
    };
    let accuracy = match event.kind {
        Kind::Train => Some("train_mean_token_accuracy"),
        Kind::Eval => Some("valid_mean_token_accuracy"),
        _ => None,
    };
    for part in [&event.values, &event.data] {
        for (name, value) in part.as_object().into_iter().flatten() {
            let name = if name == "loss" { loss } else { name };
            numbers.entry(name).or_insert_with(|| value.clone());
            if let Some(theirs) = accuracy.filter(|_| name == "mean_token_accuracy") {
                numbers.insert(theirs.to_owned(), value.clone());
            }
        }
    }
    Value::Object(numbers)
}

/// A checkpoint of a job.
pub fn checkpoint_json(job: &Job, checkpoint: &Checkpoint) -> Value {
    let mut metrics = json!({"step": checkpoint.step});
    extend(&mut metrics, checkpoint.metrics.clone());
    if let Some(loss) = checkpoint.metrics.get("loss") {
        metrics["valid_loss"] = loss.clone();
        metrics["full_valid_loss"] = loss.clone();
    }
    if let Some(accuracy) = checkpoint.metrics.get("mean_token_accuracy") {
        metrics["valid_mean_token_accuracy"] = accuracy.clone();
        metrics["full_valid_mean_token_accuracy"] = accuracy.clone();
    }
    json!({
        "id": checkpoint.checkpoint_id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at.timestamp(),
        "fine_tuned_model_checkpoint": checkpoint_id(&job.output_model, checkpoint.step),
        "fine_tuning_job_id": checkpoint.job_id,
        "metrics": metrics,
        "step_number": checkpoint.step,
        "best": checkpoint.best,
        "bytes": checkpoint.bytes,
        "available": checkpoint.model_id.is_some(),
    })
}

/// A model; its files where one is looked at alone.
pub fn model_json(model: &Model, files: Option<&[StoredFile]>) -> Value {
    let mut shown = json!({
        "id": model.model_id,
        "object": "model",
        "created": model.created_at.timestamp(),
        "owned_by": "luthier",
        "kind": model.kind,
        "task": model.task,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "bytes": model.bytes,
        "lineage": {"base_model": model.base_model, "job": model.job_id, "step": model.step},
        "metrics": model.metrics,
    });
    if let Some(files) = files {
        let file = |file: &StoredFile| json!({"path": file.path, "bytes": file.bytes, "sha256": file.hash});
        let files: Vec<Value> = files.iter().map(file).collect();
        extend(&mut shown, json!({"report": model.report, "files": files}));
    }
    shown
}

/// An export; its files where one is looked at alone.
pub fn export_json(export: &Export, files: Option<&[StoredFile]>) -> Value {
    let phase = match export.asked {
        Some(Asked::Cancel) => Some("cancelling"),
        _ => export.phase.as_deref(),
    };
    let mut shown = json!({
        "id": export.export_id,
        "object": "model.export",
        "created_at": export.created_at.timestamp(),
        "model": export.model_id,
        "format": export.format,
        "kind": export.number_kind,
        "status": export.status,
        "phase": phase,
        "progress": export.progress,
        "bytes": export.bytes,
        "certificate": export.certificate,
        "ready": export.ready,
        "error": export.error.as_ref().map(error_json),
        "attempt": export.attempt,
        "agent": export.agent_name,
        "device": export.device,
        "started_at": seconds(export.started_at),
        "finished_at": seconds(export.finished_at),
    });
    if let Some(files) = files {
        let file = |file: &StoredFile| json!({"path": file.path, "bytes": file.bytes, "sha256": file.hash});
        extend(&mut shown, json!({"files": files.iter().map(file).collect::<Vec<_>>()}));
    }
    shown
}

/// A worker that has a model loaded.
pub fn loaded_json(loaded: &Loaded) -> Value {
    json!({
        "device": loaded.device,
        "context": loaded.context,
        "memory_bytes": loaded.memory,
        "requests": loaded.requests,
        "idle_seconds": loaded.idle.map(|idle| idle.as_secs()),
        "up_seconds": loaded.up.as_secs(),
        "models": loaded.models.keys().collect::<Vec<_>>(),
    })
}

fn seconds(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(|time| time.timestamp())
}

fn extend(object: &mut Value, more: Value) {
    if let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) {
        fields.extend(more);
    }
}
