//! Whether the kernel ended a process for lack of memory, as far as the control group tells.

use std::path::{Path, PathBuf};

/// The counter of kills for lack of memory in this process's control group.
#[derive(Debug)]
pub(super) struct OomCounter {
    file: Option<PathBuf>,
    before: u64,
}

impl OomCounter {
    /// Notes the counter as it stands now.
    pub(super) fn now() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = candidates(&groups).into_iter().find(|file| count(file).is_some());
        let before = file.as_deref().and_then(count).unwrap_or(0);
        OomCounter { file, before }
    }

    /// Whether the kernel has ended a process of the group since.
    pub(super) fn raised(&self) -> bool {
        self.file.as_deref().and_then(count).is_some_and(|now| now > self.before)
    }
}

/// Files that may hold the counter, for both versions of control groups; a container often sees its own group as
/// the root of the mount.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        let (mount, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.oom_control"),
            _ => continue,
        };
        files.push(Path::new(mount).join(path).join(name));
        files.push(Path::new(mount).join(name));
    }
    files
}

fn count(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_looked_at() {
        let files = candidates("0::/user.slice/a.scope\n");
        assert_eq!(files[0], Path::new("/sys/fs/cgroup/user.slice/a.scope/memory.events"));
        let files = candidates("5:cpu,cpuacct:/x\n4:memory:/docker/7f\n");
        assert_eq!(files[0], Path::new("/sys/fs/cgroup/memory/docker/7f/memory.oom_control"));
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn a_raised_count_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.events");
        std::fs::write(&file, "low 0\noom 1\noom_kill 1\noom_group_kill 0\n").unwrap();
        let counter = OomCounter { before: count(&file).unwrap(), file: Some(file.clone()) };
        assert!(!counter.raised());
        std::fs::write(&file, "low 0\noom 2\noom_kill 2\noom_group_kill 0\n").unwrap();
        assert!(counter.raised());
    }
}
