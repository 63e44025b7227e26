//! The HTTP of the seed's device: Arduino's HTTPClient without keep-alive. One connection per
//! request, the headers that class sends, and the whole body read into memory.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// HTTPClient's default timeout.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest status line and headers.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Longest body any of the device's requests may bring.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not a plain `http://host[:port]`, the only thing the seed's device speaks.
    #[error("{0:?} is no http:// address of a host and port")]
    Address(String),
    /// The connection.
    #[error("no answer: {0}")]
    Io(#[from] io::Error),
    /// Something that HTTPClient would not understand.
    #[error("the answer is not HTTP with Content-Length")]
    NotHttp,
    /// A status that is no success.
    #[error("HTTP {0}")]
    Status(u16),
}

/// The server as the device knows it.
#[derive(Clone, Debug)]
pub struct Server {
    authority: String,
    address: String,
    device_id: Option<String>,
}

impl Server {
    /// Takes `http://host[:port]`. With `device_id` each request names the device, as the seed
    /// intends; the original forgets to.
    pub fn new(url: &str, device_id: Option<String>) -> Result<Self, HttpError> {
        let wrong = || HttpError::Address(url.to_owned());
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let authority = rest.trim_end_matches('/').to_owned();
        if authority.is_empty() || authority.contains(['/', '@', ' ', '\r', '\n']) {
            return Err(wrong());
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port {
            authority.clone()
        } else {
            format!("{authority}:80")
        };
        Ok(Self {
            authority,
            address,
            device_id,
        })
    }

    /// `GET`, giving the body of a 2xx answer.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, HttpError> {
        self.request("GET", path, None).await
    }

    /// `POST` of a JSON body.
    pub async fn post(&self, path: &str, body: &str) -> Result<Vec<u8>, HttpError> {
        self.request("POST", path, Some(body)).await
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Result<Vec<u8>, HttpError> {
        let mut message = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ESP32HTTPClient\r\n\
             Connection: close\r\nAccept-Encoding: identity;q=1,chunked;q=0.1,*;q=0\r\n",
            self.authority
        );
        if let Some(id) = &self.device_id {
            message += &format!("Device-ID: {id}\r\n");
        }
        if let Some(body) = body {
            let length = body.len();
            message += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        }
        message += "\r\n";
        message += body.unwrap_or_default();
        let answer = timeout(TIMEOUT, exchange(&self.address, message.as_bytes())).await;
        answer.map_err(io::Error::from)?
    }
}

async fn exchange(address: &str, message: &[u8]) -> Result<Vec<u8>, HttpError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(message).await?;
    let mut bytes = Vec::with_capacity(1024);
    let head = loop {
        if let Some(head) = Head::parse(&bytes)? {
            break head;
        }
        read_more(&mut stream, &mut bytes, HEAD_BYTES_MAX).await?;
    };
    if head.body_bytes > BODY_BYTES_MAX {
        return Err(HttpError::NotHttp);
    }
    let end = head.bytes + head.body_bytes;
    while bytes.len() < end {
        read_more(&mut stream, &mut bytes, end).await?;
    }
    if !(200..300).contains(&head.status) {
        return Err(HttpError::Status(head.status));
    }
    Ok(bytes[head.bytes..end].to_vec())
}

async fn read_more(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    max: usize,
) -> Result<(), HttpError> {
    if bytes.len() >= max {
        return Err(HttpError::NotHttp);
    }
    match stream.read_buf(bytes).await? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        _ => Ok(()),
    }
}

struct Head {
    bytes: usize,
    status: u16,
    body_bytes: usize,
}

impl Head {
    /// None where the head is not complete yet.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, HttpError> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| HttpError::NotHttp)?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
        let length = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok());
        match (status, length) {
            (Some(status), Some(body_bytes)) => Ok(Some(Self {
                bytes: end + 4,
                status,
                body_bytes,
            })),
            _ => Err(HttpError::NotHttp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_addresses_are_taken() {
        for bad in [
            "https://x",
            "x:80",
            "http://",
            "http://a/b",
            "http://a\r\nX: y",
        ] {
            assert!(Server::new(bad, None).is_err(), "{bad}");
        }
        let server = Server::new("http://localhost:8080/", None).expect("valid");
        assert_eq!(server.address, "localhost:8080");
        let server = Server::new("http://example.org", None).expect("valid");
        assert_eq!(server.address, "example.org:80");
    }

    #[test]
    fn a_head_needs_status_and_length() {
        let complete = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let head = Head::parse(complete).expect("http").expect("complete");
        assert_eq!((head.bytes, head.status, head.body_bytes), (38, 200, 2));
        assert!(matches!(Head::parse(b"HTTP/1.1 200 OK\r\n"), Ok(None)));
        for bad in [
            &b"HTTP/1.1 200 OK\r\n\r\n"[..],
            b"SSH-2.0\r\n\r\n",
            b"\xff\r\n\r\n",
        ] {
            assert!(Head::parse(bad).is_err());
        }
    }
}
