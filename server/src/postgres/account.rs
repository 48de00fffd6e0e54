//! Who Postgres runs as: it refuses to run as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, bail};

/// An account of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account to change to: `None` where this process may run Postgres itself.
    pub fn for_postgres() -> anyhow::Result<Option<Account>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let all = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        match ["postgres", "nobody"].iter().find_map(|name| find(&all, name)) {
            Some(account) => Ok(Some(account)),
            None => bail!(
                "Postgres refuses to run as root, and this machine has neither a user `postgres` nor `nobody`: \
                 add one (`useradd --system postgres`), run luthier as another user, or set DATABASE_URL"
            ),
        }
    }

    /// Name of the account.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets `command` run as this account.
    pub fn run<'a>(&self, command: &'a mut std::process::Command) -> &'a mut std::process::Command {
        command.gid(self.gid).uid(self.uid)
    }

    /// Gives a file or folder to this account.
    pub fn own(&self, path: &Path) -> anyhow::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to the user {}", path.display(), self.name))
    }

    /// The nearest folder above `path` that this account cannot pass through.
    pub fn barrier<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.ancestors().skip(1).find(|folder| !self.may_pass(folder))
    }

    /// Whether this account may look into and pass through the folder.
    pub fn may_pass(&self, folder: &Path) -> bool {
        let Ok(metadata) = fs::metadata(folder) else {
            return true;
        };
        let bit = match (metadata.uid() == self.uid, metadata.gid() == self.gid) {
            (true, _) => 0o100,
            (_, true) => 0o010,
            _ => 0o001,
        };
        metadata.mode() & bit != 0
    }
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, ..] = fields[..] else {
            return None;
        };
        (found == name).then_some(Account {
            name: name.to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn accounts_are_found_by_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
        let nobody = Account { name: "nobody".to_owned(), uid: 65534, gid: 65534 };
        assert_eq!(find(passwd, "nobody"), Some(nobody));
        assert_eq!(find(passwd, "postgres"), None);
    }

    #[test]
    fn a_closed_folder_above_is_named() {
        let other = Account { name: "other".to_owned(), uid: 54321, gid: 54321 };
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(folder.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(other.barrier(&inner), None);
        fs::set_permissions(folder.path().join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(other.barrier(&inner), Some(folder.path().join("a").as_path()));
    }
}
