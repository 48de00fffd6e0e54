//! Who this agent is: one process for each work folder, under one id over its restarts.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use uuid::Uuid;

/// The work folder, held for as long as this value lives.
#[derive(Debug)]
pub(super) struct Hold {
    /// Absolute path of the folder.
    pub(super) work: PathBuf,
    /// The agent's id, made at its first start in this folder.
    pub(super) id: Uuid,
    _lock: File,
}

impl Hold {
    /// Takes the folder, or says which process has it.
    pub(super) fn take(work: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(work)
            .with_context(|| format!("the work folder {} cannot be made", work.display()))?;
        let work = work.canonicalize()?;
        let path = work.join("agent.lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let holder = holder.trim();
            let holder = if holder.is_empty() { "another one" } else { holder };
            bail!("the work folder {} is in use by the agent with process id {holder}", work.display());
        }
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        let id = id(&work.join("agent_id"))?;
        Ok(Hold { work, id, _lock: lock })
    }
}

fn id(path: &Path) -> anyhow::Result<Uuid> {
    if let Ok(text) = std::fs::read_to_string(path) {
        return Uuid::parse_str(text.trim()).with_context(|| {
            format!("{} does not hold an agent's id; remove it to get a new one", path.display())
        });
    }
    let id = Uuid::now_v7();
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{id}\n"))?;
    std::fs::rename(new, path)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_in_the_same_folder_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        let first = Hold::take(&work).unwrap();
        let error = Hold::take(&work).unwrap_err().to_string();
        assert!(error.ends_with(&format!("process id {}", std::process::id())), "{error}");
        let id = first.id;
        drop(first);
        assert_eq!(Hold::take(&work).unwrap().id, id);
    }
}
