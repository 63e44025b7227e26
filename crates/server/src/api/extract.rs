//! Reading a request, so that whatever is wrong with it is told with the name of the field.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http_body::Body as _;
use serde::de::DeserializeOwned;

use super::problem::Refusal;
use crate::http::TooSlow;

/// Largest JSON body: 10,000 device ids of 64 bytes fit.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;
/// A body that gives nothing for this long is given up.
const BODY_STALL_MAX: Duration = Duration::from_secs(30);

/// A JSON body.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        require_type(&parts.headers, "application/json")?;
        let bytes = whole_body(body, JSON_BYTES_MAX as u64).await?;
        parse_json(&bytes).map(Self)
    }
}

/// A JSON body that may be absent.
pub struct JsonOrNothing<T>(pub T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for JsonOrNothing<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let bytes = whole_body(body, JSON_BYTES_MAX as u64).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        require_type(&parts.headers, "application/json")?;
        parse_json(&bytes).map(Self)
    }
}

/// Parses JSON; the refusal names the field.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // serde would also fill a struct from an array, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::field("body", "body is no JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        field_refusal(&path, &error.into_inner().to_string())
    })?;
    json.end()
        .map_err(|error| Refusal::field("body", format!("body is not one JSON value: {error}")))?;
    Ok(parsed)
}

/// The parameters behind the `?`.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let query = parts.uri.query().unwrap_or("").as_bytes();
        let pairs = serde_urlencoded::Deserializer::new(url_pairs(query));
        serde_path_to_error::deserialize(pairs)
            .map(Self)
            .map_err(|error| {
                let path = error.path().to_string();
                field_refusal(&path, &error.into_inner().to_string())
            })
    }
}

fn url_pairs(query: &[u8]) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query)
}

/// The variable part of a path; a name that is no UTF-8 is refused like any other bad name.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(segment) = path.map_err(|_| bad_path())?;
        Ok(Self(segment))
    }
}

/// Two variable parts of a path.
pub struct Segments(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segments {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((first, second)) = path.map_err(|_| bad_path())?;
        Ok(Self(first, second))
    }
}

fn bad_path() -> Refusal {
    Refusal::field("path", "the path is not UTF-8")
}

/// Refuses a body of another media type than `wanted`.
pub fn require_type(headers: &HeaderMap, wanted: &str) -> Result<(), Refusal> {
    require_type_of(headers, &[wanted])
}

/// Refuses a body whose media type is none of `wanted`.
pub fn require_type_of(headers: &HeaderMap, wanted: &[&str]) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given.map_or("", |value| value.to_str().unwrap_or("?"));
    let media = given.split(';').next().unwrap_or("").trim();
    if wanted.iter().any(|kind| media.eq_ignore_ascii_case(kind)) {
        return Ok(());
    }
    let wanted = wanted.join(" or ");
    Err(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "content_type",
        format!("content-type is {given:?}: send {wanted}"),
    )
    .of("content-type"))
}

/// Refuses a compressed body on every route: nothing here decodes one, so a body is never larger
/// than what was sent and its limits are those of its bytes.
pub async fn refuse_encoded(request: Request, next: Next) -> Response {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING);
    let plain = |value: &HeaderValue| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"identity")
    };
    if let Some(encoding) = encodings.iter().find(|value| !plain(value)) {
        let shown: String = String::from_utf8_lossy(encoding.as_bytes())
            .chars()
            .take(40)
            .collect();
        let detail = format!("content-encoding is {shown:?}: send the body as it is, uncompressed");
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let refusal = Refusal::new(status, "content_encoding", detail).of("content-encoding");
        return refusal.into_response();
    }
    next.run(request).await
}

/// Reads a body of at most `limit` bytes.
pub async fn whole_body(body: Body, limit: u64) -> Result<Bytes, Refusal> {
    let announced = body.size_hint().lower();
    if announced > limit {
        return Err(too_large(announced, limit));
    }
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::new();
    loop {
        let next = tokio::time::timeout(BODY_STALL_MAX, stream.next()).await;
        let Some(chunk) = next.map_err(|_| stalled())? else {
            return Ok(whole.freeze());
        };
        let chunk = chunk.map_err(|error| broken(&error))?;
        let bytes = (whole.len() + chunk.len()) as u64;
        if bytes > limit {
            return Err(too_large(bytes, limit));
        }
        whole.extend_from_slice(&chunk);
    }
}

/// The refusal of a body that is too long.
pub fn too_large(bytes: u64, limit: u64) -> Refusal {
    let (bytes, limit) = (fota_image::Grouped(bytes), fota_image::Grouped(limit));
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("body is {bytes} bytes or more; at most {limit} are taken here"),
    )
    .of("body")
}

/// A body that did not come whole: the connection broke, or it came too slowly.
fn broken(error: &axum::Error) -> Refusal {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<TooSlow>() {
            let detail = format!("{error}: send it again over a faster link");
            let status = StatusCode::REQUEST_TIMEOUT;
            return Refusal::new(status, "body_too_slow", detail).of("body");
        }
        cause = error.source();
    }
    Refusal::field("body", "the body broke off: send it again")
}

fn stalled() -> Refusal {
    let seconds = BODY_STALL_MAX.as_secs();
    Refusal::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_stalled",
        format!("the body gave nothing for {seconds} s: send it again"),
    )
    .of("body")
}

/// serde names a missing or unknown field only in its sentence, and a wrong type only by path.
fn field_refusal(path: &str, message: &str) -> Refusal {
    let quoted = message.split('`').nth(1).unwrap_or("");
    let named = message.starts_with("missing field")
        || message.starts_with("unknown field")
        || message.starts_with("duplicate field");
    let parent = path.trim_matches('.');
    let field = match (named, parent) {
        (true, "" | "?") => quoted.to_owned(),
        (true, parent) if parent.ends_with(quoted) => parent.to_owned(),
        (true, parent) => format!("{parent}.{quoted}"),
        (false, "" | "?") => "body".to_owned(),
        (false, parent) => parent.to_owned(),
    };
    let detail = format!("{field}: {message}");
    Refusal::field(field, detail)
}
