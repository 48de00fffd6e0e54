use serde_json::json;
use store::event::{EventLine, Kind, Level, append, page, since};
use store::queue::{Lease, Released, release};
use store::{JobId, PgPool};

use crate::seed::*;

/// The job's events that come from a trainer: number, kind, step, level.
async fn said(db: &PgPool, job: JobId) -> Vec<(i64, Kind, Option<i64>, Level)> {
    let all = since(db, job, 0, 10_000).await.unwrap();
    let numbers: Vec<_> = all.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=all.len() as i64).collect::<Vec<_>>(), "numbers have no gaps");
    all.into_iter()
        .skip(2) // queued, attempt
        .map(|event| (event.number, event.kind, event.step, event.level))
        .collect()
}

/// Gives the job back and takes it up again, as after a crash.
async fn again(db: &PgPool, held: &Lease) -> Lease {
    assert!(release(db, held, Released::Queued).await.unwrap());
    claim(db, held.agent).await.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn events_move_the_jobs_progress(db: PgPool) {
    let held = running(&db).await;
    let phase = EventLine {
        kind: Kind::Phase,
        data: fields(json!({"phase": "training", "device": "cpu"})),
        ..log(1, 0, "")
    };
    let eval = EventLine {
        kind: Kind::Eval,
        step: Some(2),
        values: fields(json!({"loss": 0.4, "accuracy": 0.8})),
        ..log(1, 3, "")
    };
    let lines = [phase, train(1, 1, 1, 0.9), train(1, 2, 2, 0.7), eval];
    let appended = append(&db, &held, &lines).await.unwrap();
    assert_eq!((appended.added, appended.last), (4, 6));
    let job = now(&db, &held).await;
    assert_eq!(job.progress, json!({"step": 2, "total_steps": 100, "loss": 0.7}));
    assert_eq!(job.metrics, json!({"step": 2, "loss": 0.4, "accuracy": 0.8}));
    assert_eq!((job.phase.as_deref(), job.device.as_deref()), (Some("training"), Some("cpu")));
    assert_eq!(job.last_event, 6);
    assert!(job.last_event_at.unwrap() > job.started_at.unwrap());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_batch_that_is_sent_twice_is_kept_once(db: PgPool) {
    let held = running(&db).await;
    let lines = [log(1, 0, "loading"), train(1, 1, 1, 0.9), train(1, 2, 2, 0.8)];
    assert_eq!(append(&db, &held, &lines).await.unwrap().added, 3);
    assert_eq!(append(&db, &held, &lines).await.unwrap().added, 0);
    let doubled = [&lines[..], &[log(1, 3, "more")], &[log(1, 3, "more")]].concat();
    assert_eq!(append(&db, &held, &doubled).await.unwrap().added, 1);
    assert_eq!(said(&db, held.job_id()).await.len(), 4);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_long_list_is_kept_whole(db: PgPool) {
    let held = running(&db).await;
    let lines: Vec<_> = (0..2500).map(|n| train(1, n, n + 1, 1.0)).collect();
    assert_eq!(append(&db, &held, &lines).await.unwrap().added, 2500);
    assert_eq!(append(&db, &held, &lines[1000..]).await.unwrap().added, 0);
    assert_eq!(said(&db, held.job_id()).await.len(), 2500);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_replay_with_the_same_values_leaves_no_trace(db: PgPool) {
    let held = running(&db).await;
    append(&db, &held, &[train(1, 0, 1, 1e-5), train(1, 1, 2, 2.0)]).await.unwrap();
    let held = again(&db, &held).await;
    // Written in another way, the number is the same.
    let mut same = train(2, 0, 1, 0.0);
    same.values = serde_json::from_str(r#"{"loss": 0.00001}"#).unwrap();
    let mut whole = train(2, 1, 2, 0.0);
    whole.values = serde_json::from_str(r#"{"loss": 2}"#).unwrap();
    assert_eq!(append(&db, &held, &[same, whole, train(2, 2, 3, 0.5)]).await.unwrap().added, 1);
    let all = since(&db, held.job_id(), 0, 100).await.unwrap();
    assert!(all.iter().all(|event| event.level == Level::Info));
    let point = store::event::at_step(&db, held.job_id(), Kind::Train, 1).await.unwrap().unwrap();
    assert_eq!(point.attempt, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_replay_with_other_values_is_told_once_and_the_first_ones_stay(db: PgPool) {
    let held = running(&db).await;
    append(&db, &held, &[train(1, 0, 1, 0.9), train(1, 1, 2, 0.8), train(1, 2, 3, 0.7)]).await.unwrap();
    let held = again(&db, &held).await;
    let replay = [train(2, 0, 2, 0.81), train(2, 1, 3, 0.72), train(2, 2, 4, 0.6)];
    assert_eq!(append(&db, &held, &replay).await.unwrap().added, 2);
    assert_eq!(append(&db, &held, &replay).await.unwrap().added, 0);
    let all = since(&db, held.job_id(), 0, 100).await.unwrap();
    let told: Vec<_> = all.iter().filter(|event| event.level == Level::Warn).collect();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].message.starts_with("Step 2 was computed again by attempt 2, and its train values differ")
    );
    assert_eq!(told[0].data, json!({"replay": "train", "kept": {"loss": 0.8}, "replayed": {"loss": 0.81}}));
    let curve = store::event::series(&db, held.job_id(), Kind::Train, &["loss"], 100).await.unwrap();
    let losses: Vec<_> =
        curve.iter().map(|point| (point.step, point.values["loss"].as_f64().unwrap())).collect();
    assert_eq!(losses, [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_an_earlier_attempt_wrote_and_could_not_send_still_arrives(db: PgPool) {
    let held = running(&db).await;
    append(&db, &held, &[train(1, 0, 1, 0.9)]).await.unwrap();
    let held = again(&db, &held).await;
    let lines = [train(1, 0, 1, 0.9), train(1, 1, 2, 0.8), log(1, 2, "killed here"), train(2, 0, 2, 0.8)];
    assert_eq!(append(&db, &held, &lines).await.unwrap().added, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn appenders_at_the_same_time_leave_no_gap_and_no_double(db: PgPool) {
    let held = running(&db).await;
    let mut tasks = Vec::new();
    for part in 0..8i64 {
        let (db, held) = (db.clone(), held.clone());
        tasks.push(tokio::spawn(async move {
            for batch in 0..10 {
                // Each line is sent by two of the tasks.
                let first = (part / 2 * 10 + batch) * 5;
                let lines: Vec<_> = (first..first + 5).map(|n| train(1, n, n + 1, 0.5)).collect();
                append(&db, &held, &lines).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let said = said(&db, held.job_id()).await;
    assert_eq!(said.len(), 200);
    let mut steps: Vec<_> = said.iter().filter_map(|event| event.2).collect();
    steps.sort();
    assert_eq!(steps, (1..=200).collect::<Vec<_>>());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_reader_that_goes_on_from_the_last_number_never_skips(db: PgPool) {
    let held = running(&db).await;
    let job = held.job_id();
    let mut writers = Vec::new();
    for part in 0..4i64 {
        let (db, held) = (db.clone(), held.clone());
        writers.push(tokio::spawn(async move {
            for n in 0..50 {
                append(&db, &held, &[log(1, part * 50 + n, "line")]).await.unwrap();
            }
        }));
    }
    let mut last = 0;
    while last < 202 {
        for event in since(&db, job, last, 7).await.unwrap() {
            assert_eq!(event.number, last + 1);
            last = event.number;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn pages_go_back_from_the_newest(db: PgPool) {
    let held = running(&db).await;
    let lines: Vec<_> = (0..5).map(|n| log(1, n, "line")).collect();
    append(&db, &held, &lines).await.unwrap();
    let first = page(&db, held.job_id(), None, 4).await.unwrap();
    let numbers: Vec<_> = first.items.iter().map(|event| event.number).collect();
    assert_eq!((numbers, first.more), (vec![7, 6, 5, 4], true));
    let rest = page(&db, held.job_id(), Some(4), 4).await.unwrap();
    assert_eq!((rest.items.len(), rest.more), (3, false));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_null_character_in_a_line_is_no_reason_to_lose_it(db: PgPool) {
    let held = running(&db).await;
    let mut line = log(1, 0, "a\0b");
    line.data = fields(json!({"x\0": ["y\0"]}));
    append(&db, &held, &[line]).await.unwrap();
    let event = store::event::latest(&db, held.job_id(), &[Kind::Log], 1).await.unwrap().remove(0);
    assert_eq!(event.message, "a\u{fffd}b");
    assert_eq!(event.data, json!({"x\u{fffd}": ["y\u{fffd}"]}));
}
