//! Style, scripts and pictures, embedded into the program.
//!
//! An address holds the hash of all of them, so that a browser may keep each for ever and still never mixes the files
//! of two versions; modules import each other by relative paths and stay under the same hash.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// What is written for this program.
#[derive(RustEmbed)]
#[folder = "../static"]
struct Own;

/// What `make setup` fetches from npm: uPlot and htmx.
#[derive(RustEmbed)]
#[folder = "../build/web"]
struct Fetched;

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = Sha256::new();
    for name in Own::iter().chain(Fetched::iter()) {
        let hash = file(&name).map(|file| file.metadata.sha256_hash()).unwrap_or_default();
        hasher.update(name.as_bytes());
        hasher.update(hash);
    }
    hex::encode(&hasher.finalize()[..6])
});

fn file(path: &str) -> Option<EmbeddedFile> {
    Own::get(path).or_else(|| Fetched::get(path))
}

/// The address of an embedded file.
pub fn url(path: &str) -> String {
    format!("/static/{}/{path}", *VERSION)
}

/// Answers with an embedded file.
pub async fn show(Path((version, path)): Path<(String, String)>) -> Result<Response> {
    let file = file(&path).ok_or_else(|| Error::not_found("there is no such file in this version"))?;
    // A page of an older version may still ask; it gets the file of today, and keeps it for this once.
    let keep = if version == *VERSION { "public, max-age=31536000, immutable" } else { "no-cache" };
    let kind = file.metadata.mimetype().to_owned();
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, keep.to_owned())];
    Ok((headers, file.data.into_owned()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_the_layout_links_is_embedded() {
        let layout = include_str!("../../../templates/layout.html");
        let linked: Vec<&str> =
            layout.split("page.asset(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(linked.len() >= 5, "{linked:?}");
        for path in linked {
            assert!(file(path).is_some(), "{path} is not embedded");
        }
    }
}
