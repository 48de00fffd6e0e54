//! What a browser sees.
//!
//! A handler reads rows, turns them into a view ([`view`], ready to print) and renders its template. Forms lead through
//! the same functions as the API.

mod assets;
mod chat;
mod convert;
mod data;
mod events;
mod home;
mod job;
mod job_results;
mod job_samples;
mod job_settings;
mod job_view;
mod job_written;
mod models;
mod new_job;
mod playground;
mod series;
mod settings;
mod tagged;
mod text_to_text;
pub mod tokens;
pub mod view;

use askama::Template;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};

use crate::error::Problem;
use crate::{AppState, Error, Result};

/// Stricter than that of other answers: pages hold no style of their own either.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Routes of the pages.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/", get(home::show_home))
        .route("/jobs", get(home::list_jobs).post(new_job::create_job))
        .route("/jobs/new", get(new_job::show_form))
        .route("/jobs/new/columns", get(new_job::show_columns))
        .route("/jobs/new/picker", get(new_job::show_picker))
        .route("/jobs/new/estimate", get(new_job::show_estimate))
        .route("/jobs/{id}", get(job::show_job))
        .route("/jobs/{id}/status", get(job::show_status))
        .route("/jobs/{id}/results", get(job::show_results))
        .route("/jobs/{id}/log", get(job::show_log))
        .route("/jobs/{id}/values", get(series::show_values))
        .route("/jobs/{id}/series", get(series::show_series))
        .route("/jobs/{id}/chart.svg", get(series::draw_chart))
        .route("/jobs/{id}/events", get(events::follow))
        .route("/jobs/{id}/cancel", get(job::confirm_cancel).post(job::cancel_job))
        .route("/jobs/{id}/pause", post(job::pause_job))
        .route("/jobs/{id}/resume", post(job::resume_job))
        .route("/playground", get(playground::show_playground))
        .merge(data::router())
        .merge(models::router())
        .route("/static/{version}/{*path}", get(assets::show))
        .route("/favicon.ico", get(favicon))
}

/// The page that a failed request shows in a browser.
pub fn error_page(problem: &Problem) -> Response {
    let heading = match problem.status.as_u16() {
        400 | 422 => "This cannot be done",
        401 => "A key is needed",
        403 => "Refused",
        404 => "Not found",
        405 => "Not like this",
        413 => "Too large",
        503 => "Not now",
        _ => "Something went wrong",
    };
    let page = view::ErrorPage {
        page: view::Page::new(heading, ""),
        status: problem.status.as_u16(),
        heading,
        message: sentence(&problem.message),
    };
    match html(&page) {
        Ok(mut response) => {
            *response.status_mut() = problem.status;
            response
        }
        Err(_) => problem.status.into_response(),
    }
}

/// A rendered template as an answer.
fn html(template: &impl Template) -> Result<Response> {
    let text = template.render().map_err(|error| Error::Internal(error.into()))?;
    let policy = [(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY))];
    Ok((policy, Html(text)).into_response())
}

/// Whether a script asks for a fragment.
fn is_fragment(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request")
}

/// A message with a capital letter and a full stop, as it stands on a page.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let mut text: String =
        letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default();
    if text.ends_with(|last: char| last.is_alphanumeric() || ")\"'`".contains(last)) {
        text.push('.');
    }
    text
}

async fn favicon() -> axum::response::Redirect {
    axum::response::Redirect::permanent(&assets::url("icon.svg"))
}
