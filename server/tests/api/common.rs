//! A server without a socket, and an agent without a trainer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::Response;
use clap::Parser;
use http_body_util::BodyExt;
use luthier::{AppState, Config};
use serde_json::{Value, json};
use sqlx::PgPool;
use store::event::{EventLine, Kind};
use store::queue::{self, Lease};
use store::{AgentId, Objects, Store};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Boundary of multipart bodies made here.
const BOUNDARY: &str = "a-boundary-of-a-test";

/// Settings of `luthier serve`, as its command line has them by default.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    config: Config,
}

/// A server on a database of its own.
pub struct Server {
    pub state: AppState,
    pub data: TempDir,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The error of a refusal, which must have all of OpenAI's fields.
    pub fn error(&self) -> Value {
        let body = self.json();
        let error = body["error"].clone();
        for field in ["message", "type", "param", "code"] {
            assert!(error.get(field).is_some(), "{body} lacks {field}");
        }
        error
    }
}

impl Server {
    pub async fn new(db: PgPool) -> Self {
        Self::with(db, |_| {}).await
    }

    pub async fn with(db: PgPool, change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = Defaults::parse_from(["luthier"]).config;
        // Nothing of the environment that the tests run in.
        config.api_key = None;
        config.allowed_hosts = Vec::new();
        config.data = data.path().to_owned();
        change(&mut config);
        for part in ["cache", "logs", "work"] {
            std::fs::create_dir_all(data.path().join(part)).unwrap();
        }
        let objects = Objects::open(&data.path().join("objects").to_string_lossy()).await.unwrap();
        let state = AppState::new(Store::new(db, objects), config, CancellationToken::new());
        Server { state, data }
    }

    /// Sends a request as the router gets it.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.open(request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body that breaks off").to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// Sends a request and leaves the body of the answer unread.
    pub async fn open(&self, mut request: Request<Body>) -> Response {
        request.headers_mut().entry(header::HOST).or_insert("localhost:8080".parse().unwrap());
        luthier::app(self.state.clone()).oneshot(request).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// Uploads a table for fine-tuning.
    pub async fn upload(&self, name: &str, content: &[u8]) -> Answer {
        self.send(form("/v1/files", &[("purpose", None, b"fine-tune"), ("file", Some(name), content)])).await
    }

    /// Id of a table that was uploaded and can be used.
    pub async fn table(&self, name: &str, content: &str) -> String {
        let made = self.upload(name, content.as_bytes()).await;
        assert_eq!(made.json()["status"], "processed", "{}", made.text());
        made.json()["id"].as_str().unwrap().to_owned()
    }

    /// Uploads the files of a folder as a model.
    pub async fn upload_model(&self, id: &str, folder: &Path) -> Answer {
        let files = files_of(folder);
        let mut parts: Vec<(&str, Option<&str>, &[u8])> = vec![("id", None, id.as_bytes())];
        parts.extend(files.iter().map(|(name, content)| ("files", Some(name.as_str()), content.as_slice())));
        self.send(form("/v1/models", &parts)).await
    }

    /// A tiny checkpoint, uploaded.
    pub async fn tiny_model(&self) -> String {
        let made = self.upload_model("tiny", &tiny_bert()).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.text());
        "tiny".to_owned()
    }

    /// A queued job on a small table.
    pub async fn job(&self) -> Value {
        let model = self.tiny_model().await;
        let file = self.table("rows.csv", &rows(10)).await;
        let made = self.post("/v1/fine_tuning/jobs", &json!({"model": model, "training_file": file})).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.text());
        made.json()
    }
}

/// A multipart request: name, file name, content of each part.
pub fn form(path: &str, parts: &[(&str, Option<&str>, &[u8])]) -> Request<Body> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file =
            file.map(|file| format!("; filename=\"{file}\"\r\nContent-Type: text/html")).unwrap_or_default();
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    Request::post(path)
        .header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={BOUNDARY}"))
        .header(header::CONTENT_LENGTH, body.len())
        .body(Body::from(body))
        .unwrap()
}

/// Labelled rows, half of each class.
pub fn rows(count: usize) -> String {
    let row = |n: usize| format!("text number {n},{}\n", if n.is_multiple_of(2) { "good" } else { "bad" });
    format!("text,label\n{}", (0..count).map(row).collect::<String>())
}

/// A checkpoint small enough for every test.
pub fn tiny_bert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures/bert_encoder")
}

/// Name and content of each file of a folder.
pub fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let content = |entry: std::fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
    };
    entries.map(|entry| content(entry.unwrap())).collect()
}

/// An agent that says what a test wants.
pub struct Agent {
    db: PgPool,
    pub id: AgentId,
}

impl Agent {
    pub async fn new(db: &PgPool) -> Self {
        let about = store::agent::NewAgent {
            name: "a test's agent".to_owned(),
            device: "cpu".to_owned(),
            ..store::agent::NewAgent::default()
        };
        Agent { db: db.clone(), id: store::agent::register(db, &about).await.unwrap() }
    }

    pub async fn claim(&self) -> Lease {
        let lease = Duration::from_secs(60);
        queue::claim(&self.db, self.id, lease).await.unwrap().expect("a job to claim")
    }

    pub async fn say(&self, lease: &Lease, lines: &[EventLine]) {
        store::event::append(&self.db, lease, lines).await.unwrap();
    }
}

/// A line of an event file.
pub fn line(number: i64, kind: Kind, step: Option<i64>, values: Value, data: Value) -> EventLine {
    EventLine {
        line: number,
        attempt: 1,
        kind,
        step,
        at: chrono::Utc::now(),
        level: store::event::Level::Info,
        message: String::new(),
        values: values.as_object().cloned().unwrap_or_default(),
        data: data.as_object().cloned().unwrap_or_default(),
    }
}
