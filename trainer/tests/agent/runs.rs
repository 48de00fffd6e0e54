//! Jobs that end as their program says.

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::event::Kind;
use store::job::Status;

use crate::support::{Stage, job_processes, wait_for};

fn range(from: i64, to: i64) -> Vec<i64> {
    (from..=to).collect()
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_job_ends_with_its_model_and_each_event_once(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = stage.enqueue(json!({"steps": 25, "checkpoint_every": 10})).await;
    let _agent = stage.agent("a").start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 1), "{:?}", ended.error);
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 25));
    assert_eq!(stage.steps(job, Kind::Checkpoint).await, [10, 20]);
    assert!(stage.steps(job, Kind::Resume).await.is_empty());
    assert_eq!(ended.device.as_deref(), Some("cpu"));
    assert_eq!((ended.steps, ended.best_step, ended.trained_tokens), (Some(25), Some(25), Some(7)));
    assert_eq!(ended.metrics["accuracy"], 0.5);
    assert_eq!(ended.manifest, json!({"seed": 42}));
    let kept = store::checkpoint::list(stage.db(), job, None, 10).await.unwrap();
    assert_eq!(kept.items.iter().map(|kept| kept.step).collect::<Vec<_>>(), [20, 10]);
    let id = ended.fine_tuned_model.clone().unwrap();
    let model = store::model::get(stage.db(), &id).await.unwrap().unwrap();
    assert_eq!(model.architecture.as_deref(), Some("BertForSequenceClassification"));
    assert_eq!((model.job_id, model.base_model), (Some(job), Some(ended.model_id.clone())));
    assert_eq!(stage.model_file(&ended, "model.safetensors").await, b"weights of the base");
    let results = store::file::get(stage.db(), ended.result_file.unwrap()).await.unwrap().unwrap();
    assert_eq!(results.name, "step_metrics.csv");
    let folder = stage.work("a").join(job.to_string());
    wait_for("the work folder is removed", || !folder.exists()).await;
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn unchanged_files_of_checkpoints_are_stored_once(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = stage.enqueue(json!({"steps": 6, "checkpoint_every": 2})).await;
    let _agent = stage.agent("a").start();
    stage.until_final(job).await;
    let mut hashes = Vec::new();
    for kept in store::checkpoint::list(stage.db(), job, None, 10).await.unwrap().items {
        let files = store::checkpoint::files(stage.db(), kept.checkpoint_id).await.unwrap();
        hashes
            .extend(files.into_iter().filter(|file| file.path == "model.safetensors").map(|file| file.hash));
    }
    assert!(hashes.len() > 1);
    hashes.dedup();
    assert_eq!(hashes.len(), 1);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_job_sees_no_secret(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = stage.enqueue(json!({"steps": 3, "die": [{"attempt": 1, "step": 2, "how": "user"}]})).await;
    let _agent = stage.agent("a").start();
    let ended = stage.until_final(job).await;
    let log = ended.error.unwrap()["log"].to_string();
    assert!(log.contains("\"no secret\""), "{log}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_failure_by_the_user_is_final_and_says_why(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = stage.enqueue(json!({"steps": 9, "die": [{"attempt": 1, "step": 4, "how": "user"}]})).await;
    let _agent = stage.agent("a").start();
    let ended = stage.until_final(job).await;
    let error = ended.error.unwrap();
    assert_eq!((ended.status, ended.attempt), (Status::Failed, 1));
    assert_eq!(
        (&error["code"], &error["param"], &error["step"]),
        (&json!("made_up"), &json!("columns"), &json!(4))
    );
    assert_eq!(error["message"], "It was told to fail.");
    assert_eq!(error["log"], json!(["attempt 1 begins", "no secret", "about to end: user"]));
    assert_eq!(ended.fine_tuned_model, None);
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 4));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn deaths_that_repeat_are_not_retried_without_end(db: PgPool) {
    let stage = Stage::new(db).await;
    let die: Vec<Value> =
        (1..9).map(|attempt| json!({"attempt": attempt, "step": 5, "how": "signal:6"})).collect();
    let job = stage.enqueue(json!({"steps": 9, "checkpoint_every": 3, "die": die})).await;
    let _agent = stage.agent("a").start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt, ended.errors.len()), (Status::Failed, 3, 3));
    let error = ended.error.unwrap();
    assert_eq!(error["message"], "The trainer was ended by signal 6 (SIGABRT) at step 5.");
    assert_eq!(error["step"], 5);
    assert_eq!(ended.fine_tuned_model, None);
    // The last good checkpoint is offered, as of its step.
    assert_eq!(store::checkpoint::latest(stage.db(), job).await.unwrap().unwrap().step, 3);
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 5));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_killed_job_goes_on_from_its_checkpoint_and_names_the_signal(db: PgPool) {
    let stage = Stage::new(db).await;
    let calm = stage.enqueue(json!({"steps": 12, "checkpoint_every": 4})).await;
    let die = json!([{"attempt": 1, "step": 7, "how": "torn:9"}]);
    let job = stage.enqueue(json!({"steps": 12, "checkpoint_every": 4, "die": die})).await;
    let _agent = stage.agent("a").start();
    let calm = stage.until_final(calm).await;
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 2));
    assert_eq!(ended.errors[0]["message"], "The trainer was ended by signal 9 (SIGKILL) at step 7.");
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 12));
    assert_eq!(stage.steps(job, Kind::Resume).await, [4]);
    let same = stage.model_file(&calm, "state.json").await;
    assert_eq!(stage.model_file(&ended, "state.json").await, same);
    assert!(!stage.messages(job).await.contains("differ"));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_death_after_the_result_is_no_success(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = stage
        .enqueue(json!({"steps": 5, "checkpoint_every": 2, "die": [{"attempt": 1, "how": "late:6"}]}))
        .await;
    let _agent = stage.agent("a").start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 2));
    assert_eq!(ended.errors[0]["message"], "The trainer was ended by signal 6 (SIGABRT) at step 5.");
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 5));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_exit_without_a_result_is_tried_again_with_a_reason(db: PgPool) {
    let stage = Stage::new(db).await;
    let die =
        json!([{"attempt": 1, "step": 2, "how": "exit:0"}, {"attempt": 2, "step": 3, "how": "internal"}]);
    let job = stage.enqueue(json!({"steps": 5, "die": die})).await;
    let _agent = stage.agent("a").start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 3));
    assert_eq!(ended.errors[0]["message"], "The trainer ended with exit code 0 at step 2, without a result.");
    assert_eq!(ended.errors[1]["message"], "It was told to fail.");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_line_that_is_no_event_is_told_and_the_rest_arrives(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = stage.enqueue(json!({"steps": 6, "odd": [3]})).await;
    let _agent = stage.agent("a").start();
    assert_eq!(stage.until_final(job).await.status, Status::Succeeded);
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 6));
    let messages = stage.messages(job).await;
    assert!(messages.contains("warn The trainer wrote an event that cannot be read"), "{messages}");
    let odd = stage.events(job).await.into_iter().find(|event| event.data["note"].is_string()).unwrap();
    assert_eq!(odd.data["note"], "a \u{fffd} character");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_running_job_is_cancelled_and_a_paused_one_goes_on(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = |step: i64| json!({"step": step, "file": stage.temp.path().join(format!("gate-{step}"))});
    let cancelled = stage.enqueue(json!({"steps": 9, "gate": gate(5)})).await;
    let _agent = stage.agent("a").start();
    stage.until_step(cancelled, 4).await;
    store::queue::cancel(stage.db(), cancelled).await.unwrap();
    let ended = stage.until_final(cancelled).await;
    assert_eq!((ended.status, ended.error), (Status::Cancelled, None));
    assert!(job_processes(&stage.work("a")).is_empty());

    let job = stage.enqueue(json!({"steps": 9, "gate": gate(7)})).await;
    stage.until_step(job, 6).await;
    store::queue::pause(stage.db(), job).await.unwrap();
    let paused = stage.until(job, "the job is paused", |job| job.status == Status::Paused).await;
    assert_eq!((paused.attempt, paused.failures), (1, 0));
    assert_eq!(store::checkpoint::latest(stage.db(), job).await.unwrap().unwrap().step, 6);
    store::queue::resume(stage.db(), job).await.unwrap();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt, ended.failures), (Status::Succeeded, 2, 0));
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 9));
    assert_eq!(stage.steps(job, Kind::Resume).await, [6]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_job_that_does_not_obey_is_ended_after_its_grace(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = json!({"step": 5, "file": stage.temp.path().join("never")});
    let job = stage.enqueue(json!({"steps": 9, "deaf": true, "gate": gate})).await;
    let _agent = stage.agent("a").grace(1).start();
    stage.until_step(job, 4).await;
    store::queue::cancel(stage.db(), job).await.unwrap();
    assert_eq!(stage.until_final(job).await.status, Status::Cancelled);
    assert!(job_processes(&stage.work("a")).is_empty());
    assert!(stage.messages(job).await.contains("warn The trainer did not stop within 1 s and was ended"));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_agent_that_is_told_to_stop_pauses_its_job_and_gives_it_back(db: PgPool) {
    let stage = Stage::new(db).await;
    let gate = json!({"step": 6, "file": stage.temp.path().join("never")});
    let job = stage.enqueue(json!({"steps": 9, "gate": gate})).await;
    let mut agent = stage.agent("a").start();
    stage.until_step(job, 5).await;
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().await.code(), Some(0));
    let given = stage.job(job).await;
    assert_eq!((given.status, given.attempt, given.failures), (Status::Queued, 1, 0));
    assert_eq!(store::checkpoint::latest(stage.db(), job).await.unwrap().unwrap().step, 5);
    assert!(job_processes(&stage.work("a")).is_empty());
    // Another agent, with an empty folder, goes on from the stored checkpoint.
    let _other = stage.agent("b").start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt), (Status::Succeeded, 2));
    assert_eq!(stage.steps(job, Kind::Train).await, range(1, 9));
    assert_eq!(stage.steps(job, Kind::Resume).await, [5]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_checkpoint_that_the_job_has_removed_meanwhile_is_still_stored(db: PgPool) {
    let stage = Stage::new(db).await;
    let job = stage.enqueue(json!({"steps": 4, "checkpoint_every": 1, "prune": true})).await;
    let _agent = stage.agent("a").start();
    assert_eq!(stage.until_final(job).await.status, Status::Succeeded);
    let kept = store::checkpoint::latest(stage.db(), job).await.unwrap().unwrap();
    assert_eq!(kept.step, 4);
    assert_eq!(stage.steps(job, Kind::Checkpoint).await, [1, 2, 3, 4]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_unfit_agent_says_why_and_takes_no_job(db: PgPool) {
    let stage = Stage::new(db).await;
    let command = stage.agent("a");
    let broken = stage.temp.path().join("program").join("unfit");
    std::fs::write(&broken, "libtorch_cpu.so: cannot open shared object file").unwrap();
    let job = stage.enqueue(json!({"steps": 2})).await;
    let _unfit = command.start();
    let reason = loop {
        let agents = store::agent::list(stage.db()).await.unwrap();
        if let Some(agent) = agents.into_iter().next() {
            break agent.unfit.unwrap();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        reason,
        "error while loading shared libraries: libtorch_cpu.so: cannot open shared object file"
    );
    // A fit one takes it; the unfit one never did.
    std::fs::remove_file(broken).unwrap();
    let _fit = stage.agent("b").start();
    let ended = stage.until_final(job).await;
    assert_eq!((ended.status, ended.attempt, ended.agent_name.as_deref()), (Status::Succeeded, 1, Some("b")));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_newest_failed_folder_is_kept_and_the_others_go(db: PgPool) {
    let stage = Stage::new(db).await;
    let die = json!([{"attempt": 1, "step": 1, "how": "user"}]);
    let _agent = stage.agent("a").start();
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let job = stage.enqueue(json!({"steps": 2, "die": die})).await;
        assert_eq!(stage.until_final(job).await.status, Status::Failed);
        jobs.push(stage.work("a").join(job.to_string()));
    }
    wait_for("the older folder is removed", || !jobs[0].exists()).await;
    assert!(jobs[1].join("out/log.txt").exists());
}
