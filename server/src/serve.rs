//! A running server and what surrounds it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{AppState, Config};

/// Serves until SIGTERM or SIGINT.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    config.check().map_err(anyhow::Error::msg)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    launch(listener, config, stop_signal()?).await
}

/// Serves on `listener` until `stop` is done; tests bind port 0 themselves.
pub async fn launch(
    listener: TcpListener,
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let url = config.database_url.clone().context("no database")?;
    let db = connect(url.expose()).await?;
    let stopping = CancellationToken::new();
    let state = AppState {
        db,
        config: Arc::new(config),
        stopping: stopping.clone(),
        requests: Default::default(),
    };
    tracing::info!(address = %listener.local_addr()?, "listening");
    axum::serve(listener, crate::app(state))
        .with_graceful_shutdown(async move {
            stop.await;
            stopping.cancel();
        })
        .await?;
    Ok(())
}

async fn connect(url: &str) -> anyhow::Result<PgPool> {
    // Short of the ten seconds within which an answer is due, even while the database is away.
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(4));
    Ok(pool.connect(url).await?)
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    })
}
