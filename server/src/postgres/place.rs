//! Where the private Postgres lives: its programs, its data and its socket.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use super::account::Account;

/// Bytes that the name of a Unix socket may have.
const LONGEST_SOCKET: usize = 107;

/// Name of the socket in its folder, as Postgres makes it.
const SOCKET: &str = ".s.PGSQL.5432";

/// Where things lie when the data folder is closed to the account that Postgres runs as.
const ELSEWHERE: &str = "/var/lib/luthier";

/// Paths of one cluster.
#[derive(Clone, Debug)]
pub struct Place {
    /// Folder with `initdb` and `postgres`.
    pub programs: PathBuf,
    /// The cluster's own folder (`PGDATA`).
    pub cluster: PathBuf,
    /// Folder of the socket, open to its owner alone.
    pub socket: PathBuf,
    /// What Postgres says.
    pub log: PathBuf,
}

impl Place {
    /// Chooses and prepares the folders for a server's data folder (an absolute path).
    pub fn prepare(data: &Path, install: &Path, account: Option<&Account>) -> anyhow::Result<Place> {
        let install = install.canonicalize().with_context(|| {
            format!(
                "no Postgres at {}: run `make setup`, or set LUTHIER_POSTGRES or DATABASE_URL",
                install.display()
            )
        })?;
        ensure!(
            install.join("bin/postgres").is_file() && install.join("bin/initdb").is_file(),
            "{} has no bin/postgres and bin/initdb: set LUTHIER_POSTGRES to an installation of Postgres, or DATABASE_URL to a running one",
            install.display()
        );
        let own = |path: &Path| account.map_or(Ok(()), |account| account.own(path));
        let home = home_of_cluster(data, account)?;
        let socket = socket_folder(&home.join("run/postgres"), data)?;
        let place = Place {
            programs: reachable_programs(&install, account)?.join("bin"),
            cluster: home.join("pg"),
            socket,
            log: data.join("logs/postgres.log"),
        };
        make_folder(&place.socket, 0o700)?;
        own(&place.socket)?;
        Ok(place)
    }

    /// The address that clients connect to.
    pub fn url(&self, database: &str) -> String {
        let socket = self.socket.to_string_lossy();
        let folder: String = url::form_urlencoded::byte_serialize(socket.as_bytes()).collect();
        format!("postgres://luthier@localhost/{database}?host={}", folder.replace('+', "%20"))
    }
}

/// The data folder, or one in `/var/lib/luthier` when the account cannot get into it.
fn home_of_cluster(data: &Path, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    let cluster = data.join("pg");
    let Some((account, barrier)) = account.and_then(|account| Some((account, account.barrier(&cluster)?)))
    else {
        return Ok(data.to_owned());
    };
    let home = Path::new(ELSEWHERE).join(short_name(data));
    tracing::info!(
        "{} is closed to the user {} that Postgres runs as: the database is kept in {}",
        barrier.display(),
        account.name(),
        home.display()
    );
    make_folder(&home, 0o711)?;
    make_folder(&home.join("run"), 0o711)?;
    if let Some(barrier) = account.barrier(&home.join("pg")) {
        bail!(
            "{} is closed to the user {} as well: open it (`chmod o+x`), or set DATABASE_URL",
            barrier.display(),
            account.name()
        );
    }
    Ok(home)
}

/// The installation itself, or a copy of it that the account can get at.
fn reachable_programs(install: &Path, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    let program = install.join("bin/postgres");
    if account.is_none_or(|account| account.barrier(&program).is_none()) {
        return Ok(install.to_owned());
    }
    let metadata = fs::metadata(&program)?;
    let edition = format!("{} {} {}", install.display(), metadata.len(), metadata.mtime());
    let copy = Path::new(ELSEWHERE).join(format!("postgres-{}", short_name(Path::new(&edition))));
    if copy.is_dir() {
        return Ok(copy);
    }
    tracing::info!(
        "{} is closed to the user that Postgres runs as: copied to {}",
        install.display(),
        copy.display()
    );
    make_folder(Path::new(ELSEWHERE), 0o711)?;
    let unfinished = tempfile::Builder::new()
        .prefix(".postgres-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(ELSEWHERE)?;
    copy_folder(install, unfinished.path())
        .with_context(|| format!("cannot copy Postgres to {}", copy.display()))?;
    match fs::rename(unfinished.path(), &copy) {
        // Another server finished the same copy first.
        Err(error) if !copy.is_dir() => Err(error.into()),
        _ => Ok(copy),
    }
}

/// The wanted folder, or a short one where the socket's name would be too long.
fn socket_folder(wanted: &Path, data: &Path) -> anyhow::Result<PathBuf> {
    if wanted.join(SOCKET).as_os_str().len() <= LONGEST_SOCKET {
        return Ok(wanted.to_owned());
    }
    let name = format!("luthier-{}", short_name(data));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let run = rustix::process::geteuid().is_root().then(|| PathBuf::from("/run"));
    let candidates = [run, runtime, Some(std::env::temp_dir()), Some(PathBuf::from("/tmp"))];
    let short = candidates.into_iter().flatten().filter(|base| base.is_dir()).map(|base| base.join(&name));
    let Some(short) =
        short.into_iter().find(|folder| folder.join(SOCKET).as_os_str().len() <= LONGEST_SOCKET)
    else {
        bail!(
            "no folder is short enough for a Unix socket: start with a shorter --data, or set DATABASE_URL"
        );
    };
    tracing::info!(
        "{} is too long for a Unix socket: the socket is in {}",
        wanted.display(),
        short.display()
    );
    Ok(short)
}

/// Makes a folder that is there already or not; one that belongs to somebody else, or a link, is refused.
fn make_folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(parent)
        .with_context(|| format!("cannot make {}", parent.display()))?;
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path)?;
            let us = rustix::process::geteuid();
            ensure!(
                found.is_dir() && (us.is_root() || found.uid() == us.as_raw()),
                "{} exists and is not a folder of this user: remove it",
                path.display()
            );
        }
        Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn short_name(path: &Path) -> String {
    hex::encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..6])
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::DirBuilder::new().mode(0o755).create(&target)?;
            copy_folder(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_socket_name_stays_in_the_data_folder() {
        let wanted = Path::new("/srv/luthier/run/postgres");
        assert_eq!(socket_folder(wanted, Path::new("/srv/luthier")).unwrap(), wanted);
    }

    #[test]
    fn a_long_socket_name_goes_to_a_short_folder() {
        let data = PathBuf::from(format!("/{}", "d".repeat(120)));
        let folder = socket_folder(&data.join("run/postgres"), &data).unwrap();
        assert!(folder.join(SOCKET).as_os_str().len() <= LONGEST_SOCKET, "{folder:?}");
        assert!(!folder.starts_with(&data));
    }

    #[test]
    fn the_address_names_the_socket_folder_in_percent_escapes() {
        let place = Place {
            programs: "/p/bin".into(),
            cluster: "/data/pg".into(),
            socket: "/my data/run+1/postgres".into(),
            log: "/data/logs/postgres.log".into(),
        };
        let options: sqlx::postgres::PgConnectOptions = place.url("luthier").parse().unwrap();
        assert_eq!(options.get_socket(), Some(&PathBuf::from("/my data/run+1/postgres")));
        assert_eq!(options.get_database(), Some("luthier"));
    }
}
