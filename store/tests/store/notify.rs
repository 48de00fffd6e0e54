use std::time::Duration;

use store::PgPool;
use store::event::append;
use store::notify::{Listener, Wake};
use tokio::sync::broadcast::Receiver;

use crate::seed::*;

/// Waits until a wake-up comes that is wanted; a listener that stays silent fails the test.
async fn until(wakes: &mut Receiver<Wake>, wanted: Wake) {
    let wait = async { while wakes.recv().await.unwrap() != wanted {} };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .unwrap_or_else(|_| panic!("no {wanted:?} came"));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_new_job_and_its_events_wake_listeners(db: PgPool) {
    let listener = Listener::spawn(db.clone());
    let mut wakes = listener.subscribe();
    until(&mut wakes, Wake::Missed).await;
    let held = running(&db).await;
    until(&mut wakes, Wake::Queue).await;
    append(&db, &held, &[train(1, 0, 1, 0.5)]).await.unwrap();
    until(&mut wakes, Wake::Job(held.job_id())).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_rolled_back_wakes_nobody(db: PgPool) {
    let held = running(&db).await;
    let listener = Listener::spawn(db.clone());
    let mut wakes = listener.subscribe();
    until(&mut wakes, Wake::Missed).await;
    let mut tx = db.begin().await.unwrap();
    sqlx::query("update job set asked = 'cancel'").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    // A renewed lease is no news either.
    store::queue::renew(&db, &held, LEASE, None).await.unwrap();
    sqlx::query("notify luthier_queue").execute(&db).await.unwrap();
    assert_eq!(wakes.recv().await.unwrap(), Wake::Queue);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_listener_whose_connection_is_killed_comes_back(db: PgPool) {
    let listener = Listener::spawn(db.clone());
    let mut wakes = listener.subscribe();
    until(&mut wakes, Wake::Missed).await;
    for _ in 0..2 {
        let killed: Vec<bool> = sqlx::query_scalar(
            "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and query ilike 'listen%' and pid <> pg_backend_pid()",
        )
        .fetch_all(&db)
        .await
        .unwrap();
        assert_eq!(killed, [true]);
        until(&mut wakes, Wake::Missed).await;
    }
    let job = job(&db).await;
    until(&mut wakes, Wake::Job(job.job_id)).await;
}
