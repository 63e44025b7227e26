//! Replies in the seed's form.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use super::{chunk::Chunks, upload::Refused};
use crate::{api::problem::Refusal, domain::model::Release, store::StoreError, web::time};

/// A refusal: `{"error": "…"}`, and beside it what the seed never said: a stable code and the
/// field that is wrong.
#[derive(Debug)]
pub struct SeedError {
    status: StatusCode,
    error: String,
    code: &'static str,
    field: Option<&'static str>,
}

impl SeedError {
    pub fn new(status: StatusCode, code: &'static str, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            code,
            field: None,
        }
    }

    /// A field of the request is wrong.
    pub fn field(field: &'static str, error: impl Into<String>) -> Self {
        Self {
            field: Some(field),
            ..Self::new(StatusCode::BAD_REQUEST, "field_invalid", error)
        }
    }
}

impl IntoResponse for SeedError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.error, "code": self.code });
        if let Some(field) = self.field {
            body["field"] = field.into();
        }
        (self.status, Json(body)).into_response()
    }
}

impl From<Refused> for SeedError {
    fn from(refused: Refused) -> Self {
        Self::field(refused.field, refused.error)
    }
}

impl From<Refusal> for SeedError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status(), refusal.code(), refusal.detail())
    }
}

impl From<StoreError> for SeedError {
    fn from(error: StoreError) -> Self {
        Refusal::from(error).into()
    }
}

impl From<crate::blobs::BlobError> for SeedError {
    fn from(error: crate::blobs::BlobError) -> Self {
        Refusal::from(error).into()
    }
}

/// What a device is told of a release. Its JSON must stay below 1 KB: the seed's device parses it
/// in a pool of 2,048 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    version: String,
    size: u64,
    hash: String,
    chunk_size: u32,
    uploaded_at: String,
}

impl Manifest {
    pub fn new(release: &Release, chunks: Chunks) -> Self {
        Self {
            version: release.version.clone(),
            size: release.bytes,
            hash: release.sha256.to_string(),
            chunk_size: chunks.chunk_bytes.get(),
            uploaded_at: time::iso_micros(release.uploaded_at),
        }
    }
}
