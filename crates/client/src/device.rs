//! The device API, for devices that are simulated.

use std::ops::Range;

use bytes::Bytes;
use fota_proto::{
    Sha256,
    limits::{CHECK_IN_BYTES_MAX, OBJECT_BYTES_MAX},
    signed::Sealed,
};
use reqwest::{StatusCode, header};

use crate::{Error, REQUEST_TIMEOUT, Result, connection, manager::chunk, send};

/// A device's connection to its server.
#[derive(Clone, Debug)]
pub struct DeviceClient {
    http: reqwest::Client,
    base: String,
    id: Option<String>,
}

impl DeviceClient {
    /// A device that talks to the server at `base`. `id` is sent as `Device-ID` with downloads,
    /// where the server uses it to account bytes and for nothing else.
    ///
    /// # Errors
    /// [`Error::Protocol`] where `base` is no http or https URL.
    pub fn new(base: &str, id: Option<String>) -> Result<Self> {
        Self::trusting(base, id, None)
    }

    /// As [`DeviceClient::new`]; `ca` is the PEM of the certificates that the server's must come
    /// from, instead of those that the system trusts.
    ///
    /// # Errors
    /// [`Error::Protocol`] where `base` is no http or https URL, or `ca` holds no certificate.
    pub fn trusting(base: &str, id: Option<String>, ca: Option<&[u8]>) -> Result<Self> {
        let (http, base) = connection(base, ca)?;
        Ok(Self { http, base, id })
    }

    /// Another device that talks to the same server; it shares the connections of this one, so
    /// that thousands of simulated devices fit into one process.
    pub fn for_device(&self, id: &str) -> Self {
        Self {
            id: Some(id.to_owned()),
            ..self.clone()
        }
    }

    /// Sends an encoded check-in, plain or sealed, and gives the encoded answer.
    pub async fn check_in(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.post("check-in", message).await
    }

    /// Sends an encoded and signed enrolment and gives the encoded answer.
    pub async fn enrol(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.post("enrol", message).await
    }

    async fn post(&self, path: &str, message: &[u8]) -> Result<Vec<u8>> {
        let url = format!("{}/d/v1/{path}", self.base);
        let media = match Sealed::looks_like(message) {
            true => "application/cose",
            false => "application/cbor",
        };
        let request = self
            .http
            .post(&url)
            .header(header::CONTENT_TYPE, media)
            .timeout(REQUEST_TIMEOUT)
            .body(message.to_vec());
        let response = send(request).await?;
        let answer = response
            .bytes()
            .await
            .map_err(|error| Error::unreachable(&url, &error))?;
        if answer.len() > CHECK_IN_BYTES_MAX {
            let bytes = answer.len();
            let reason = format!("answer of {bytes} bytes; {CHECK_IN_BYTES_MAX} are allowed");
            return Err(Error::protocol(&url, reason));
        }
        Ok(answer.to_vec())
    }

    /// A root of trust, as it was signed.
    pub async fn root(&self, version: u32) -> Result<Vec<u8>> {
        self.small(format!("{}/d/v1/roots/{version}", self.base))
            .await
    }

    /// A signed object, whole.
    pub async fn object(&self, sha256: &Sha256) -> Result<Vec<u8>> {
        self.small(format!("{}/d/v1/blobs/{sha256}", self.base))
            .await
    }

    /// The proof that a release is among the first `size` entries of the release log.
    pub async fn log_proof(&self, release: &Sha256, size: u64) -> Result<Vec<u8>> {
        let query = format!("leaf={release}&size={size}");
        self.small(format!("{}/d/v1/log/proof?{query}", self.base))
            .await
    }

    /// The proof that the release log only grew between two sizes.
    pub async fn log_growth(&self, from: u64, to: u64) -> Result<Vec<u8>> {
        let query = format!("from={from}&to={to}");
        self.small(format!("{}/d/v1/log/consistency?{query}", self.base))
            .await
    }

    async fn small(&self, url: String) -> Result<Vec<u8>> {
        let mut response = send(self.http.get(&url).timeout(REQUEST_TIMEOUT)).await?;
        let mut body = Vec::new();
        while let Some(part) = chunk(&mut response, &url).await? {
            body.extend(part);
            if body.len() > OBJECT_BYTES_MAX {
                let reason = format!("an object of more than {OBJECT_BYTES_MAX} bytes");
                return Err(Error::protocol(&url, reason));
            }
        }
        Ok(body)
    }

    /// The bytes of a blob from the start of this range to the end of the blob, which is the end of
    /// the range. From 0 on no part is asked for, so that any cache can answer.
    ///
    /// # Errors
    /// [`Error::Protocol`] where status or `Content-Range` are not those of the bytes asked for.
    pub async fn blob(&self, sha256: &Sha256, range: Range<u64>) -> Result<Blob> {
        if range.start > 0 {
            return self.blob_part(sha256, range).await;
        }
        let url = self.blob_url(sha256);
        let response = send(self.blob_request(&url)).await?;
        let total = whole(&response).map_err(|reason| Error::protocol(&url, reason))?;
        Ok(Blob {
            response,
            url,
            total,
            end: total,
            position: 0,
        })
    }

    /// The bytes of a blob in this range, and no more.
    ///
    /// # Errors
    /// As those of [`DeviceClient::blob`].
    pub async fn blob_part(&self, sha256: &Sha256, range: Range<u64>) -> Result<Blob> {
        let url = self.blob_url(sha256);
        let last = range.end.saturating_sub(1);
        let bytes = format!("bytes={}-{last}", range.start);
        let response = send(self.blob_request(&url).header(header::RANGE, bytes)).await?;
        let total = part(&response, &range).map_err(|reason| Error::protocol(&url, reason))?;
        Ok(Blob {
            response,
            url,
            total,
            end: range.end,
            position: range.start,
        })
    }

    fn blob_url(&self, sha256: &Sha256) -> String {
        format!("{}/d/v1/blobs/{sha256}", self.base)
    }

    fn blob_request(&self, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(url);
        match &self.id {
            Some(id) => request.header("Device-ID", id),
            None => request,
        }
    }
}

/// A blob as its bytes arrive.
#[derive(Debug)]
pub struct Blob {
    response: reqwest::Response,
    url: String,
    total: u64,
    end: u64,
    position: u64,
}

impl Blob {
    /// Length of the whole blob, wherever the stream started.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Position of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes; none at the end of the range.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where the connection breaks before the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match chunk(&mut self.response, &self.url).await? {
            Some(bytes) => {
                self.position += bytes.len() as u64;
                Ok(Some(bytes))
            }
            None if self.position == self.end => Ok(None),
            None => Err(Error::Unreachable {
                url: self.url.clone(),
                reason: format!("ended at byte {} of {}", self.position, self.end),
            }),
        }
    }
}

fn whole(response: &reqwest::Response) -> std::result::Result<u64, String> {
    response
        .content_length()
        .ok_or_else(|| "no Content-Length".to_owned())
}

fn part(response: &reqwest::Response, wanted: &Range<u64>) -> std::result::Result<u64, String> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Err(format!("HTTP {} for a part of a blob", response.status()));
    }
    let range = response.headers().get(header::CONTENT_RANGE);
    let range = range
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match parse_content_range(range) {
        Some((first, last, total)) if (first, last + 1) == (wanted.start, wanted.end) => Ok(total),
        _ => Err(format!(
            "Content-Range {range:?} for bytes {wanted:?} of a blob"
        )),
    }
}

/// `bytes FIRST-LAST/TOTAL`
fn parse_content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total: u64 = total.parse().ok()?;
    (first <= last && last < total).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_strictly() {
        assert_eq!(parse_content_range("bytes 4096-9/10"), None);
        assert_eq!(parse_content_range("bytes 4-9/10"), Some((4, 9, 10)));
        for bad in ["", "bytes */10", "bytes 4-10/10", "bytes 4-9/*", "4-9/10"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
