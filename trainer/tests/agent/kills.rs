//! The real job program, killed and stopped at a random step: the same bits as without, and every event once.

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::JobId;
use store::event::{Event, Kind};
use store::job::{Job, Status};

use crate::postgres::Cluster;
use crate::support::{Stage, job_processes, send, wait_for};

/// Steps of the job; long enough that a kill comes before its end.
const STEPS: i64 = 600;

/// A training of the tiny checkpoint with dropout, so that bits depend on every draw.
fn spec() -> Value {
    json!({
        "task": "text-classification",
        "problem_type": "single_label_classification",
        "columns": {"text": "text", "label": "label"},
        "data": {"train": "train.csv"},
        "split": {"fraction": 0.2},
        "training": {
            "max_steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "log_every": 1, "max_length": 16,
            "eval_every": {"steps": 100}, "checkpoint_every": 25, "keep_checkpoints": 2, "dropout": 0.1,
        },
        "resources": {"device": "cpu", "threads": 1},
        "seed": 7,
    })
}

/// Rows whose label follows from their words.
pub fn rows() -> String {
    let words = [("good", "positive"), ("bad", "negative"), ("some", "neutral")];
    let mut csv = String::from("text,label\n");
    for row in 0..90 {
        let (word, label) = words[row % 3];
        csv += &format!("a {word} film number {row} and a {word} end,{label}\n");
    }
    csv
}

async fn enqueue(stage: &Stage) -> JobId {
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert");
    stage.enqueue_spec(spec(), rows().as_bytes(), &model).await
}

/// A step to disturb at, another one each time; a failed test shows it.
fn random_step() -> i64 {
    let step = 30 + (uuid::Uuid::new_v4().as_u128() % 200) as i64;
    eprintln!("disturbing at step {step}");
    step
}

/// Runs the same job without any disturbance.
async fn undisturbed(stage: &Stage) -> Job {
    let job = enqueue(stage).await;
    let mut agent = stage.real_agent("calm").start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 1), "{:?}\n{}", ended.errors, stage.logs());
    agent.signal(Signal::TERM);
    agent.ended().await;
    ended
}

fn curve(events: &[Event], kind: Kind) -> Vec<(i64, &Value)> {
    let of_kind = events.iter().filter(|event| event.kind == kind);
    let mut points: Vec<_> = of_kind.map(|event| (event.step.unwrap(), &event.values)).collect();
    points.sort_by_key(|(step, _)| *step);
    points
}

/// The disturbed job has the undisturbed one's bits and curves, and a seam for each further attempt.
async fn assert_same(stage: &Stage, calm: &Job, ended: &Job) {
    assert_eq!(ended.status, Status::Succeeded, "{:?}\n{}", ended.errors, stage.logs());
    let expected = stage.model_file(calm, "model.safetensors").await;
    assert!(stage.model_file(ended, "model.safetensors").await == expected, "the weights differ");
    let (before, after) = (stage.events(calm.job_id).await, stage.events(ended.job_id).await);
    for kind in [Kind::Train, Kind::Eval, Kind::Examples] {
        assert_eq!(curve(&after, kind), curve(&before, kind), "{kind}");
    }
    let trained: Vec<_> = curve(&after, Kind::Train).iter().map(|(step, _)| *step).collect();
    assert_eq!(trained, (1..=STEPS).collect::<Vec<_>>());
    let seams = stage.steps(ended.job_id, Kind::Resume).await;
    assert_eq!(seams.len() as i32, ended.attempt - 1, "seams at {seams:?}");
    let messages = stage.messages(ended.job_id).await;
    assert!(!messages.contains("differ"), "{messages}");
    assert_eq!(ended.best_step, calm.best_step);
}

/// The job's process; it is there while the job trains.
async fn process(stage: &Stage, agent: &str) -> u32 {
    let work = stage.work(agent);
    wait_for("the job's process is there", || !job_processes(&work).is_empty()).await;
    job_processes(&work)[0]
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_killed_job_process_costs_no_bit_and_no_event(db: PgPool) {
    let stage = Stage::new(db).await;
    let calm = undisturbed(&stage).await;
    let job = enqueue(&stage).await;
    let _agent = stage.real_agent("a").start();
    stage.until_step(job, random_step()).await;
    send(process(&stage, "a").await, Signal::KILL);
    let ended = stage.until_final(job).await;
    assert_eq!(ended.attempt, 2);
    assert!(
        ended.errors[0]["message"].as_str().unwrap().contains("signal 9 (SIGKILL)"),
        "{:?}",
        ended.errors
    );
    assert_same(&stage, &calm, &ended).await;
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_killed_and_restarted_agent_costs_no_bit_and_no_event(db: PgPool) {
    let stage = Stage::new(db).await;
    let calm = undisturbed(&stage).await;
    let job = enqueue(&stage).await;
    let command = stage.real_agent("a");
    let mut agent = command.start();
    stage.until_step(job, random_step()).await;
    agent.kill().await;
    let _again = command.start();
    let ended = stage.until_final(job).await;
    assert_eq!(ended.attempt, 2);
    assert_same(&stage, &calm, &ended).await;
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_killed_machine_is_followed_by_another_from_the_stored_checkpoint(db: PgPool) {
    let stage = Stage::new(db).await;
    let calm = undisturbed(&stage).await;
    let job = enqueue(&stage).await;
    let mut agent = stage.real_agent("a").lease(2).start();
    stage.until_step(job, random_step()).await;
    stage.until_checkpoint(job, 25).await;
    send(process(&stage, "a").await, Signal::KILL);
    agent.kill().await;
    let _other = stage.real_agent("b").lease(2).start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.attempt, ended.agent_name.as_deref()), (2, Some("b")));
    assert_same(&stage, &calm, &ended).await;
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_job_that_sleeps_through_its_lease_succeeds_once_elsewhere(db: PgPool) {
    let stage = Stage::new(db).await;
    let calm = undisturbed(&stage).await;
    let job = enqueue(&stage).await;
    let agent = stage.real_agent("a").lease(2).start();
    stage.until_step(job, random_step()).await;
    stage.until_checkpoint(job, 25).await;
    let process = process(&stage, "a").await;
    send(process, Signal::STOP);
    agent.signal(Signal::STOP);
    let _other = stage.real_agent("b").lease(2).start();
    stage.until(job, "another agent has it", |job| job.agent_name.as_deref() == Some("b")).await;
    // Both wake while the other agent is at work.
    send(process, Signal::CONT);
    agent.signal(Signal::CONT);
    let ended = stage.until_final(job).await;
    assert_eq!((ended.attempt, ended.agent_name.as_deref()), (2, Some("b")));
    assert_same(&stage, &calm, &ended).await;
    wait_for("the sleeper has ended its job", || job_processes(&stage.work("a")).is_empty()).await;
}

#[tokio::test]
async fn a_killed_postgres_costs_no_bit_and_no_event() {
    let mut cluster = Cluster::start_new().await;
    let stage = Stage::at(cluster.pool().await, cluster.url()).await;
    let calm = undisturbed(&stage).await;
    let job = enqueue(&stage).await;
    let _agent = stage.real_agent("a").lease(30).start();
    stage.until_step(job, random_step()).await;
    cluster.kill();
    cluster.start().await;
    let ended = stage.until_final(job).await;
    assert_eq!((ended.attempt, ended.failures), (1, 0));
    assert_same(&stage, &calm, &ended).await;
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_job_that_dies_again_and_again_fails_with_signal_step_and_log(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = enqueue(&stage).await;
    let _agent = stage.real_agent("a").start();
    for attempt in 1..=3 {
        let trains = |job: &Job| job.attempt == attempt && job.phase.as_deref() == Some("training");
        stage.until(job, &format!("attempt {attempt} trains"), trains).await;
        send(process(&stage, "a").await, Signal::ABORT);
    }
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt, ended.errors.len()), (Status::Failed, 3, 3));
    let error = ended.error.unwrap();
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("The trainer was ended by signal 6 (SIGABRT)"), "{message}");
    assert!(!error["log"].as_array().unwrap().is_empty());
    assert_eq!(ended.fine_tuned_model, None);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_file_that_is_gone_from_the_store_is_named(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = enqueue(&stage).await;
    let inputs = store::job::inputs(stage.db(), job).await.unwrap();
    let weights = inputs.iter().find(|file| file.path == "model/model.safetensors").unwrap();
    let hash = weights.hash.as_str();
    std::fs::remove_file(stage.temp.path().join("objects").join(&hash[..2]).join(hash)).unwrap();
    let _agent = stage.real_agent("a").start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Failed, 3));
    let error = ended.error.unwrap();
    assert!(error["message"].as_str().unwrap().contains("model/model.safetensors"), "{error}");
}
