//! Roots, the rule for unsigned images, and the release log.

use bytes::Bytes;
use fota_proto::{
    limits::OBJECT_BYTES_MAX,
    manager::{LogEntry, ProductSigning, ProductSigningRequest, Root},
};
use reqwest::{Method, header};
use serde::Deserialize;

use crate::{Client, Error, REQUEST_TIMEOUT, Result, segment, send};

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

/// An object as it was served: a COSE envelope where it is signed, bare CBOR where it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// Whether it says that it is signed; nothing is verified here.
    pub is_signed: bool,
}

impl Client {
    /// Which key the server answers with, and which root it has.
    pub async fn signing(&self) -> Result<ServerSigning> {
        self.fetch("/api/v1/server").await
    }

    /// Adds a root, as signed.
    pub async fn add_root(&self, root: Bytes) -> Result<Root> {
        let request = self.request(Method::POST, "/api/v1/roots");
        let request = request.header(header::CONTENT_TYPE, "application/cose");
        self.answer(request.timeout(REQUEST_TIMEOUT).body(root))
            .await
    }

    /// Every root, newest first.
    pub async fn roots(&self) -> Result<Vec<Root>> {
        self.list("/api/v1/roots", &()).await
    }

    /// The newest root as it was signed; none where there is none.
    pub async fn current_root(&self) -> Result<Option<Bytes>> {
        match self.object("/api/v1/roots/current").await {
            Ok(object) => Ok(Some(object.bytes)),
            Err(Error::Problem(problem)) if problem.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether unsigned images of a product are taken.
    pub async fn product_signing(&self, product: &str) -> Result<ProductSigning> {
        self.fetch(&format!("/api/v1/products/{}/signing", segment(product)))
            .await
    }

    /// Says whether unsigned images of a product are taken.
    pub async fn set_product_signing(
        &self,
        product: &str,
        unsigned: bool,
    ) -> Result<ProductSigning> {
        let path = format!("/api/v1/products/{}/signing", segment(product));
        let request = self.request(Method::PUT, &path).timeout(REQUEST_TIMEOUT);
        self.answer(request.json(&ProductSigningRequest { unsigned }))
            .await
    }

    /// Every entry of the release log, oldest first.
    pub async fn log_entries(&self) -> Result<Vec<LogEntry>> {
        self.list("/api/v1/log", &()).await
    }

    /// The head of the release log, as devices are given it.
    pub async fn log_head(&self) -> Result<Object> {
        self.object("/d/v1/log/head").await
    }

    async fn object(&self, path: &str) -> Result<Object> {
        let request = self.request(Method::GET, path).timeout(REQUEST_TIMEOUT);
        let response = send(request).await?;
        let url = response.url().to_string();
        let kind = response.headers().get(header::CONTENT_TYPE);
        let is_signed = kind.is_some_and(|kind| kind == "application/cose");
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|error| Error::unreachable(&url, &error))?;
        if bytes.len() > OBJECT_BYTES_MAX {
            let reason = format!("{} bytes; {OBJECT_BYTES_MAX} are allowed", bytes.len());
            return Err(Error::protocol(&url, reason));
        }
        Ok(Object { bytes, is_signed })
    }
}
