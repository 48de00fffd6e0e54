//! A running server and what surrounds it.

use std::fs;
use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use store::{Objects, PgPool, Store};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Agent};
use crate::config::{Secret, Trainer};
use crate::inference::precedence;
use crate::postgres::Cluster;
use crate::process::Lock;
use crate::{AppState, Config, upkeep};

/// Connections of this process to the database.
const CONNECTIONS: u32 = 20;

/// Time that open requests get to end at a graceful stop.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);

/// The end of that time, in which answers that are still being generated are broken off with an error.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    config.check().map_err(anyhow::Error::msg)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    launch(listener, config, stop_signal()?).await
}

/// Serves on `listener` until `stop` is done, with everything that the settings ask for beside it.
///
/// Tests bind port 0 themselves.
pub async fn launch(
    listener: TcpListener,
    mut config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    config.data = prepare_data_folder(&config.data)?;
    let _lock = lock(&config.data)?;
    let stopping = CancellationToken::new();
    let database_stopping = CancellationToken::new();
    let cluster = match &config.database_url {
        Some(_) => None,
        None => {
            let cluster = Cluster::open(&config.data, &postgres_of(&config)?).await?;
            config.database_url = Some(Secret::new(cluster.url()));
            Some(tokio::spawn(cluster.supervise(database_stopping.clone())))
        }
    };
    let ended = run(listener, config, stop, stopping).await;
    database_stopping.cancel();
    if let Some(cluster) = cluster {
        cluster.await?.stop().await;
        tracing::info!("Postgres has stopped");
    }
    ended
}

/// Everything between the start of the database and its end.
async fn run(
    listener: TcpListener,
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    let url = config.database_url.clone().context("no database")?;
    let db = open_database(url.expose()).await?;
    let objects = objects_of(&config);
    let store = Store::new(db.clone(), Objects::open(&objects).await?);
    store.mark().await?;
    let trainer = start_trainer(&config, url.expose(), &objects, &stopping)?;
    let state = AppState::new(store, config, stopping.clone());
    let upkeep = tokio::spawn(upkeep::run(state.clone()));
    let precedence = tokio::spawn(precedence::watch(state.clone()));
    let address = listener.local_addr()?;
    tracing::info!("serving on http://{address}");
    let signal = stopping.clone();
    tokio::spawn(async move {
        stop.await;
        tracing::info!("stopping: running jobs write a checkpoint and go on at the next start");
        signal.cancel();
    });
    let served = serve_until(listener, &state, &stopping).await;
    stopping.cancel();
    if let Some(trainer) = trainer {
        trainer.await?;
        tracing::info!("the trainer has ended");
    }
    upkeep.await?;
    precedence.await?;
    state.predictors.stop();
    state.workers.stop();
    // With it goes the listener, which would take the end of the pool for an outage.
    drop(state);
    db.close().await;
    served
}

/// Answers requests until `stopping`, then lets the open ones end, for a while.
async fn serve_until(
    listener: TcpListener,
    state: &AppState,
    stopping: &CancellationToken,
) -> anyhow::Result<()> {
    let graceful = axum::serve(listener, crate::app(state.clone()))
        .with_graceful_shutdown(stopping.clone().cancelled_owned());
    let impatient = async {
        stopping.cancelled().await;
        tokio::time::sleep(LONGEST_DRAIN - LAST_WORDS).await;
        state.workers.stop();
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        served = graceful => Ok(served?),
        () = impatient => {
            tracing::warn!("requests were still open after {} s; they are cut off", LONGEST_DRAIN.as_secs());
            Ok(())
        }
    }
}

/// Makes the data folder and its parts; gives its absolute path.
fn prepare_data_folder(data: &Path) -> anyhow::Result<PathBuf> {
    // Under root Postgres is another user, who must be able to pass through; the parts are closed.
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    let make = |path: &Path, mode: u32| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("cannot make {}", path.display()))
    };
    make(data, mode)?;
    let data = data.canonicalize()?;
    make(&data.join("run"), mode)?;
    for part in ["logs", "work", "cache"] {
        make(&data.join(part), 0o700)?;
    }
    Ok(data)
}

fn lock(data: &Path) -> anyhow::Result<Lock> {
    match Lock::take(&data.join("run/server.lock")).context("cannot lock the data folder")? {
        Ok(lock) => Ok(lock),
        Err(holder) => {
            let who =
                holder.map_or("another server".to_owned(), |id| format!("another server (process {id})"));
            bail!("{who} is using the data folder {}: stop it, or start with another --data", data.display())
        }
    }
}

/// Waits for a database that may still be starting, and brings its schema up to date.
async fn open_database(url: &str) -> anyhow::Result<PgPool> {
    let mut tries = 0;
    let db = loop {
        match store::connect(url, CONNECTIONS).await {
            Ok(db) => break db,
            Err(error @ sqlx::Error::Configuration(_)) => {
                return Err(error).context("DATABASE_URL cannot be understood");
            }
            Err(error) if tries == 10 => {
                return Err(error).context("cannot reach the database at DATABASE_URL");
            }
            Err(error) => tracing::warn!("the database does not answer yet: {error}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_secs(3)).await;
    };
    store::migrate(&db).await.context("cannot bring the database's schema up to date")?;
    Ok(db)
}

/// Starts to look after a local trainer, where the settings want one.
fn start_trainer(
    config: &Config,
    database_url: &str,
    objects: &str,
    stopping: &CancellationToken,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    if config.trainer == Trainer::None {
        return Ok(None);
    }
    let agent = Agent {
        program: config.trainer_program(),
        database_url: database_url.to_owned(),
        objects: objects.to_owned(),
        work: config.data.join("work"),
        name: config.trainer_name.clone(),
        lease: config.lease(),
        log: config.data.join("logs/trainer.log"),
    };
    Ok(Some(tokio::spawn(agent.supervise(stopping.clone()))))
}

fn objects_of(config: &Config) -> String {
    let folder = config.data.join("objects");
    config.objects.clone().unwrap_or_else(|| folder.to_string_lossy().into_owned())
}

fn postgres_of(config: &Config) -> anyhow::Result<PathBuf> {
    config.postgres.clone().or_else(installed_postgres).context(
        "no Postgres was found beside this program: run `make setup`, set LUTHIER_POSTGRES to an installation of Postgres, \
         or DATABASE_URL to a running one",
    )
}

/// The Postgres that is installed with this program.
pub fn installed_postgres() -> Option<PathBuf> {
    agent::installed_folder("postgres")
}

/// Done at the first SIGTERM or SIGINT; a second one ends the process at once.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut next = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
        next().await;
        drop(stop);
        next().await;
        tracing::warn!(
            "a second signal: ending at once; Postgres and the trainer go on and are adopted at the next start"
        );
        std::process::exit(130);
    });
    Ok(async move { drop(stopped.await) })
}
