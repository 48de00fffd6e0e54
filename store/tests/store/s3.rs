//! Against an S3 server, where one is at hand: `LUTHIER_TEST_S3=s3://bucket/prefix` with the usual `AWS_*` variables,
//! for example of a moto server at `AWS_ENDPOINT=http://127.0.0.1:5123` with `AWS_ALLOW_HTTP=true`.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use store::objects::ObjectsError;
use store::{Objects, PgPool, Store};

use crate::seed::hash;

/// A store under a prefix of its own; `None`, and said so, where there is no server.
async fn open(db: PgPool, test: &str) -> Option<Store> {
    let Ok(place) = std::env::var("LUTHIER_TEST_S3") else {
        eprintln!("skipped: s3::{test} needs LUTHIER_TEST_S3");
        return None;
    };
    let own = format!("{place}/{test}-{}", uuid::Uuid::now_v7());
    Some(Store::new(db, Objects::open(&own).await.unwrap()))
}

#[sqlx::test(migrations = "../migrations")]
async fn a_large_object_goes_in_parts_and_comes_back_whole(db: PgPool) {
    let Some(store) = open(db, "large").await else { return };
    // 40 MiB: three parts of 16 MiB, the last one short.
    let chunk = |number: u32| Bytes::from(vec![(number % 251) as u8; 1 << 20]);
    let content = || stream::iter((0..40).map(chunk).map(Ok::<_, String>));
    let stored = store.put_stream(content(), None).await.unwrap();
    assert_eq!(stored.bytes, 40 << 20);
    assert_eq!(store.put_stream(content(), None).await.unwrap(), stored, "the second time it is there");

    let middle = (20 << 20) - 2..(20 << 20) + 2;
    let parts: Vec<Bytes> =
        store.objects.read(&stored.hash, Some(middle)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(parts.concat(), [19, 19, 20, 20]);

    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("model/model.safetensors");
    store.objects.fetch(&stored.hash, &to).await.unwrap();
    assert_eq!(std::fs::metadata(&to).unwrap().len(), 40 << 20);
    let error = store.objects.fetch(&hash("nothing"), &to).await.unwrap_err();
    assert!(matches!(error, ObjectsError::Missing(_)), "{error}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_broken_upload_leaves_nothing_and_a_sweep_removes_what_is_idle(db: PgPool) {
    let Some(store) = open(db, "sweep").await else { return };
    let broken = stream::iter([Ok(Bytes::from_static(b"part")), Err("connection reset".to_owned())]);
    assert!(store.put_stream(broken.boxed(), None).await.is_err());
    let idle = store.put_bytes(Bytes::from_static(b"idle")).await.unwrap();
    assert!(store.objects.has(&idle.hash).await.unwrap());
    assert_eq!(store.sweep(Duration::from_secs(86400)).await.unwrap().objects, 0);
    let swept = store.sweep(Duration::ZERO).await.unwrap();
    assert_eq!((swept.objects, swept.strays), (1, 0));
    assert!(!store.objects.has(&idle.hash).await.unwrap());
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_shown_of_the_store_has_no_secrets(db: PgPool) {
    let Some(store) = open(db, "debug").await else { return };
    let shown = format!("{store:?}");
    for secret in ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"] {
        assert!(!shown.contains(&std::env::var(secret).unwrap()), "{shown}");
    }
}
