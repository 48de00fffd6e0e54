//! How much memory this process may come to have, by the machine, its control group and its own limits.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory of the machine, or of this process's control group where that has less, in bytes.
pub fn of_machine() -> Option<u64> {
    let total = kibibytes("/proc/meminfo", "MemTotal:");
    [total, of_group()].into_iter().flatten().min()
}

/// The most that this process can have resident: what it has, and what is free for it.
pub fn within_reach() -> Option<u64> {
    let own = kibibytes("/proc/self/status", "VmRSS:")?;
    let free = kibibytes("/proc/meminfo", "MemAvailable:").map(|free| free + own);
    [free, of_group(), of_limits(own)].into_iter().flatten().min()
}

/// By `ulimit -v` and `ulimit -d`: they count what is mapped, touched or not.
fn of_limits(resident: u64) -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let left = |limit: &str, used: &str| {
        let used = kibibytes("/proc/self/status", used)?;
        Some(soft_limit(&limits, limit)?.saturating_sub(used) + resident)
    };
    [left("Max address space", "VmSize:"), left("Max data size", "VmData:")].into_iter().flatten().min()
}

/// The second column of `/proc/self/limits`; `None` for `unlimited`.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The least limit of this process's control group and those above it.
fn of_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    group_files(&groups)
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        // Version 1 says "no limit" by a number near 2^63.
        .filter(|limit| *limit < 1 << 60)
        .min()
}

/// Files that hold a limit, for both versions of control groups; a container often sees its own as the root.
fn group_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let inner = Path::new(path.trim_start_matches('/'));
        files.extend(inner.ancestors().map(|group| Path::new(mount).join(group).join(name)));
    }
    files
}

fn kibibytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_and_none_is_none() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax data size   512000000   unlimited  bytes\n\
                      Max address space         unlimited            unlimited            bytes\n";
        assert_eq!(soft_limit(limits, "Max data size"), Some(512_000_000));
        assert_eq!(soft_limit(limits, "Max address space"), None);
    }

    #[test]
    fn groups_above_count_as_well() {
        let files = group_files("0::/a.slice/b.scope\n1:cpu:/x\n");
        let expected = ["a.slice/b.scope/memory.max", "a.slice/memory.max", "memory.max"];
        assert_eq!(files, expected.map(|file| Path::new("/sys/fs/cgroup").join(file)));
    }

    #[test]
    fn what_is_within_reach_holds_what_there_is() {
        let own = kibibytes("/proc/self/status", "VmRSS:").unwrap();
        assert!(within_reach().unwrap() >= own / 2);
        assert!(of_machine().unwrap() > own);
    }
}
