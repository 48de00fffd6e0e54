use std::collections::BTreeSet;
use std::time::Duration;

use store::PgPool;
use store::idempotency::{Claim, claim, settle};
use store::queue::{Dedup, EnqueueError, enqueue_once};

use crate::seed::*;

fn keyed(key: &str, request_hash: &str) -> Dedup {
    Dedup { key: Some(key.to_owned()), request_hash: request_hash.to_owned(), retry_within: None }
}

#[sqlx::test(migrations = "../migrations")]
async fn ten_requests_with_one_key_make_one_job(db: PgPool) {
    let new = new_job(&db).await;
    let mut tasks = Vec::new();
    for _ in 0..10 {
        let (db, new) = (db.clone(), new.clone());
        tasks.push(tokio::spawn(async move { enqueue_once(&db, &new, &keyed("k1", "body")).await.unwrap() }));
    }
    let mut ids = BTreeSet::new();
    let mut created = 0;
    for task in tasks {
        let answer = task.await.unwrap();
        created += usize::from(answer.created);
        ids.insert(answer.job.job_id);
    }
    assert_eq!((ids.len(), created), (1, 1));
    assert_eq!(store::queue::stats(&db).await.unwrap().queued, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_key_used_for_another_request_is_refused_and_names_the_job(db: PgPool) {
    let new = new_job(&db).await;
    let first = enqueue_once(&db, &new, &keyed("k1", "body")).await.unwrap();
    let error = enqueue_once(&db, &new, &keyed("k1", "other body")).await.unwrap_err();
    match &error {
        EnqueueError::KeyReused { job, .. } => assert_eq!(*job, first.job.job_id.to_string()),
        other => panic!("{other}"),
    }
    assert!(enqueue_once(&db, &new, &keyed("k2", "other body")).await.unwrap().created);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_request_that_failed_leaves_its_key_free(db: PgPool) {
    let mut new = new_job(&db).await;
    new.model_id = "nowhere".to_owned();
    let error = enqueue_once(&db, &new, &keyed("k1", "body")).await.unwrap_err();
    assert!(matches!(error, EnqueueError::Missing { param: "model", .. }), "{error}");
    new.model_id = "base".to_owned();
    assert!(enqueue_once(&db, &new, &keyed("k1", "body")).await.unwrap().created);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_retry_without_a_key_gives_the_job_of_the_first_request(db: PgPool) {
    let new = new_job(&db).await;
    let plain = Dedup { key: None, request_hash: "body".to_owned(), retry_within: None };
    let retry = Dedup { retry_within: Some(Duration::from_secs(60)), ..plain.clone() };
    let first = enqueue_once(&db, &new, &plain).await.unwrap();
    let again = enqueue_once(&db, &new, &retry).await.unwrap();
    assert_eq!((again.job.job_id, again.created), (first.job.job_id, false));
    let other = Dedup { request_hash: "other body".to_owned(), ..retry };
    assert!(enqueue_once(&db, &new, &other).await.unwrap().created);
    let second = enqueue_once(&db, &new, &plain).await.unwrap();
    assert!(second.created, "two plain requests are two jobs");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_retry_that_overtakes_its_first_request_waits_for_it(db: PgPool) {
    let new = new_job(&db).await;
    let plain = Dedup { key: None, request_hash: "body".to_owned(), retry_within: None };
    let retry = Dedup { retry_within: Some(Duration::from_secs(60)), ..plain.clone() };
    // Ten retries at once, the first of which is the one that makes the job.
    let mut tasks = Vec::new();
    for _ in 0..10 {
        let (db, new, retry) = (db.clone(), new.clone(), retry.clone());
        tasks.push(tokio::spawn(async move { enqueue_once(&db, &new, &retry).await.unwrap().job.job_id }));
    }
    let mut ids = BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn scopes_do_not_share_keys_and_old_ones_are_forgotten(db: PgPool) {
    let mut tx = db.begin().await.unwrap();
    assert_eq!(claim(&mut tx, "file", "k", "h").await.unwrap(), Claim::New);
    settle(&mut tx, "file", "k", "file-1").await.unwrap();
    assert_eq!(claim(&mut tx, "model", "k", "h").await.unwrap(), Claim::New);
    assert_eq!(claim(&mut tx, "file", "k", "h").await.unwrap(), Claim::Seen("file-1".to_owned()));
    assert_eq!(claim(&mut tx, "file", "k", "x").await.unwrap(), Claim::Other("file-1".to_owned()));
    tx.commit().await.unwrap();
    assert_eq!(store::idempotency::forget(&db, Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(store::idempotency::forget(&db, Duration::ZERO).await.unwrap(), 2);
}
