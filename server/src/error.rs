//! What can go wrong in a handler, and how it is told.
//!
//! `Display` is what the visitor may read. A cause that is ours is logged once, here, and answered with one fixed
//! sentence. The answer is OpenAI's error body; [`crate::security`] turns it into a page for a browser.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Result of a handler.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Returns `400 Bad Request`: a field or its value cannot be accepted.
    #[error("{message}")]
    Invalid {
        /// What is wrong and what would be right.
        message: String,
        /// Dotted path of the field.
        param: Option<String>,
        /// A word for programs.
        code: Cow<'static, str>,
    },
    /// Returns `401 Unauthorized`: the API key is missing or wrong.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// Returns `403 Forbidden`: the request comes from a page or a name that is not this server's.
    #[error("{0}")]
    Forbidden(String),
    /// Returns `404 Not Found`.
    #[error("{message}")]
    NotFound {
        /// What was looked for.
        message: String,
        /// Field that named it, if it was not the address.
        param: Option<String>,
    },
    /// Returns `405 Method Not Allowed`.
    #[error("{0}")]
    Method(String),
    /// Returns `413 Payload Too Large`.
    #[error("{0}")]
    TooLarge(String),
    /// Returns `416 Range Not Satisfiable` for a content of so many bytes.
    #[error("the range asked for lies outside of the content ({0} bytes)")]
    Range(u64),
    /// Returns `503 Service Unavailable`: the database or a needed process is away.
    #[error("{0}")]
    Unavailable(String),
    /// Returns `500 Internal Server Error`.
    #[error("something went wrong inside Luthier; the server's log has the details under this request's id")]
    Internal(anyhow::Error),
}

/// What a failed answer says; kept in the response so that a page can be made of it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Status of the answer.
    pub status: StatusCode,
    /// Sentence for the visitor.
    pub message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl Error {
    /// A value that cannot be accepted in field `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Invalid { message: message.into(), param: Some(param.into()), code: "invalid_value".into() }
    }

    /// A request that cannot be accepted as a whole.
    pub fn bad_request(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Error::Invalid { message: message.into(), param: None, code: code.into() }
    }

    /// Nothing under this name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Error::NotFound { message: message.into(), param: None }
    }

    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Error::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn kind(&self) -> (&'static str, Option<&str>) {
        match self {
            Error::Invalid { code, .. } => ("invalid_request_error", Some(code)),
            Error::Unauthorized(_) => ("authentication_error", Some("invalid_api_key")),
            Error::Forbidden(_) => ("permission_error", Some("forbidden")),
            Error::NotFound { .. } => ("invalid_request_error", Some("not_found")),
            Error::Method(_) => ("invalid_request_error", Some("method_not_allowed")),
            Error::TooLarge(_) => ("invalid_request_error", Some("too_large")),
            Error::Range(_) => ("invalid_request_error", Some("range_not_satisfiable")),
            Error::Unavailable(_) => ("server_error", Some("unavailable")),
            Error::Internal(_) => ("server_error", None),
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Error::Invalid { param, .. } | Error::NotFound { param, .. } => param.as_deref(),
            _ => None,
        }
    }

    /// The error in OpenAI's shape, as an answer and as a message of a stream have it.
    pub fn to_json(&self) -> serde_json::Value {
        let message = self.to_string();
        let (r#type, code) = self.kind();
        serde_json::json!(Body { error: Inner { message: &message, r#type, param: self.param(), code } })
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match &self {
            Error::Internal(cause) => {
                tracing::error!(error = format!("{cause:#}"), "request failed")
            }
            Error::Unavailable(message) => tracing::warn!(message, "request could not be served"),
            _ => {}
        }
        let status = self.status();
        let mut response = (status, Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        match self {
            Error::Unavailable(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Error::Range(bytes) => {
                headers.insert(
                    header::CONTENT_RANGE,
                    HeaderValue::from_str(&format!("bytes */{bytes}")).expect("digits"),
                );
            }
            _ => {}
        }
        response.extensions_mut().insert(Problem { status, message: self.to_string() });
        response
    }
}

impl From<anyhow::Error> for Error {
    fn from(cause: anyhow::Error) -> Self {
        match cause.downcast::<sqlx::Error>() {
            Ok(cause) => cause.into(),
            Err(cause) => Error::Internal(cause),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(cause: sqlx::Error) -> Self {
        if database_is_away(&cause) {
            tracing::warn!(error = %cause, "the database is away");
            return Error::Unavailable(
                "the database is not reachable at the moment; try again in a few seconds".to_owned(),
            );
        }
        Error::Internal(anyhow::Error::new(cause).context("database"))
    }
}

impl From<store::ObjectsError> for Error {
    fn from(cause: store::ObjectsError) -> Self {
        Error::Internal(cause.into())
    }
}

impl From<store::PutError> for Error {
    fn from(cause: store::PutError) -> Self {
        match cause {
            store::PutError::Db(cause) => cause.into(),
            store::PutError::Objects(cause) => cause.into(),
        }
    }
}

impl From<store::spec::SpecError> for Error {
    fn from(wrong: store::spec::SpecError) -> Self {
        Error::invalid(wrong.param.clone(), wrong.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(cause: std::io::Error) -> Self {
        Error::Internal(cause.into())
    }
}

/// Whether the error is of the connection, not of the question.
fn database_is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => true,
        // Class 08: connection; 57P01..57P03: shutdown, crash, starting up; 53300: too many connections.
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code == "53300"),
        _ => false,
    }
}
