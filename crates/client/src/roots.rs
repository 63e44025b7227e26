//! The roots of trust that a server has, as the signed objects that they are.

use bytes::Bytes;
use fota_proto::signed::OBJECT_BYTES_MAX;
use reqwest::{Method, StatusCode, header};
use serde::Deserialize;

use crate::{Client, Error, REQUEST_TIMEOUT, Result, send};

/// What a server says of its part in signing; a server that signs nothing says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ServerSigning {
    /// The key it answers devices with: 65 bytes in hex digits.
    #[serde(default)]
    pub online_key: Option<String>,
    /// The newest root it has.
    #[serde(default)]
    pub root_version: Option<u32>,
}

impl Client {
    /// Which key the server answers with, and which root it has.
    pub async fn signing(&self) -> Result<ServerSigning> {
        self.fetch("/api/v1/server").await
    }

    /// The newest root; none where the server has no root yet.
    pub async fn current_root(&self) -> Result<Option<Bytes>> {
        let request = self
            .request(Method::GET, "/api/v1/roots/current")
            .timeout(REQUEST_TIMEOUT);
        let response = match send(request).await {
            Ok(response) => response,
            Err(Error::Problem(problem)) if problem.status == StatusCode::NOT_FOUND => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let url = response.url().to_string();
        let long = response
            .content_length()
            .is_some_and(|it| it > OBJECT_BYTES_MAX as u64);
        if long {
            return Err(Error::protocol(&url, "a root that is too long"));
        }
        let bytes = response.bytes().await;
        bytes
            .map(Some)
            .map_err(|error| Error::unreachable(&url, &error))
    }

    /// Hands a root to the server.
    pub async fn publish_root(&self, root: Vec<u8>) -> Result<()> {
        let request = self
            .request(Method::POST, "/api/v1/roots")
            .header(header::CONTENT_TYPE, "application/cose")
            .timeout(REQUEST_TIMEOUT)
            .body(root);
        send(request).await.map(drop)
    }
}
