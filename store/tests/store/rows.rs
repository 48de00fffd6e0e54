//! Files, models, agents and jobs as rows.

use serde_json::json;
use store::PgPool;
use store::file::{Deleted, FileStatus, Inspected};
use store::model::{CreateError, NewModel};
use store::queue::{Finished, cancel, enqueue, finish};

use crate::seed::*;

#[sqlx::test(migrations = "../migrations")]
async fn a_file_that_a_job_needs_is_not_deleted(db: PgPool) {
    let job = job(&db).await;
    let file = job.training_file.unwrap();
    assert_eq!(store::file::delete(&db, file).await.unwrap(), Deleted::Needed(job.job_id));
    assert_eq!(store::model::delete(&db, "base").await.unwrap(), Deleted::Needed(job.job_id));
    cancel(&db, job.job_id).await.unwrap();
    assert_eq!(store::file::delete(&db, file).await.unwrap(), Deleted::Done);
    assert_eq!(store::file::delete(&db, file).await.unwrap(), Deleted::Missing);
    assert_eq!(store::model::delete(&db, "base").await.unwrap(), Deleted::Done);
}

#[sqlx::test(migrations = "../migrations")]
async fn creating_and_deleting_at_once_leave_no_job_without_its_file(db: PgPool) {
    for _ in 0..20 {
        let new = new_job(&db).await;
        let (made, gone) =
            tokio::join!(enqueue(&db, &new), store::file::delete(&db, new.training_file.unwrap()));
        match (made, gone.unwrap()) {
            (Ok(job), gone) => assert_eq!(gone, Deleted::Needed(job.job_id)),
            (Err(_), gone) => assert_eq!(gone, Deleted::Done),
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn files_are_listed_by_purpose_both_ways(db: PgPool) {
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(file(&db, name).await);
    }
    let mut filter = store::file::Filter { purpose: Some("fine-tune".to_owned()), ..Default::default() };
    let page = store::file::list(&db, &filter, 2).await.unwrap();
    assert_eq!((page.items[0].file_id, page.items[1].file_id, page.more), (ids[2], ids[1], true));
    filter.after = Some(ids[1]);
    assert_eq!(store::file::list(&db, &filter, 2).await.unwrap().items[0].file_id, ids[0]);
    filter.ascending = true;
    assert_eq!(store::file::list(&db, &filter, 2).await.unwrap().items[0].file_id, ids[2]);
    filter.purpose = Some("other".to_owned());
    assert_eq!(store::file::list(&db, &filter, 2).await.unwrap().items.len(), 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_inspection_found_stays_with_the_file(db: PgPool) {
    let id = file(&db, "x\0.csv").await;
    let found = Inspected {
        status: FileStatus::Error,
        details: Some("line 3".to_owned()),
        report: Some(json!({"cell": "\0"})),
    };
    assert!(store::file::set_inspected(&db, id, &found).await.unwrap());
    let file = store::file::get(&db, id).await.unwrap().unwrap();
    assert_eq!((file.status, file.status_details.as_deref()), (FileStatus::Error, Some("line 3")));
    assert_eq!(file.report, Some(json!({"cell": "\u{fffd}"})));
    assert_eq!(file.name, "x\u{fffd}.csv");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_model_id_is_given_once_and_models_are_listed_newest_first(db: PgPool) {
    let held = running(&db).await;
    finish(&db, &held, &Finished::default()).await.unwrap();
    let again = NewModel {
        model_id: "base".to_owned(),
        kind: store::model::ModelKind::Base,
        task: None,
        architecture: None,
        parameters: None,
        base_model: None,
        job_id: None,
        step: None,
        metrics: json!({}),
        report: json!({}),
        files: Vec::new(),
    };
    let error = store::model::create(&db, &again).await.unwrap_err();
    assert!(matches!(error, CreateError::Taken(_)), "{error}");
    let page = store::model::list(&db, &Default::default(), 1).await.unwrap();
    assert_eq!((page.items[0].model_id.as_str(), page.more), (held.job.output_model.as_str(), true));
    let after = store::model::Filter { after: Some(page.items[0].model_id.clone()), ..Default::default() };
    let page = store::model::list(&db, &after, 1).await.unwrap();
    assert_eq!((page.items[0].model_id.as_str(), page.more), ("base", false));
}

#[sqlx::test(migrations = "../migrations")]
async fn jobs_are_listed_by_metadata(db: PgPool) {
    let mut new = new_job(&db).await;
    let plain = enqueue(&db, &new).await.unwrap();
    new.metadata = [("team".to_owned(), "a".to_owned()), ("run".to_owned(), "1".to_owned())].into();
    let tagged = enqueue(&db, &new).await.unwrap();
    let by = |filter: store::job::Filter| {
        let db = db.clone();
        async move {
            let page = store::job::list(&db, &filter, 10).await.unwrap();
            page.items.into_iter().map(|job| job.job_id).collect::<Vec<_>>()
        }
    };
    assert_eq!(by(Default::default()).await, [tagged.job_id, plain.job_id]);
    let team =
        store::job::Filter { metadata: [("team".to_owned(), "a".to_owned())].into(), ..Default::default() };
    assert_eq!(by(team).await, [tagged.job_id]);
    let none = store::job::Filter { without_metadata: true, ..Default::default() };
    assert_eq!(by(none).await, [plain.job_id]);
    let older = store::job::Filter { after: Some(tagged.job_id), ..Default::default() };
    assert_eq!(by(older).await, [plain.job_id]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_deleted_job_leaves_its_model(db: PgPool) {
    let held = running(&db).await;
    assert!(!store::job::delete(&db, held.job_id()).await.unwrap(), "not while it lives");
    finish(&db, &held, &Finished::default()).await.unwrap();
    assert!(store::job::delete(&db, held.job_id()).await.unwrap());
    let model = store::model::get(&db, &held.job.output_model).await.unwrap().unwrap();
    assert_eq!(model.job_id, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_agent_that_holds_a_job_is_not_forgotten(db: PgPool) {
    let held = running(&db).await;
    assert!(!store::agent::delete(&db, held.agent).await.unwrap());
    assert_eq!(store::agent::list(&db).await.unwrap()[0].running, 1);
    assert!(store::agent::seen(&db, held.agent, Some("no GPU")).await.unwrap());
    finish(&db, &held, &Finished::default()).await.unwrap();
    assert_eq!(store::agent::list(&db).await.unwrap()[0].unfit.as_deref(), Some("no GPU"));
    assert!(store::agent::delete(&db, held.agent).await.unwrap());
    assert!(!store::agent::seen(&db, held.agent, None).await.unwrap());
}
