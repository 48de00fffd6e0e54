//! The page of one job and what can be done to it.

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use sqlx::PgPool;
use store::JobId;
use store::event::Kind;
use store::job::{Job, JobKind};
use store::queue::{self, OrderError};
use store::spec::{JobSpec, PreferenceLoss, Task};

use super::view::job::{ChartCard, JobPage, JobResults, JobStatus, LogLine, LogPage};
use super::view::{Confirm, ConfirmQuestion, Page};
use super::{convert, html, is_fragment, job_results, job_settings, job_view, sentence, series};
use crate::{AppState, Error, Result};

/// Lines of the log on the job's page.
const LINES: i64 = 300;

/// Lines on a page of the whole log.
const PAGE_LINES: i64 = 500;

/// Kinds that the log on the job's page shows; the whole log shows the training steps too.
const LOGGED: [Kind; 7] =
    [Kind::Phase, Kind::Log, Kind::Eval, Kind::Test, Kind::Checkpoint, Kind::Resume, Kind::Result];

/// The job that an address names.
pub async fn find_job(state: &AppState, id: &str) -> Result<Job> {
    let missing = || Error::not_found(format!("there is no fine-tune {id} on this server"));
    let parsed: JobId = id.parse().map_err(|_| missing())?;
    let job = store::job::get(&state.store.db, parsed).await?;
    job.filter(|job| job.kind == JobKind::Train).ok_or_else(missing)
}

/// `GET /jobs/{id}`
pub async fn show_job(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let db = &state.store.db;
    let job = find_job(&state, &id).await?;
    let log = log_lines(db, job.job_id).await?;
    let href = convert::job_href(job.job_id);
    let name = convert::job_name(&job);
    html(&JobPage {
        page: Page::new(&name, "jobs").with(&["js/job.js"]).with_charts(),
        id: job.job_id.to_string(),
        name,
        status: status_of(db, &job).await?,
        results: results_of(db, &job).await?,
        charts: charts(&job.spec),
        // Read before the log: the stream goes on from here, and the page passes over lines that it has.
        last_event: job.last_event,
        log,
        older_log: format!("{href}/log"),
        settings: job_settings::settings(db, &job).await?,
        manifest: job_view::manifest(&job),
        evaluations: series::evaluations(db, job.job_id).await?,
    })
}

/// The charts of a job. Perplexity, rewards, divergence and metrics of texts have theirs: their scales are not those of shares.
fn charts(spec: &JobSpec) -> Vec<ChartCard> {
    let card = |key, title, width| ChartCard { key, title, width };
    let rule = spec.training.preference.as_ref().map(|preference| preference.loss);
    let (own, last) = match (spec.task, rule) {
        (
            Task::TextClassification
            | Task::SentenceSimilarity
            | Task::QuestionAnswering
            | Task::TokenClassification,
            _,
        ) => (Vec::new(), "third"),
        (Task::Translation | Task::Summarization | Task::TextToText, _) => (
            vec![
                card("texts", "What it writes: BLEU, chrF, ROUGE", "half"),
                card("perplexity", "Perplexity of the validation rows", "half"),
            ],
            "third",
        ),
        (Task::TextGeneration, None) => {
            (vec![card("perplexity", "Perplexity of the validation rows", "half")], "half")
        }
        (Task::TextGeneration, Some(PreferenceLoss::Kto)) => (
            vec![
                card("rewards", "Rewards of the validation rows", "half"),
                card("kl", "Divergence from the beginning (KL)", "half"),
            ],
            "third",
        ),
        (Task::TextGeneration, Some(_)) => {
            (vec![card("rewards", "Rewards of the validation rows", "half")], "half")
        }
    };
    let mut cards = vec![card("loss", "Loss", "wide")];
    cards.extend(own);
    cards.push(card("metrics", "Validation metrics", "half"));
    cards.push(card("learning_rate", "Learning rate", "half"));
    cards.push(card("throughput", "Throughput", last));
    cards.push(card("grad_norm", "Gradient norm", last));
    cards.push(card("memory", "Memory", last));
    cards
}

async fn log_lines(db: &PgPool, id: JobId) -> Result<Vec<LogLine>> {
    let events = store::event::latest(db, id, &LOGGED, LINES).await?;
    Ok(events.iter().rev().filter_map(job_view::log_line).collect())
}

/// `GET /jobs/{id}/status`
pub async fn show_status(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let job = find_job(&state, &id).await?;
    html(&status_of(&state.store.db, &job).await?)
}

/// `GET /jobs/{id}/results`
pub async fn show_results(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let job = find_job(&state, &id).await?;
    html(&results_of(&state.store.db, &job).await?)
}

async fn status_of(db: &PgPool, job: &Job) -> Result<JobStatus> {
    let trainers = convert::trainers(db).await?;
    let position = queue::position(db, job.job_id).await?;
    Ok(job_view::status(job, convert::can_train(&trainers), position))
}

async fn results_of(db: &PgPool, job: &Job) -> Result<JobResults> {
    job_results::results(db, job).await
}

#[derive(Deserialize)]
pub struct LogQuery {
    before: Option<i64>,
}

/// `GET /jobs/{id}/log`
pub async fn show_log(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response> {
    let job = find_job(&state, &id).await?;
    let part = store::event::page(&state.store.db, job.job_id, query.before, PAGE_LINES).await?;
    let href = convert::job_href(job.job_id);
    let oldest = part.items.last().map(|event| event.number);
    let newest = part.items.first().map(|event| event.number);
    let older = oldest.filter(|_| part.more).map(|number| format!("{href}/log?before={number}"));
    let newer = newest
        .filter(|newest| query.before.is_some() && *newest < job.last_event)
        .map(|newest| format!("{href}/log?before={}", newest + PAGE_LINES + 1));
    html(&LogPage {
        page: Page::new("Log", "jobs"),
        name: convert::job_name(&job),
        log: part.items.iter().rev().filter_map(job_view::any_line).collect(),
        older: older.unwrap_or_default(),
        newer: newer.unwrap_or_default(),
        href,
    })
}

/// `GET /jobs/{id}/cancel`
pub async fn confirm_cancel(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let job = find_job(&state, &id).await?;
    let href = convert::job_href(job.job_id);
    let question = ConfirmQuestion {
        heading: "Cancel this fine-tune?".to_owned(),
        message: format!(
            "{} stops for good after its current step. Checkpoints written so far are kept. To go on later, pause it instead.",
            convert::job_name(&job)
        ),
        action: format!("{href}/cancel"),
        yes: "Cancel it",
        back: href,
    };
    ask(question, &headers)
}

/// A question as a page, or alone for a dialog.
pub fn ask(question: ConfirmQuestion, headers: &HeaderMap) -> Result<Response> {
    if is_fragment(headers) {
        return html(&question);
    }
    html(&Confirm { page: Page::new(&question.heading, ""), question })
}

/// `POST /jobs/{id}/cancel`
pub async fn cancel_job(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let job = find_job(&state, &id).await?.job_id;
    ordered(job, queue::cancel(&state.store.db, job).await)
}

/// `POST /jobs/{id}/pause`
pub async fn pause_job(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let job = find_job(&state, &id).await?.job_id;
    ordered(job, queue::pause(&state.store.db, job).await)
}

/// `POST /jobs/{id}/resume`
pub async fn resume_job(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let job = find_job(&state, &id).await?.job_id;
    ordered(job, queue::resume(&state.store.db, job).await)
}

/// Back to the job's page, which shows what came of it.
fn ordered(id: JobId, done: std::result::Result<Job, OrderError>) -> Result<Response> {
    match done {
        Ok(_) => Ok(Redirect::to(&convert::job_href(id)).into_response()),
        Err(OrderError::Missing(id)) => Err(Error::not_found(format!("there is no fine-tune {id}"))),
        Err(OrderError::Refused(refused)) => {
            Err(Error::bad_request("order_refused", sentence(&refused.to_string())))
        }
        Err(OrderError::Db(error)) => Err(error.into()),
    }
}
