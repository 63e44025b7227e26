//! Typed access to a fota server: the manager API for operators' tools, and the device API for
//! simulated devices. The list of what it speaks is `/api/openapi.json` of any server.
//!
//! It turns calls into requests and answers into values, and nothing else: it decides nothing,
//! prints nothing and keeps no state beyond the connection. What a refusal means for the caller is
//! in the [`Problem`] it hands on.
//!
//! Main path: [`Client::new`], then one method per endpoint; [`Client::event_stream`] follows the
//! history over lost connections; [`DeviceClient`] is the device's side.
#![warn(missing_docs)]

mod device;
mod events;
mod manager;
mod notify;
mod operators;
mod signing;
mod tls;

use std::{fmt, time::Duration};

pub use device::{Blob, DeviceClient};
pub use events::{EventStream, Incoming};
pub use fota_proto::manager::Problem;
pub use manager::{DeviceFilter, Download, EventFilter};
pub use signing::{Object, ServerSigning};
pub use tls::{Inspection, inspect};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a small request may take; only a hung server takes this long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a stream of bytes may stay silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why a call gave no value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer: no server there, the connection broke, or it took too long.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What went wrong, innermost cause.
        reason: String,
    },
    /// The server said no.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// Something answered, but not as a fota server does.
    #[error("{url} did not answer as a fota server does: {reason}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What was wrong with the answer.
        reason: String,
    },
}

/// What every call gives.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The problem that the server stated, where it did.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    fn unreachable(url: &str, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut innermost = cause;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Self::Unreachable {
            url: url.to_owned(),
            reason: innermost.to_string(),
        }
    }

    fn protocol(url: &str, reason: impl fmt::Display) -> Self {
        Self::Protocol {
            url: url.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// A connection to the manager API of one server. Cloning is cheap and shares connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .finish()
    }
}

impl Client {
    /// A client of the server at `base`, e.g. `http://127.0.0.1:8080`. Connects on first use.
    ///
    /// # Errors
    /// [`Error::Protocol`] where `base` is no http or https URL.
    pub fn new(base: &str, token: Option<String>) -> Result<Self> {
        Self::trusting(base, token, None)
    }

    /// As [`Client::new`]; `ca` is the PEM of the certificates that the server's must come from,
    /// instead of those that the system trusts.
    ///
    /// # Errors
    /// [`Error::Protocol`] where `base` is no http or https URL, or `ca` holds no certificate.
    pub fn trusting(base: &str, token: Option<String>, ca: Option<&[u8]>) -> Result<Self> {
        let (http, base) = connection(base, ca)?;
        Ok(Self { http, base, token })
    }

    /// The server's URL, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// The connection pool for `base`, and `base` in its plain form.
fn connection(base: &str, ca: Option<&[u8]>) -> Result<(reqwest::Client, String)> {
    let url = url(base)?;
    // Installing twice is refused and harmless: the first caller in the process wins.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("fota/", env!("CARGO_PKG_VERSION")));
    if is_loopback(&url) {
        builder = builder.no_proxy();
    }
    if let Some(pem) = ca {
        let roots = reqwest::Certificate::from_pem_bundle(pem);
        let roots = roots.map_err(|error| Error::protocol(base, format_args!("ca: {error}")))?;
        if roots.is_empty() {
            return Err(Error::protocol(base, "ca: no certificate in it"));
        }
        builder = builder.tls_certs_only(roots);
    }
    let http = builder
        .build()
        .map_err(|error| Error::unreachable(base, &error))?;
    Ok((http, base.trim_end_matches('/').to_owned()))
}

/// `base` as an http or https URL.
fn url(base: &str) -> Result<reqwest::Url> {
    let url: reqwest::Url = base
        .parse()
        .map_err(|error| Error::protocol(base, format_args!("not a URL: {error}")))?;
    match matches!(url.scheme(), "http" | "https") && url.has_host() {
        true => Ok(url),
        false => Err(Error::protocol(
            base,
            "an http:// or https:// URL is needed",
        )),
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    plain == "localhost"
        || plain
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Sends, and gives the response where its status is a success.
async fn send(request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| Error::protocol("request", error))?;
    let url = request.url().to_string();
    let response = client
        .execute(request)
        .await
        .map_err(|error| Error::unreachable(&url, &error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(refusal(&url, response).await)
}

/// What a response that is no success says.
async fn refusal(url: &str, response: reqwest::Response) -> Error {
    let status = response.status();
    let body = match tokio::time::timeout(REQUEST_TIMEOUT, response.bytes()).await {
        Ok(Ok(body)) => body,
        _ => bytes::Bytes::new(),
    };
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Error::Problem(Box::new(problem)),
        Err(_) => Error::protocol(url, format_args!("HTTP {status} without a problem body")),
    }
}

/// Percent-encodes one path segment, so that an id can never reach another route.
fn segment(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_~:".contains(&c);
    let dots_only = text.bytes().all(|c| c == b'.');
    text.bytes()
        .map(|c| match plain(c) || (c == b'.' && !dots_only) {
            true => char::from(c).to_string(),
            false => format!("%{c:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_segment_cannot_leave_its_place() {
        assert_eq!(segment("ESP32-001"), "ESP32-001");
        assert_eq!(segment("24:6F.x"), "24:6F.x");
        assert_eq!(segment("../x?y#z"), "..%2Fx%3Fy%23z");
        assert_eq!(segment(".."), "%2E%2E");
    }

    #[test]
    fn only_http_urls_are_taken() {
        for bad in ["", "localhost:8080", "ftp://x", "http://"] {
            assert!(Client::new(bad, None).is_err(), "{bad}");
        }
        let client = Client::new("http://127.0.0.1:8080/", Some("secret".into())).expect("valid");
        assert_eq!(client.base(), "http://127.0.0.1:8080");
        assert!(!format!("{client:?}").contains("secret"));
    }

    #[test]
    fn loopback_is_never_sent_through_a_proxy() {
        for url in ["http://localhost:1", "http://127.0.0.9:1", "http://[::1]:1"] {
            assert!(is_loopback(&url.parse().expect("a URL")), "{url}");
        }
        assert!(!is_loopback(&"http://10.0.0.1".parse().expect("a URL")));
    }
}
