use store::marker::{MARKER, MarkerError};
use store::{Objects, PgPool, Store};

async fn open(db: &PgPool, dir: &tempfile::TempDir) -> Store {
    Store::new(db.clone(), Objects::open(dir.path().to_str().unwrap()).await.unwrap())
}

#[sqlx::test(migrations = "../migrations")]
async fn a_store_that_no_server_has_used_is_refused(db: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&db, &dir).await;
    let error = store.check_mark().await.unwrap_err();
    assert!(matches!(error, MarkerError::Missing { .. }));
    assert!(error.to_string().contains(&dir.path().canonicalize().unwrap().display().to_string()), "{error}");
    store.mark().await.unwrap();
    store.check_mark().await.unwrap();
    store.mark().await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_store_of_another_database_is_refused_and_left_as_it_is(db: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&db, &dir).await;
    store.mark().await.unwrap();
    // What another database is, to the store.
    sqlx::query("update installation set installation_id = gen_random_uuid()").execute(&db).await.unwrap();
    for refused in [store.check_mark().await, store.mark().await] {
        assert!(matches!(refused, Err(MarkerError::Other { .. })), "{refused:?}");
    }
    std::fs::write(dir.path().join(MARKER), "{").unwrap();
    assert!(matches!(store.mark().await, Err(MarkerError::Damaged { .. })));
    assert_eq!(std::fs::read(dir.path().join(MARKER)).unwrap(), b"{");
}
