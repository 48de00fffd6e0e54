//! The same request sent twice makes one thing.
//!
//! OpenAI's clients repeat a POST after a lost connection or a 5xx without an idempotency key; only their retry count
//! tells. A client that sends `Idempotency-Key` is served by that.

use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::PgPool;
use store::file::{self, File, NewFile};
use store::idempotency::{self, Claim};
use store::queue::Dedup;

use crate::{Error, Result};

/// Time within which a repeated body is the same request.
const RETRY_WITHIN: Duration = Duration::from_secs(60);

/// The client's own key for a request.
pub fn key_of(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Error::bad_request(
            "invalid_idempotency_key",
            "Idempotency-Key must have 1 to 255 plain characters",
        )),
    }
}

/// How a repetition of a request for a job is known.
pub fn dedup_of(headers: &HeaderMap, body: &Map<String, Value>) -> Result<Dedup> {
    let retries =
        headers.get("x-stainless-retry-count").and_then(|count| count.to_str().ok()?.parse::<u32>().ok());
    Ok(Dedup {
        key: key_of(headers)?,
        request_hash: hash_of(&json!(body)),
        retry_within: retries.is_some_and(|count| count > 0).then_some(RETRY_WITHIN),
    })
}

/// Makes the row of a file, unless the same key has made it before.
pub async fn create_file_once(db: &PgPool, new: &NewFile, key: Option<String>) -> Result<File> {
    let Some(key) = key else {
        return Ok(file::create(db, new).await?);
    };
    let request = hash_of(&json!([new.name, new.purpose, new.content.hash]));
    let mut tx = db.begin().await?;
    match idempotency::claim(&mut tx, "file", &key, &request).await? {
        Claim::New => {}
        Claim::Seen(id) => {
            let id = id.parse().map_err(anyhow::Error::from)?;
            let seen = file::get(&mut *tx, id).await?;
            return seen
                .ok_or_else(|| Error::not_found(format!("the file {id} that this key made was deleted")));
        }
        Claim::Other(id) => return Err(reused(&key, &id)),
    }
    let made = file::create(&mut *tx, new).await?;
    idempotency::settle(&mut tx, "file", &key, &made.file_id.to_string()).await?;
    tx.commit().await?;
    Ok(made)
}

fn reused(key: &str, made: &str) -> Error {
    Error::bad_request(
        "idempotency_key_reused",
        format!(
            "the idempotency key \"{key}\" was used for another request, which made {made}; choose a new key"
        ),
    )
}

/// Hash of a JSON value, whatever the order of its keys.
fn hash_of(value: &Value) -> String {
    hex::encode(Sha256::digest(sorted(value).to_string()))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut pairs: Vec<_> = fields.iter().collect();
            pairs.sort_by_key(|(name, _)| *name);
            Value::Object(pairs.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_does_not_make_another_request() {
        let (a, b) = (json!({"a": 1, "b": {"c": 2, "d": 3}}), json!({"b": {"d": 3, "c": 2}, "a": 1}));
        assert_eq!(hash_of(&a), hash_of(&b));
        assert_ne!(hash_of(&a), hash_of(&json!({"a": 1})));
    }

    #[test]
    fn only_a_retry_is_looked_for_by_its_body() {
        let body = Map::new();
        let mut headers = HeaderMap::new();
        assert_eq!(dedup_of(&headers, &body).unwrap().retry_within, None);
        headers.insert("x-stainless-retry-count", "0".parse().unwrap());
        assert_eq!(dedup_of(&headers, &body).unwrap().retry_within, None);
        headers.insert("x-stainless-retry-count", "1".parse().unwrap());
        assert_eq!(dedup_of(&headers, &body).unwrap().retry_within, Some(RETRY_WITHIN));
    }
}
