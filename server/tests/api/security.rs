//! What stands in front of every route.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use luthier::config::Secret;
use sqlx::PgPool;

use crate::common::Server;

async fn status(server: &Server, request: axum::http::request::Builder) -> StatusCode {
    server.send(request.body(Body::empty()).unwrap()).await.status
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_name_that_is_not_this_servers_is_refused_for_every_route(db: PgPool) {
    let server = Server::with(db, |config| config.allowed_hosts = vec!["gpu-box.lan".to_owned()]).await;
    for (host, allowed) in [
        ("localhost:8080", true),
        ("127.0.0.1:8080", true),
        ("[::1]:8080", true),
        ("luthier.localhost", true),
        ("GPU-box.lan:80", true),
        ("evil.example", false),
        ("evil.example:8080", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("", false),
    ] {
        for path in ["/v1/models", "/healthz", "/metrics"] {
            let found = status(&server, Request::get(path).header(header::HOST, host)).await;
            assert_eq!(found == StatusCode::OK, allowed, "{host} {path}: {found}");
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_page_of_another_site_changes_nothing(db: PgPool) {
    let server = Server::new(db).await;
    let delete = || Request::delete("/v1/models/nothing");
    // 404: the request came through.
    for (name, value, allowed) in [
        ("origin", "http://localhost:8080", true),
        ("origin", "https://localhost:8080", true),
        ("origin", "http://evil.example", false),
        ("origin", "http://localhost:9999", false),
        ("origin", "null", false),
        ("sec-fetch-site", "same-origin", true),
        ("sec-fetch-site", "none", true),
        ("sec-fetch-site", "cross-site", false),
        ("sec-fetch-site", "same-site", false),
    ] {
        let found = status(&server, delete().header(name, value)).await;
        let expected = if allowed { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
        assert_eq!(found, expected, "{name}: {value}");
    }
    assert_eq!(status(&server, delete()).await, StatusCode::NOT_FOUND);
    let reads = status(&server, Request::get("/v1/models").header("origin", "http://evil.example")).await;
    assert_eq!(reads, StatusCode::OK, "a browser keeps the answer from the other page by itself");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_key_is_asked_for_everywhere_but_for_life_signs(db: PgPool) {
    let server = Server::with(db, |config| config.api_key = Some(Secret::new("a-long-secret"))).await;
    let get = |path: &str, key: Option<&str>| {
        let request = Request::get(path);
        match key {
            Some(key) => request.header(header::AUTHORIZATION, key),
            None => request,
        }
    };
    for path in ["/v1/models", "/metrics", "/", "/docs"] {
        assert_eq!(status(&server, get(path, None)).await, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(status(&server, get(path, Some("Bearer a-long-secret"))).await, StatusCode::OK, "{path}");
        assert_eq!(
            status(&server, get(path, Some("Bearer another"))).await,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
    assert_eq!(status(&server, get("/healthz", None)).await, StatusCode::OK);
    assert_eq!(status(&server, get("/readyz", None)).await, StatusCode::OK);
    // A browser's prompt: any user name, the key as password.
    let prompt = "Basic YW55b25lOmEtbG9uZy1zZWNyZXQ=";
    assert_eq!(status(&server, get("/docs", Some(prompt))).await, StatusCode::OK);
    let refused = server.send(get("/v1/models", None).body(Body::empty()).unwrap()).await;
    assert_eq!(refused.error()["code"], "invalid_api_key");
    assert_eq!(refused.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"Luthier\"");
    let page = server.send(get("/", None).body(Body::empty()).unwrap()).await;
    assert!(page.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic"));
    assert!(!format!("{:?}", server.state.config).contains("a-long-secret"));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn every_answer_has_an_id_and_the_headers_that_disarm_it(db: PgPool) {
    let server = Server::new(db).await;
    for path in ["/v1/models", "/v1/nothing", "/docs", "/healthz", "/nothing"] {
        let answer = server.get(path).await;
        assert!(answer.headers["x-request-id"].len() > 8, "{path}");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains("script-src 'self'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
    }
    let kept = Request::get("/healthz").header("x-request-id", "mine-1").body(Body::empty()).unwrap();
    assert_eq!(server.send(kept).await.headers["x-request-id"], "mine-1");
    let odd = Request::get("/healthz").header("x-request-id", "a b<c>").body(Body::empty()).unwrap();
    assert_ne!(server.send(odd).await.headers["x-request-id"], "a b<c>");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn programs_get_json_and_browsers_get_a_page_for_what_is_not_there(db: PgPool) {
    let server = Server::new(db).await;
    assert_eq!(server.get("/v1/nothing").await.error()["code"], "not_found");
    let wrong = Request::put("/v1/files").body(Body::empty()).unwrap();
    let wrong = server.send(wrong).await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(wrong.error()["code"], "method_not_allowed");
    let browser =
        |path: &str| Request::get(path).header(header::ACCEPT, "text/html,*/*").body(Body::empty()).unwrap();
    let page = server.send(browser("/nothing")).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    assert_eq!(server.send(browser("/v1/nothing")).await.error()["code"], "not_found");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_body_without_end_is_cut_off_for_json_too(db: PgPool) {
    let server = Server::new(db).await;
    let body = Body::from(vec![b' '; 3 << 20]);
    let refused = server.send(Request::post("/v1/fine_tuning/jobs").body(body).unwrap()).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(refused.error()["code"], "too_large");
}

#[tokio::test]
async fn a_database_that_is_away_is_a_503_in_time_and_in_json() {
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(std::time::Duration::from_millis(200))
        .connect_lazy("postgres://nobody@localhost/none?host=/nonexistent")
        .unwrap();
    let server = Server::new(pool).await;
    for path in ["/v1/models", "/v1/files", "/v1/fine_tuning/jobs", "/readyz"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.error()["code"], "unavailable");
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
        assert!(!answer.text().contains("nonexistent"), "no word of the inside: {}", answer.text());
    }
    assert_eq!(server.get("/healthz").await.status, StatusCode::OK);
    assert!(server.get("/metrics").await.text().contains("luthier_database_up 0"));
}

#[test]
fn beyond_loopback_there_is_no_server_without_a_key() {
    use clap::Parser;
    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        config: luthier::Config,
    }
    let settings = |words: &[&str]| Settings::parse_from([&["luthier"], words].concat()).config;
    assert!(settings(&["--listen", "127.0.0.1:0"]).check().is_ok());
    assert!(settings(&["--listen", "[::1]:0"]).check().is_ok());
    let refused = settings(&["--listen", "0.0.0.0:80"]).check().unwrap_err();
    assert!(refused.contains("LUTHIER_API_KEY"), "{refused}");
    assert!(settings(&["--listen", "0.0.0.0:80", "--api-key", "a-long-secret"]).check().is_ok());
    assert!(settings(&["--api-key", "short"]).check().is_err());
    let empty = settings(&["--api-key", "", "--database-url", "", "--allowed-hosts", ""]).without_empty();
    assert!(empty.check().is_ok() && empty.api_key.is_none() && empty.database_url.is_none());
    assert!(empty.allowed_hosts.is_empty());
}
