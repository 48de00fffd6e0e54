//! The description of the API says what the API does.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use sqlx::PgPool;
use store::event::Kind;

use crate::common::{Agent, Server, line};

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn every_route_that_is_described_is_there(db: PgPool) {
    let server = Server::new(db).await;
    let document = server.get("/openapi.json").await.json();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let address = path.replace("{id}", "nothing");
            let request = Request::builder()
                .method(method.to_uppercase().as_str())
                .uri(&address)
                .body(Body::empty())
                .unwrap();
            let answer = server.send(request).await;
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert!(!answer.text().contains("nothing under this address"), "{method} {path}");
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn every_answer_has_the_described_fields_and_no_others(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let job = server.job().await;
    let id = job["id"].as_str().unwrap();
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    agent.say(&lease, &[line(0, Kind::Train, Some(1), json!({"loss": 1.0}), json!({}))]).await;
    let checkpoint = store::checkpoint::NewCheckpoint {
        step: 1,
        files: store::model::files(&db, "tiny").await.unwrap(),
        metrics: json!({}),
        best: true,
        keep: 1,
        architecture: None,
        parameters: None,
    };
    store::checkpoint::commit(&db, &lease, &checkpoint, &[]).await.unwrap();
    let table = server.table("rows.csv", &crate::common::rows(40)).await;
    server.upload_model("llama", crate::decoder::tiny_llama().path()).await;
    let export = server.post("/v1/models/llama/exports", &json!({"format": "gguf"})).await.json();
    let dry = json!({"model": "tiny", "training_file": table, "dry_run": true});
    let document = server.get("/openapi.json").await.json();
    let first = async |path: &str| server.get(path).await.json()["data"][0].clone();
    for (shape, answer) in [
        ("File", first("/v1/files").await),
        ("Job", server.get(&format!("/v1/fine_tuning/jobs/{id}")).await.json()),
        ("JobList", server.get("/v1/fine_tuning/jobs").await.json()),
        ("Event", first(&format!("/v1/fine_tuning/jobs/{id}/events")).await),
        ("Checkpoint", first(&format!("/v1/fine_tuning/jobs/{id}/checkpoints")).await),
        ("Model", server.get("/v1/models/tiny").await.json()),
        ("Export", export),
        ("ExportList", server.get("/v1/models/llama/exports").await.json()),
        ("Agent", first("/v1/agents").await),
        ("DryRun", server.post("/v1/fine_tuning/jobs", &dry).await.json()),
        ("AgentList", server.get("/v1/agents").await.json()),
        ("Error", server.get("/v1/models/nothing").await.json()),
    ] {
        let described = names(&document["components"]["schemas"][shape]["properties"]);
        assert_eq!(names(&answer), described, "{shape}");
    }
}

fn names(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().cloned().collect()
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_page_of_the_description_names_every_route_and_needs_no_script(db: PgPool) {
    let server = Server::new(db).await;
    let page = server.get("/docs").await;
    assert!(page.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    let html = scraper::Html::parse_document(&page.text());
    let select = |css: &str| scraper::Selector::parse(css).unwrap();
    assert_eq!(html.select(&select("script")).count(), 0);
    let shown: BTreeSet<String> =
        html.select(&select("summary code")).map(|code| code.text().collect()).collect();
    let document = server.get("/openapi.json").await.json();
    assert_eq!(shown, names(&document["paths"]));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn metrics_count_jobs_agents_and_requests(db: PgPool) {
    let server = Server::new(db.clone()).await;
    server.job().await;
    Agent::new(&db).await;
    let text = server.get("/metrics").await.text();
    for line in [
        "luthier_database_up 1",
        "luthier_jobs{status=\"queued\"} 1",
        "luthier_agents{fit=\"true\"} 1",
        "luthier_http_request_seconds_count{method=\"POST\",route=\"/v1/fine_tuning/jobs\",status=\"200\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let waited = text.lines().find_map(|line| line.strip_prefix("luthier_queue_oldest_seconds ")).unwrap();
    assert!(waited.parse::<f64>().unwrap() >= 0.0);
}
