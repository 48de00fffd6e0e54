//! Exports over the API: asked for, looked at, downloaded by ranges, deleted.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use sqlx::PgPool;
use store::ExportId;
use store::StoredFile;
use store::event::Kind;
use store::export::Finished;
use store::queue::{self, Failure, Fault};

use crate::common::{Agent, Server, form, line};
use crate::decoder::tiny_llama;

async fn llama(server: &Server) {
    let made = server.upload_model("llama", tiny_llama().path()).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
}

async fn ask(server: &Server, body: Value) -> Value {
    let answer = server.post("/v1/models/llama/exports", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

/// Ends the export that is next, with these files.
async fn finish(server: &Server, db: &PgPool, files: &[(&str, &[u8])], ready: bool) -> ExportId {
    let lease = Agent::new(db).await.claim().await;
    let mut stored = Vec::new();
    for (path, content) in files {
        let kept = server.state.store.put_bytes(content.to_vec().into()).await.unwrap();
        stored.push(StoredFile { path: (*path).to_owned(), hash: kept.hash, bytes: kept.bytes });
    }
    let reasons =
        if ready { json!([]) } else { json!(["loss went from 2.0000 to 2.5000; 0.1200 worse is the most."]) };
    let certificate = json!({"ready": ready, "reasons": reasons, "metrics": [{"name": "loss", "model": 2.0, "artifact": 2.5}]});
    let end = Finished { files: stored, certificate, ready };
    assert!(store::export::finish(db, &lease, &end).await.unwrap());
    ExportId::of(lease.job_id())
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_export_is_asked_for_once_and_shown_as_it_goes(db: PgPool) {
    let server = Server::new(db.clone()).await;
    llama(&server).await;
    let made = ask(&server, json!({"format": "gguf", "kind": "q4_k_m"})).await;
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("export-"));
    assert_eq!((&made["object"], &made["status"]), (&json!("model.export"), &json!("queued")));
    assert_eq!(
        (&made["format"], &made["kind"], &made["model"]),
        (&json!("gguf"), &json!("q4_k_m"), &json!("llama"))
    );
    assert_eq!((&made["files"], &made["ready"]), (&json!([]), &Value::Null));
    assert_eq!(ask(&server, json!({"format": "gguf", "kind": "q4_k_m"})).await["id"], id.as_str());
    // It is no fine-tune, whatever one calls it.
    assert_eq!(server.get("/v1/fine_tuning/jobs").await.json()["data"], json!([]));
    let job = id.replace("export-", "ftjob-");
    for path in [format!("/v1/fine_tuning/jobs/{job}"), format!("/jobs/{job}")] {
        assert_eq!(server.get(&path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let cancel = server.post(&format!("/v1/fine_tuning/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(cancel.status, StatusCode::NOT_FOUND);
    assert!(server.get("/metrics").await.text().contains("luthier_jobs{status=\"queued\"} 0"));

    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    let data = json!({"phase": "checking", "progress": {"done": 3, "of": 9}, "device": "cpu"});
    agent.say(&lease, &[line(0, Kind::Phase, Some(0), json!({}), data)]).await;
    let running = server.get(&format!("/v1/exports/{id}")).await.json();
    assert_eq!((&running["status"], &running["phase"]), (&json!("running"), &json!("checking")));
    assert_eq!((&running["progress"]["of"], &running["device"]), (&json!(9), &json!("cpu")));
    let early = server.get(&format!("/v1/exports/{id}/content")).await;
    assert_eq!(early.error()["code"], "no_content", "{}", early.text());
    let alive = server.delete(&format!("/v1/exports/{id}")).await;
    assert_eq!(alive.error()["code"], "in_use");
    let needed = server.delete("/v1/models/llama").await;
    assert!(needed.error()["message"].as_str().unwrap().contains(&id), "{}", needed.text());
    let failure = Failure {
        fault: Fault::User,
        code: "invalid_tensor".to_owned(),
        message: "Tensor `x` has no numbers.".to_owned(),
        param: None,
        step: None,
        log: Vec::new(),
    };
    queue::fail(&db, &lease, &failure).await.unwrap();
    let failed = server.get(&format!("/v1/exports/{id}")).await.json();
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("invalid_tensor")));
    // What has failed may be tried again.
    assert_ne!(ask(&server, json!({"format": "gguf", "kind": "q4_k_m"})).await["id"], id.as_str());
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_cannot_be_exported_is_refused_with_the_reason(db: PgPool) {
    let server = Server::new(db).await;
    llama(&server).await;
    server.tiny_model().await;
    for (model, body, param, words) in [
        ("llama", json!({}), "format", "`format` is missing"),
        ("llama", json!({"format": "onnx"}), "format", "known are safetensors, adapter, gguf"),
        ("llama", json!({"format": "gguf", "kind": "q3_k"}), "kind", "q4_k_m"),
        ("llama", json!({"format": "gguf", "knd": "f16"}), "knd", "kind"),
        ("llama", json!({"format": "safetensors", "kind": "q8_0"}), "kind", "f32, f16, bf16"),
        ("llama", json!({"format": "adapter"}), "format", "is no adapter"),
        ("llama", json!({"format": 7}), "format", "a text"),
        ("tiny", json!({"format": "safetensors"}), "format", "without a head"),
    ] {
        let refused = server.post(&format!("/v1/models/{model}/exports"), &body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}: {}", refused.text());
        let error = refused.error();
        assert_eq!(error["param"], param, "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{body}: {error}");
    }
    let missing = server.post("/v1/models/nothing/exports", &json!({"format": "gguf"})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/v1/models/nothing/exports").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/v1/exports/nothing").await.status, StatusCode::NOT_FOUND);
    let list = server.post("/v1/models/llama", &json!({})).await;
    assert_eq!(list.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_gguf_is_downloaded_as_itself_and_taken_up_at_any_byte(db: PgPool) {
    let server = Server::new(db.clone()).await;
    llama(&server).await;
    ask(&server, json!({"format": "gguf"})).await;
    let content: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
    let id = finish(&server, &db, &[("certificate.json", b"{}"), ("llama-f16.gguf", &content)], true).await;
    let shown = server.get(&format!("/v1/exports/{id}")).await.json();
    assert_eq!((&shown["status"], &shown["ready"]), (&json!("succeeded"), &json!(true)));
    assert_eq!((&shown["bytes"], &shown["files"][1]["bytes"]), (&json!(20_002), &json!(20_000)));
    let address = format!("/v1/exports/{id}/content");
    let whole = server.get(&address).await;
    assert!(whole.body == content);
    let named = whole.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert!(named.contains("filename=\"llama-f16.gguf\""), "{named}");
    let tag = whole.headers[header::ETAG].to_str().unwrap().to_owned();
    for (range, expected) in
        [("bytes=0-99", 0..100), ("bytes=4096-", 4096..20_000), ("bytes=-7", 19_993..20_000)]
    {
        let request = Request::get(&address).header(header::RANGE, range).header(header::IF_RANGE, &tag);
        let part = server.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
        assert!(part.body == content[expected.clone()], "{range}");
        let told = format!("bytes {}-{}/20000", expected.start, expected.end - 1);
        assert_eq!(part.headers[header::CONTENT_RANGE], told);
    }
    let outside = Request::get(&address).header(header::RANGE, "bytes=20000-");
    let outside = server.send(outside.body(Body::empty()).unwrap()).await;
    assert_eq!(outside.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let tar = server.get(&format!("{address}?format=tar")).await;
    let mut archive = tar::Archive::new(&tar.body[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["llama-gguf-f16/certificate.json", "llama-gguf-f16/llama-f16.gguf"]);
    assert_eq!(server.get(&format!("{address}?format=rar")).await.error()["param"], "format");
    // The same is not made again, and goes with its model.
    assert_eq!(ask(&server, json!({"format": "gguf", "kind": "f16"})).await["id"], id.to_string());
    assert_eq!(server.delete("/v1/models/llama").await.status, StatusCode::OK);
    assert_eq!(server.get(&address).await.status, StatusCode::NOT_FOUND);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_folder_is_downloaded_as_an_archive_and_deleted(db: PgPool) {
    let server = Server::new(db.clone()).await;
    llama(&server).await;
    ask(&server, json!({"format": "safetensors", "kind": "bf16"})).await;
    let id = finish(&server, &db, &[("config.json", b"{}"), ("model.safetensors", b"weights")], true).await;
    let address = format!("/v1/exports/{id}/content");
    let whole = server.get(&address).await;
    assert_eq!(whole.headers[header::CONTENT_TYPE], "application/x-tar");
    let request = Request::get(&address).header(header::RANGE, "bytes=700-1500");
    let part = server.send(request.body(Body::empty()).unwrap()).await;
    assert!(part.body == whole.body[700..=1500]);
    assert_eq!(
        server.get(&format!("{address}?format=zip")).await.headers[header::CONTENT_TYPE],
        "application/zip"
    );
    let list = server.get("/v1/models/llama/exports").await.json();
    assert_eq!((&list["data"][0]["id"], &list["has_more"]), (&json!(id.to_string()), &json!(false)));
    let deleted = server.delete(&format!("/v1/exports/{id}")).await.json();
    assert_eq!(deleted, json!({"id": id, "object": "model.export", "deleted": true}));
    assert_eq!(server.get(&format!("/v1/exports/{id}")).await.status, StatusCode::NOT_FOUND);
    let cancel = server.post(&format!("/v1/exports/{id}/cancel"), &json!({})).await;
    assert_eq!(cancel.status, StatusCode::NOT_FOUND);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn cancelling_is_repeated_without_harm_and_refused_at_the_end(db: PgPool) {
    let server = Server::new(db.clone()).await;
    llama(&server).await;
    let id = ask(&server, json!({"format": "gguf"})).await["id"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        let cancelled = server.post(&format!("/v1/exports/{id}/cancel"), &json!({})).await;
        assert_eq!(cancelled.json()["status"], "cancelled", "{}", cancelled.text());
    }
    ask(&server, json!({"format": "gguf"})).await;
    let id = finish(&server, &db, &[("llama-f16.gguf", b"x")], true).await;
    let refused = server.post(&format!("/v1/exports/{id}/cancel"), &json!({})).await;
    assert_eq!(refused.error()["code"], "export_has_ended");
    assert!(refused.error()["message"].as_str().unwrap().contains("the export has already succeeded"));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_page_of_a_model_has_its_exports_and_calls_none_ready_that_is_not(db: PgPool) {
    let server = Server::new(db.clone()).await;
    llama(&server).await;
    let page = server.get("/models/llama").await.text();
    assert!(page.contains("value=\"gguf:q4_k_m\"") && page.contains("value=\"safetensors:f32\""));
    assert!(!page.contains("value=\"adapter\""), "it is no adapter");
    let post = async |what: &str| {
        let request = Request::post("/models/llama/exports")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(format!("what={what}")));
        server.send(request.unwrap()).await
    };
    let refused = post("adapter").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().contains("is no adapter"), "{}", refused.text());
    let made = post("gguf%3Aq8_0").await;
    assert_eq!(made.headers[header::LOCATION], "/models/llama#exports");
    let live = server.get("/models/llama").await.text();
    assert!(live.contains("every 2s") && live.contains("Queued"), "{live}");
    let id = finish(&server, &db, &[("llama-q8_0.gguf", b"weights")], false).await;
    let fragment = Request::get("/models/llama/exports").header("hx-request", "true").body(Body::empty());
    let fragment = server.send(fragment.unwrap()).await.text();
    assert!(fragment.starts_with("<section"), "{fragment}");
    assert!(fragment.contains("Beyond its bounds") && !fragment.contains("Ready"), "{fragment}");
    assert!(fragment.contains("loss went from 2.0000 to 2.5000"), "{fragment}");
    assert!(!fragment.contains("/content") && !fragment.contains("every 2s"), "{fragment}");
    let ask = server.get(&format!("/models/llama/exports/{id}/download")).await.text();
    assert!(ask.contains("not ready") && ask.contains("loss went from 2.0000"), "{ask}");
    let download = server.send(form(&format!("/models/llama/exports/{id}/download"), &[])).await;
    assert_eq!(download.headers[header::LOCATION], format!("/v1/exports/{id}/content").as_str());
    let other = server.get(&format!("/models/tiny/exports/{id}/delete")).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    assert!(
        server.get(&format!("/models/llama/exports/{id}/delete")).await.text().contains("Delete the export")
    );
    let deleted = server.send(form(&format!("/models/llama/exports/{id}/delete"), &[])).await;
    assert_eq!(deleted.headers[header::LOCATION], "/models/llama#exports");
    assert_eq!(server.get(&format!("/v1/exports/{id}")).await.status, StatusCode::NOT_FOUND);
}
