//! Log lines and counts of requests.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::AppState;
use crate::config::LogFormat;

/// Upper bounds, in seconds, of the buckets of request times.
const BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

/// Requests counted by method, route and status.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<BTreeMap<Key, Times>>>);

/// Method, route, status.
type Key = (String, String, u16);

#[derive(Clone, Default)]
struct Times {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Requests {
    fn add(&self, key: Key, seconds: f64) {
        let mut all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let times = all.entry(key).or_default();
        for (bucket, bound) in times.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
        times.count += 1;
        times.sum += seconds;
    }

    /// Writes the counts in Prometheus' text format.
    pub fn write(&self, out: &mut String) {
        use std::fmt::Write;
        out.push_str("# HELP luthier_http_request_seconds Time to the head of the answer.\n");
        out.push_str("# TYPE luthier_http_request_seconds histogram\n");
        let all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        for ((method, route, status), times) in all {
            let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
            let name = "luthier_http_request_seconds";
            for (bound, count) in BUCKETS.iter().zip(times.buckets) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", times.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", times.sum);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", times.count);
        }
    }
}

/// Logs and counts one request; the time is until the head of the answer, since bodies may stream for hours.
pub async fn observe(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    // The pattern, never the address itself: ids would make a count of their own each.
    let route =
        request.extensions().get::<MatchedPath>().map_or("other".to_owned(), |path| path.as_str().to_owned());
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!("request", request.id = id, http.method = method, http.path = path);
    let response = next.run(request).instrument(span.clone()).await;
    let elapsed = started.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    span.in_scope(|| tracing::debug!(http.status = status, seconds = elapsed, "request answered"));
    state.requests.add((method, route, status), elapsed);
    response
}

/// Starts logging to stderr; `RUST_LOG` chooses what is said, `default` where it is not set.
pub fn start_logging(format: LogFormat, default: &str) {
    let chosen = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|words| !words.trim().is_empty());
    let filter = EnvFilter::new(chosen.as_deref().unwrap_or(default));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first.
    let _ = match format {
        LogFormat::Text => lines.with_target(false).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
}
