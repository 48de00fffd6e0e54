//! The job's process: how it is started, woken, asked to stop and ended.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::log::{JobLog, LastLines};

/// Environment variables that a job may see; nothing else is handed on, so no password and no key reaches it.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

/// Beginnings of further names that a job may see.
const KEPT_PREFIXES: &[&str] = &[
    "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "KMP_", "GOMP_", "CUBLAS_", "TORCH_", "PYTORCH_", "ATEN_",
    "MALLOC_",
];

/// How long output may still come after the process itself has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// A command with a clean environment, in a process group of its own.
pub(super) fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    }));
    command.process_group(0).kill_on_drop(true);
    command
}

/// A running `luthier-trainer job`.
#[derive(Debug)]
pub(super) struct JobProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    group: Pid,
    readers: Vec<JoinHandle<()>>,
    /// The last lines of its log.
    pub(super) last_lines: LastLines,
}

impl JobProcess {
    /// Starts the job in `dir`, with some more variables; `grown` is raised whenever it says that its events grew.
    pub(super) fn start(
        program: &Path,
        dir: &Path,
        attempt: i32,
        environment: &[(&str, String)],
        grown: watch::Sender<u64>,
    ) -> io::Result<Self> {
        let (log, last_lines) = JobLog::open(dir.join("out/log.txt"), attempt)?;
        let mut child = clean_command(program)
            .arg("job")
            .arg(dir)
            .args(["--attached", "--attempt", &attempt.to_string()])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| io::Error::other("the new process has no id"))?;
        let stdin = child.stdin.take();
        let wake = child.stdout.take().map(|stdout| tokio::spawn(count_wakes(stdout, grown)));
        let log = child.stderr.take().map(|stderr| tokio::spawn(log.copy(stderr)));
        Ok(JobProcess { child, stdin, group, readers: wake.into_iter().chain(log).collect(), last_lines })
    }

    pub(super) fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Writes `word` and a newline to its standard input. A job that has ended meanwhile no longer listens, which is
    /// no error: its exit tells more.
    pub(super) async fn say(&mut self, word: &str) {
        if let Some(stdin) = &mut self.stdin {
            let line = format!("{word}\n");
            let written = async {
                stdin.write_all(line.as_bytes()).await?;
                stdin.flush().await
            };
            if let Err(error) = written.await {
                tracing::debug!(%error, "the job no longer reads its standard input");
                self.stdin = None;
            }
        }
    }

    /// Waits for its end. May be cancelled and called again.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.kill();
        let readers = futures::future::join_all(self.readers.drain(..));
        if tokio::time::timeout(DRAIN, readers).await.is_err() {
            tracing::warn!("the output of the ended job is still held open by another process");
        }
        Ok(status)
    }

    /// Ends the whole process group at once.
    pub(super) fn kill(&self) {
        // The group is gone when its last process is: nothing left to do.
        let _gone = rustix::process::kill_process_group(self.group, Signal::KILL);
    }
}

impl Drop for JobProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn count_wakes(stdout: ChildStdout, grown: watch::Sender<u64>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(_)) = lines.next_line().await {
        grown.send_modify(|count| *count += 1);
    }
}

/// Ends job processes that a killed agent left behind in `work`, and waits until they are gone. They end by
/// themselves once their standard input closes, but their folder must be quiet before it is used again.
pub(super) async fn end_orphans(work: &Path) -> io::Result<()> {
    let mut waits = super::backoff::Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
    loop {
        let orphans = orphans(work)?;
        if orphans.is_empty() {
            return Ok(());
        }
        for (pid, dir) in orphans {
            tracing::warn!(job.pid = pid.as_raw_nonzero().get(), dir = %dir.display(), "ending the job of an earlier agent");
            let _gone = rustix::process::kill_process_group(pid, Signal::KILL);
            let _gone = rustix::process::kill_process(pid, Signal::KILL);
        }
        tokio::time::sleep(waits.next()).await;
    }
}

/// Processes whose arguments hold `job DIR` with a folder of `work`: told by arguments rather than by a file with a
/// process id, which another process may carry by now.
fn orphans(work: &Path) -> io::Result<Vec<(Pid, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
        let dir = arguments.windows(3).find_map(|three| {
            let dir = Path::new(std::str::from_utf8(three[1]).ok()?);
            (three[0] == b"job" && three[2] == b"--attached" && dir.parent() == Some(work))
                .then(|| dir.to_owned())
        });
        if let Some(dir) = dir {
            found.push((pid, dir));
        }
    }
    Ok(found)
}
