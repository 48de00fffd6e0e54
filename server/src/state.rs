//! What every handler can reach.

use std::sync::Arc;

use store::Store;
use store::notify::Listener;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::inference::Workers;
use crate::openai::sample::Samples;
use crate::pages::tokens::Readers;
use crate::predictor::Predictors;
use crate::telemetry::Requests;

/// Shared by all requests; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// Rows and bytes.
    pub store: Store,
    /// Settings, as given at start.
    pub config: Arc<Config>,
    /// The one database listener behind all event streams.
    pub listener: Arc<Listener>,
    /// Trainer processes that answer predictions.
    pub predictors: Arc<Predictors>,
    /// Trainer processes that generate and embed.
    pub workers: Arc<Workers>,
    /// Lengths of rows that estimates were made from.
    pub samples: Samples,
    /// Tokenizers that pages show rows with.
    pub readers: Readers,
    /// Cancelled when the server stops: long answers such as event streams end on it.
    pub stopping: CancellationToken,
    /// Counts of requests, for `/metrics`.
    pub requests: Requests,
}

impl AppState {
    /// Joins a store and settings; starts to listen for changes of jobs.
    pub fn new(store: Store, config: Config, stopping: CancellationToken) -> Self {
        AppState {
            listener: Arc::new(Listener::spawn(store.db.clone())),
            predictors: Arc::new(Predictors::new(&config, store.objects.clone())),
            workers: Arc::new(Workers::new(&config, store.objects.clone())),
            config: Arc::new(config),
            requests: Requests::default(),
            samples: Samples::default(),
            readers: Readers::default(),
            store,
            stopping,
        }
    }
}
