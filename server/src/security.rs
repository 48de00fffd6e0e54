//! What stands in front of every route.
//!
//! From outside to inside: a request id, a log line and a count; panics become a 500; headers that keep a browser from
//! running what others brought; the `Host` and `Origin` checks; the API key; errors as pages for browsers.
//!
//! A server without a key on loopback is open to every program of this machine, and a browser is such a program: any
//! page may send it requests. [`check_host`] keeps a page from reaching it under a name of its own (DNS rebinding),
//! [`check_origin`] keeps other pages from changing state.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

use crate::error::{Error, Problem, Result};
use crate::{AppState, Config, pages, telemetry};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Time until the head of an answer to a question.
const LONGEST_ANSWER: Duration = Duration::from_secs(9);

/// No script but our own files, no frame around us, no form that leads elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Puts every layer around `routes`.
pub fn protect(routes: Router<AppState>, state: &AppState) -> Router<AppState> {
    routes
        .fallback(|| async { Error::not_found("there is nothing under this address") })
        .method_not_allowed_fallback(|method: Method| async move {
            Error::Method(format!("this address does not answer {method} requests"))
        })
        .layer(from_fn(limit_time))
        .layer(from_fn(show_errors_as_pages))
        .layer(from_fn_with_state(state.clone(), check_key))
        .layer(from_fn_with_state(state.clone(), check_origin))
        .layer(from_fn_with_state(state.clone(), check_host))
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(1024).and(is_text)))
        .layer(from_fn(set_headers))
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn_with_state(state.clone(), telemetry::observe))
        .layer(from_fn(set_request_id))
}

/// Answers in time even where the database hangs instead of failing. What reads the whole of an upload may take longer,
/// and so may bodies: the time is until the head of the answer.
async fn limit_time(request: Request, next: Next) -> Result<Response> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(next.run(request).await);
    }
    let late = |_| {
        Error::Unavailable("the server is too busy to answer in time; try again in a few seconds".to_owned())
    };
    tokio::time::timeout(LONGEST_ANSWER, next.run(request)).await.map_err(late)
}

/// Gives each request an id, in its log lines and in the answer; a client's own id is kept when it is a plain word.
async fn set_request_id(mut request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(X_REQUEST_ID)
        .filter(|id| {
            id.len() <= 64 && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        })
        .cloned()
        .unwrap_or_else(|| {
            HeaderValue::from_str(&format!("req_{}", uuid::Uuid::now_v7().simple())).expect("hex digits")
        });
    request.headers_mut().insert(X_REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

/// Headers of every answer; a handler that has set one of its own keeps it.
async fn set_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Refuses names that a foreign page could have pointed at this machine.
async fn check_host(State(state): State<AppState>, request: Request, next: Next) -> Result<Response> {
    let host = host_of(&request).ok_or_else(|| Error::bad_request("no_host", "the request names no host"))?;
    if !may_be_reached_as(&state.config, &host) {
        return Err(Error::Forbidden(format!(
            "this server does not answer to the name {host:?}; if it should, start it with LUTHIER_ALLOWED_HOSTS={}",
            name_of(&host)
        )));
    }
    Ok(next.run(request).await)
}

/// Refuses requests that another site's page sends to change something here.
async fn check_origin(State(state): State<AppState>, request: Request, next: Next) -> Result<Response> {
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        let host = host_of(&request).unwrap_or_default();
        if !comes_from_here(request.headers(), &host, &state.config) {
            return Err(Error::Forbidden(
                "this request was sent by a page of another site and would change something here; it was refused".to_owned(),
            ));
        }
    }
    Ok(next.run(request).await)
}

/// Demands the API key where one is configured.
async fn check_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let open = ["/healthz", "/readyz"].contains(&request.uri().path());
    let Some(key) = state.config.api_key.as_ref().filter(|_| !open) else {
        return next.run(request).await;
    };
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if shown.and_then(key_of).is_some_and(|shown| bool::from(shown.as_bytes().ct_eq(key.expose().as_bytes())))
    {
        return next.run(request).await;
    }
    let sentence = match shown {
        None => "an API key is needed: send it as Authorization: Bearer KEY, or as the password in a browser",
        Some(_) => "the API key is not right",
    };
    let challenge = match is_api(request.uri().path()) {
        true => "Bearer realm=\"Luthier\"",
        false => "Basic realm=\"Luthier\", charset=\"UTF-8\"",
    };
    let mut response = Error::Unauthorized(sentence).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// Replaces the JSON of a failed answer by a page where a browser asked for one.
async fn show_errors_as_pages(request: Request, next: Next) -> Response {
    let wants_page = !is_api(request.uri().path())
        && request
            .headers()
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("text/html"));
    let response = next.run(request).await;
    match response.extensions().get::<Problem>() {
        Some(problem) if wants_page => pages::error_page(problem),
        _ => response,
    }
}

fn answer_panic(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Error::Internal(anyhow::anyhow!("panic: {text}")).into_response()
}

/// Whether the address belongs to programs, which read JSON whatever they say they accept.
fn is_api(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

fn is_text(
    _: axum::http::StatusCode,
    _: axum::http::Version,
    headers: &HeaderMap,
    _: &axum::http::Extensions,
) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    [
        "text/html",
        "text/css",
        "text/javascript",
        "application/javascript",
        "application/json",
        "image/svg+xml",
    ]
    .iter()
    .any(|text| kind.starts_with(text))
}

/// The host of a request, with its port: HTTP/2 has it in the address, HTTP/1 in a header.
fn host_of(request: &Request) -> Option<String> {
    let header = request.headers().get(header::HOST).map(|host| host.to_str().map(str::to_owned).ok());
    match header {
        Some(host) => host,
        None => request.uri().authority().map(ToString::to_string),
    }
}

fn name_of(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    &host[..end]
}

/// Addresses and localhost cannot be rebound; other names must be allowed, or a key must guard the server:
/// a browser sends a key only to the name it was typed in for.
fn may_be_reached_as(config: &Config, host: &str) -> bool {
    let name = name_of(host).trim_end_matches('.').to_ascii_lowercase();
    let plain = name.trim_start_matches('[').trim_end_matches(']');
    plain.parse::<std::net::IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || config.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&name))
        || (config.api_key.is_some() && config.allowed_hosts.is_empty())
}

/// Browsers say where a request comes from; programs say nothing.
fn comes_from_here(headers: &HeaderMap, host: &str, config: &Config) -> bool {
    if let Some(origin) = headers.get(header::ORIGIN) {
        let Some((_, authority)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
            return false;
        };
        return authority.eq_ignore_ascii_case(host)
            || config.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name_of(authority)));
    }
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => true,
        Some(_) => false,
    }
}

/// The key in a header: `Bearer KEY`, or the password of `Basic …` with any user name.
fn key_of(authorization: &str) -> Option<String> {
    let (scheme, rest) = authorization.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(rest.trim().to_owned()),
        "basic" => {
            use base64::Engine;
            let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
            let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
            Some(password.to_owned())
        }
        _ => None,
    }
}
