//! Events: paged, followed live, never lost and never doubled.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::event::{EventLine, Kind};
use store::queue::{self, Finished};
use store::spec;

use crate::common::{Agent, Server, line};

/// Longer than any message takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn steps(from: i64, count: i64) -> Vec<EventLine> {
    let step =
        |n: i64| line(n, Kind::Train, Some(n), json!({"loss": 1.0 / n as f64}), json!({"total_steps": 100}));
    (from..from + count).map(step).collect()
}

/// The messages of a stream, as they come.
struct Messages {
    body: Body,
    text: String,
}

impl Messages {
    async fn open(server: &Server, path: &str) -> Self {
        let response = server
            .open(Request::get(path).header(header::ACCEPT, "application/json").body(Body::empty()).unwrap())
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
        Messages { body: response.into_body(), text: String::new() }
    }

    /// The next block: its raw lines, comments passed over. None at the end of the stream.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                if block.starts_with(':') {
                    continue;
                }
                return Some(block);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("a message in time");
            self.text.push_str(std::str::from_utf8(&frame?.unwrap().into_data().unwrap()).unwrap());
        }
    }

    async fn event(&mut self) -> Value {
        let block = self.next().await.expect("a message");
        let data =
            block.strip_prefix("data: ").unwrap_or_else(|| panic!("only data, no id and no retry: {block}"));
        serde_json::from_str(data).unwrap()
    }
}

async fn running(db: PgPool) -> (Server, Agent, queue::Lease, String) {
    let server = Server::new(db.clone()).await;
    let id = server.job().await["id"].as_str().unwrap().to_owned();
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    (server, agent, lease, id)
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn events_are_listed_newest_first_and_go_on_by_id(db: PgPool) {
    let (server, agent, lease, id) = running(db).await;
    agent.say(&lease, &steps(1, 30)).await;
    let first = server.get(&format!("/v1/fine_tuning/jobs/{id}/events")).await.json();
    assert_eq!(first["data"].as_array().unwrap().len(), 20);
    assert_eq!(first["has_more"], true);
    let newest = &first["data"][0];
    assert_eq!(newest["object"], "fine_tuning.job.event");
    assert_eq!(newest["type"], "metrics");
    assert_eq!((&newest["data"]["step"], &newest["data"]["total_steps"]), (&json!(30), &json!(100)));
    assert!((newest["data"]["train_loss"].as_f64().unwrap() - 1.0 / 30.0).abs() < 1e-9);
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = server.get(&format!("/v1/fine_tuning/jobs/{id}/events?limit=7{after}")).await.json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|event| event["number"].as_i64().unwrap()));
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    let all: Vec<i64> = (1..=seen.len() as i64).rev().collect();
    assert_eq!(seen, all);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_stream_sends_old_and_new_events_in_order_and_ends_with_the_job(db: PgPool) {
    let (server, agent, lease, id) = running(db.clone()).await;
    agent.say(&lease, &steps(1, 5)).await;
    let mut messages =
        Messages::open(&server, &format!("/v1/fine_tuning/jobs/{id}/events?stream=true")).await;
    let mut numbers = Vec::new();
    while numbers.last() != Some(&lease_last(&server, &id).await) {
        numbers.push(messages.event().await["number"].as_i64().unwrap());
    }
    agent.say(&lease, &steps(6, 5)).await;
    for step in 6..11 {
        let event = messages.event().await;
        assert_eq!(event["data"]["step"], step);
        numbers.push(event["number"].as_i64().unwrap());
    }
    let done = Finished { files: store::model::files(&db, "tiny").await.unwrap(), ..Finished::default() };
    assert!(queue::finish(&db, &lease, &done).await.unwrap());
    let last = messages.event().await;
    assert!(last["message"].as_str().unwrap().contains("succeeded"));
    numbers.push(last["number"].as_i64().unwrap());
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
    assert_eq!(messages.next().await.unwrap(), "data: [DONE]");
    assert_eq!(messages.next().await, None);
}

async fn lease_last(server: &Server, id: &str) -> i64 {
    let id = id.parse().unwrap();
    store::job::get(&server.state.store.db, id).await.unwrap().unwrap().last_event
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_stream_goes_on_after_the_event_that_the_reader_has(db: PgPool) {
    let (server, agent, lease, id) = running(db).await;
    agent.say(&lease, &steps(1, 5)).await;
    let list = server.get(&format!("/v1/fine_tuning/jobs/{id}/events?limit=2")).await.json();
    let before_last = list["data"][1]["id"].as_str().unwrap();
    let mut messages =
        Messages::open(&server, &format!("/v1/fine_tuning/jobs/{id}/events?stream=true&after={before_last}"))
            .await;
    assert_eq!(messages.event().await["data"]["step"], 5);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_reader_that_never_reads_delays_nobody(db: PgPool) {
    let (server, agent, lease, id) = running(db).await;
    let path = format!("/v1/fine_tuning/jobs/{id}/events?stream=true");
    let _stuck: Vec<Messages> =
        futures::future::join_all((0..20).map(|_| Messages::open(&server, &path))).await;
    let mut live = Messages::open(&server, &path).await;
    for step in 1..=200 {
        agent.say(&lease, &steps(step, 1)).await;
    }
    loop {
        if live.event().await["data"]["step"] == 200 {
            break;
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn streams_end_when_the_server_stops(db: PgPool) {
    let (server, _agent, _lease, id) = running(db).await;
    let mut messages =
        Messages::open(&server, &format!("/v1/fine_tuning/jobs/{id}/events?stream=true")).await;
    messages.event().await;
    server.state.stopping.cancel();
    while messages.next().await.is_some() {}
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn checkpoints_are_models_by_name(db: PgPool) {
    let (server, _agent, lease, id) = running(db.clone()).await;
    let files = store::model::files(&db, "tiny").await.unwrap();
    for (step, best) in [(5, true), (10, false)] {
        let new = store::checkpoint::NewCheckpoint {
            step,
            files: files.clone(),
            metrics: json!({"loss": 0.5, "accuracy": 0.8}),
            best,
            keep: 2,
            architecture: None,
            parameters: None,
        };
        store::checkpoint::commit(&db, &lease, &new, &[]).await.unwrap();
    }
    let list = server.get(&format!("/v1/fine_tuning/jobs/{id}/checkpoints")).await.json();
    let newest = &list["data"][0];
    assert_eq!(newest["object"], "fine_tuning.job.checkpoint");
    assert_eq!((&newest["step_number"], &newest["best"]), (&json!(10), &json!(false)));
    assert_eq!(
        (&newest["metrics"]["valid_loss"], &newest["metrics"]["accuracy"]),
        (&json!(0.5), &json!(0.8))
    );
    let name = newest["fine_tuned_model_checkpoint"].as_str().unwrap();
    assert!(name.ends_with(":ckpt-step-10"));
    assert_eq!(server.get(&format!("/v1/models/{name}")).await.json()["kind"], "checkpoint");
    let after = newest["id"].as_str().unwrap();
    let rest = server.get(&format!("/v1/fine_tuning/jobs/{id}/checkpoints?after={after}")).await.json();
    assert_eq!(rest["data"][0]["step_number"], 5);
    assert_eq!(spec::Task::TextClassification.as_str(), lease.job.task);
    let gone = server.get(&format!("/v1/fine_tuning/jobs/{}/checkpoints", store::JobId::new())).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_event_of_another_job_is_no_cursor(db: PgPool) {
    let (server, _agent, _lease, id) = running(db).await;
    let foreign = store::EventId { job: store::JobId::new(), number: 1 };
    let refused = server.get(&format!("/v1/fine_tuning/jobs/{id}/events?after={foreign}")).await;
    assert_eq!(refused.error()["param"], "after");
}
