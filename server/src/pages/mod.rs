//! What a browser sees.

use axum::Router;
use axum::response::{Html, IntoResponse, Response};

use crate::AppState;
use crate::error::Problem;

/// Routes of the pages.
pub fn router() -> Router<AppState> {
    Router::new()
}

/// The page that a failed request shows in a browser.
pub fn error_page(problem: &Problem) -> Response {
    (problem.status, Html(String::new())).into_response()
}
