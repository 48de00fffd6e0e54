//! Artifacts by content, shared by the jobs of one agent and bounded in size.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use store::{Hash, Objects};

use super::workdir::link_or_copy;

/// The folder of artifacts; a file's name is the SHA-256 of its content.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    most_bytes: u64,
}

impl Cache {
    pub(super) fn open(work: &Path, most_bytes: u64) -> io::Result<Self> {
        let folder = work.join("cache");
        fs::create_dir_all(&folder)?;
        Ok(Cache { folder, most_bytes })
    }

    /// Where the files lie.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes `to` hold the content named `hash`, fetched from the store unless it lies here.
    pub(super) async fn place(
        &self,
        objects: &Objects,
        hash: &Hash,
        bytes: u64,
        to: &Path,
    ) -> anyhow::Result<()> {
        if fs::metadata(to).is_ok_and(|found| found.len() == bytes) {
            return Ok(());
        }
        let cached = self.folder.join(hash.as_str());
        if !fs::metadata(&cached).is_ok_and(|found| found.len() == bytes) {
            super::workdir::remove(&cached)?;
            objects.fetch(hash, &cached).await?;
        }
        // The time of change says when it was last used.
        if let Ok(file) = fs::File::open(&cached) {
            let _unsupported = file.set_modified(SystemTime::now());
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        super::workdir::remove(to)?;
        link_or_copy(&cached, to)?;
        Ok(())
    }

    /// Removes what was not used for longest until the rest fits. What a job has linked stays alive in its folder.
    pub(super) fn trim(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            files.push((found.modified()?, found.len(), entry.path()));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.most_bytes {
                break;
            }
            fs::remove_file(&path)?;
            total -= bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 25).unwrap();
        for (name, age) in [("a", 30), ("b", 10), ("c", 20)] {
            let path = dir.path().join("cache").join(name);
            fs::write(&path, [0; 10]).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            fs::File::open(path).unwrap().set_modified(then).unwrap();
        }
        cache.trim().unwrap();
        let left = super::super::workdir::files_below(&dir.path().join("cache")).unwrap();
        assert_eq!(left, ["b", "c"]);
    }
}
