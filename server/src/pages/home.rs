//! The home page and the list of jobs.

use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use sqlx::PgPool;
use store::JobId;
use store::job::{Filter, Job, Status};

use super::view::home::{self as view, Home, HomeLive, JobRows, Jobs};
use super::view::{Page, Paging};
use super::{convert, html};
use crate::{AppState, Error, Result};

/// Finished jobs on the home page.
const RECENT: usize = 8;

/// Jobs on a page of the list.
const LISTED: i64 = 25;

#[derive(Deserialize)]
pub struct HomeQuery {
    part: Option<String>,
}

/// `GET /`
pub async fn show_home(State(state): State<AppState>, Query(query): Query<HomeQuery>) -> Result<Response> {
    let db = &state.store.db;
    let active = active_jobs(db).await?;
    let recent = store::job::list(db, &Filter::default(), 60).await?.items;
    let has_job = !recent.is_empty();
    let recent: Vec<Job> = recent.into_iter().filter(|job| job.status.is_final()).take(RECENT).collect();
    let live = HomeLive {
        active: convert::job_rows(db, active, true).await?,
        recent: convert::job_rows(db, recent, false).await?,
        trainers: convert::trainers(db).await?,
    };
    if query.part.as_deref() == Some("live") {
        return html(&live);
    }
    let files =
        store::file::Filter { purpose: Some("fine-tune".to_owned()), ..store::file::Filter::default() };
    html(&Home {
        page: Page::new("Home", ""),
        live,
        has_data: !store::file::list(db, &files, 1).await?.items.is_empty(),
        has_model: !store::model::list(db, &store::model::Filter::default(), 1).await?.items.is_empty(),
        has_job,
    })
}

/// Jobs that can still change: running ones first, then paused, then queued in their order.
async fn active_jobs(db: &PgPool) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for status in [Status::Running, Status::Paused, Status::Queued] {
        let filter = Filter { status: Some(status), ..Filter::default() };
        let mut some = store::job::list(db, &filter, 20).await?.items;
        if status == Status::Queued {
            some.sort_by_key(|job| (-job.priority, job.created_at));
        }
        jobs.append(&mut some);
    }
    Ok(jobs)
}

#[derive(Deserialize)]
pub struct JobsQuery {
    status: Option<String>,
    after: Option<String>,
    part: Option<String>,
}

const FILTERS: [(&str, &str, Option<Status>); 7] = [
    ("", "All", None),
    ("running", "Running", Some(Status::Running)),
    ("queued", "Queued", Some(Status::Queued)),
    ("paused", "Paused", Some(Status::Paused)),
    ("succeeded", "Succeeded", Some(Status::Succeeded)),
    ("failed", "Failed", Some(Status::Failed)),
    ("cancelled", "Cancelled", Some(Status::Cancelled)),
];

/// `GET /jobs`
pub async fn list_jobs(State(state): State<AppState>, Query(query): Query<JobsQuery>) -> Result<Response> {
    let db = &state.store.db;
    let chosen = query.status.as_deref().unwrap_or_default();
    let status = FILTERS.iter().find(|(word, ..)| *word == chosen).and_then(|(_, _, status)| *status);
    let after = query.after.as_deref().map(str::parse::<JobId>).transpose();
    let after = after.map_err(|error| Error::invalid("after", error.to_string()))?;
    let list = store::job::list(db, &Filter { after, status, ..Filter::default() }, LISTED).await?;
    let live = list.items.iter().any(|job| !job.status.is_final());
    let address = |after: Option<String>, part: &str| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if !chosen.is_empty() {
            query.append_pair("status", chosen);
        }
        after.map(|after| query.append_pair("after", &after));
        if !part.is_empty() {
            query.append_pair("part", part);
        }
        format!("/jobs?{}", query.finish())
    };
    let older = if list.more { list.items.last().map(|job| job.job_id.to_string()) } else { None };
    let rows = JobRows {
        rows: convert::job_rows(db, list.items, false).await?,
        refresh: if live { address(query.after.clone(), "rows") } else { String::new() },
    };
    if query.part.as_deref() == Some("rows") {
        return html(&rows);
    }
    html(&Jobs {
        page: Page::new("Fine-tunes", "jobs"),
        rows,
        filters: FILTERS.iter().map(|(word, name, _)| filter(word, name, chosen)).collect(),
        paging: Paging {
            newest: if query.after.is_some() { address(None, "") } else { String::new() },
            older: older.map(|id| address(Some(id), "")).unwrap_or_default(),
        },
    })
}

fn filter(word: &str, name: &'static str, chosen: &str) -> view::Filter {
    let href = if word.is_empty() { "/jobs".to_owned() } else { format!("/jobs?status={word}") };
    view::Filter { name, href, current: word == chosen }
}
