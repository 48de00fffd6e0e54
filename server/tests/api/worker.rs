//! A server whose trainer is the one of `tests/fixtures/worker.py`, and models that it answers for.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::http::StatusCode;
use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::model::{ModelKind, NewModel};
use store::{JobId, StoredFile};

use crate::common::{Answer, Server, tiny_bert};
use crate::decoder::tiny_llama;

const PROGRAM: &str = include_str!("../fixtures/worker.py");

/// A server with the language model `tiny` and the encoder `encoder`.
pub async fn server(db: PgPool) -> Server {
    let server = Server::with(db, |config| {
        let program = config.data.join("worker.py");
        std::fs::write(&program, PROGRAM).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        config.trainer_binary = Some(program);
    })
    .await;
    let made = server.upload_model("tiny", tiny_llama().path()).await;
    assert_eq!(made.json()["task"], "text-generation", "{}", made.text());
    let made = server.upload_model("encoder", &tiny_bert()).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    server
}

/// Makes an adapter of `tiny`, as a job leaves it.
pub async fn adapter(server: &Server, id: &str) {
    adapter_with(server, id, &[], None).await;
}

/// The adapter with more files, made by a job.
pub async fn adapter_with(server: &Server, id: &str, more: &[(&str, &str)], job_id: Option<JobId>) {
    let store = &server.state.store;
    let base = store::model::files(&store.db, "tiny").await.unwrap();
    let mut files = Vec::new();
    let weights = format!("weights of {id}");
    let own = [("adapter_config.json", "{\"r\": 8}"), ("adapter_model.safetensors", weights.as_str())];
    for (path, content) in own.iter().chain(more) {
        let stored = store.put_bytes(content.as_bytes().to_vec().into()).await.unwrap();
        files.push(StoredFile { path: (*path).to_owned(), hash: stored.hash, bytes: stored.bytes });
    }
    for file in base {
        let path = match file.path.as_str() {
            "config.json" | "model.safetensors" => format!("base/{}", file.path),
            other => other.to_owned(),
        };
        if file.path == "config.json" {
            files.push(file.clone());
        }
        files.push(StoredFile { path, ..file });
    }
    let new = NewModel {
        model_id: id.to_owned(),
        kind: ModelKind::Tuned,
        task: Some("text-generation".to_owned()),
        architecture: None,
        parameters: None,
        base_model: Some("tiny".to_owned()),
        job_id,
        step: None,
        metrics: json!({}),
        report: json!({}),
        files,
    };
    store::model::create(&store.db, &new).await.unwrap();
}

/// A chat of one message.
pub fn chat(text: &str) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": text}]})
}

/// The chat with more fields.
pub fn chat_with(text: &str, more: Value) -> Value {
    let mut body = chat(text);
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What the process of a model says of itself.
pub async fn process_of(server: &Server, model: &str) -> Value {
    let mut body = chat("<process>");
    body["model"] = json!(model);
    let answer = server.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let said = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    // The name of an adapter comes first.
    serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap()
}

/// The data of a stream's messages.
pub fn messages(answer: &Answer) -> Vec<String> {
    let text = answer.text();
    text.split("\n\n").filter_map(|message| message.strip_prefix("data: ").map(str::to_owned)).collect()
}

/// The chunks of a stream that ended well.
pub fn chunks(answer: &Answer) -> Vec<Value> {
    let mut messages = messages(answer);
    assert_eq!(messages.pop().as_deref(), Some("[DONE]"), "{}", answer.text());
    messages.iter().map(|message| serde_json::from_str(message).unwrap()).collect()
}

/// Waits until the worker was told a line that contains `part`.
pub async fn told(server: &Server, part: &str) {
    let log = server.data.path().join("asked.log");
    let found = async {
        while !std::fs::read_to_string(&log).unwrap_or_default().contains(part) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), found)
        .await
        .unwrap_or_else(|_| panic!("the worker was not told {part}"));
}

/// Reads a stream until a piece has come that contains `part`.
pub async fn read_until(body: &mut axum::body::BodyDataStream, part: &str) {
    let mut heard = String::new();
    while !heard.contains(part) {
        let piece = body.next().await.expect("the stream ended early").unwrap();
        heard.push_str(&String::from_utf8_lossy(&piece));
    }
}

/// Sets what the next worker finds as its device.
pub fn set_device(data: &Path, device: &str) {
    std::fs::write(data.join("device"), device).unwrap();
}
