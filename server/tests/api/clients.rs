//! The official `openai` clients, unmodified, against a server on a socket; the test plays the trainer.

use std::path::Path;
use std::process::Output;

use serde_json::json;
use sqlx::PgPool;
use store::event::{EventLine, Kind};
use store::notify::Wake;
use store::queue::{self, Finished, Lease, ResultFile};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::common::{Agent, Server, line};
use crate::script::{self, ends_well, python};

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_newest_client_drives_files_and_jobs(db: PgPool) {
    if let Some(python) = python("the_newest_client_drives_files_and_jobs", "LUTHIER_REFERENCE_PYTHON") {
        drive(db, &python).await;
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_client_of_the_first_major_version_drives_files_and_jobs(db: PgPool) {
    let name = "the_client_of_the_first_major_version_drives_files_and_jobs";
    if let Some(python) = python(name, "LUTHIER_OPENAI1_PYTHON") {
        drive(db, &python).await;
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_newest_client_talks_with_models(db: PgPool) {
    if let Some(python) = python("the_newest_client_talks_with_models", "LUTHIER_REFERENCE_PYTHON") {
        talk(db, &python, "generation.py").await;
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_client_of_the_first_major_version_talks_with_models(db: PgPool) {
    let name = "the_client_of_the_first_major_version_talks_with_models";
    if let Some(python) = python(name, "LUTHIER_OPENAI1_PYTHON") {
        talk(db, &python, "generation.py").await;
    }
}

async fn talk(db: PgPool, program: &Path, script: &str) {
    let server = crate::worker::server(db).await;
    let (serving, command) = command(&server, program, script).await;
    ends_well(&command.await.unwrap());
    serving.abort();
}

async fn drive(db: PgPool, python: &Path) {
    let server = Server::new(db.clone()).await;
    server.tiny_model().await;
    let agent = Agent::new(&db).await;
    let (serving, command) = command(&server, python, "fine_tuning.py").await;
    let output = tokio::select! {
        output = command => output.unwrap(),
        () = train(&server, &agent) => unreachable!("the trainer has no end"),
    };
    serving.abort();
    ends_well(&output);
}

/// A script of `tests/clients` that is given the address of a server on a socket.
async fn command(
    server: &Server,
    program: &Path,
    script: &str,
) -> (JoinHandle<std::io::Result<()>>, impl Future<Output = std::io::Result<Output>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = luthier::app(server.state.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut command = script::command(program, script, &base);
    (serving, async move { command.output().await })
}

/// Runs what is queued, as a trainer would; jobs that are to be held are left to the client.
async fn train(server: &Server, agent: &Agent) {
    let db = &server.state.store.db;
    let mut wakes = server.state.listener.subscribe();
    loop {
        while !held(server).await {
            let Some(lease) = queue::claim(db, agent.id, std::time::Duration::from_secs(60)).await.unwrap()
            else {
                break;
            };
            run(server, agent, &lease).await;
        }
        while !matches!(wakes.recv().await, Ok(Wake::Queue | Wake::Missed) | Err(_)) {}
    }
}

/// Whether a job waits that the client wants to find waiting.
async fn held(server: &Server) -> bool {
    let filter =
        store::job::Filter { status: Some(store::job::Status::Queued), ..store::job::Filter::default() };
    let queued = store::job::list(&server.state.store.db, &filter, 10).await.unwrap();
    queued.items.iter().any(|job| job.metadata.0.get("team").is_none_or(|team| team != "a"))
}

async fn run(server: &Server, agent: &Agent, lease: &Lease) {
    let store = &server.state.store;
    let files = store::model::files(&store.db, "tiny").await.unwrap();
    for step in [5, 10] {
        let train = |n: i64| {
            line(n, Kind::Train, Some(n), json!({"loss": 1.0 / n as f64}), json!({"total_steps": 10}))
        };
        let lines: Vec<EventLine> = (step - 4..=step).map(train).collect();
        agent.say(lease, &lines).await;
        let checkpoint = store::checkpoint::NewCheckpoint {
            step,
            files: files.clone(),
            metrics: json!({"loss": 0.5, "accuracy": 0.9}),
            best: step == 5,
            keep: 2,
            architecture: None,
            parameters: None,
        };
        store::checkpoint::commit(&store.db, lease, &checkpoint, &[]).await.unwrap();
    }
    let curves = store.put_bytes("step,train_loss\n1,1.0\n".into()).await.unwrap();
    let done = Finished {
        files,
        result_file: Some(ResultFile { name: "step_metrics.csv".to_owned(), content: curves }),
        metrics: json!({"accuracy": 0.9}),
        steps: Some(10),
        ..Finished::default()
    };
    assert!(queue::finish(&store.db, lease, &done).await.unwrap());
}
