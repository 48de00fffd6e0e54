//! The private Postgres: made, started, adopted, watched and stopped by the server.
//!
//! It listens on a Unix socket in a folder of its own (mode 0700) and on no port; whoever may open that folder is
//! trusted. It runs in a process group of its own, so that a server that is killed leaves it running; the next server
//! on the same data folder adopts it. A Postgres that dies is started again, and recovers from its log.

mod account;
mod place;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use self::account::Account;
use self::place::Place;
use crate::process::{self, Backoff, Signal, Supervised};

/// Name of the database in the cluster.
const DATABASE: &str = "luthier";

/// Time that a recovery after a crash may take.
const LONGEST_START: Duration = Duration::from_secs(300);

/// Time that a stop may take before connections are cut.
const LONGEST_STOP: Duration = Duration::from_secs(60);

/// A running private Postgres.
#[derive(Debug)]
pub struct Cluster {
    place: Place,
    account: Option<Account>,
    process: Supervised,
}

impl Cluster {
    /// Makes the cluster if there is none, then adopts or starts its Postgres.
    ///
    /// `data` is the server's data folder, already locked by this server; `install` has `bin/postgres` and `bin/initdb`.
    pub async fn open(data: &Path, install: &Path) -> anyhow::Result<Cluster> {
        let account = Account::for_postgres()?;
        let place = Place::prepare(data, install, account.as_ref())?;
        initialise(&place, account.as_ref())?;
        check_version(&place)?;
        let process = match adopt(&place).await? {
            Some(process) => process,
            None => start(&place, account.as_ref()).await?,
        };
        let cluster = Cluster { place, account, process };
        create_database(&cluster.place).await?;
        Ok(cluster)
    }

    /// The address of its database.
    pub fn url(&self) -> String {
        self.place.url(DATABASE)
    }

    /// Starts Postgres again whenever it ends, until `stopping`; then hands it back to be stopped.
    pub async fn supervise(mut self, stopping: CancellationToken) -> Cluster {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let since = Instant::now();
            let how = tokio::select! {
                () = stopping.cancelled() => return self,
                how = self.process.wait() => how,
            };
            tracing::error!("Postgres ended ({how}); starting it again");
            loop {
                let again = tokio::select! {
                    () = stopping.cancelled() => return self,
                    again = start(&self.place, self.account.as_ref()) => again,
                };
                match again {
                    Ok(process) => {
                        self.process = process;
                        tracing::info!("Postgres is back");
                        break;
                    }
                    Err(error) => tracing::error!("Postgres did not start: {error:#}"),
                }
                tokio::time::sleep(backoff.after(since.elapsed())).await;
            }
        }
    }

    /// Stops Postgres: first so that it writes everything down, then, if that takes too long, at once.
    pub async fn stop(mut self) {
        self.process.signal(Signal::INT);
        if !self.process.wait_at_most(LONGEST_STOP).await {
            tracing::warn!(
                "Postgres did not stop within {} s; it is stopped at once and will recover",
                LONGEST_STOP.as_secs()
            );
            self.process.signal(Signal::QUIT);
            self.process.wait_at_most(Duration::from_secs(10)).await;
        }
    }
}

/// Makes the cluster beside its final place and moves it there whole.
fn initialise(place: &Place, account: Option<&Account>) -> anyhow::Result<()> {
    if place.cluster.join("PG_VERSION").exists() {
        return Ok(());
    }
    let parent = place.cluster.parent().context("the cluster has no parent folder")?;
    let unfinished = tempfile::Builder::new()
        .prefix(".pg-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    if let Some(account) = account {
        account.own(unfinished.path())?;
    }
    let mut command = program(place, "initdb", account);
    command.arg("-D").arg(unfinished.path()).args([
        "-U",
        "luthier",
        "--auth=trust",
        "--encoding=UTF8",
        "--data-checksums",
    ]);
    command.args([
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        "--no-instructions",
    ]);
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().context("cannot run initdb")?;
    ensure!(
        status.success(),
        "initdb failed ({status}):\n{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    fs::rename(unfinished.path(), &place.cluster)
        .with_context(|| format!("cannot move the new cluster to {}", place.cluster.display()))?;
    tracing::info!("made a private Postgres in {}", place.cluster.display());
    Ok(())
}

fn check_version(place: &Place) -> anyhow::Result<()> {
    let made_by = fs::read_to_string(place.cluster.join("PG_VERSION"))?;
    let Output { stdout, .. } = Command::new(place.programs.join("postgres"))
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", place.programs.join("postgres").display()))?;
    let version = String::from_utf8_lossy(&stdout).into_owned();
    let number = version
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or_default();
    let major = number.split('.').next().unwrap_or_default();
    ensure!(
        made_by.trim() == major,
        "the database in {} was made by Postgres {} and this is Postgres {major}: move it with pg_dump and pg_restore, or set LUTHIER_POSTGRES to the other version",
        place.cluster.display(),
        made_by.trim()
    );
    Ok(())
}

/// The Postgres that an earlier server left running on this cluster.
async fn adopt(place: &Place) -> anyhow::Result<Option<Supervised>> {
    let Some(id) = running(place) else {
        return Ok(None);
    };
    let mut process = Supervised::Adopted(id);
    let until = Instant::now() + LONGEST_START;
    while process::is_alive(id) {
        match connect(place).await {
            Ok(()) => {
                tracing::info!(process.id = id, "adopted the Postgres that was running");
                return Ok(Some(process));
            }
            Err(error) if Instant::now() > until => {
                bail!(
                    "a Postgres (process {id}) runs on {} and does not answer: {error}",
                    place.cluster.display()
                )
            }
            Err(_) => drop(process.wait_at_most(Duration::from_millis(100)).await),
        }
    }
    Ok(None)
}

/// Process id of the Postgres on this cluster. Its own lock file may be of before a restart of the machine and name
/// any process by now, so the process must also work in the cluster's folder.
fn running(place: &Place) -> Option<u32> {
    let id = lock_file_id(place)?;
    let cluster = place.cluster.canonicalize().ok()?;
    (process::is_alive(id) && process::folder_of(id).is_some_and(|folder| folder == cluster)).then_some(id)
}

fn lock_file_id(place: &Place) -> Option<u32> {
    let text = fs::read_to_string(place.cluster.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// Removes a lock file that names a process which is not Postgres, once none is left at work on the cluster.
fn remove_stale_lock_file(place: &Place) -> anyhow::Result<()> {
    let Some(id) = lock_file_id(place).filter(|_| running(place).is_none()) else {
        return Ok(());
    };
    let cluster = place.cluster.canonicalize()?;
    if Path::new(&format!("/proc/{id}")).exists() && process::working_in(&cluster).is_empty() {
        tracing::warn!("process {id} of an old lock file is not Postgres; the lock file is removed");
        fs::remove_file(place.cluster.join("postmaster.pid"))?;
    }
    Ok(())
}

/// Waits for the processes that a killed Postgres leaves: they notice by themselves, and until then hold its memory.
async fn wait_for_orphans(place: &Place) -> anyhow::Result<()> {
    let cluster = place.cluster.canonicalize()?;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let left = process::working_in(&cluster);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("processes {left:?} of an earlier Postgres do not end; end them by hand");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Starts Postgres and waits until it answers.
async fn start(place: &Place, account: Option<&Account>) -> anyhow::Result<Supervised> {
    wait_for_orphans(place).await?;
    remove_stale_lock_file(place)?;
    let mut command = program(place, "postgres", account);
    command.arg("-D").arg(&place.cluster).arg("-k").arg(&place.socket);
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command.process_group(0).stdin(Stdio::null());
    command.stdout(process::log_file(&place.log)?).stderr(process::log_file(&place.log)?);
    let child = tokio::process::Command::from(command).spawn().context("cannot run postgres")?;
    let mut process = Supervised::Child(child);
    let until = Instant::now() + LONGEST_START;
    loop {
        let Err(error) = connect(place).await else {
            return Ok(process);
        };
        if process.wait_at_most(Duration::from_millis(50)).await {
            bail!("Postgres ended at its start:\n{}", process::last_lines(&place.log, 12));
        }
        if Instant::now() > until {
            process.signal(Signal::INT);
            bail!("Postgres does not answer after {} s: {error}", LONGEST_START.as_secs());
        }
    }
}

/// Beside Postgres' defaults, which sync every commit.
const SETTINGS: [&str; 11] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=100",
    "shared_buffers=128MB",
    "max_wal_size=2GB",
    "jit=off",
    "log_checkpoints=off",
    "log_timezone=UTC",
    "timezone=UTC",
    "idle_in_transaction_session_timeout=60s",
    "client_connection_check_interval=10s",
];

async fn connect(place: &Place) -> sqlx::Result<()> {
    PgConnection::connect(&place.url("postgres")).await?.close().await
}

async fn create_database(place: &Place) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&place.url("postgres")).await?;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(DATABASE)
        .fetch_one(&mut connection)
        .await?;
    if !exists {
        sqlx::query(AssertSqlSafe(format!("create database {DATABASE}"))).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

/// A program of Postgres with an environment of its own: `PG…` variables and locales of the caller must not change it.
fn program(place: &Place, name: &str, account: Option<&Account>) -> Command {
    let mut command = Command::new(place.programs.join(name));
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir("/");
    if let Some(account) = account {
        account.run(&mut command);
    }
    command
}
