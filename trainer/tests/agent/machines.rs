//! Jobs that take several agents: on this machine each with a folder of its own, and on two hosts that share nothing but
//! a network, where this machine lets us make such.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::JobId;
use store::event::Kind;
use store::job::{Job, Status};
use store::queue::{cancel, tell_missing};

use crate::kills::rows;
use crate::postgres::Cluster;
use crate::support::{Stage, job_processes, send, wait_for};

const STEPS: i64 = 200;

/// A training in so many processes.
fn spec(devices: u32) -> Value {
    json!({
        "task": "text-classification",
        "problem_type": "single_label_classification",
        "columns": {"text": "text", "label": "label"},
        "data": {"train": "train.csv"},
        "split": {"fraction": 0.2},
        "training": {
            "max_steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "log_every": 1, "max_length": 16,
            "eval_every": {"steps": 40}, "checkpoint_every": 10, "keep_checkpoints": 2, "dropout": 0.1,
            "precision": "fp32",
        },
        "resources": {"device": "cpu", "devices": devices},
        "seed": 7,
    })
}

async fn enqueue(stage: &Stage, devices: u32) -> JobId {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert");
    stage.enqueue_spec(spec(devices), rows().as_bytes(), &model).await
}

/// Waits until both agents' processes are there, and says which agent helps.
async fn helper(stage: &Stage, job: &Job) -> &'static str {
    let helper = if job.agent_name.as_deref() == Some("a") { "b" } else { "a" };
    wait_for("the helper's process is there", || !job_processes(&stage.work(helper)).is_empty()).await;
    helper
}

/// Every step is there once, and the job went on rather than began anew at each further attempt.
async fn assert_whole(stage: &Stage, ended: &Job) {
    assert_eq!(ended.status, Status::Succeeded, "{:?}\n{}", ended.errors, stage.logs());
    let mut trained = stage.steps(ended.job_id, Kind::Train).await;
    trained.sort_unstable();
    assert_eq!(trained, (1..=STEPS).collect::<Vec<_>>());
    let seams = stage.steps(ended.job_id, Kind::Resume).await;
    assert_eq!(seams.len() as i32, ended.attempt - 1, "seams at {seams:?}\n{}", stage.logs());
    assert!(seams.iter().all(|step| *step >= 10), "seams at {seams:?}");
}

/// Kills a process of the job on `machine`; those on `other` must end by themselves.
async fn kill_there(stage: &Stage, machine: &str, other: &str) {
    let survivors = job_processes(&stage.work(other));
    assert!(!survivors.is_empty());
    let killed = Instant::now();
    send(job_processes(&stage.work(machine))[0], Signal::KILL);
    let alive = |id: &u32| job_processes(&stage.work(other)).contains(id);
    wait_for("the other processes have ended", || !survivors.iter().any(alive)).await;
    // A bound of the rule, not of the speed: a dead peer must not be waited for.
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn two_agents_train_one_job_and_go_on_after_a_process_died(db: PgPool) {
    if !native::c10d::gloo_built() {
        return;
    }
    let stage = Stage::new(db).await;
    let job = enqueue(&stage, 2).await;
    let _a = stage.real_agent("a").devices(1).start();
    let waits = stage.until(job, "it says what it lacks", |job| job.missing_devices == Some(1)).await;
    assert_eq!(waits.status, Status::Queued);
    assert!(
        stage.messages(job).await.contains("Waits for 1 more device: it needs 2"),
        "{}",
        stage.messages(job).await
    );

    let _b = stage.real_agent("b").devices(1).start();
    stage.until_checkpoint(job, 10).await;
    let running = stage.job(job).await;
    let helper = helper(&stage, &running).await;
    let holder = running.agent_name.clone().unwrap();
    kill_there(&stage, helper, &holder).await;
    let ended = stage.until_final(job).await;
    assert_eq!(ended.attempt, 2, "{:?}", ended.errors);
    let message = ended.errors[0]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("On {helper}: The trainer was ended by signal 9")), "{message}");
    assert_whole(&stage, &ended).await;
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_job_on_two_agents_ends_on_both_when_it_is_cancelled(db: PgPool) {
    if !native::c10d::gloo_built() {
        return;
    }
    let stage = Stage::new(db).await;
    let job = enqueue(&stage, 2).await;
    let (_a, _b) = (stage.real_agent("a").devices(1).start(), stage.real_agent("b").devices(1).start());
    stage.until_step(job, 5).await;
    cancel(stage.db(), job).await.unwrap();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.failures), (Status::Cancelled, 0));
    for agent in ["a", "b"] {
        wait_for("its processes have ended", || job_processes(&stage.work(agent)).is_empty()).await;
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_helper_that_goes_down_costs_no_attempt(db: PgPool) {
    if !native::c10d::gloo_built() {
        return;
    }
    let stage = Stage::new(db).await;
    let job = enqueue(&stage, 2).await;
    let a = stage.real_agent("a").devices(1).start();
    let b = stage.real_agent("b").devices(1).start();
    stage.until_step(job, 15).await;
    let running = stage.job(job).await;
    let mut going = if helper(&stage, &running).await == "a" { a } else { b };
    going.signal(Signal::TERM);
    assert!(going.ended().await.success());
    let waits = |job: &Job| job.status == Status::Queued && job.missing_devices == Some(1);
    assert_eq!(stage.until(job, "it waits for another", waits).await.failures, 0);
    let _c = stage.real_agent("c").devices(1).start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.attempt, ended.failures), (2, 0));
    assert_whole(&stage, &ended).await;
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_agent_with_another_object_store_is_refused_with_the_reason(db: PgPool) {
    let stage = Stage::new(db).await;
    let mut agent =
        stage.real_agent("a").objects(&stage.temp.path().join("elsewhere").display().to_string()).start();
    assert!(!agent.ended().await.success());
    let log = stage.logs();
    assert!(log.contains("elsewhere has no luthier.json: no server that uses this database"), "{log}");
    assert!(store::agent::list(stage.db()).await.unwrap().is_empty());
}

/// Where the hub is in the network of the two hosts.
const HUB: &str = "10.77.0.1";
const S3_PORT: u16 = 9000;
/// Set in the process that has a network and mounts of its own.
const INSIDE: &str = "LUTHIER_TEST_HUB";
const THIS: &str = "machines::two_hosts_that_share_nothing_but_the_network_train_one_job";

/// Database, object store and test are one host, the hub; each agent is another one.
#[tokio::test]
#[ignore = "takes more than a minute: `make soak`"]
async fn two_hosts_that_share_nothing_but_the_network_train_one_job() {
    if std::env::var_os(INSIDE).is_some() {
        return on_hub().await;
    }
    if let Some(lack) = lack() {
        eprintln!("skipped: {THIS}: {lack}");
        return;
    }
    let inner = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([THIS, "--exact", "--include-ignored", "--nocapture"])
        .env(INSIDE, "1")
        .envs([
            ("AWS_ACCESS_KEY_ID", "trial"),
            ("AWS_SECRET_ACCESS_KEY", "trial"),
            ("AWS_REGION", "us-east-1"),
        ])
        .envs([("AWS_ENDPOINT", format!("http://{HUB}:{S3_PORT}")), ("AWS_ALLOW_HTTP", "true".to_owned())])
        .status();
    assert!(inner.unwrap().success());
}

/// What this machine lacks for it.
fn lack() -> Option<&'static str> {
    let quiet = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !native::c10d::gloo_built() {
        return Some("built without Gloo");
    }
    if std::env::var_os("LUTHIER_S3_PYTHON").is_none() {
        return Some(
            "no S3 server: `python3 scripts/venv.py s3` brings one, LUTHIER_S3_PYTHON names its interpreter",
        );
    }
    if !quiet("ip", &["-V"]) {
        return Some("no `ip`: `apt-get install -y iproute2` (Debian)");
    }
    let bridge = "ip link add br0 type bridge && ip link add one type veth peer name two";
    (!quiet("unshare", &["--net", "--mount", "sh", "-c", bridge]))
        .then_some("it needs root and may make network namespaces, bridges and veth pairs")
}

/// Lays cables: the hub at .1, host `a` at .2, host `b` at .3.
fn lay_network() {
    let script = format!(
        "set -e
        mkdir -p /run/netns
        mount -t tmpfs none /run/netns
        ip link set lo up
        ip link add br0 type bridge
        ip addr add {HUB}/24 dev br0
        ip link set br0 up
        for host in a:2 b:3; do
            name=${{host%:*}}
            ip netns add $name
            ip link add cable-$name type veth peer name eth0 netns $name
            ip link set cable-$name master br0 up
            ip -n $name addr add 10.77.0.${{host#*:}}/24 dev eth0
            ip -n $name link set lo up
            ip -n $name link set eth0 up
        done"
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}

/// An S3 server with one bucket.
struct S3(Child);

impl S3 {
    fn start() -> Self {
        let mut command = Command::new(std::env::var_os("LUTHIER_S3_PYTHON").unwrap());
        command.args(["-m", "moto.server", "--host", HUB, "--port", &S3_PORT.to_string()]);
        // Held from the start on, so that it ends where it does not answer, too.
        let server = S3(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        let request = "PUT /luthier HTTP/1.0\r\nHost: 10.77.0.1\r\nContent-Length: 0\r\n\r\n";
        loop {
            assert!(Instant::now() < until, "the S3 server does not answer");
            if let Ok(mut stream) = TcpStream::connect((HUB, S3_PORT)) {
                stream.write_all(request.as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.split(' ').nth(1) == Some("200"), "{answer}");
                return server;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

async fn on_hub() {
    lay_network();
    let _s3 = S3::start();
    let cluster = Cluster::start_listening(HUB, "10.77.0.0/24").await;
    let url = format!("postgres://postgres@{HUB}:5432/postgres");
    let stage = Stage::with_objects(cluster.pool().await, url, "s3://luthier/trial").await;
    let hidden = [stage.temp.path().to_owned(), cluster.folder().to_owned()];
    let agent =
        |name: &str, host: &str, devices| stage.real_agent(name).on_host(host, &hidden).devices(devices);

    let mut lost = agent("lost", "a", 1).objects("s3://luthier/other").start();
    assert!(!lost.ended().await.success());
    assert!(stage.logs().contains("s3://luthier/other has no luthier.json"), "{}", stage.logs());

    let job = enqueue(&stage, 3).await;
    let _a = agent("a", "a", 2).start();
    stage.until(job, "it says what it lacks", |job| job.missing_devices == Some(1)).await;
    let mut b = agent("b", "b", 1).start();
    stage.until_checkpoint(job, 10).await;
    let agents = store::agent::list(stage.db()).await.unwrap();
    let addresses: Vec<_> = agents.iter().map(|agent| agent.address.as_deref().unwrap()).collect();
    assert_eq!(addresses, ["10.77.0.2", "10.77.0.3"], "each says how it is reached");
    assert!(!stage.work("a").exists() && !stage.work("b").exists(), "the hosts' folders are their own");

    // A process of b dies: those of a end, and the job goes on on both.
    kill_there(&stage, "b", "a").await;
    let again =
        stage.until(job, "it goes on", |job| job.attempt == 2 && job.phase.as_deref() == Some("training"));
    again.await;
    // Host b is gone with all that ran there; another one comes, with nothing of the job in its folder.
    for id in job_processes(&stage.work("b")) {
        send(id, Signal::KILL);
    }
    b.kill().await;
    let _c = agent("c", "b", 1).start();
    let ended = stage.until_final(job).await;
    assert!(ended.attempt >= 3, "{:?}", ended.errors);
    assert_whole(&stage, &ended).await;
    assert_eq!(tell_missing(stage.db()).await.unwrap(), []);
}
