//! One POST to a receiver, with bounds on all of it.

use std::time::Duration;

use fota_proto::operators::Secret;
use reqwest::{StatusCode, header};
use tokio::time::Instant;

use super::{
    address::{self, Lookup},
    message::Message,
    signature,
};

/// How long a receiver may take to let itself be connected to.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long all of a delivery may take. A receiver that has more to do answers first.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read, so that the connection can be used again; none is kept.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
/// Characters of an error that are kept.
const ERROR_CHARS_MAX: usize = 200;

/// Sends to receivers.
#[derive(Clone, Debug)]
pub struct Sender(reqwest::Client);

/// What became of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub status: Option<u16>,
    /// Why it does not count as delivered.
    pub error: Option<String>,
    /// How long the receiver asked to be left alone.
    pub retry_after_ms: Option<i64>,
    pub took_ms: u64,
}

impl Tried {
    /// The receiver says that it is gone for good.
    pub fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE.as_u16())
    }
}

impl Sender {
    /// A client that goes nowhere but where it is told.
    ///
    /// # Errors
    /// Where there is no TLS to be had.
    pub fn new() -> Result<Self, String> {
        // Installing twice is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            // A redirect would let a receiver choose whom this server asks.
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would look names up itself, past what `Lookup` refuses.
            .no_proxy()
            .dns_resolver(Lookup)
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            .user_agent(concat!("fota/", env!("CARGO_PKG_VERSION")))
            .build();
        client.map(Self).map_err(|error| error.to_string())
    }

    /// Sends a message; a 2xx is a delivery, anything else is none.
    pub async fn post(&self, url: &str, secret: &Secret, message: &Message, now: i64) -> Tried {
        let began = Instant::now();
        let answer = self.answer(url, secret, message, now).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match answer {
            Ok((status, retry_after_ms)) => Tried {
                status: Some(status.as_u16()),
                error: (!status.is_success()).then(|| told(status)),
                retry_after_ms,
                took_ms,
            },
            Err(error) => Tried {
                status: None,
                error: Some(error.chars().take(ERROR_CHARS_MAX).collect()),
                retry_after_ms: None,
                took_ms,
            },
        }
    }

    async fn answer(
        &self,
        url: &str,
        secret: &Secret,
        message: &Message,
        now: i64,
    ) -> Result<(StatusCode, Option<i64>), String> {
        let url = address::parse(url).map_err(|error| format!("the url {error}"))?;
        let key = signature::key(secret).ok_or("the stored key is damaged: add it anew")?;
        let at_s = now.div_euclid(1000);
        let signature = signature::sign(&key, &message.id, at_s, &message.body);
        let request = self
            .0
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", at_s)
            .header("webhook-signature", signature)
            .body(message.body.clone());
        let mut response = request.send().await.map_err(|error| why(&error))?;
        let retry_after_ms = retry_after_ms(response.headers());
        let mut read = 0;
        // What it says beside its status does not matter, nor that it stops saying it.
        while let Ok(Some(bytes)) = response.chunk().await {
            read += bytes.len();
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
        Ok((response.status(), retry_after_ms))
    }
}

fn told(status: StatusCode) -> String {
    match status.is_redirection() {
        true => format!("answered {status}; redirects are not followed: give the new url"),
        false => format!("answered {status}"),
    }
}

/// In seconds; a date, which it may also be, is not looked at.
fn retry_after_ms(headers: &header::HeaderMap) -> Option<i64> {
    let seconds: i64 = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    seconds.checked_mul(1000)
}

/// The last cause, which says most; never the URL, whose path may be a secret.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", ANSWER_MAX.as_secs());
    }
    let mut cause = std::error::Error::source(error);
    let mut text = "cannot be reached".to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}
