//! Two processes that compute together. Each test starts this program twice more, as the ranks of a group.

mod autograd;
mod collectives;
mod failures;
mod reducer;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use native::c10d::{Group, Store, gloo_built};
use native::runtime;
use tch::{Device, Kind, Tensor};

const RANK: &str = "LUTHIER_TEST_RANK";
const FOLDER: &str = "LUTHIER_TEST_FOLDER";
const RANKS: usize = 2;
/// Never waited for where all is well.
const LONG: Duration = Duration::from_secs(120);

/// What a rank knows of its test.
struct Rank {
    rank: usize,
    folder: PathBuf,
}

impl Rank {
    fn store(&self) -> Store {
        Store::file(&self.folder.join("store"), RANKS, LONG).unwrap()
    }

    fn group(&self) -> Group {
        Group::gloo(&self.store(), self.rank, RANKS, LONG, "127.0.0.1").unwrap()
    }
}

/// Skips the test by name where there is no Gloo; where its headers were fetched that is a failure.
fn skipped(test: &str) -> bool {
    if gloo_built() {
        return false;
    }
    let headers = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/gloo/usr/include/gloo");
    assert!(!headers.exists(), "built without Gloo, whose headers are there");
    let store = Store::tcp_master("127.0.0.1", 0, LONG).unwrap();
    let error = Group::gloo(&store, 0, 1, LONG, "127.0.0.1").unwrap_err().to_string();
    assert!(error.contains("built without Gloo"), "{error}");
    println!("SKIPPED {test}: built without Gloo");
    true
}

/// In the test's own process: runs it as every rank, and returns how each ended. In a rank: runs `body`.
fn run(test: &str, body: impl FnOnce(&Rank)) -> Option<Vec<ExitStatus>> {
    if let Ok(rank) = std::env::var(RANK) {
        // The ranks share the processors with each other and with other tests.
        runtime::set_threads(1).unwrap();
        let folder = std::env::var(FOLDER).unwrap().into();
        body(&Rank { rank: rank.parse().unwrap(), folder });
        return None;
    }
    if skipped(test) {
        return None;
    }
    let name = test.replace("::", "-");
    let folder = std::env::temp_dir().join(format!("native-c10d-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let start = |rank: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(RANK, rank.to_string())
            .env(FOLDER, &folder)
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    };
    let ranks: Vec<_> = (0..RANKS).map(start).collect();
    let ended = ranks.into_iter().map(|mut rank| rank.wait().unwrap()).collect();
    fs::remove_dir_all(&folder).unwrap();
    Some(ended)
}

/// [`run`], for ranks that all end well.
fn ranks(test: &str, body: impl FnOnce(&Rank)) {
    for (rank, ended) in run(test, body).into_iter().flatten().enumerate() {
        assert!(ended.success(), "rank {rank}: {ended}, see above");
    }
}

/// Numbers that only depend on `seed`, the same on every rank.
fn numbers(seed: i64, shape: &[i64]) -> Tensor {
    let n: i64 = shape.iter().product();
    let at = Tensor::arange(n, (Kind::Double, Device::Cpu)) + seed as f64 * 1000.0;
    (at * 12.9898).sin().to_kind(Kind::Float).reshape(shape)
}

fn close(left: &Tensor, right: &Tensor, within: f64) {
    assert_eq!(left.size(), right.size());
    let apart = (left - right).abs().max().double_value(&[]);
    assert!(apart <= within, "{apart} apart, at most {within} is allowed");
}
