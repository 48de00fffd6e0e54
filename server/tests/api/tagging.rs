//! Token classification from upload to prediction, with a process that stands in for the trainer.

use std::os::unix::fs::PermissionsExt;

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::common::{Agent, Server, files_of, form, line, tiny_bert};
use store::event::Kind;

/// Finds the first four characters of each text, and says how it was asked.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import json, sys
print(json.dumps({"ready": True, "task": "token-classification", "device": "cpu"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    entity = lambda text: {"start": 0, "end": 4, "text": text[:4], "label": str(asked.get("settings", {}).get("aggregation")), "score": 0.5}
    outputs = [{"entities": [entity(text if isinstance(text, str) else text["text"])], "truncated": False} for text in asked["inputs"]]
    print(json.dumps({"id": asked["id"], "outputs": outputs}), flush=True)
"#;

fn sentences(count: usize) -> String {
    let sentence = |n: usize| format!("Anna\tB-PER\nsaw\tO\nRome{n}\tB-LOC\n\n");
    (0..count).map(sentence).collect()
}

async fn create(server: &Server, body: Value) -> crate::common::Answer {
    let mut all = json!({"model": server.tiny_model().await});
    all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    server.post("/v1/fine_tuning/jobs", &all).await
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_conll_file_makes_a_tagging_job_by_itself(db: PgPool) {
    let server = Server::new(db).await;
    let file = server.table("train.conll", &sentences(12)).await;
    let report = server.get(&format!("/v1/files/{file}")).await.json()["report"].clone();
    assert_eq!(report["tags"]["summary"]["scheme"], "IOB2", "{report}");
    assert_eq!(report["tags"]["summary"]["words"], 36);
    let made = create(&server, json!({"training_file": file})).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let job = made.json();
    assert_eq!(job["task"], "token-classification");
    assert_eq!(job["columns"], json!({"tokens": "tokens", "tags": "tags"}));
    let page = server.get(&format!("/data/{file}")).await.text();
    assert!(page.contains("CoNLL columns") && page.contains("IOB2"), "{page}");

    let tried = create(&server, json!({"training_file": file, "dry_run": true})).await.json();
    assert_eq!(tried["object"], "fine_tuning.job.dry_run", "{tried}");
    let notes = tried["notes"].to_string();
    assert!(notes.contains("3 tags in the scheme IOB2: B-LOC, B-PER, O"), "{notes}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn broken_rows_are_refused_by_line_and_odd_tags_noted(db: PgPool) {
    let server = Server::new(db).await;
    let rows = "{\"tokens\": [\"a\", \"b\"], \"tags\": [\"B-X\", \"O\"]}\n{\"tokens\": [\"a\", \"b\"], \"tags\": [\"O\"]}\n\
                {\"tokens\": [], \"tags\": []}\n{\"tokens\": [\"a\"], \"tags\": [\"X\"]}\n";
    let file = server.upload("bad.jsonl", rows.as_bytes()).await.json();
    let found = &file["report"]["tags"]["problems"];
    assert_eq!(found["total"], 2, "{file}");
    let refused = create(&server, json!({"training_file": file["id"]})).await.error();
    let message = refused["message"].as_str().unwrap();
    for part in
        ["line 2, `tags`: 2 tokens, 1 tag", "line 3", "Worth a look: line 4: the tag `X` fits no scheme"]
    {
        assert!(message.contains(part), "{message}");
    }
    let good = server.table("good.conll", &sentences(12)).await;
    let other = server.table("other.conll", "Acme\tB-ORG\nsells\tO\n").await;
    let refused = create(&server, json!({"training_file": good, "validation_file": other})).await.error();
    assert_eq!(refused["param"], "validation_file");
    assert!(refused["message"].as_str().unwrap().contains("`B-ORG` does not occur"), "{refused}");
    let columns = json!({"tokens": "tokens", "tags": "ner"});
    let refused = create(&server, json!({"training_file": good, "columns": columns})).await.error();
    assert_eq!((&refused["param"], &refused["code"]), (&json!("columns.tags"), &json!("unknown_column")));
    let roles = json!({"tokens": "tokens", "label": "tags"});
    let refused = create(&server, json!({"training_file": good, "columns": roles})).await.error();
    assert_eq!(refused["param"], "columns", "{refused}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_tagger_finds_entities_and_its_page_shows_them(db: PgPool) {
    let server = Server::with(db, |config| {
        let program = config.data.join("stand-in.py");
        std::fs::write(&program, STAND_IN).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        config.trainer_binary = Some(program);
    })
    .await;
    let mut files = files_of(&tiny_bert());
    let mut config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    config["architectures"] = json!(["BertForTokenClassification"]);
    files.insert("config.json".to_owned(), config.to_string().into_bytes());
    let mut parts: Vec<(&str, Option<&str>, &[u8])> = vec![("id", None, b"tagger")];
    parts.extend(files.iter().map(|(name, content)| ("files", Some(name.as_str()), content.as_slice())));
    let made = server.send(form("/v1/models", &parts)).await;
    assert_eq!(made.json()["task"], "token-classification", "{}", made.text());

    let ask = async |body: Value| server.post("/v1/predictions", &body).await;
    let usual = ask(json!({"model": "tagger", "inputs": ["Anna sleeps"]})).await.json();
    assert_eq!(usual["outputs"][0]["entities"][0]["text"], "Anna", "{usual}");
    assert_eq!(usual["outputs"][0]["entities"][0]["label"], "None");
    let simple = ask(json!({"model": "tagger", "inputs": ["Anna"], "aggregation": "simple"})).await.json();
    assert_eq!(simple["outputs"][0]["entities"][0]["label"], "simple");
    let wrong = ask(json!({"model": "tagger", "inputs": ["Anna"], "aggregation": "max"})).await.error();
    assert_eq!(wrong["param"], "aggregation");

    let page = server.get("/models/tagger").await.text();
    assert!(page.contains("action=\"/models/tagger/try\""), "{page}");
    let export = server.post("/v1/models/tagger/exports", &json!({"format": "safetensors"})).await;
    assert!(export.status.is_client_error() && export.text().contains("tags words"), "{}", export.text());
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn words_are_shown_with_what_is_right_and_what_was_said(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let file = server.table("train.conll", &sentences(12)).await;
    let job = create(&server, json!({"training_file": file})).await.json();
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    let row = json!({"row": 0, "words": ["Anna", "saw", "Rome"], "tags": ["B-PER", "O", "B-LOC"],
        "predicted": ["B-PER", "O", "O"], "more": 0, "loss": 0.7});
    let data = json!({"best": [], "worst": [row], "random": []});
    agent.say(&lease, &[line(1, Kind::Examples, Some(1), json!({}), data)]).await;
    let page = server.get(&format!("/jobs/{}/results", job["id"].as_str().unwrap())).await.text();
    for part in ["word-right\">Anna", "word-wrong\">Rome", "said O, is B-LOC", "1 word wrong"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}
