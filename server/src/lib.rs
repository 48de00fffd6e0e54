//! The Luthier server: OpenAI's fine-tuning API, the pages, and the processes that they need.
//!
//! [`app`] builds the whole router from an [`AppState`]; tests and production use the same value.
//! [`serve::launch`] adds what surrounds it: Postgres, the local trainer, signals.

pub mod agent;
pub mod cli;
pub mod config;
mod demo;
pub mod error;
pub mod extract;
pub mod inference;
pub mod openai;
pub mod openapi;
pub mod operations;
pub mod pages;
pub mod postgres;
pub mod predictor;
pub mod process;
pub mod security;
pub mod serve;
pub mod state;
pub mod telemetry;
mod upkeep;
mod warm;

use axum::Router;

pub use config::Config;
pub use error::{Error, Result};
pub use state::AppState;

/// Every route, behind every layer.
pub fn app(state: AppState) -> Router {
    let routes = Router::new().merge(openai::router()).merge(operations::router()).merge(pages::router());
    security::protect(routes, &state).with_state(state)
}
