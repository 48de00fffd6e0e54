//! The agent: takes jobs from the queue and runs each in a process of its own.
//!
//! It holds a lease on one job at a time, lays out the job's folder, starts `luthier-trainer job` there, and carries
//! events, checkpoints and the finished model to the store. The job knows nothing of queue or network; the agent knows
//! nothing of tensors. Each may be killed at any moment: the job goes on from its newest checkpoint, and every event
//! is stored once.

mod address;
mod backoff;
mod cache;
mod checkpoints;
mod db;
mod events;
mod finish;
mod fitness;
mod gang;
mod heartbeat;
mod identity;
mod idle;
mod log;
mod marker;
mod member;
mod oom;
mod outcome;
mod prepare;
mod process;
mod run;
mod stopping;
mod supervise;
mod sweep;
mod tail;
mod upload;
mod workdir;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use store::notify::Listener;
use store::{AgentId, Objects, PgPool, Store};

use self::cache::Cache;
use self::identity::Hold;
use self::stopping::Stopping;

/// How an agent is run.
#[derive(Clone, clap::Args)]
pub struct AgentArgs {
    /// Address of the database, such as `postgres://user@host/luthier`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Where files are kept: a folder, or `s3://bucket/prefix`.
    #[arg(long, env = "LUTHIER_OBJECTS")]
    pub objects: String,
    /// Folder for jobs in progress and for the cache of artifacts; one agent each.
    #[arg(long, env = "LUTHIER_WORK", default_value = "./work")]
    pub work: PathBuf,
    /// Name of this agent, unique among all of one database; made up from host name and work folder when left out.
    #[arg(long, env = "LUTHIER_AGENT_NAME")]
    pub name: Option<String>,
    /// Processes that it gives to one job: all its GPUs when left out, or as many processes on the CPU as it has threads.
    #[arg(long, env = "LUTHIER_DEVICES", value_parser = clap::value_parser!(i32).range(1..=64))]
    pub devices: Option<i32>,
    /// Address at which trainers on other machines reach this one, for jobs that take several machines; that of its way
    /// to the database when left out.
    #[arg(long, env = "LUTHIER_ADDRESS")]
    pub address: Option<IpAddr>,
    /// Seconds after which a job is taken away from an agent that does not report.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease_seconds: u64,
    /// Seconds that a job has to stop at a checkpoint before it is killed.
    #[arg(long, default_value_t = 60)]
    pub grace_seconds: u64,
    /// Bytes of artifacts kept for further jobs.
    #[arg(long, default_value_t = 20 * 1024 * 1024 * 1024)]
    pub cache_bytes: u64,
    /// Program run as `PROGRAM job DIR` and `PROGRAM devices`, instead of this one.
    #[arg(long, hide = true)]
    pub job_program: Option<PathBuf>,
}

/// Hides the password in the address.
impl std::fmt::Debug for AgentArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentArgs")
            .field("work", &self.work)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What an agent goes by, for as long as it runs.
struct Settings {
    name: String,
    program: PathBuf,
    lease: Duration,
    grace: Duration,
    devices: Option<i32>,
    address: Option<IpAddr>,
}

/// A running agent.
struct Agent {
    store: Store,
    hold: Hold,
    cache: Cache,
    settings: Settings,
    wakes: Listener,
}

/// Runs an agent on a runtime of its own until it is told to stop.
pub fn run_blocking(args: AgentArgs) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime could not be started")?
        .block_on(run(args))
}

/// Runs an agent until SIGTERM or SIGINT: then it pauses its job at a checkpoint, gives it back and ends with 0.
pub async fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let stopping = Stopping::listen()?;
    let hold = Hold::take(&args.work)?;
    process::end_orphans(&hold.work).await?;
    let cache = Cache::open(&hold.work, args.cache_bytes)?;
    let objects = Objects::open(&args.objects).await?;
    let program = match args.job_program {
        Some(program) => program,
        None => std::env::current_exe()?,
    };
    let settings = Settings {
        name: args.name.unwrap_or_else(|| default_name(&hold)),
        program,
        lease: Duration::from_secs(args.lease_seconds),
        grace: Duration::from_secs(args.grace_seconds),
        devices: args.devices,
        address: args.address.or_else(|| address::towards(&args.database_url)),
    };
    let mut asked = stopping.clone();
    let db = tokio::select! {
        db = connect(&args.database_url) => db?,
        () = asked.reached(1) => return Ok(ExitCode::SUCCESS),
    };
    let store = Store::new(db, objects);
    tokio::select! {
        checked = marker::check(&store) => checked?,
        () = asked.reached(1) => return Ok(ExitCode::SUCCESS),
    }
    let agent = Agent { wakes: Listener::spawn(store.db.clone()), store, hold, cache, settings };
    idle::take_jobs(&agent, stopping).await;
    Ok(ExitCode::SUCCESS)
}

/// Connects, waiting for a database that is still starting.
async fn connect(url: &str) -> anyhow::Result<PgPool> {
    db::until_answered("connecting", || store::connect(url, 4))
        .await
        .context("the database cannot be reached")
}

/// Unique as long as work folders are not copied.
fn default_name(hold: &Hold) -> String {
    let host = rustix::system::uname();
    let id = hold.id.simple().to_string();
    format!("{}-{}", host.nodename().to_string_lossy(), &id[id.len() - 6..])
}
