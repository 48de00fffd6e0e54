//! What every handler can reach.

use std::sync::Arc;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::telemetry::Requests;

/// Shared by all requests; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The database.
    pub db: PgPool,
    /// Settings, as given at start.
    pub config: Arc<Config>,
    /// Cancelled when the server stops: long answers such as event streams end on it.
    pub stopping: CancellationToken,
    /// Counts of requests, for `/metrics`.
    pub requests: Requests,
}
