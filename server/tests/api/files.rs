//! Files: what comes in comes out, and nothing else of it is believed.

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use futures::StreamExt;
use serde_json::json;
use sqlx::PgPool;

use crate::common::{Server, form, rows};

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_table_comes_back_byte_for_byte_and_with_its_report(db: PgPool) {
    let server = Server::new(db).await;
    let content = "text,label\nnaïve but fun,pos\n\"two\nlines\",neg\nmore,pos\n";
    let made = server.upload("reviews.csv", content.as_bytes()).await;
    assert_eq!(made.status, StatusCode::OK);
    let file = made.json();
    assert_eq!(file["object"], "file");
    assert_eq!(file["filename"], "reviews.csv");
    assert_eq!(file["bytes"], content.len());
    assert_eq!(file["purpose"], "fine-tune");
    assert_eq!(file["status"], "processed");
    assert_eq!(file["report"]["rows"], 3);
    let id = file["id"].as_str().unwrap();
    assert!(id.starts_with("file-"));
    assert_eq!(server.get(&format!("/v1/files/{id}")).await.json(), file);
    let download = server.get(&format!("/v1/files/{id}/content")).await;
    assert_eq!(download.body, content.as_bytes());
    assert_eq!(download.headers[header::CONTENT_TYPE], "application/octet-stream");
    assert!(download.headers[header::CONTENT_DISPOSITION].to_str().unwrap().starts_with("attachment"));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_file_that_cannot_be_used_says_why_by_line(db: PgPool) {
    let server = Server::new(db).await;
    for (name, content, words) in [
        ("empty.csv", "", "empty"),
        ("header.csv", "text,label\n", "no rows"),
        ("ragged.csv", "text,label\na,x\nb,y,z\n", "line 3"),
        ("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \n", "line 2"),
    ] {
        let made = server.upload(name, content.as_bytes()).await;
        assert_eq!(made.status, StatusCode::OK);
        let file = made.json();
        assert_eq!(file["status"], "error", "{name}");
        let details = file["status_details"].as_str().unwrap();
        assert!(details.contains(words) && details.contains(name), "{name}: {details}");
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn lists_go_on_where_they_ended(db: PgPool) {
    let server = Server::new(db).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.insert(0, server.table(&format!("{number}.csv"), &rows(4 + number)).await);
    }
    let first = server.get("/v1/files?limit=2").await.json();
    assert_eq!(first["object"], "list");
    assert_eq!(first["has_more"], true);
    assert_eq!(first["first_id"], ids[0].as_str());
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = server.get(&format!("/v1/files?limit=2{after}")).await.json();
        seen.extend(
            page["data"].as_array().unwrap().iter().map(|file| file["id"].as_str().unwrap().to_owned()),
        );
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    assert_eq!(seen, ids);
    let oldest = server.get("/v1/files?order=asc&limit=1").await.json();
    assert_eq!(oldest["data"][0]["id"], ids[4].as_str());
    assert_eq!(server.get("/v1/files?purpose=batch").await.json()["data"], json!([]));
    assert_eq!(server.get("/v1/files?order=up").await.error()["param"], "order");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_deleted_file_is_gone_and_one_that_a_job_needs_stays(db: PgPool) {
    let server = Server::new(db).await;
    let job = server.job().await;
    let needed = job["training_file"].as_str().unwrap();
    let refused = server.delete(&format!("/v1/files/{needed}")).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.error()["message"].as_str().unwrap().contains(job["id"].as_str().unwrap()));
    let free = server.table("free.csv", &rows(4)).await;
    let deleted = server.delete(&format!("/v1/files/{free}")).await;
    assert_eq!(deleted.json(), json!({"id": free, "object": "file", "deleted": true}));
    assert_eq!(server.get(&format!("/v1/files/{free}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.delete(&format!("/v1/files/{free}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/v1/files/file-nonsense").await.status, StatusCode::NOT_FOUND);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_states_too_much_is_refused_unread_and_what_hides_it_at_the_limit(db: PgPool) {
    let server = Server::with(db, |config| config.max_file_bytes = 100_000).await;
    let content = vec![b'x'; 3_000_000];
    let refused = server.upload("big.csv", &content).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.error()["message"].as_str().unwrap().contains("100000"));
    let mut hidden =
        form("/v1/files", &[("purpose", None, b"fine-tune"), ("file", Some("big.csv"), &content)]);
    hidden.headers_mut().remove(header::CONTENT_LENGTH);
    let refused = server.send(hidden).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.error()["message"].as_str().unwrap().contains("100000"));
    assert_eq!(server.get("/v1/files").await.json()["data"], json!([]));
    assert_eq!(scratch_files(&server), 0);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_upload_that_breaks_off_leaves_nothing_and_the_same_upload_works_after(db: PgPool) {
    let server = Server::new(db).await;
    let whole = form(
        "/v1/files",
        &[("purpose", None, b"fine-tune"), ("file", Some("rows.csv"), rows(1000).as_bytes())],
    );
    let kind = whole.headers()[header::CONTENT_TYPE].clone();
    let bytes = axum::body::to_bytes(whole.into_body(), usize::MAX).await.unwrap();
    let cut = bytes.slice(..bytes.len() * 6 / 10);
    let broken = futures::stream::iter([Ok::<Bytes, std::io::Error>(cut)])
        .chain(futures::stream::once(async { Err(std::io::ErrorKind::ConnectionReset.into()) }));
    let request = Request::post("/v1/files")
        .header(header::CONTENT_TYPE, kind)
        .body(Body::from_stream(broken))
        .unwrap();
    assert_eq!(server.send(request).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(server.get("/v1/files").await.json()["data"], json!([]));
    assert_eq!(scratch_files(&server), 0);
    server.table("rows.csv", &rows(1000)).await;
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_same_key_makes_one_file_and_another_content_under_it_is_refused(db: PgPool) {
    let server = Server::new(db).await;
    let send = async |content: &str| {
        let mut request = form(
            "/v1/files",
            &[("purpose", None, b"fine-tune"), ("file", Some("a.csv"), content.as_bytes())],
        );
        request.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
        server.send(request).await
    };
    let (one, two) = (send(&rows(4)).await.json(), send(&rows(4)).await.json());
    assert_eq!(one["id"], two["id"]);
    let other = send(&rows(6)).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST);
    assert_eq!(other.error()["code"], "idempotency_key_reused");
    assert_eq!(server.get("/v1/files").await.json()["data"].as_array().unwrap().len(), 1);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn markup_in_cells_and_names_stays_text(db: PgPool) {
    let server = Server::new(db).await;
    let content = "text,<b>label</b>\n<script>document.title=1337</script>,a\n{{7*7}},b\nplain,a\n";
    let made = server.upload("<script>.csv", content.as_bytes()).await;
    let file = made.json();
    assert_eq!(file["status"], "processed");
    assert_eq!(file["report"]["columns"][1]["name"], "<b>label</b>");
    assert_eq!(made.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(made.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let id = file["id"].as_str().unwrap();
    let download = server.get(&format!("/v1/files/{id}/content")).await;
    assert_eq!(download.headers[header::CONTENT_TYPE], "application/octet-stream");
    assert_eq!(download.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let policy = download.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("script-src 'self'") && !policy.contains("script-src 'self' 'unsafe-inline'"));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn parts_and_purposes_that_are_not_known_are_named(db: PgPool) {
    let server = Server::new(db).await;
    let ask = async |parts: &[(&str, Option<&str>, &[u8])]| {
        server.send(form("/v1/files", parts)).await.error()["param"].clone()
    };
    assert_eq!(
        ask(&[("purpose", None, b"cooking"), ("file", Some("a.csv"), b"a,b\n1,2\n")]).await,
        "purpose"
    );
    assert_eq!(ask(&[("purpose", None, b"fine-tune")]).await, "file");
    assert_eq!(ask(&[("porpose", None, b"fine-tune")]).await, "porpose");
    let expiry: &[(&str, Option<&str>, &[u8])] = &[
        ("expires_after[anchor]", None, b"created_at"),
        ("expires_after[seconds]", None, b"60"),
        ("file", Some("a.csv"), b"a,b\n1,2\n"),
    ];
    assert_eq!(ask(expiry).await, "expires_after.seconds");
    let plain = Request::post("/v1/files").body(Body::from("no form")).unwrap();
    assert_eq!(server.send(plain).await.error()["code"], "invalid_multipart");
}

/// Files that an upload has left behind.
fn scratch_files(server: &Server) -> usize {
    std::fs::read_dir(server.data.path().join("objects/scratch")).map_or(0, Iterator::count)
}
