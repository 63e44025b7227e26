//! Every refusal as an RFC 9457 problem body.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fota_proto::manager::Problem;

use crate::store::StoreError;

/// The media type of a problem body.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A refusal on its way out of a handler.
#[derive(Clone, Debug)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    field: Option<String>,
    detail: String,
    retry_after_s: Option<u32>,
}

impl Refusal {
    /// A refusal with a stable code and a sentence that says what is wrong and what to do.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            field: None,
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    /// A field of the request is wrong.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "field_invalid", detail).of(field)
    }

    /// What was asked for does not exist.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        let detail = format!("there is no {what}");
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// The request contradicts what is stored.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// Names the field that is wrong.
    pub fn of(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says when to try again.
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence; for adapters that have their own form of errors.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    fn problem(self) -> Problem {
        Problem {
            kind: format!("about:blank#{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            field: self.field,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, retry_after_s) = (self.status, self.retry_after_s);
        let mut response = (status, Json(self.problem())).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The server's own trouble: logged here, once, and told without its inside.
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the database did not do its work");
        let busy = matches!(&error, StoreError::Database(sqlx::Error::PoolTimedOut));
        let (status, code) = if busy {
            (StatusCode::SERVICE_UNAVAILABLE, "busy")
        } else {
            (StatusCode::INTERNAL_SERVER_ERROR, "database")
        };
        Self::new(
            status,
            code,
            "the database did not answer: see the server's log, then try again",
        )
    }
}

impl From<crate::blobs::BlobError> for Refusal {
    fn from(error: crate::blobs::BlobError) -> Self {
        tracing::error!(%error, "the artifact store did not do its work");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "artifact_store",
            "the artifact store did not answer: see the server's log, then try again",
        )
    }
}

/// For a path that no route has.
pub async fn not_found(uri: axum::http::Uri) -> Refusal {
    let path: String = uri.path().chars().take(120).collect();
    Refusal::not_found(format!(
        "path {path:?}: see /api/openapi.json for those that exist"
    ))
}

/// For a path that exists with another method.
pub async fn method_not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> Refusal {
    let path: String = uri.path().chars().take(120).collect();
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{path:?} does not take {method}: see /api/openapi.json"),
    )
}

/// What is left of a panic: a bug of ours, never the caller's fault.
pub fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a request handler panicked");
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "bug",
        "this is a bug of the server: please report it with the server's log",
    )
    .into_response()
}
