//! Models: what comes in is looked into, what goes out is whole.

use std::collections::BTreeMap;
use std::io::Read;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::json;
use sqlx::PgPool;

use crate::common::{Server, files_of, form, rows, tiny_bert};

/// Content of each file of an archive, by its path.
type Files = BTreeMap<String, Vec<u8>>;

fn untar(bytes: &[u8]) -> Files {
    let mut archive = tar::Archive::new(bytes);
    let mut files = Files::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(path, content);
    }
    files
}

fn unzip(bytes: &[u8]) -> Files {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let mut files = Files::new();
    for number in 0..archive.len() {
        let mut entry = archive.by_index(number).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.name().unwrap().into_owned(), content);
    }
    files
}

fn tar_of(files: &Files, folder: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("{folder}{name}"), content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn in_folder(files: &Files, folder: &str) -> Files {
    files.iter().map(|(name, content)| (format!("{folder}/{name}"), content.clone())).collect()
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn files_one_by_one_and_as_an_archive_make_the_same_model(db: PgPool) {
    let server = Server::new(db).await;
    let files = files_of(&tiny_bert());
    let one = server.upload_model("by-file", &tiny_bert()).await;
    assert_eq!(one.status, StatusCode::OK, "{}", one.text());
    let archive = tar_of(&files, "checkpoint/");
    let two = server
        .send(form("/v1/models", &[("id", None, b"by-archive"), ("file", Some("x.tar"), &archive)]))
        .await;
    assert_eq!(two.status, StatusCode::OK, "{}", two.text());
    assert_eq!(one.json()["files"], two.json()["files"]);
    assert_eq!(one.json()["kind"], "base");
    assert!(one.json()["parameters"].as_u64().unwrap() > 0);
    let list = server.get("/v1/models").await.json();
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["by-archive", "by-file"]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_download_holds_every_byte_in_either_format(db: PgPool) {
    let server = Server::new(db).await;
    server.tiny_model().await;
    let expected = in_folder(&files_of(&tiny_bert()), "tiny");
    let tar = server.get("/v1/models/tiny/content").await;
    assert_eq!(tar.headers[header::CONTENT_TYPE], "application/x-tar");
    assert_eq!(tar.headers[header::CONTENT_LENGTH], tar.body.len().to_string());
    assert!(untar(&tar.body) == expected);
    let zip = server.get("/v1/models/tiny/content?format=zip").await;
    assert_eq!(zip.headers[header::CONTENT_TYPE], "application/zip");
    assert!(unzip(&zip.body) == expected);
    assert_eq!(server.get("/v1/models/tiny/content?format=rar").await.error()["param"], "format");
    assert_eq!(server.get("/v1/models/nothing/content").await.status, StatusCode::NOT_FOUND);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_download_is_taken_up_at_any_byte(db: PgPool) {
    let server = Server::new(db).await;
    server.tiny_model().await;
    let whole = server.get("/v1/models/tiny/content").await;
    let tag = whole.headers[header::ETAG].to_str().unwrap().to_owned();
    let part = async |range: &str, tag: &str| {
        let request = Request::get("/v1/models/tiny/content")
            .header(header::RANGE, range)
            .header(header::IF_RANGE, tag);
        server.send(request.body(Body::empty()).unwrap()).await
    };
    let size = whole.body.len();
    // Around the borders of headers, contents and padding.
    for start in [0, 1, 511, 512, 513, 1023, 1024, size / 3, size / 2, size - 1025, size - 1] {
        let rest = part(&format!("bytes={start}-"), &tag).await;
        assert_eq!(rest.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(rest.headers[header::CONTENT_RANGE], format!("bytes {start}-{}/{size}", size - 1));
        assert!(rest.body == whole.body[start..], "from {start}");
        let end = (start + 700).min(size - 1);
        assert!(part(&format!("bytes={start}-{end}"), &tag).await.body == whole.body[start..=end]);
    }
    assert_eq!(part("bytes=0-", "\"other\"").await.status, StatusCode::OK);
    let outside = part(&format!("bytes={size}-"), &tag).await;
    assert_eq!(outside.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(outside.headers[header::CONTENT_RANGE], format!("bytes */{size}"));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn ids_reach_in_every_dialect_of_the_clients(db: PgPool) {
    let server = Server::new(db.clone()).await;
    server.tiny_model().await;
    let files = store::model::files(&db, "tiny").await.unwrap();
    let tuned = store::model::NewModel {
        model_id: "ft:tiny:luthier:mine:0a1b2c3d:ckpt-step-5".to_owned(),
        kind: store::model::ModelKind::Checkpoint,
        task: None,
        architecture: None,
        parameters: None,
        base_model: Some("tiny".to_owned()),
        job_id: None,
        step: Some(5),
        metrics: json!({}),
        report: json!({}),
        files,
    };
    store::model::create(&db, &tuned).await.unwrap();
    for path in
        ["ft:tiny:luthier:mine:0a1b2c3d:ckpt-step-5", "ft%3Atiny%3Aluthier%3Amine%3A0a1b2c3d%3Ackpt-step-5"]
    {
        assert_eq!(server.get(&format!("/v1/models/{path}")).await.json()["id"], tuned.model_id.as_str());
        assert_eq!(server.get(&format!("/v1/models/{path}/content")).await.status, StatusCode::OK);
    }
    // An id of the Hub, which has a slash: escaped by newer clients, plain by older ones; both are told that it is not here.
    for path in ["org/model", "org%2Fmodel"] {
        let missing = server.get(&format!("/v1/models/{path}")).await;
        assert_eq!(missing.status, StatusCode::NOT_FOUND);
        assert!(missing.error()["message"].as_str().unwrap().contains("\"org/model\""));
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_checkpoint_that_cannot_be_trained_is_refused_with_the_reason(db: PgPool) {
    let server = Server::new(db).await;
    let good = files_of(&tiny_bert());
    let without = |name: &str| {
        let mut files = good.clone();
        files.remove(name);
        files
    };
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = good.clone();
        change(files.get_mut(name).unwrap());
        files
    };
    let shorter = |content: &mut Vec<u8>| content.truncate(content.len() - 100);
    let wider = |content: &mut Vec<u8>| {
        let mut config: serde_json::Value = serde_json::from_slice(content).unwrap();
        config["intermediate_size"] = json!(config["intermediate_size"].as_u64().unwrap() + 1);
        *content = config.to_string().into_bytes();
    };
    let foreign = |content: &mut Vec<u8>| {
        let mut config: serde_json::Value = serde_json::from_slice(content).unwrap();
        config["model_type"] = json!("mamba");
        *content = config.to_string().into_bytes();
    };
    for (files, words) in [
        (without("tokenizer.json"), "tokenizer"),
        (without("config.json"), "config.json"),
        (without("model.safetensors"), "safetensors"),
        (changed("model.safetensors", &shorter), "model.safetensors"),
        (changed("config.json", &wider), "intermediate"),
        (changed("config.json", &foreign), "mamba"),
    ] {
        let archive = tar_of(&files, "");
        let refused = server
            .send(form("/v1/models", &[("id", None, b"bad"), ("file", Some("bad.tar"), &archive)]))
            .await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{words}: {}", refused.text());
        let message = refused.error()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(server.get("/v1/models").await.json()["data"], json!([]));
    assert_eq!(leftovers(&server), 0);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_archive_that_leads_out_or_bursts_is_refused_and_nothing_of_it_stays(db: PgPool) {
    let server = Server::with(db, |config| config.max_unpacked_bytes = 1 << 20).await;
    let mut outside = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    outside.start_file("../luthier_evil.txt", zip::write::SimpleFileOptions::default()).unwrap();
    let outside = outside.finish().unwrap().into_inner();
    let mut bomb = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    bomb.start_file("zeros", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(64 << 20), &mut bomb).unwrap();
    let bomb = bomb.finish().unwrap().into_inner();
    let send = async |archive: &[u8]| {
        server.send(form("/v1/models", &[("id", None, b"bad"), ("file", Some("bad.zip"), archive)])).await
    };
    let refused = send(&outside).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.error()["message"].as_str().unwrap().contains("luthier_evil.txt"));
    let refused = send(&bomb).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.error()["message"].as_str().unwrap().contains("1048576"));
    assert_eq!(send(b"not an archive").await.error()["code"], "unsupported_format");
    assert!(!server.data.path().join("luthier_evil.txt").exists());
    assert!(!server.data.path().join("cache/luthier_evil.txt").exists());
    assert_eq!(leftovers(&server), 0);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn names_of_single_files_stay_in_their_folder(db: PgPool) {
    let server = Server::new(db).await;
    for name in ["../config.json", "/etc/config.json", "a\\\\config.json", "a/./config.json"] {
        let refused =
            server.send(form("/v1/models", &[("id", None, b"bad"), ("files", Some(name), b"{}")])).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{name}");
        assert_eq!(refused.error()["param"], "files", "{name}");
    }
    assert_eq!(leftovers(&server), 0);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_id_is_taken_once_and_the_same_content_again_is_no_conflict(db: PgPool) {
    let server = Server::new(db).await;
    server.tiny_model().await;
    assert_eq!(server.upload_model("tiny", &tiny_bert()).await.status, StatusCode::OK);
    let other = server.upload_model("tiny", &tiny_bert().with_file_name("distilbert")).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST);
    assert_eq!(other.error()["code"], "taken");
    for bad in ["..", "a/b", "ft:x", ""] {
        let refused = server.upload_model(bad, &tiny_bert()).await;
        assert_eq!(refused.error()["param"], "id", "{bad:?}");
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_model_that_a_job_needs_stays_and_another_goes(db: PgPool) {
    let server = Server::new(db).await;
    let job = server.job().await;
    let refused = server.delete("/v1/models/tiny").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.error()["message"].as_str().unwrap().contains(job["id"].as_str().unwrap()));
    server.upload_model("spare", &tiny_bert()).await;
    assert_eq!(server.delete("/v1/models/spare").await.json()["deleted"], true);
    assert_eq!(server.get("/v1/models/spare").await.status, StatusCode::NOT_FOUND);
    let file = server.table("rows.csv", &rows(10)).await;
    let body = json!({"model": "spare", "training_file": file});
    assert_eq!(server.post("/v1/fine_tuning/jobs", &body).await.error()["param"], "model");
}

/// Folders that an upload has left behind.
fn leftovers(server: &Server) -> usize {
    std::fs::read_dir(server.data.path().join("cache")).unwrap().count()
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_gguf_becomes_a_checkpoint_that_can_be_tuned(db: PgPool) {
    let server = Server::new(db).await;
    let folder = crate::decoder::tiny_llama();
    let file = folder.path().join("tiny.gguf");
    formats::gguf::export(folder.path(), &file, formats::gguf::Kind::F16).unwrap();
    let content = std::fs::read(&file).unwrap();
    let parts: [(&str, Option<&str>, &[u8]); 1] = [("file", Some("tiny-f16.gguf"), &content)];
    let answer = server.send(form("/v1/models", &parts)).await;
    let made = answer.json();
    assert_eq!(made["id"], "tiny-f16", "{made}");
    assert_eq!(
        (&made["task"], &made["architecture"]),
        (&json!("text-generation"), &json!("LlamaForCausalLM"))
    );
    let names: Vec<&str> =
        made["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let chats = server.table("chats.jsonl", &crate::decoder::chats(40)).await;
    let body =
        json!({"model": "tiny-f16", "training_file": chats, "hyperparameters": {"chat_template": "chatml"}});
    let job = server.post("/v1/fine_tuning/jobs", &body).await.json();
    assert_eq!(job["task"], "text-generation", "{job}");
    // Cut short it is refused by name, and nothing is kept.
    let parts: [(&str, Option<&str>, &[u8]); 1] = [("file", Some("cut.gguf"), &content[..content.len() / 2])];
    let refused = server.send(form("/v1/models", &parts)).await;
    assert_eq!(refused.status.as_u16(), 400, "{}", refused.text());
    assert_eq!(refused.json()["error"]["param"], "file");
}
