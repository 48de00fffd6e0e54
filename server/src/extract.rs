//! Reading requests, with errors in the API's own words.

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde_json::{Map, Value};
use store::BadId;

use crate::{Error, Result};

/// A body that is one JSON object.
#[derive(Debug)]
pub struct JsonObject(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for JsonObject {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let body =
            Bytes::from_request(request, state).await.map_err(|refused| match refused.status().as_u16() {
                413 => Error::TooLarge("the body is larger than the 2 MB that this address takes".to_owned()),
                _ => Error::bad_request("unreadable_body", "the body could not be read to its end"),
            })?;
        let value = serde_json::from_slice(&body)
            .map_err(|error| Error::bad_request("invalid_json", format!("the body is no JSON: {error}")))?;
        match value {
            Value::Object(fields) => Ok(JsonObject(fields)),
            _ => Err(Error::bad_request("invalid_json", "the body must be a JSON object")),
        }
    }
}

/// The pairs of an address's query, in order.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Query(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}

impl Query {
    /// The value of a name; an empty one is as good as none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, value)| found == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// All pairs.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A value in its own type.
    pub fn parse<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<Option<T>> {
        self.get(name)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| Error::invalid(name, format!("expected {expected}, found \"{value}\"")))
            })
            .transpose()
    }

    /// How many to list: from 1 to `most`, larger numbers are taken for `most`.
    pub fn limit(&self, default: i64, most: i64) -> Result<i64> {
        match self.parse::<i64>("limit", "a whole number")? {
            None => Ok(default),
            Some(limit) if limit >= 1 => Ok(limit.min(most)),
            Some(limit) => Err(Error::invalid("limit", format!("must be at least 1, found {limit}"))),
        }
    }

    /// The id after which a list goes on.
    pub fn after<T: FromStr<Err = BadId>>(&self) -> Result<Option<T>> {
        self.get("after")
            .map(|id| id.parse().map_err(|error: BadId| Error::invalid("after", error.to_string())))
            .transpose()
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | "True"))
    }
}

/// An id in an address; one that cannot be an id names nothing.
pub fn id_of<T: FromStr<Err = BadId>>(text: &str) -> Result<T> {
    text.parse().map_err(|error: BadId| Error::not_found(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    #[test]
    fn limits_are_capped_and_never_below_one() {
        assert_eq!(query("").limit(20, 100).unwrap(), 20);
        assert_eq!(query("limit=1000").limit(20, 100).unwrap(), 100);
        assert!(query("limit=0").limit(20, 100).is_err());
        assert!(query("limit=x").limit(20, 100).is_err());
    }

    #[test]
    fn brackets_arrive_escaped_or_plain() {
        let pairs = |text| query(text).pairs().map(|(a, b)| (a.to_owned(), b.to_owned())).collect::<Vec<_>>();
        assert_eq!(pairs("metadata%5Bk%5D=v"), pairs("metadata[k]=v"));
    }
}
