//! The private Postgres: made, adopted, recovered, moved out of closed folders.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use luthier::postgres::Cluster;
use luthier::process::{self, Lock, Signal};
use luthier::serve::installed_postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A data folder that other accounts may pass through.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    prepare(folder.path());
    folder
}

fn prepare(data: &Path) {
    for name in ["logs", "run"] {
        fs::create_dir_all(data.join(name)).unwrap();
    }
}

fn install() -> PathBuf {
    std::env::var_os("LUTHIER_POSTGRES")
        .map(PathBuf::from)
        .or_else(installed_postgres)
        .expect("no Postgres: run `make setup` or set LUTHIER_POSTGRES")
}

async fn ask(url: &str, question: &'static str) -> sqlx::Result<String> {
    let mut connection = PgConnection::connect(url).await?;
    let answer = sqlx::query_scalar(question).fetch_one(&mut connection).await;
    connection.close().await?;
    answer
}

/// The postmaster's own view of itself: its process id, from its lock file.
fn postmaster(pg: &Path) -> u32 {
    let text = fs::read_to_string(pg.join("postmaster.pid")).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_new_cluster_keeps_checksums_syncs_and_has_no_port() {
    let data = open_folder();
    let cluster = Cluster::open(data.path(), &install()).await.unwrap();
    let url = cluster.url();
    assert_eq!(ask(&url, "show data_checksums").await.unwrap(), "on");
    assert_eq!(ask(&url, "show fsync").await.unwrap(), "on");
    assert_eq!(ask(&url, "show listen_addresses").await.unwrap(), "");
    assert_eq!(ask(&url, "show server_encoding").await.unwrap(), "UTF8");
    let socket = fs::metadata(data.path().join("run/postgres")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o700);
    cluster.stop().await;
    assert!(ask(&url, "select 'there'").await.is_err());
}

#[tokio::test]
async fn rows_survive_a_stop_and_a_start() {
    let data = open_folder();
    let cluster = Cluster::open(data.path(), &install()).await.unwrap();
    let mut connection = PgConnection::connect(&cluster.url()).await.unwrap();
    sqlx::raw_sql("create table kept as select 'kept' as word").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    cluster.stop().await;
    let cluster = Cluster::open(data.path(), &install()).await.unwrap();
    assert_eq!(ask(&cluster.url(), "select word from kept").await.unwrap(), "kept");
    cluster.stop().await;
}

#[tokio::test]
async fn a_postgres_left_running_is_adopted() {
    let data = open_folder();
    let first = Cluster::open(data.path(), &install()).await.unwrap();
    let id = postmaster(&data.path().join("pg"));
    // What a killed server leaves: the process, and nobody who watches it.
    std::mem::forget(first);
    let second = Cluster::open(data.path(), &install()).await.unwrap();
    assert_eq!(postmaster(&data.path().join("pg")), id);
    second.stop().await;
    assert!(!process::is_alive(id));
}

#[tokio::test]
async fn a_killed_postgres_is_started_again_and_a_pool_goes_on() {
    let data = open_folder();
    let cluster = Cluster::open(data.path(), &install()).await.unwrap();
    let pool =
        PgPoolOptions::new().acquire_timeout(Duration::from_secs(30)).connect(&cluster.url()).await.unwrap();
    sqlx::raw_sql("create table kept as select 'kept' as word").execute(&pool).await.unwrap();
    let stopping = CancellationToken::new();
    let watch = tokio::spawn(cluster.supervise(stopping.clone()));
    let id = postmaster(&data.path().join("pg"));
    process::send(id, Signal::KILL);
    // Connections break at once; the pool makes new ones until Postgres is back.
    let word = loop {
        match sqlx::query_scalar::<_, String>("select word from kept").fetch_one(&pool).await {
            Ok(word) => break word,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(word, "kept");
    assert_ne!(postmaster(&data.path().join("pg")), id);
    pool.close().await;
    stopping.cancel();
    watch.await.unwrap().stop().await;
}

#[tokio::test]
async fn a_lock_file_that_names_a_foreign_process_is_no_obstacle() {
    let data = open_folder();
    Cluster::open(data.path(), &install()).await.unwrap().stop().await;
    let lock = data.path().join("pg/postmaster.pid");
    // As after a restart of the machine, where the number belongs to someone else by now: here, to this test.
    fs::write(&lock, format!("{}\n{}\n1\n5432\n\n\n", std::process::id(), data.path().join("pg").display()))
        .unwrap();
    let cluster = Cluster::open(data.path(), &install()).await.unwrap();
    assert_eq!(ask(&cluster.url(), "select 'there'").await.unwrap(), "there");
    cluster.stop().await;
}

#[tokio::test]
async fn an_interrupted_initialisation_leaves_no_half_cluster() {
    let data = open_folder();
    // What `initdb` leaves behind when it is killed: a folder under another name.
    fs::create_dir(data.path().join(".pg-half")).unwrap();
    let cluster = Cluster::open(data.path(), &install()).await.unwrap();
    assert_eq!(ask(&cluster.url(), "select 'there'").await.unwrap(), "there");
    cluster.stop().await;
}

#[tokio::test]
async fn a_closed_folder_above_moves_the_cluster_for_another_account() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED a_closed_folder_above_moves_the_cluster_for_another_account: needs root");
        return;
    }
    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let data = closed.path().join("data");
    prepare(&data);
    let cluster = Cluster::open(&data, &install()).await.unwrap();
    let url = cluster.url();
    assert_eq!(ask(&url, "select 'there'").await.unwrap(), "there");
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let home = options.get_socket().unwrap().parent().unwrap().parent().unwrap().to_owned();
    assert!(home.starts_with("/var/lib/luthier"), "{home:?}");
    assert!(!data.join("pg").exists());
    cluster.stop().await;
    fs::remove_dir_all(home).unwrap();
}

#[tokio::test]
async fn a_long_path_gets_a_short_socket() {
    let folder = open_folder();
    let data = folder.path().join("d".repeat(110));
    prepare(&data);
    let cluster = Cluster::open(&data, &install()).await.unwrap();
    assert_eq!(ask(&cluster.url(), "select 'there'").await.unwrap(), "there");
    assert!(data.join("pg").is_dir(), "only the socket moves");
    let options: sqlx::postgres::PgConnectOptions = cluster.url().parse().unwrap();
    let socket = options.get_socket().unwrap().to_owned();
    cluster.stop().await;
    fs::remove_dir_all(socket).unwrap();
}

#[test]
fn a_lock_names_its_holder_and_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.lock");
    let lock = Lock::take(&path).unwrap().unwrap();
    assert_eq!(Lock::take(&path).unwrap().unwrap_err(), Some(std::process::id()));
    assert_eq!(Lock::held_by(&path).unwrap(), Some(Some(std::process::id())));
    drop(lock);
    assert_eq!(Lock::held_by(&path).unwrap(), None);
    Lock::take(&path).unwrap().unwrap();
}
