//! A job's folder: `spec.json`, `data/` and `model/` go in, `out/` comes out, and `agent.json` is this agent's note
//! about how far it got.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tail::cut_torn_line;

/// What the agent notes in the folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The newest attempt that ran here.
    pub(super) attempt: i32,
    /// Bytes of `events.jsonl` that are stored, with every checkpoint told of in them.
    pub(super) stored: u64,
    /// How the attempt ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<String>,
}

/// One job's folder under the work folder.
#[derive(Clone, Debug)]
pub(super) struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    pub(super) fn new(work: &Path, job: &str) -> Self {
        WorkDir { path: work.join(job) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn out(&self) -> PathBuf {
        self.path.join("out")
    }

    pub(super) fn events(&self) -> PathBuf {
        self.path.join("out/events.jsonl")
    }

    pub(super) fn result(&self) -> PathBuf {
        self.path.join("out/result.json")
    }

    pub(super) fn checkpoints(&self) -> PathBuf {
        self.path.join("out/checkpoints")
    }

    /// Links to files of checkpoints that wait for their upload: the job may remove its own names meanwhile.
    pub(super) fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    /// The note of an earlier attempt, if the folder holds one.
    pub(super) fn note(&self) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.path.join("agent.json")).ok()?).ok()
    }

    /// Replaces the note in one step.
    pub(super) fn write_note(&self, note: &Note) -> io::Result<()> {
        write_by_rename(&self.path.join("agent.json"), &serde_json::to_vec(note)?)
    }

    /// Lays the folder out for an attempt and returns how far an earlier one got here. A folder whose `spec.json`
    /// says something else is emptied first: its checkpoints belong to other settings.
    pub(super) fn lay(&self, spec: &Value, attempt: i32) -> io::Result<Note> {
        let text = serde_json::to_vec_pretty(spec)?;
        let spec_path = self.path.join("spec.json");
        let same = fs::read(&spec_path).is_ok_and(|old| old == text);
        let earlier = self.note().filter(|_| same);
        if earlier.is_none() {
            remove(&self.path)?;
        }
        for folder in [self.out(), self.path.join("data"), self.path.join("model")] {
            fs::create_dir_all(folder)?;
        }
        write_by_rename(&spec_path, &text)?;
        let torn = cut_torn_line(&self.events())?;
        if torn > 0 {
            tracing::warn!(bytes = torn, "cut a half-written event that a killed trainer left behind");
        }
        // A result of an earlier attempt must not be taken for this one's.
        remove(&self.result())?;
        remove(&self.path.join(crate::job::ranks::PLACE))?;
        let note = Note { attempt, ended: None, ..earlier.unwrap_or_default() };
        self.write_note(&note)?;
        Ok(note)
    }

    /// Lets the job keep tokenized rows in the agent's cache, for the next job on the same data.
    pub(super) fn link_cache(&self, cache: &Path) -> io::Result<()> {
        let link = self.path.join("cache");
        remove(&link)?;
        std::os::unix::fs::symlink(std::path::absolute(cache)?, link)
    }

    /// Steps of the complete checkpoints that lie in the folder.
    pub(super) fn local_checkpoints(&self) -> Vec<i64> {
        let Ok(entries) = fs::read_dir(self.checkpoints()) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .collect()
    }

    /// Where the checkpoint of `step` lies.
    pub(super) fn checkpoint(&self, step: i64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:08}"))
    }

    /// Removes the folder.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Joins a relative path from the database or a job's event to a folder, and refuses one that would leave it.
pub(super) fn join_inside(folder: &Path, path: &str) -> io::Result<PathBuf> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the path {path:?} leaves its folder"),
        ));
    }
    Ok(folder.join(relative))
}

/// Every file below `folder`, as paths relative to it with `/`, sorted. Links are left out: they could point anywhere.
pub(super) fn files_below(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(folder.join(&at))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name
                .to_str()
                .ok_or_else(|| io::Error::other(format!("the file name {name:?} is not UTF-8")))?;
            let path = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Links every file of `from` under `to`, or copies it where a link cannot be made. `to` appears only when complete.
pub(super) fn link_folder(from: &Path, to: &Path) -> io::Result<()> {
    let partial = to.with_extension("partial");
    remove(&partial)?;
    fs::create_dir_all(&partial)?;
    for file in files_below(from)? {
        let target = partial.join(&file);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        link_or_copy(&from.join(&file), &target)?;
    }
    remove(to)?;
    fs::rename(partial, to)
}

/// Links `from` as `to`; across file systems it is copied.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(_) => fs::copy(from, to).map(drop),
    }
}

/// Removes a file or folder if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write_by_rename(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_folder_with_the_same_settings_is_used_again_without_its_old_result() {
        let dir = tempfile::tempdir().unwrap();
        let work = WorkDir::new(dir.path(), "ftjob-1");
        assert_eq!(work.lay(&json!({"seed": 1}), 1).unwrap(), Note { attempt: 1, ..Note::default() });
        work.write_note(&Note { attempt: 1, stored: 4, ended: Some("lost".into()) }).unwrap();
        fs::create_dir_all(work.checkpoint(20)).unwrap();
        fs::write(work.events(), "{}\n{\"torn").unwrap();
        fs::write(work.result(), "{}").unwrap();
        let note = work.lay(&json!({"seed": 1}), 2).unwrap();
        assert_eq!(note, Note { attempt: 2, stored: 4, ended: None });
        assert_eq!(work.local_checkpoints(), [20]);
        assert_eq!(fs::read_to_string(work.events()).unwrap(), "{}\n");
        assert!(!work.result().exists());
    }

    #[test]
    fn a_folder_with_other_settings_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let work = WorkDir::new(dir.path(), "ftjob-1");
        work.lay(&json!({"seed": 1}), 1).unwrap();
        fs::create_dir_all(work.checkpoint(20)).unwrap();
        let note = work.lay(&json!({"seed": 2}), 2).unwrap();
        assert_eq!((note.stored, work.local_checkpoints()), (0, vec![]));
    }

    #[test]
    fn a_path_cannot_leave_its_folder() {
        let folder = Path::new("/job");
        assert_eq!(join_inside(folder, "data/a.csv").unwrap(), Path::new("/job/data/a.csv"));
        for bad in ["", "/etc/passwd", "../x", "data/../../x", "./x"] {
            assert!(join_inside(folder, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn staged_files_outlive_the_names_that_the_job_removes() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("step-00000001");
        fs::create_dir_all(from.join("training_state")).unwrap();
        fs::write(from.join("model.safetensors"), "w").unwrap();
        fs::write(from.join("training_state/state.json"), "{}").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        let to = dir.path().join("staging");
        link_folder(&from, &to).unwrap();
        fs::remove_dir_all(&from).unwrap();
        assert_eq!(files_below(&to).unwrap(), ["model.safetensors", "training_state/state.json"]);
        assert!(link_folder(&from, &dir.path().join("other")).is_err());
        assert!(!dir.path().join("other").exists());
    }
}
