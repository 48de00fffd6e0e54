use serde_json::json;
use store::checkpoint::{NewCheckpoint, best, commit, files, latest, list};
use store::event::{AppendError, since};
use store::queue::Lease;
use store::{Hash, PgPool, StoredFile};

use crate::seed::*;

async fn new(db: &PgPool, step: i64, best: bool) -> NewCheckpoint {
    NewCheckpoint {
        step,
        files: vec![
            stored_file(db, "model.safetensors", &format!("weights of {step}")).await,
            stored_file(db, "training_state/optimizer.safetensors", &format!("state of {step}")).await,
        ],
        metrics: json!({"loss": 0.5}),
        best,
        keep: 2,
        architecture: None,
        parameters: None,
    }
}

async fn steps(db: &PgPool, held: &Lease) -> Vec<i64> {
    let page = list(db, held.job_id(), None, 100).await.unwrap();
    page.items.iter().map(|checkpoint| checkpoint.step).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_checkpoint_comes_with_every_event_up_to_it(db: PgPool) {
    let held = running(&db).await;
    let events = [train(1, 0, 1, 0.9), train(1, 1, 2, 0.8)];
    let id = commit(&db, &held, &new(&db, 2, true).await, &events).await.unwrap();
    assert_eq!(since(&db, held.job_id(), 2, 100).await.unwrap().len(), 2);
    let newest = latest(&db, held.job_id()).await.unwrap().unwrap();
    assert_eq!((newest.checkpoint_id, newest.step, newest.best), (id, 2, true));
    assert_eq!(files(&db, id).await.unwrap().len(), 2);
    let model = newest.model_id.unwrap();
    assert_eq!(model, format!("{}:ckpt-step-2", held.job.output_model));
    let usable = store::model::files(&db, &model).await.unwrap();
    assert_eq!(usable.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["model.safetensors"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_checkpoint_that_cannot_be_kept_leaves_no_event_either(db: PgPool) {
    let held = running(&db).await;
    let mut broken = new(&db, 2, true).await;
    let nowhere: Hash = "0".repeat(64).parse().unwrap();
    broken.files.push(StoredFile { path: "config.json".to_owned(), hash: nowhere, bytes: 1 });
    let error = commit(&db, &held, &broken, &[train(1, 0, 2, 0.9)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Db(_)), "{error}");
    assert_eq!(since(&db, held.job_id(), 2, 100).await.unwrap(), []);
    assert!(latest(&db, held.job_id()).await.unwrap().is_none());
    assert_eq!(now(&db, &held).await.last_event, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_path_that_leaves_the_folder_is_refused(db: PgPool) {
    let held = running(&db).await;
    for path in ["../x", "/x", "a/../x", "a//b", "a\\b", "a/", "", ".."] {
        let mut bad = new(&db, 2, true).await;
        bad.files[0].path = path.to_owned();
        let error = commit(&db, &held, &bad, &[]).await.unwrap_err().to_string();
        assert!(error.contains("path_check"), "{path}: {error}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn the_best_and_the_newest_are_kept(db: PgPool) {
    let held = running(&db).await;
    for (step, best) in [(10, true), (20, true), (30, false), (40, false), (50, false)] {
        commit(&db, &held, &new(&db, step, best).await, &[]).await.unwrap();
    }
    assert_eq!(steps(&db, &held).await, [50, 40, 20]);
    assert_eq!(best(&db, held.job_id()).await.unwrap().unwrap().step, 20);
    let models = store::model::list(&db, &Default::default(), 100).await.unwrap();
    let left = models.items.iter().filter(|model| model.job_id == Some(held.job_id())).count();
    assert_eq!(left, 3, "the models of checkpoints go with them");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_step_that_is_committed_again_replaces_the_first(db: PgPool) {
    let held = running(&db).await;
    let first = commit(&db, &held, &new(&db, 10, true).await, &[]).await.unwrap();
    let mut other = new(&db, 10, true).await;
    other.files[0] = stored_file(&db, "model.safetensors", "other weights").await;
    let second = commit(&db, &held, &other, &[]).await.unwrap();
    assert_eq!(first, second);
    let kept = files(&db, first).await.unwrap();
    assert_eq!(kept[0].hash, hash("other weights"));
    let model = best(&db, held.job_id()).await.unwrap().unwrap().model_id.unwrap();
    assert_eq!(store::model::files(&db, &model).await.unwrap()[0].hash, hash("other weights"));
}
