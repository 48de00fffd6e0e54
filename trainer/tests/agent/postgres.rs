//! A PostgreSQL cluster of a test's own, to be stopped, killed and started again.

use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

/// PostgreSQL does not run as root; then it runs as this user, whom every Linux has: `nobody`.
const NOBODY: u32 = 65534;

pub struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    server: Option<Child>,
    /// Where it listens beside its socket; nowhere when empty.
    listen: String,
}

impl Cluster {
    /// Makes a cluster and starts it.
    pub async fn start_new() -> Self {
        let mut cluster = Self::made();
        cluster.start().await;
        cluster
    }

    /// Makes a cluster that listens on an address, for clients of a network that it trusts.
    pub async fn start_listening(address: &str, network: &str) -> Self {
        let mut cluster = Self::made();
        cluster.listen = address.to_owned();
        let rules = cluster.data().join("pg_hba.conf");
        let rules = std::fs::File::options().append(true).open(rules);
        writeln!(rules.unwrap(), "host all all {network} trust").unwrap();
        cluster.start().await;
        cluster
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn made() -> Self {
        // Not under TMPDIR: a socket's name may have 107 bytes.
        let folder = tempfile::Builder::new().prefix("luthier-pg-").tempdir_in("/tmp").unwrap();
        let mut programs = installed();
        if is_root() {
            // The installation may lie in a home that is closed to others.
            let copy = folder.path().join("postgres");
            let copied = Command::new("cp").arg("-rL").arg(programs.parent().unwrap()).arg(&copy).status();
            assert!(copied.unwrap().success());
            programs = copy.join("bin");
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let cluster = Cluster { folder, programs, server: None, listen: String::new() };
        let data = cluster.data();
        let made = cluster
            .command("initdb")
            .arg("-D")
            .arg(data)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        cluster
    }

    /// Starts the server and waits until it answers. After a kill the sessions of the old one may hold its memory for a
    /// moment longer; until then a new one ends at once, and is tried again.
    pub async fn start(&mut self) {
        let until = Instant::now() + Duration::from_secs(30);
        self.spawn();
        while !self.answers() {
            if let Some(ended) = self.server.as_mut().unwrap().try_wait().unwrap() {
                assert!(Instant::now() < until, "postgres ended: {ended:?}");
                self.spawn();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&mut self) {
        let (data, folder) = (self.data(), self.folder.path().to_owned());
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(data)
            .arg("-k")
            .arg(folder)
            .args(["-c", &format!("listen_addresses={}", self.listen)])
            .args(["-c", "fsync=off", "-c", "log_min_messages=fatal"])
            .process_group(0)
            .spawn()
            .unwrap();
        self.server = Some(server);
    }

    fn answers(&self) -> bool {
        let folder = self.folder.path();
        self.command("pg_isready").arg("-q").arg("-h").arg(folder).status().unwrap().success()
    }

    /// Ends it in order, as a restart does: sessions are cut, nothing is lost.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Ends every process of it at once.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut server) = self.server.take() {
            let group = Pid::from_raw(server.id().cast_signed()).unwrap();
            // One that has ended by itself is as good as killed.
            let _ = match signal {
                Signal::KILL => rustix::process::kill_process_group(group, signal),
                _ => rustix::process::kill_process(group, signal),
            };
            server.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@localhost/postgres?host={folder}")
    }

    /// A pool with the tables laid out.
    pub async fn pool(&self) -> PgPool {
        let pool =
            PgPoolOptions::new().acquire_timeout(Duration::from_secs(2)).connect(&self.url()).await.unwrap();
        store::migrate(&pool).await.unwrap();
        pool
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where `make setup` has put PostgreSQL, unless the environment says otherwise.
fn installed() -> PathBuf {
    if let Some(folder) = std::env::var_os("LUTHIER_POSTGRES") {
        return PathBuf::from(folder).join("bin");
    }
    let target = Path::new(env!("CARGO_BIN_EXE_luthier-trainer")).ancestors().nth(2).unwrap();
    let programs = target.join("postgres/bin");
    assert!(
        programs.join("postgres").exists(),
        "no PostgreSQL in {}: `make setup` brings it",
        programs.display()
    );
    programs
}
