//! Processes and connections that die under the agent.

use rustix::process::Signal;
use serde_json::json;
use sqlx::PgPool;
use store::event::Kind;
use store::job::Status;
use store::model::ModelKind;

use crate::postgres::Cluster;
use crate::support::{Stage, job_processes, send, wait_for};

fn range(from: i64, to: i64) -> Vec<i64> {
    (from..=to).collect()
}

fn open(gate: &std::path::Path) {
    std::fs::write(gate, "").unwrap();
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_second_agent_in_the_same_folder_is_refused(db: PgPool) {
    let stage = Stage::new(db).await;
    let first = stage.agent("a").start();
    let lock = stage.work("a").join("agent.lock");
    wait_for("the first has the folder", || {
        std::fs::read_to_string(&lock).is_ok_and(|text| !text.is_empty())
    })
    .await;
    let mut second = stage.agent("a").start();
    assert_eq!(second.ended().await.code(), Some(1));
    assert!(
        stage.logs().contains(&format!("in use by the agent with process id {}", first.id())),
        "{}",
        stage.logs()
    );
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_restarted_agent_runs_the_job_of_its_predecessor_again(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = json!({"step": 8, "file": stage.temp.path().join("never")});
    let job = stage.enqueue(json!({"steps": 12, "checkpoint_every": 3, "gate": gate})).await;
    // A lease that would outlast the test: only giving back can set the job free.
    let command = stage.agent("a").lease(600);
    let mut agent = command.start();
    stage.until_step(job, 7).await;
    agent.kill().await;
    let _again = command.start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 2));
    assert!(ended.errors[0]["message"].as_str().unwrap().contains("was started again"));
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 12));
    assert_eq!(stage.steps(job, Kind::Resume).await, [6]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_job_of_a_killed_agent_ends_and_another_agent_goes_on(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = json!({"step": 8, "file": stage.temp.path().join("never")});
    let job = stage.enqueue(json!({"steps": 12, "checkpoint_every": 3, "gate": gate})).await;
    let mut agent = stage.agent("a").lease(2).start();
    stage.until_step(job, 7).await;
    stage.until_checkpoint(job, 6).await;
    agent.kill().await;
    wait_for("the job's process has ended", || job_processes(&stage.work("a")).is_empty()).await;
    let _other = stage.agent("b").lease(2).start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 2));
    assert!(ended.errors[0]["message"].as_str().unwrap().contains("did not renew its lease"));
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 12));
    assert_eq!(stage.steps(job, Kind::Resume).await, [6]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_agent_that_slept_through_its_lease_writes_nothing_more(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = stage.temp.path().join("gate");
    let script = json!({"steps": 12, "checkpoint_every": 3, "gate": {"step": 8, "file": gate}});
    let job = stage.enqueue(script).await;
    let sleeper = stage.agent("a").lease(2).start();
    stage.until_step(job, 7).await;
    let [process] = job_processes(&stage.work("a"))[..] else { panic!("one job runs") };
    send(process, Signal::STOP);
    sleeper.signal(Signal::STOP);
    let _other = stage.agent("b").lease(2).start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt, ended.agent_name.as_deref()), (Status::Succeeded, 2, Some("b")));
    let before = stage.events(job).await;
    // The job wakes first and reaches its end before its agent learns of the loss.
    open(&gate);
    send(process, Signal::CONT);
    let result = stage.work("a").join(job.to_string()).join("out/result.json");
    wait_for("the late job has ended", || result.exists()).await;
    sleeper.signal(Signal::CONT);
    wait_for("the sleeper has noticed", || stage.logs().contains("outcome=Lost")).await;
    assert_eq!(stage.events(job).await, before);
    assert_eq!(stage.job(job).await.fine_tuned_model, ended.fine_tuned_model);
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 12));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_agent_frozen_within_a_transaction_cannot_keep_its_job(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = json!({"step": 5, "file": stage.temp.path().join("never")});
    let job = stage.enqueue(json!({"steps": 9, "checkpoint_every": 2, "gate": gate})).await;
    let agent = stage.agent("a").lease(1).start();
    stage.until_step(job, 4).await;
    agent.signal(Signal::STOP);
    // What the agent would hold, had it been stopped between two statements of a transaction.
    let frozen = store::connect(&stage.url, 1).await.unwrap();
    let mut transaction = frozen.begin().await.unwrap();
    let lock = "select 1 from job where job_id = $1 for update";
    sqlx::query(lock).bind(job).execute(&mut *transaction).await.unwrap();
    let _other = stage.agent("b").lease(1).start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.agent_name.as_deref()), (Status::Succeeded, Some("b")));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_lost_lease_ends_the_process_at_once(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = json!({"step": 5, "file": stage.temp.path().join("never")});
    let job = stage.enqueue(json!({"steps": 9, "deaf": true, "gate": gate})).await;
    let agent = stage.agent("a").lease(2).start();
    stage.until_step(job, 4).await;
    agent.signal(Signal::STOP);
    while store::queue::reap(stage.db()).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    store::queue::cancel(stage.db(), job).await.unwrap();
    agent.signal(Signal::CONT);
    wait_for("the process is gone", || job_processes(&stage.work("a")).is_empty()).await;
    let ended = stage.job(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Cancelled, 1));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn cut_connections_lose_and_double_nothing(db: PgPool) {
    let stage = Stage::new(db).await;
    let mut gates = Vec::new();
    let job = stage.enqueue(json!({"steps": 400, "checkpoint_every": 40})).await;
    let waiting = {
        let gate = stage.temp.path().join("gate");
        let script = json!({"steps": 9, "gate": {"step": 5, "file": &gate}});
        gates.push(gate);
        stage.enqueue(script).await
    };
    let _agent = stage.agent("a").start();
    // Every connection is cut, again and again, while events are on their way.
    for step in [1, 60, 120, 200, 300] {
        stage.until_step(job, step).await;
        cut_others(stage.db()).await;
    }
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 1), "{:?}", ended.errors);
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 400));
    // The listener is back too, and a waiting job starts.
    stage.until_step(waiting, 4).await;
    cut_others(stage.db()).await;
    open(&gates[0]);
    assert_eq!(stage.until_final(waiting).await.attempt, 1);
}

/// Ends all other connections to this database.
async fn cut_others(db: &PgPool) {
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query_scalar::<_, i64>(cut).fetch_one(db).await.unwrap();
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_healthy_job_is_never_taken_away(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = stage.temp.path().join("gate");
    let job = stage.enqueue(json!({"steps": 6, "gate": {"step": 4, "file": gate}})).await;
    let _agent = stage.agent("a").lease(1).start();
    stage.until_step(job, 3).await;
    // An idle agent looks for lapsed leases all the while.
    let _other = stage.agent("b").lease(1).start();
    let held = "select now() > started_at + interval '6 s' from job where job_id = $1";
    while !sqlx::query_scalar::<_, bool>(held).bind(job).fetch_one(stage.db()).await.unwrap() {
        let running = stage.job(job).await;
        assert_eq!((running.status, running.attempt), (Status::Running, 1));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    open(&gate);
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt, ended.agent_name.as_deref()), (Status::Succeeded, 1, Some("a")));
}

#[tokio::test]
async fn a_restart_of_the_database_is_waited_out_and_its_events_arrive_once() {
    let mut cluster = Cluster::start_new().await;
    let stage = Stage::at(cluster.pool().await, cluster.url()).await;
    let (gate, end) = (stage.temp.path().join("gate"), stage.temp.path().join("end"));
    let script =
        json!({"steps": 60, "checkpoint_every": 10, "prune": true, "gate": {"step": 8, "file": gate}});
    let job = stage.enqueue(script).await;
    let _agent = stage.agent("a").lease(30).start();
    stage.until_step(job, 7).await;
    cluster.stop();
    // The job goes on to its end without a database, past checkpoints that it removes itself.
    open(&gate);
    let result = stage.work("a").join(job.to_string()).join("out/result.json");
    wait_for("the job has ended", || result.exists()).await;
    cluster.start().await;
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 1), "{:?}", ended.errors);
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 60));
    assert_eq!(stage.steps(job, Kind::Checkpoint).await, [10, 20, 30, 40, 50, 60]);
    assert_eq!(store::checkpoint::latest(stage.db(), job).await.unwrap().unwrap().step, 60);
    // The listener is back, and a new job starts.
    let next = stage.enqueue(json!({"steps": 3, "gate": {"step": 3, "file": &end}})).await;
    stage.until_step(next, 2).await;
    open(&end);
    assert_eq!(stage.until_final(next).await.status, Status::Succeeded);
}

#[tokio::test]
async fn a_database_that_is_down_for_two_leases_leaves_one_result() {
    let mut cluster = Cluster::start_new().await;
    let stage = Stage::at(cluster.pool().await, cluster.url()).await;
    let gate = stage.temp.path().join("gate");
    let job =
        stage.enqueue(json!({"steps": 20, "checkpoint_every": 5, "gate": {"step": 8, "file": gate}})).await;
    let _agent = stage.agent("a").lease(1).start();
    let _other = stage.agent("b").lease(1).start();
    stage.until_step(job, 7).await;
    cluster.stop();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    cluster.start().await;
    open(&gate);
    let ended = stage.until_final(job).await;
    assert_eq!(ended.status, Status::Succeeded, "{:?}", ended.errors);
    assert!(ended.attempt <= 2);
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 20));
    let tuned =
        store::model::Filter { kind: Some(ModelKind::Tuned), job_id: Some(job), ..Default::default() };
    assert_eq!(store::model::list(stage.db(), &tuned, 50).await.unwrap().items.len(), 1);
}
