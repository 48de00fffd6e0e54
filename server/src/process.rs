//! Processes that outlive this one: started in a group of their own, watched by number, told to stop by signal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, setpriority_process};
use tokio::process::Child;

/// How often a process that is not our child is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Log files are moved aside at a start when they are larger.
const LARGEST_LOG: u64 = 16 << 20;

/// A process under supervision: a child of ours, or one that an earlier server left running.
#[derive(Debug)]
pub enum Supervised {
    /// Started by this server.
    Child(Child),
    /// Found running; the number is its process id.
    Adopted(u32),
}

impl Supervised {
    /// Process id; 0 once it has ended.
    pub fn id(&self) -> u32 {
        match self {
            Supervised::Child(child) => child.id().unwrap_or_default(),
            Supervised::Adopted(id) => *id,
        }
    }

    /// Waits for the end; says how it ended as far as that can be known.
    pub async fn wait(&mut self) -> String {
        match self {
            Supervised::Child(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("its end could not be observed: {error}"),
            },
            Supervised::Adopted(id) => {
                while is_alive(*id) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                "an adopted process ended".to_owned()
            }
        }
    }

    /// Waits for the end, at most so long; whether it ended.
    pub async fn wait_at_most(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.wait()).await.is_ok()
    }

    /// Sends a signal; a process that is gone is no error.
    pub fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }
}

/// Sends a signal to a process; one that is gone is no error.
pub fn send(id: u32, signal: Signal) {
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
        return;
    };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            tracing::warn!(process.id = id, %error, "signal {signal:?} could not be sent")
        }
    }
}

/// Lowers the priority of a process that was just started; the threads that it makes are born with it.
pub fn give_way(id: u32, niceness: i32) {
    let set =
        i32::try_from(id).ok().and_then(Pid::from_raw).map(|pid| setpriority_process(Some(pid), niceness));
    if let Some(Err(error)) = set {
        tracing::warn!(process.id = id, %error, "the priority could not be lowered");
    }
}

/// Bytes of memory that a process has in use.
pub fn memory_of(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kilobytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Whether the process exists and is not a zombie that nobody has collected.
pub fn is_alive(id: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else {
        return false;
    };
    // The name in parentheses may hold anything, so the state is found from behind it.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Folder that a process works in.
pub fn folder_of(id: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{id}/cwd")).ok()
}

/// Program file of a process; one that was replaced since has another name.
pub fn program_of(id: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{id}/exe")).ok()
}

/// Words that a process was started with.
pub fn arguments_of(id: u32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.collect();
    words.pop();
    Some(words)
}

/// Processes that work in `folder`, as far as they may be looked at.
pub fn working_in(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id| folder_of(*id).is_some_and(|cwd| cwd == folder) && is_alive(*id))
        .collect()
}

/// A log file to append to, moved to `NAME.1` when it has grown large.
pub fn log_file(path: &Path) -> io::Result<Stdio> {
    if fs::metadata(path).is_ok_and(|file| file.len() > LARGEST_LOG) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    Ok(OpenOptions::new().create(true).append(true).open(path)?.into())
}

/// Last lines of a log, for the message about a process that did not start.
pub fn last_lines(path: &Path, lines: usize) -> String {
    let Ok(text) = fs::read(path) else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(16 << 10)..]).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A lock that ends with the process, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and writes our process id into the file; `Err` has the holder's id where it is known.
    pub fn take(path: &Path) -> io::Result<Result<Lock, Option<u32>>> {
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(Err(holder(&mut file))),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Ok(Lock { _file: file }))
    }

    /// Who holds the lock at `path` at the moment: `None` for nobody, `Some(None)` for an unknown process.
    pub fn held_by(path: &Path) -> io::Result<Option<Option<u32>>> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => Ok(None),
            Err(fs::TryLockError::WouldBlock) => Ok(Some(holder(&mut file))),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Waiting times between restarts: doubling up to a limit, back to the first after a long healthy run.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// Waits `first`, then twice as long each time, at most `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { next: first, first, most }
    }

    /// The time to wait after a run of length `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran > self.most.max(Duration::from_secs(30)) {
            self.next = self.first;
        }
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        wait
    }
}
