use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use store::objects::ObjectsError;
use store::{Objects, PgPool, PutError, Store};
use tempfile::TempDir;

use crate::seed::{file, hash};

async fn open(db: PgPool) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(&format!("file://{}", dir.path().join("objects").display())).await.unwrap();
    (dir, Store::new(db, objects))
}

/// Objects and scratch files that lie in a store.
fn lying(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.join("objects")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
    }
    found
}

fn chunks(parts: &[&'static str]) -> impl futures::Stream<Item = Result<Bytes, String>> + use<> {
    stream::iter(parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect::<Vec<_>>())
}

#[sqlx::test(migrations = "../migrations")]
async fn the_same_content_is_kept_once(db: PgPool) {
    let (dir, store) = open(db).await;
    let first = store.put_stream(chunks(&["hello ", "world"]), None).await.unwrap();
    assert_eq!((first.hash.clone(), first.bytes), (hash("hello world"), 11));
    let path = dir.path().join("other");
    std::fs::write(&path, "hello world").unwrap();
    assert_eq!(store.put_path(&path).await.unwrap(), first);
    assert_eq!(lying(dir.path()), [first.hash.to_string()]);
    assert_eq!(store::stored_bytes(&store.db).await.unwrap(), 11);
}

#[sqlx::test(migrations = "../migrations")]
async fn many_uploads_of_one_content_at_once_are_all_whole(db: PgPool) {
    let (dir, store) = open(db).await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            store.put_stream(chunks(&["same ", "content"]), None).await.unwrap()
        }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().hash, hash("same content"));
    }
    assert_eq!(lying(dir.path()), [hash("same content").to_string()]);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_upload_that_breaks_off_or_is_too_large_leaves_nothing(db: PgPool) {
    let (dir, store) = open(db).await;
    let broken = chunks(&["part"]).chain(stream::iter([Err("connection reset".to_owned())]));
    let error = store.put_stream(broken, None).await.unwrap_err();
    assert!(error.to_string().contains("connection reset"), "{error}");
    let error = store.put_stream(chunks(&["1234", "5678"]), Some(7)).await.unwrap_err();
    assert!(matches!(error, PutError::Objects(ObjectsError::TooLarge { limit: 7 })), "{error}");
    assert_eq!(lying(dir.path()), [] as [String; 0]);
    assert_eq!(store.put_stream(chunks(&["1234", "567"]), Some(7)).await.unwrap().bytes, 7);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_part_of_an_object_is_read_by_range(db: PgPool) {
    let (_dir, store) = open(db).await;
    let stored = store.put_bytes(Bytes::from_static(b"0123456789")).await.unwrap();
    let read = async |range| {
        let stream = store.objects.read(&stored.hash, range).await?;
        let parts: Vec<Bytes> = stream.try_collect().await?;
        Ok::<_, ObjectsError>(parts.concat())
    };
    assert_eq!(read(Some(2..5)).await.unwrap(), b"234");
    assert_eq!(read(None).await.unwrap(), b"0123456789");
    assert_eq!(read(Some(3..3)).await.unwrap(), b"");
    let error = read(Some(8..12)).await.unwrap_err();
    assert!(error.to_string().contains("8..12"), "{error}");
    let missing = store.objects.read(&hash("nothing"), None).await.err().unwrap();
    assert!(matches!(missing, ObjectsError::Missing(_)), "{missing}");
    assert_eq!(store.objects.read_all(&stored.hash, 10).await.unwrap().len(), 10);
    assert!(store.objects.read_all(&stored.hash, 9).await.is_err());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_fetched_object_is_the_same_file_and_its_content_is_checked(db: PgPool) {
    let (dir, store) = open(db).await;
    let stored = store.put_bytes(Bytes::from_static(b"weights")).await.unwrap();
    let to = dir.path().join("work/model/model.safetensors");
    store.objects.fetch(&stored.hash, &to).await.unwrap();
    store.objects.fetch(&stored.hash, &to).await.unwrap();
    let hex = stored.hash.as_str();
    let object = dir.path().join("objects").join(&hex[..2]).join(hex);
    let (a, b) = (std::fs::metadata(&object).unwrap(), std::fs::metadata(&to).unwrap());
    assert_eq!(a.ino(), b.ino(), "linked, not copied");

    std::fs::remove_file(&object).unwrap();
    std::fs::write(&object, "weighty").unwrap();
    let elsewhere = dir.path().join("work/other");
    let error = store.objects.fetch(&stored.hash, &elsewhere).await.unwrap_err();
    assert!(matches!(error, ObjectsError::Damaged { .. }), "{error}");
    assert!(!elsewhere.exists());
    let error = store.objects.fetch(&hash("nothing"), &elsewhere).await.unwrap_err();
    assert!(matches!(error, ObjectsError::Missing(_)), "{error}");
    assert_eq!(std::fs::read_dir(dir.path().join("work")).unwrap().count(), 1, "nothing half-done is left");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_sweep_removes_what_nothing_needs(db: PgPool) {
    let (dir, store) = open(db.clone()).await;
    let idle = store.put_bytes(Bytes::from_static(b"idle")).await.unwrap();
    let content = store.put_bytes(Bytes::from_static(b"needed")).await.unwrap();
    let new = store::file::NewFile {
        name: "needed".to_owned(),
        purpose: "fine-tune".to_owned(),
        content: content.clone(),
        expires_at: None,
        inspected: None,
    };
    store::file::create(&db, &new).await.unwrap();
    let stray = hash("stray");
    let folder = dir.path().join("objects").join(&stray.as_str()[..2]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(stray.as_str()), "stray").unwrap();
    for (name, age) in [("luthier-left", 7200), ("luthier-under-way", 0)] {
        let scratch = std::fs::File::create(dir.path().join("objects/scratch").join(name)).unwrap();
        scratch.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    let young = store.sweep(Duration::from_secs(86400)).await.unwrap();
    assert_eq!(young, store::Swept::default(), "nothing is old enough");
    let swept = store.sweep(Duration::ZERO).await.unwrap();
    assert_eq!((swept.objects, swept.bytes, swept.strays, swept.scratch), (1, 4, 1, 1));
    let mut left = lying(dir.path());
    left.sort();
    assert_eq!(left, [content.hash.to_string(), "luthier-under-way".to_owned()]);
    assert!(!store.objects.has(&idle.hash).await.unwrap());
    assert_eq!(store.put_bytes(Bytes::from_static(b"idle")).await.unwrap(), idle);
    assert!(store.objects.has(&idle.hash).await.unwrap());
}

#[sqlx::test(migrations = "../migrations")]
async fn uploads_and_sweeps_at_once_never_leave_a_row_without_bytes(db: PgPool) {
    let (_dir, store) = open(db).await;
    for _ in 0..20 {
        let (put, swept) =
            tokio::join!(store.put_bytes(Bytes::from_static(b"contended")), store.sweep(Duration::ZERO));
        swept.unwrap();
        let row: i64 = sqlx::query_scalar("select count(*) from object").fetch_one(&store.db).await.unwrap();
        let there = store.objects.has(&put.unwrap().hash).await.unwrap();
        assert_eq!(row == 1, there);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn data_of_an_ended_job_goes_when_its_file_is_deleted(db: PgPool) {
    let (_dir, store) = open(db.clone()).await;
    let mut new = crate::seed::new_job(&db).await;
    let private = file(&db, "private.csv").await;
    new.training_file = Some(private);
    let job = store::queue::enqueue(&db, &new).await.unwrap();
    let kept = || async { store::job::inputs(&db, job.job_id).await.unwrap().len() };
    store.sweep(Duration::ZERO).await.unwrap();
    assert_eq!(kept().await, 3);
    store::queue::cancel(&db, job.job_id).await.unwrap();
    store::file::delete(&db, private).await.unwrap();
    store.sweep(Duration::ZERO).await.unwrap();
    assert_eq!(kept().await, 2, "the model is still there, the data is not");
}

#[tokio::test]
async fn an_address_that_is_no_store_is_refused_without_its_secrets() {
    for bad in [
        "http://host/x",
        "s3://key:secret@bucket/x",
        "s3://bucket/x?secret=1",
        "s3:///x",
        "file://elsewhere/x",
    ] {
        let error = Objects::open(bad).await.unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
