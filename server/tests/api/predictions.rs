//! Predictions through a process that stands in for the trainer and speaks its lines.

use std::os::unix::fs::PermissionsExt;

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::common::{Server, tiny_bert};

/// Answers with what it was asked, its process id and how many questions it has had; `die` ends it, `bad` is refused.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import json, os, sys
assert sys.argv[1] == "predict" and os.path.isfile(os.path.join(sys.argv[2], "config.json")), sys.argv
print(json.dumps({"ready": True, "task": "text-classification", "device": "cpu"}), flush=True)
for number, line in enumerate(sys.stdin):
    asked = json.loads(line)
    if "die" in asked["inputs"]:
        sys.exit(9)
    if "bad" in asked["inputs"]:
        print(json.dumps({"id": asked["id"], "error": {"message": "input 0 is bad"}}), flush=True)
        continue
    outputs = [{"label": str(text), "score": 1.0, "process": os.getpid(), "number": number} for text in asked["inputs"]]
    print(json.dumps({"id": asked["id"], "outputs": outputs}), flush=True)
"#;

async fn server(db: PgPool) -> Server {
    let server = Server::with(db, |config| {
        let program = config.data.join("stand-in.py");
        std::fs::write(&program, STAND_IN).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        config.trainer_binary = Some(program);
    })
    .await;
    with_head(&server).await;
    server
}

/// A checkpoint that has a head, as `tuned`.
async fn with_head(server: &Server) {
    let made = server.upload_model("tuned", &tiny_bert().with_file_name("bert")).await;
    assert_eq!(made.json()["task"], "text-classification", "{}", made.text());
}

async fn ask(server: &Server, inputs: Value) -> crate::common::Answer {
    server.post("/v1/predictions", &json!({"model": "tuned", "inputs": inputs})).await
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_process_is_kept_for_the_next_question(db: PgPool) {
    let server = server(db).await;
    let first = ask(&server, json!(["one", "two"])).await.json();
    assert_eq!(
        (&first["object"], &first["model"], &first["task"]),
        (&json!("prediction"), &json!("tuned"), &json!("text-classification"))
    );
    assert_eq!(
        (&first["outputs"][0]["label"], &first["outputs"][1]["label"]),
        (&json!("one"), &json!("two"))
    );
    let second = ask(&server, json!("three")).await.json();
    assert_eq!(second["outputs"][0]["process"], first["outputs"][0]["process"]);
    assert_eq!(second["outputs"][0]["number"], 1);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn questions_at_once_each_get_their_own_answer(db: PgPool) {
    let server = server(db).await;
    let texts: Vec<String> = (0..20).map(|number| format!("text {number}")).collect();
    let answers = futures::future::join_all(texts.iter().map(|text| ask(&server, json!([text])))).await;
    for (text, answer) in texts.iter().zip(answers) {
        assert_eq!(answer.json()["outputs"][0]["label"], text.as_str());
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_process_that_died_is_replaced(db: PgPool) {
    let server = server(db).await;
    let first = ask(&server, json!(["one"])).await.json();
    assert_eq!(ask(&server, json!(["die"])).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    let second = ask(&server, json!(["two"])).await;
    assert_eq!(second.status, StatusCode::OK, "{}", second.text());
    assert_ne!(second.json()["outputs"][0]["process"], first["outputs"][0]["process"]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_cannot_be_asked_is_refused(db: PgPool) {
    let server = server(db).await;
    assert_eq!(ask(&server, json!(["bad"])).await.error()["message"], "input 0 is bad");
    for wrong in
        [json!([]), json!(7), json!([7]), json!([{"txt": "a"}]), json!([{"text": "a", "text_pair": 1}])]
    {
        let refused = ask(&server, wrong.clone()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
        assert_eq!(refused.error()["param"], "inputs", "{wrong}");
    }
    assert_eq!(ask(&server, json!(vec!["x"; 1001])).await.error()["param"], "inputs");
    server.tiny_model().await;
    let headless = server.post("/v1/predictions", &json!({"model": "tiny", "inputs": ["a"]})).await;
    assert_eq!((headless.status, &headless.error()["param"]), (StatusCode::BAD_REQUEST, &json!("model")));
    let missing = server.post("/v1/predictions", &json!({"model": "nothing", "inputs": ["a"]})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn without_a_trainer_predictions_say_so(db: PgPool) {
    let server = Server::with(db, |config| config.trainer_binary = Some("/nonexistent/trainer".into())).await;
    with_head(&server).await;
    let answer = ask(&server, json!(["one"])).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.error()["message"].as_str().unwrap().contains("LUTHIER_TRAINER_BINARY"));
}
