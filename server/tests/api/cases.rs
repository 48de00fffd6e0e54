//! Trouble that people had elsewhere, with what is right here.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::common::Server;

const TRAIN: &str =
    "text,label\na a a,0\nb b b,90\nc c c,180\nd d d,270\na a b,0\nb b c,90\nc c d,180\nd d a,270\n";

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_validation_label_that_training_lacks_is_named_with_its_line(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_model().await;
    let train = server.table("train.csv", TRAIN).await;
    let fewer = server.table("valid.csv", "text,label\nd d d,270\nb b b,90\n").await;
    let unseen = server.table("valid_unseen.csv", "text,label\nd d d,270\na b c,45\n").await;
    let job =
        |validation: &str| json!({"model": model, "training_file": train, "validation_file": validation});
    assert_eq!(server.post("/v1/fine_tuning/jobs", &job(&fewer)).await.status, StatusCode::OK);
    let refused = server.post("/v1/fine_tuning/jobs", &job(&unseen)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let error = refused.error();
    assert_eq!(error["param"], "validation_file");
    assert_eq!(error["code"], "unknown_label");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("valid_unseen.csv, line 3") && message.contains("45"), "{message}");
    assert_eq!(server.get("/v1/fine_tuning/jobs").await.json()["data"].as_array().unwrap().len(), 1);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn columns_are_asked_for_and_a_wrong_one_is_no_missing_file(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_model().await;
    let content = "Review,Stars,Verdict\nfine,4,pos\npoor,1,neg\ngreat,5,pos\nawful,1,neg\n";
    let file = server.table("reviews.csv", content).await;
    let send = async |file: &str, columns: Value| {
        let body = json!({"model": model, "training_file": file, "columns": columns});
        server.post("/v1/fine_tuning/jobs", &body).await
    };
    let unnamed = send(&file, Value::Null).await;
    assert_eq!(unnamed.status, StatusCode::BAD_REQUEST);
    assert_eq!(unnamed.error()["param"], "columns");
    assert!(unnamed.error()["message"].as_str().unwrap().contains("Review, Stars, Verdict"));

    let wrong = send(&file, json!({"text": "review"})).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert_eq!(wrong.error()["code"], "unknown_column");
    assert_eq!(wrong.error()["param"], "columns.text");
    let message = wrong.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no column `review`; the file has Review, Stars, Verdict"), "{message}");

    let missing = send("file-doesnotexist", json!({"text": "Review", "label": "Verdict"})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(missing.error()["param"], "training_file");
    assert_ne!(missing.error()["code"], wrong.error()["code"]);
    assert_eq!(server.get("/v1/fine_tuning/jobs").await.json()["data"], json!([]));

    let right = send(&file, json!({"text": "Review", "label": "Verdict"})).await;
    assert_eq!(right.status, StatusCode::OK, "{}", right.text());
    assert_eq!(right.json()["columns"], json!({"text": "Review", "label": "Verdict"}));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn numbers_spelt_differently_are_one_class_and_never_a_regression(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_model().await;
    let file = server.table("labels.csv", "text,label\na,0\nb,1\nc,1.0\nd,\"1 \"\ne,0.0\nf,1\n").await;
    let job = server.post("/v1/fine_tuning/jobs", &json!({"model": model, "training_file": file})).await;
    assert_eq!(job.status, StatusCode::OK, "{}", job.text());
    assert_eq!(job.json()["problem_type"], "single_label_classification");
}
