//! Exports: made once, like any job, and gone with their model.

use std::time::Duration;

use serde_json::json;
use store::event::{EventLine, Kind};
use store::export::{self, Deleted, Finished};
use store::job::{Filter, JobKind, Status};
use store::model::{self, Model};
use store::queue::{
    self, EnqueueError, Fault, OrderError, Outcome, Refused, Released, cancel, fail, pause, reap, release,
};
use store::spec::{self, Format, NumberKind, Task, Work};
use store::{ExportId, Objects, PgPool, Store};

use crate::seed::{
    LEASE, agent, base, claim, failure, fields, lapse, let_retry, log, new_job, running, stored_file,
};

fn gguf() -> spec::Export {
    spec::Export::new(Format::Gguf, Some(NumberKind::Q8_0)).unwrap()
}

async fn model_of(db: &PgPool, id: &str) -> Model {
    model::get(db, id).await.unwrap().unwrap()
}

/// A model that a job has tuned.
async fn tuned(db: &PgPool) -> Model {
    let held = running(db).await;
    let files = vec![stored_file(db, "model.safetensors", "tuned").await];
    assert!(queue::finish(db, &held, &queue::Finished { files, ..Default::default() }).await.unwrap());
    model_of(db, &held.job.output_model).await
}

async fn asked_for(db: &PgPool, model: &Model) -> ExportId {
    export::create(db, model, gguf(), Task::TextGeneration).await.unwrap().export.export_id
}

async fn made(db: &PgPool) -> Finished {
    let files =
        vec![stored_file(db, "x.gguf", "artefact").await, stored_file(db, "certificate.json", "{}").await];
    Finished { files, certificate: json!({"reasons": []}), ready: true }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_export_goes_the_way_of_a_job_and_reads_the_rows_of_the_training(db: PgPool) {
    let model = tuned(&db).await;
    let id = asked_for(&db, &model).await;
    let queued = export::get(&db, id).await.unwrap().unwrap();
    assert_eq!((queued.status, queued.model_id.as_str()), (Status::Queued, model.model_id.as_str()));
    assert_eq!((queued.format.as_str(), queued.number_kind.as_deref()), ("gguf", Some("q8_0")));
    assert!(queued.ready.is_none() && queued.certificate.is_none());
    let two = agent(&db, "two").await;
    let held = claim(&db, two).await.unwrap();
    assert_eq!((held.job_id(), held.job.kind), (id.job(), JobKind::Export));
    assert_eq!(held.spec().work, Work::Export(gguf()));
    assert_eq!(held.spec().base_model, model.model_id);
    let paths: Vec<&str> = held.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["data/train.csv", "model/model.safetensors"]);
    let checking = EventLine {
        kind: Kind::Phase,
        data: fields(json!({"phase": "checking", "progress": {"done": 3, "of": 9}})),
        ..log(1, 0, "checking")
    };
    store::event::append(&db, &held, &[checking]).await.unwrap();
    let running = export::get(&db, id).await.unwrap().unwrap();
    assert_eq!((running.phase.as_deref(), &running.progress["done"]), (Some("checking"), &json!(3)));
    assert!(export::finish(&db, &held, &made(&db).await).await.unwrap());
    let ended = export::get(&db, id).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.ready, ended.bytes), (Status::Succeeded, Some(true), Some(10)));
    let files = export::files(&db, id).await.unwrap();
    assert_eq!(
        files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["certificate.json", "x.gguf"]
    );
    assert!(!export::finish(&db, &held, &made(&db).await).await.unwrap(), "a second time is too late");
}

#[sqlx::test(migrations = "../migrations")]
async fn lists_and_counts_of_fine_tunes_do_not_have_exports(db: PgPool) {
    let model = tuned(&db).await;
    let id = asked_for(&db, &model).await;
    let of = async |kind: JobKind| {
        let filter = Filter { kind, ..Filter::default() };
        let jobs = store::job::list(&db, &filter, 10).await.unwrap().items;
        jobs.iter().map(|job| job.job_id).collect::<Vec<_>>()
    };
    assert_eq!(of(JobKind::Train).await, [model.job_id.unwrap()]);
    assert_eq!(of(JobKind::Export).await, [id.job()]);
    let stats = queue::stats(&db).await.unwrap();
    assert_eq!((stats.queued, stats.succeeded, stats.oldest_queued_seconds), (0, 1, 0.0));
    // It waits in the same queue all the same.
    let mut new = new_job(&db).await;
    new.priority = -1;
    let later = queue::enqueue(&db, &new).await.unwrap();
    assert_eq!(queue::position(&db, later.job_id).await.unwrap(), Some(1));
}

#[sqlx::test(migrations = "../migrations")]
async fn the_same_export_is_made_once(db: PgPool) {
    let model = tuned(&db).await;
    let ask = async |wanted| export::create(&db, &model, wanted, Task::TextGeneration).await.unwrap();
    let (one, two) = tokio::join!(ask(gguf()), ask(gguf()));
    assert_eq!(one.export.export_id, two.export.export_id);
    assert!(one.created != two.created);
    let other = ask(spec::Export::new(Format::Safetensors, None).unwrap()).await;
    assert!(other.created);
    let id = one.export.export_id;
    let worker = agent(&db, "two").await;
    let held = claim(&db, worker).await.unwrap();
    assert_eq!(held.job_id(), id.job());
    assert!(export::finish(&db, &held, &made(&db).await).await.unwrap());
    assert_eq!(ask(gguf()).await.export.export_id, id);
    // One that was given up is no reason not to try again.
    cancel(&db, other.export.export_id.job()).await.unwrap();
    let again = ask(spec::Export::new(Format::Safetensors, None).unwrap()).await;
    assert!(again.created && again.export.export_id != other.export.export_id);
    let list = export::list(&db, &model.model_id, None, 2).await.unwrap();
    assert!(list.more);
    assert_eq!(list.items[0].export_id, again.export.export_id);
    let rest = export::list(&db, &model.model_id, Some(list.items[1].export_id), 2).await.unwrap();
    assert_eq!(rest.items.iter().map(|export| export.export_id).collect::<Vec<_>>(), [id]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_model_without_a_training_or_whose_rows_are_gone_is_exported_without_rows(db: PgPool) {
    base(&db).await;
    let brought = model_of(&db, "base").await;
    let id = asked_for(&db, &brought).await;
    let inputs = store::job::inputs(&db, id.job()).await.unwrap();
    assert!(inputs.iter().all(|file| file.path.starts_with("model/")), "{inputs:?}");
    let job = store::job::get(&db, id.job()).await.unwrap().unwrap();
    assert_eq!((job.spec.data.train.as_str(), job.training_file), ("", None));
    assert_eq!(job.output_model, id.to_string());
    job.spec.validate().unwrap();
    cancel(&db, id.job()).await.unwrap();

    let model = tuned(&db).await;
    sqlx::query("delete from job_input where starts_with(path, 'data/')").execute(&db).await.unwrap();
    let id = asked_for(&db, &model).await;
    let inputs = store::job::inputs(&db, id.job()).await.unwrap();
    assert_eq!(inputs.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["model/model.safetensors"]);
    let gone = Model { model_id: "gone".to_owned(), ..model };
    let missing = export::create(&db, &gone, gguf(), Task::TextGeneration).await;
    assert!(matches!(missing, Err(EnqueueError::Missing { param: "model", .. })));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_export_is_cancelled_and_tried_again_but_not_paused(db: PgPool) {
    let model = tuned(&db).await;
    let id = asked_for(&db, &model).await;
    for _ in 0..2 {
        let refused = pause(&db, id.job()).await.unwrap_err();
        assert!(matches!(refused, OrderError::Refused(Refused::Unpausable)), "{refused}");
        let worker = agent(&db, "two").await;
        if let Some(held) = claim(&db, worker).await {
            // Its agent goes down: another begins anew.
            assert!(release(&db, &held, Released::Queued).await.unwrap());
        }
    }
    let worker = agent(&db, "two").await;
    let held = claim(&db, worker).await.unwrap();
    assert_eq!(fail(&db, &held, &failure(Fault::Internal)).await.unwrap(), Outcome::Retried);
    assert!(!export::finish(&db, &held, &made(&db).await).await.unwrap(), "the lease is lost");
    let_retry(&db).await;
    let held = claim(&db, worker).await.unwrap();
    lapse(&db, &held).await;
    assert_eq!(reap(&db).await.unwrap(), [id.job()]);
    let held = claim(&db, worker).await.unwrap();
    cancel(&db, id.job()).await.unwrap();
    assert_eq!(export::delete(&db, id).await.unwrap(), Deleted::Alive);
    assert!(release(&db, &held, Released::Cancelled).await.unwrap());
    assert_eq!(export::get(&db, id).await.unwrap().unwrap().status, Status::Cancelled);
    assert_eq!(export::delete(&db, id).await.unwrap(), Deleted::Done);
    assert_eq!(export::delete(&db, id).await.unwrap(), Deleted::Missing);
    assert!(store::job::get(&db, id.job()).await.unwrap().is_none());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_fine_tune_is_not_deleted_as_an_export(db: PgPool) {
    let model = tuned(&db).await;
    let job = model.job_id.unwrap();
    assert_eq!(export::delete(&db, ExportId::of(job)).await.unwrap(), Deleted::Missing);
    assert!(store::job::get(&db, job).await.unwrap().is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn exports_go_with_their_model_and_their_bytes_with_them(db: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(&dir.path().to_string_lossy()).await.unwrap();
    let store = Store::new(db.clone(), objects);
    let model = tuned(&db).await;
    let id = asked_for(&db, &model).await;
    assert_eq!(model::delete(&db, &model.model_id).await.unwrap(), model::Deleted::Needed(id.job()));
    let worker = agent(&db, "two").await;
    let held = queue::claim(&db, worker, LEASE).await.unwrap().unwrap();
    assert!(export::finish(&db, &held, &made(&db).await).await.unwrap());
    let kept = async |content: &str| -> bool {
        let hash = crate::seed::hash(content);
        sqlx::query_scalar("select exists (select from object where hash = $1)")
            .bind(hash.as_str())
            .fetch_one(&db)
            .await
            .unwrap()
    };
    store.sweep(Duration::ZERO).await.unwrap();
    assert!(kept("artefact").await, "a file of an export is needed");
    assert_eq!(model::delete(&db, &model.model_id).await.unwrap(), model::Deleted::Done);
    assert!(export::get(&db, id).await.unwrap().is_none());
    assert!(store::job::get(&db, id.job()).await.unwrap().is_none(), "its job went with it");
    assert!(store::job::get(&db, model.job_id.unwrap()).await.unwrap().is_some(), "the training did not");
    store.sweep(Duration::ZERO).await.unwrap();
    assert!(!kept("artefact").await, "nothing needs it any more");
}
