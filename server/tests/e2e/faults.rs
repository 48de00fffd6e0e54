//! Whatever dies, a job ends as if nothing had happened: the same bits, each event once.

use std::time::{Duration, Instant};

use luthier::process::{self, Signal};
use reqwest::StatusCode;
use serde_json::Value;

use crate::running::{Running, check_curve, data_folder, is_built, is_final};

const STEPS: i64 = 400;

/// A step at which to strike; printed, so that a failure can be looked at.
fn some_step(what: &str) -> i64 {
    let step = 40 + (uuid::Uuid::new_v4().as_u128() % 260) as i64;
    println!("{what} at step {step}");
    step
}

#[tokio::test]
async fn four_kills_change_no_bit_and_lose_no_event() {
    if !is_built("four_kills_change_no_bit_and_lose_no_event") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let request = server.prepare(STEPS as u64).await;
    let undisturbed = server.create(&request).await;
    let undisturbed = server.wait_for_success(&undisturbed).await;
    let expected = server.weights(&undisturbed).await;

    for victim in ["job", "agent", "server", "postgres"] {
        let id = server.create(&request).await;
        let before = server.wait_for_step(&id, some_step(victim)).await;
        assert_eq!(before["status"], "running", "too quick to be struck: {before}");
        match victim {
            "job" => process::send(server.job_process().expect("a job"), Signal::KILL),
            "agent" => process::send(server.agent().expect("an agent"), Signal::KILL),
            "postgres" => process::send(server.postgres().expect("a Postgres"), Signal::KILL),
            _ => {
                let (agent, postgres) = (server.agent(), server.postgres());
                server.kill_server().await;
                assert!(agent.is_some_and(process::is_alive) && postgres.is_some_and(process::is_alive));
                let next = Running::start(data.path()).await;
                assert_eq!((next.agent(), next.postgres()), (agent, postgres), "both are adopted");
                // The old one has nothing left to end.
                std::mem::forget(std::mem::replace(&mut server, next));
            }
        }
        let job = server.wait_for_success(&id).await;
        check_curve(&server.events(&id).await, STEPS);
        assert_eq!(server.weights(&job).await, expected, "after the {victim} was killed");
        let attempts = if ["job", "agent"].contains(&victim) { 2 } else { 1 };
        assert_eq!(job["attempt"], attempts, "after the {victim} was killed: {job}");
    }
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_graceful_stop_ends_everything_at_a_checkpoint_and_the_next_server_goes_on() {
    if !is_built("a_graceful_stop_ends_everything_at_a_checkpoint_and_the_next_server_goes_on") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let request = server.prepare(STEPS as u64).await;
    let undisturbed = server.create(&request).await;
    let undisturbed = server.wait_for_success(&undisturbed).await;
    let id = server.create(&request).await;
    server.wait_for_step(&id, 50).await;
    let (agent, postgres) = (server.agent().unwrap(), server.postgres().unwrap());
    assert!(server.stop().await.success(), "{}", server.log());
    assert!(!process::is_alive(agent) && !process::is_alive(postgres));
    assert!(server.job_process().is_none());

    let mut server = Running::start(data.path()).await;
    let job = server.wait_for_success(&id).await;
    let events = server.events(&id).await;
    check_curve(&events, STEPS);
    assert_eq!(server.weights(&job).await, server.weights(&undisturbed).await);
    assert!(job["errors"].as_array().unwrap().is_empty(), "a stop is no failure: {job}");
    let resumed = events.iter().find(|event| event["kind"] == "resume").expect("the seam is marked");
    assert!(resumed["data"]["from_step"].as_i64().unwrap() >= 50, "{resumed}");
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn while_postgres_is_away_the_api_says_503_in_time_and_all_goes_on_after() {
    if !is_built("while_postgres_is_away_the_api_says_503_in_time_and_all_goes_on_after") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let request = server.prepare(STEPS as u64).await;
    let id = server.create(&request).await;
    server.wait_for_step(&id, 20).await;
    // Stopped, it answers nothing and frees nothing: the worst kind of away.
    let postgres = process::working_in(&data.path().join("pg"));
    postgres.iter().for_each(|id| process::send(*id, Signal::STOP));
    let since = Instant::now();
    let (status, body) = server.try_get("/v1/fine_tuning/jobs").await.expect("an answer");
    assert!(since.elapsed() < Duration::from_secs(10));
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["error"]["type"], "server_error");
    postgres.iter().for_each(|id| process::send(*id, Signal::CONT));
    server.wait_for_step(&id, 60).await;

    process::send(server.postgres().unwrap(), Signal::KILL);
    let job = server.wait_for_success(&id).await;
    check_curve(&server.events(&id).await, STEPS);
    // The outage was longer than a lease; nobody is blamed for it all the same.
    assert_eq!(job["errors"], Value::Array(Vec::new()), "{job}");
    let next = server.create(&request).await;
    let next = server.wait_for_success(&next).await;
    assert_eq!(server.weights(&next).await, server.weights(&job).await);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_job_that_dies_each_time_fails_with_the_reason_and_offers_no_model() {
    if !is_built("a_job_that_dies_each_time_fails_with_the_reason_and_offers_no_model") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let request = server.prepare(100_000).await;
    let id = server.create(&request).await;
    for attempt in 1..=3 {
        let job = server
            .wait(&id, |job| (job["attempt"] == attempt && server.job_process().is_some()) || is_final(job))
            .await;
        assert!(!is_final(&job), "{job}");
        server.wait_for_step(&id, attempt * 60).await;
        process::send(server.job_process().expect("a job"), Signal::ABORT);
        server.wait(&id, |job| job["errors"].as_array().unwrap().len() as i64 == attempt).await;
    }
    let job = server.wait(&id, is_final).await;
    assert_eq!(job["status"], "failed");
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("signal 6"), "{message}");
    assert!(message.contains("Step reached"), "{message}");
    assert!(job["fine_tuned_model"].is_null());
    let checkpoints = server.get(&format!("/v1/fine_tuning/jobs/{id}/checkpoints")).await;
    assert!(
        checkpoints["data"][0]["step_number"].as_i64().unwrap() >= 50,
        "the last good one is offered: {checkpoints}"
    );
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_client_that_never_reads_its_stream_changes_nothing() {
    if !is_built("a_client_that_never_reads_its_stream_changes_nothing") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let request = server.prepare(200).await;
    let alone = server.create(&request).await;
    let alone = server.wait_for_success(&alone).await;
    let id = server.create(&request).await;
    let path = format!("{}/v1/fine_tuning/jobs/{id}/events?stream=true", server.base);
    // The heads are read, the bodies never.
    let mut stuck = Vec::new();
    for _ in 0..5 {
        stuck.push(reqwest::Client::builder().no_proxy().build().unwrap().get(&path).send().await.unwrap());
    }
    server.wait_for_step(&id, 5).await;
    // And some that go away in the middle.
    drop(stuck.split_off(3));
    let watched = server.wait_for_success(&id).await;
    check_curve(&server.events(&id).await, 200);
    assert_eq!(server.weights(&watched).await, server.weights(&alone).await);
    drop(stuck);
    assert!(server.stop().await.success());
}
