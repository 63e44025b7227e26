//! Sending artifacts, and proving how much of one a device already has.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fota_proto::{
    Sha256,
    checkin::Held,
    limits::{HEAD_BYTES, HELD_DIGEST_BYTES},
};
use http_body::{Frame, SizeHint};
use sha2::Digest;

use crate::{AppState, api::problem::Refusal, blobs::Blob, range};

/// Bytes handed to the connection at a time; what is counted as sent is exact to this much.
const PIECE_BYTES: usize = 64 * 1024;
/// The bytes under a digest never change.
pub const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// Answers a GET or HEAD of an artifact, whole or in part. What goes out is counted for `device`.
pub async fn send(
    state: &AppState,
    sha256: Sha256,
    method: &Method,
    asked: &HeaderMap,
    device: Option<String>,
) -> Result<Response, Refusal> {
    let found = state.blobs.find(sha256).await?;
    let blob =
        found.ok_or_else(|| Refusal::not_found(format!("artifact {sha256}")).of("sha256"))?;
    let etag = format!("\"{sha256}\"");
    if names(asked, header::IF_NONE_MATCH, &etag) {
        let headers = [
            (header::ETAG, text(&etag)),
            (header::CACHE_CONTROL, FOREVER),
        ];
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let length = blob.bytes.len() as u64;
    let (status, start, end) = match part(asked, &etag, length) {
        range::Answer::Whole => (StatusCode::OK, 0, length),
        range::Answer::Part { start, end } => (StatusCode::PARTIAL_CONTENT, start, end + 1),
        range::Answer::Unsatisfiable => return Ok(unsatisfiable(length)),
    };
    let counted = device.filter(|_| *method != Method::HEAD);
    let body = Pieces {
        rest: blob.bytes.slice(start as usize..end as usize),
        sent: 0,
        count_for: counted.map(|device| (state.clone(), device, sha256)),
    };
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    describe(response.headers_mut(), &blob, &etag, start, end);
    if status == StatusCode::PARTIAL_CONTENT {
        // Also where the part is all of it.
        let part = format!("bytes {start}-{}/{length}", end.saturating_sub(1));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_RANGE, text(&part));
    }
    Ok(response)
}

fn describe(headers: &mut HeaderMap, blob: &Blob, etag: &str, start: u64, end: u64) {
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::ETAG, text(etag));
    headers.insert(header::CACHE_CONTROL, FOREVER);
    headers.insert("x-md5", text(&blob.md5));
}

/// A range counts only where `If-Range` is absent or names these bytes.
fn part(asked: &HeaderMap, etag: &str, length: u64) -> range::Answer {
    let same = !asked.contains_key(header::IF_RANGE) || names(asked, header::IF_RANGE, etag);
    let range = asked
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    match range {
        Some(range) if same => range::parse(range, length),
        _ => range::Answer::Whole,
    }
}

fn names(asked: &HeaderMap, name: header::HeaderName, etag: &str) -> bool {
    let value = asked.get(name).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| {
        value
            .split(',')
            .any(|one| matches!(one.trim(), "*") || one.trim() == etag)
    })
}

fn unsatisfiable(length: u64) -> Response {
    let detail = format!("the range begins behind the end: the artifact has {length} bytes");
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    let refusal = Refusal::new(status, "range_not_satisfiable", detail).of("range");
    let mut response = refusal.into_response();
    let range = text(&format!("bytes */{length}"));
    response.headers_mut().insert(header::CONTENT_RANGE, range);
    response
}

fn text(value: &str) -> HeaderValue {
    // Digits, hex and quotes only.
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}

/// A body of known length in pieces, which counts what the connection took.
struct Pieces {
    rest: Bytes,
    sent: u64,
    count_for: Option<(AppState, String, Sha256)>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(bytes);
        self.sent += bytes as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Some((state, device, sha256)) = self.count_for.take() {
            state.fleet.sent(&device, sha256, self.sent, 1);
        }
    }
}

/// Length of the longest prefix that the device proves to have; its download goes on there.
pub async fn longest_held(state: &AppState, sha256: Sha256, held: &[Held]) -> Result<u32, Refusal> {
    if held.is_empty() {
        return Ok(0);
    }
    let Some(blob) = state.blobs.find(sha256).await? else {
        return Ok(0);
    };
    let held = held.to_vec();
    let comparing = tokio::task::spawn_blocking(move || longest_true(&blob.bytes, held));
    // A claim that cannot be checked costs a longer download, nothing else.
    Ok(comparing.await.unwrap_or(0))
}

/// One pass over the image checks every claim.
fn longest_true(image: &[u8], mut held: Vec<Held>) -> u32 {
    held.sort_by_key(|claim| claim.bytes);
    let mut hasher = sha2::Sha256::new();
    let (mut hashed, mut longest) = (HEAD_BYTES, 0);
    for claim in held {
        let end = claim.bytes as usize;
        let Some(next) = image.get(hashed..end) else {
            continue;
        };
        hasher.update(next);
        hashed = end;
        let digest: [u8; 32] = hasher.clone().finalize().into();
        if digest[..HELD_DIGEST_BYTES] == claim.digest {
            longest = claim.bytes;
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(image: &[u8], bytes: u32) -> Held {
        let digest: [u8; 32] = sha2::Sha256::digest(&image[HEAD_BYTES..bytes as usize]).into();
        let mut short = [0; HELD_DIGEST_BYTES];
        short.copy_from_slice(&digest[..HELD_DIGEST_BYTES]);
        Held {
            bytes,
            digest: short,
        }
    }

    #[test]
    fn the_longest_true_claim_wins_and_lies_are_ignored() {
        let image: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        let lie = Held {
            bytes: 9_000,
            digest: [1; HELD_DIGEST_BYTES],
        };
        let beyond = Held {
            bytes: 20_000,
            digest: [1; HELD_DIGEST_BYTES],
        };
        let tiny = Held {
            bytes: 3,
            digest: [1; HELD_DIGEST_BYTES],
        };
        let claims = vec![beyond, claim(&image, 8192), lie, claim(&image, 4096), tiny];
        assert_eq!(longest_true(&image, claims), 8192);
        assert_eq!(longest_true(&image, vec![lie]), 0);
        assert_eq!(longest_true(&image, vec![claim(&image, 10_000)]), 10_000);
    }
}
