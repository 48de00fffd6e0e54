//! Rows of the database as the views show them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use store::job::{Asked, Job, Status as JobState};
use store::{FileId, JobId};

use super::view::chart;
use super::view::home::{JobRow, Progress, Status, TrainerRow};
use super::view::text::{self, Moment};
use crate::Result;

/// The address of a job's page.
pub fn job_href(id: JobId) -> String {
    format!("/jobs/{id}")
}

/// The address of a data file's page.
pub fn data_href(id: FileId) -> String {
    format!("/data/{id}")
}

/// The address of a model's page; ids hold `:` and `.`, and uploaded ones nothing that needs escaping.
pub fn model_href(id: &str) -> String {
    format!("/models/{id}")
}

/// Where a language model can be talked to.
pub fn playground_href(id: &str) -> String {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    format!("/playground?model={id}")
}

/// What a job is called: its name, or what it is made of.
pub fn job_name(job: &Job) -> String {
    [Some(job.name.as_str()), job.suffix.as_deref()]
        .into_iter()
        .flatten()
        .find(|name| !name.trim().is_empty())
        .map_or_else(|| format!("{}, {}", short_model(&job.model_id), short_id(job.job_id)), str::to_owned)
}

/// The last six digits of an id, to tell jobs without a name apart.
fn short_id(id: JobId) -> String {
    let text = id.0.simple().to_string();
    text[text.len() - 6..].to_owned()
}

/// A model's id without the parts that all tuned models share.
pub fn short_model(id: &str) -> String {
    id.strip_prefix("ft:").map_or_else(|| id.to_owned(), |rest| rest.replace(":luthier:", ":"))
}

/// The state of a job as shown.
pub fn status(job: &Job) -> Status {
    let asked = job.asked.map(|asked| match asked {
        Asked::Pause => "pause",
        Asked::Cancel => "cancel",
    });
    Status::of(job.status.as_str(), asked)
}

/// How far a job is.
pub fn progress(job: &Job) -> Progress {
    let number = |name: &str| job.progress.get(name).and_then(Value::as_f64);
    let step = job.steps.map(|steps| steps as u64).or(number("step").map(|step| step as u64)).unwrap_or(0);
    let known = number("total_steps").map(|total| total as u64).unwrap_or(0);
    // Early stopping ends a job before its last step; its bar is full all the same.
    let total = if job.status == JobState::Succeeded { step.max(1) } else { known };
    let epoch = number("epoch").map(|epoch| format!(", epoch {epoch:.2}")).unwrap_or_default();
    let text = match (job.status, total) {
        (JobState::Queued, _) if step == 0 => "waiting for a trainer".to_owned(),
        (JobState::Running, 0) => "getting ready".to_owned(),
        (JobState::Succeeded, _) if known > step => {
            format!("{}, stopped early of {}", text::plural(step, "step", "steps"), text::count(known))
        }
        (JobState::Succeeded, _) => text::plural(step, "step", "steps"),
        (_, 0) => "ended before the first step".to_owned(),
        _ => format!("step {} of {}{epoch}", text::count(step), text::count(total)),
    };
    let share = if total == 0 { None } else { Some(step as f64 / total as f64) };
    let left = match (job.status, number("eta_seconds")) {
        (JobState::Running, Some(seconds)) if step < total => format!("{} left", text::duration(seconds)),
        _ => String::new(),
    };
    Progress {
        step,
        total,
        text,
        percent: share.map(|share| format!("{:.0} %", (share * 100.0).floor())).unwrap_or_default(),
        left,
    }
}

/// A metric's name for people: `matthews_correlation` is "Matthews correlation".
pub fn metric_name(name: &str) -> String {
    match name {
        "f1" => return "F1".to_owned(),
        "strict_f1" => return "Strict F1".to_owned(),
        "roc_auc" => return "ROC AUC".to_owned(),
        "mse" | "mae" | "rmse" => return name.to_uppercase(),
        "r2" => return "R²".to_owned(),
        "kl" => return "KL divergence".to_owned(),
        "bleu" | "ter" => return name.to_uppercase(),
        "chrf" => return "chrF".to_owned(),
        "chrf_plus_plus" => return "chrF++".to_owned(),
        "pearson" | "spearman" => return format!("{} correlation", capital(name)),
        _ => {}
    }
    for (start, word) in
        [("ndcg_at_", "NDCG@"), ("mrr_at_", "MRR@"), ("map_at_", "MAP@"), ("accuracy_at_", "Accuracy@")]
    {
        if let Some(k) = name.strip_prefix(start) {
            return format!("{word}{k}");
        }
    }
    for (start, of) in [("has_answer_", "answerable"), ("no_answer_", "unanswerable")] {
        if let Some(metric) = name.strip_prefix(start) {
            return format!("{}, {of}", metric_name(metric));
        }
    }
    if let Some(metric) = name.strip_prefix("best_") {
        return match metric.strip_suffix("_threshold") {
            Some(metric) => format!("Threshold of the best {}", metric_name(metric)),
            None => format!("Best {}", metric_name(metric)),
        };
    }
    if let Some(kind) = name.strip_prefix("rouge") {
        return format!("ROUGE-{kind}");
    }
    if let Some(average) = name.strip_prefix("f1_") {
        return format!("F1, {average}");
    }
    for (start, word) in [("precision_", "Precision"), ("recall_", "Recall")] {
        if let Some(average) = name.strip_prefix(start) {
            return format!("{word}, {average}");
        }
    }
    capital(&name.replace('_', " "))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The metric that says most about a job, as "accuracy 0.847"; empty before the first evaluation.
pub fn headline(metrics: &Value) -> String {
    [
        "accuracy",
        "subset_accuracy",
        "f1_macro",
        "f1",
        "r2",
        "ndcg_at_10",
        "spearman",
        "pearson",
        "bleu",
        "rougeL",
        "perplexity",
        "loss",
    ]
    .iter()
    .find_map(|name| metrics.get(name)?.as_f64().map(|value| (name, value)))
    .map(|(name, value)| format!("{} {}", lower_first(&metric_name(name)), text::value(value)))
    .unwrap_or_default()
}

fn lower_first(name: &str) -> String {
    let named = ["F1", "R", "NDCG", "MRR", "MAP", "BLEU"].iter().any(|start| name.starts_with(start));
    if named { name.to_owned() } else { name.to_lowercase() }
}

/// Seconds that a job ran, from its first claim to its end or to now.
pub fn ran_for(job: &Job, now: DateTime<Utc>) -> Option<f64> {
    let end = job.finished_at.unwrap_or(now);
    job.started_at.map(|start| (end - start).num_milliseconds() as f64 / 1000.0)
}

/// What a list says of a job beside its state.
fn result_of(job: &Job) -> String {
    match job.status {
        JobState::Failed => {
            let message = job.error.as_ref().and_then(|error| error.get("message")).and_then(Value::as_str);
            message.map(first_sentence).unwrap_or_default()
        }
        JobState::Running | JobState::Paused | JobState::Queued => {
            let loss = job.progress.get("loss").and_then(Value::as_f64);
            [loss.map(|loss| format!("loss {}", text::value(loss))), Some(headline(&job.metrics))]
                .into_iter()
                .flatten()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(" · ")
        }
        _ => headline(&job.metrics),
    }
}

fn first_sentence(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    match line.find(". ") {
        Some(end) => line[..=end].to_owned(),
        None => line.to_owned(),
    }
}

/// Names of files, by id; a deleted one has none.
pub async fn file_names(db: &PgPool, ids: &[FileId]) -> Result<HashMap<FileId, String>> {
    let mut names = HashMap::new();
    for &id in ids {
        if names.contains_key(&id) {
            continue;
        }
        if let Some(file) = store::file::get(db, id).await? {
            names.insert(id, file.name);
        }
    }
    Ok(names)
}

/// Jobs as rows of a list; with small curves where `sparks` asks for them.
pub async fn job_rows(db: &PgPool, jobs: Vec<Job>, sparks: bool) -> Result<Vec<JobRow>> {
    let now = Utc::now();
    let ids: Vec<FileId> = jobs.iter().filter_map(|job| job.training_file).collect();
    let names = file_names(db, &ids).await?;
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        let spark = if sparks { spark_of(db, job.job_id).await? } else { None };
        rows.push(job_row(&job, job.training_file.and_then(|file| names.get(&file)), spark, now));
    }
    Ok(rows)
}

async fn spark_of(db: &PgPool, id: JobId) -> Result<Option<String>> {
    let points = store::event::series(db, id, store::event::Kind::Train, &["loss"], 120).await?;
    let curve: Vec<(f64, f64)> = points
        .iter()
        .map(|point| (point.step as f64, point.values["loss"].as_f64().unwrap_or(f64::NAN)))
        .collect();
    Ok(chart::spark(&curve))
}

fn job_row(job: &Job, data: Option<&String>, spark: Option<String>, now: DateTime<Utc>) -> JobRow {
    JobRow {
        href: job_href(job.job_id),
        name: job_name(job),
        status: status(job),
        model: short_model(&job.model_id),
        model_href: model_href(&job.model_id),
        data: data.cloned().unwrap_or_else(|| "deleted data".to_owned()),
        data_href: data.and(job.training_file).map(data_href).unwrap_or_default(),
        progress: progress(job),
        result: result_of(job),
        created: Moment::at(job.finished_at.or(job.started_at).unwrap_or(job.created_at), now),
        took: ran_for(job, now).map(text::duration).unwrap_or_default(),
        spark,
    }
}

/// Seconds after which a trainer that said nothing counts as gone.
const SILENT_AFTER: i64 = 90;

/// Trainers that were heard of today, those at work first.
pub async fn trainers(db: &PgPool) -> Result<Vec<TrainerRow>> {
    let now = Utc::now();
    let mut agents = store::agent::list(db).await?;
    agents.retain(|agent| (now - agent.last_seen).num_hours() < 24);
    agents.sort_by_key(|agent| (agent.running == 0, agent.name.clone()));
    Ok(agents.iter().map(|agent| trainer(agent, now)).collect())
}

fn trainer(agent: &store::agent::Agent, now: DateTime<Utc>) -> TrainerRow {
    let silent = (now - agent.last_seen).num_seconds() > SILENT_AFTER;
    let (state, chip) = match &agent.unfit {
        _ if silent => ("silent".to_owned(), "warn"),
        Some(reason) => (format!("unfit: {reason}"), "bad"),
        None if agent.running > 0 => ("working".to_owned(), "running"),
        None => ("idle".to_owned(), "good"),
    };
    let memory = agent.memory_bytes.map(|bytes| format!(", {}", text::bytes(bytes.max(0) as u64)));
    let threads = text::plural(agent.threads.max(0) as u64, "thread", "threads");
    TrainerRow {
        name: agent.name.clone(),
        device: format!("{}, {threads}{}", agent.device, memory.unwrap_or_default()),
        state,
        chip,
        seen: Moment::at(agent.last_seen, now),
    }
}

/// Whether a trainer is there that could take a job now.
pub fn can_train(trainers: &[TrainerRow]) -> bool {
    trainers.iter().any(|trainer| matches!(trainer.chip, "running" | "good"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metrics_have_names_for_people() {
        assert_eq!(metric_name("matthews_correlation"), "Matthews correlation");
        assert_eq!(metric_name("f1_macro"), "F1, macro");
        assert_eq!(metric_name("pearson"), "Pearson correlation");
        assert_eq!(metric_name("precision"), "Precision");
    }

    #[test]
    fn the_headline_is_the_metric_that_says_most() {
        assert_eq!(headline(&json!({"loss": 0.3, "accuracy": 0.8472, "f1": 0.85})), "accuracy 0.8472");
        assert_eq!(headline(&json!({"loss": 0.3, "r2": 0.5})), "R² 0.5000");
        assert_eq!(headline(&json!({})), "");
    }
}
