//! A connection to a broker: TCP, or TLS with rustls and ring, and packets on it.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use fota_proto::operators::Secret;
use reqwest::Url;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::packet::{self, Connect, Incoming};

/// How long a connection may take to come up, TLS and the broker's answer with it.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a broker may take no bytes before it counts as away.
const SEND_MAX: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const READ_BYTES: usize = 4 * 1024;
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;

/// Where a broker is and who this server is to it.
#[derive(Clone, Debug)]
pub struct Broker {
    host: String,
    port: u16,
    tls: bool,
    user: Option<String>,
    password: Option<Secret>,
    /// Authorities that are believed instead of the system's, PEM.
    ca: Option<Vec<u8>>,
}

impl Broker {
    /// Reads `mqtt://user:password@host:1883` or `mqtts://…`.
    ///
    /// # Errors
    /// What is wrong with it; never with the password in it.
    pub fn parse(text: &str, ca: Option<Vec<u8>>) -> Result<Self, String> {
        let form = "write mqtt://user:password@host:1883 or mqtts://host";
        let url: Url = text.parse().map_err(|_| format!("is no URL: {form}"))?;
        let tls = match url.scheme() {
            "mqtt" => false,
            "mqtts" => true,
            other => return Err(format!("has the scheme {other:?}: {form}")),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| format!("names no host: {form}"))?;
        let has_path = !matches!(url.path(), "" | "/");
        if has_path || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("has something behind the host: {form}"));
        }
        let user = Some(url.username()).filter(|user| !user.is_empty());
        let decoded = |text| decoded(text).ok_or_else(|| format!("has a wrong %: {form}"));
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(if tls { TLS_PORT } else { PORT }),
            tls,
            user: user.map(decoded).transpose()?,
            password: url.password().map(decoded).transpose()?.map(Secret::new),
            ca,
        })
    }

    /// `host:1883`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A text with `%40` for `@`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    unread: BytesMut,
}

impl Connection {
    /// Connects and is let in.
    ///
    /// # Errors
    /// Why not, for people.
    pub async fn open(broker: &Broker, hello: &Connect<'_>) -> Result<Self, String> {
        let opening = async {
            let mut connection = Self {
                stream: stream(broker).await?,
                unread: BytesMut::with_capacity(READ_BYTES),
            };
            let user = broker.user.as_deref();
            let password = broker.password.as_ref().map(Secret::reveal);
            let hello = Connect {
                user,
                password,
                ..hello.clone()
            };
            connection.send(&packet::connect(&hello)).await?;
            match connection.receive().await? {
                Incoming::ConnAck { code: 0 } => Ok(connection),
                Incoming::ConnAck { code } => Err(refusal(code)),
                _ => Err("answered something else than a connect asks for".to_owned()),
            }
        };
        let opened = timeout(CONNECT_MAX, opening).await;
        opened.unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT_MAX.as_secs())))
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// Where the connection is lost.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(SEND_MAX, sending).await {
            Ok(sent) => sent.map_err(|error| error.to_string()),
            Err(_) => Err(format!("took no bytes for {} s", SEND_MAX.as_secs())),
        }
    }

    /// The next packet. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// Where the connection is lost, or what comes is no packet.
    pub async fn receive(&mut self) -> Result<Incoming, String> {
        loop {
            let found = packet::parse(&self.unread).map_err(|error| error.to_string())?;
            if let Some((packet, bytes)) = found {
                drop(self.unread.split_to(bytes));
                return Ok(packet);
            }
            self.unread.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.unread).await;
            if read.map_err(|error| error.to_string())? == 0 {
                return Err("the broker closed the connection".to_owned());
            }
        }
    }
}

/// What a CONNACK says (3.2.2.3).
fn refusal(code: u8) -> String {
    let why = match code {
        1 => "it does not speak MQTT 3.1.1",
        2 => "it does not take the client id",
        3 => "it is not available",
        4 => "wrong user or password",
        5 => "not allowed: give a user and a password in the URL",
        _ => "for a reason that it does not tell",
    };
    format!("refused: {why}")
}

async fn stream(broker: &Broker) -> Result<Box<dyn Stream>, String> {
    let at = (broker.host.as_str(), broker.port);
    let tcp = TcpStream::connect(at)
        .await
        .map_err(|error| error.to_string())?;
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    if !broker.tls {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(broker.host.clone()).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(tls(broker.ca.as_deref())?));
    let tls = connector.connect(name, tcp).await;
    Ok(Box::new(tls.map_err(|error| error.to_string())?))
}

fn tls(ca: Option<&[u8]>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let Some(pem) = ca else {
        let builder = builder.with_platform_verifier();
        let builder = builder.map_err(|error| error.to_string())?;
        return Ok(builder.with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("the CA file: {error}"))?;
        let added = roots.add(certificate);
        added.map_err(|error| format!("the CA file: {error}"))?;
    }
    if roots.is_empty() {
        return Err("the CA file holds no certificate".to_owned());
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_read_from_its_url() {
        let broker = Broker::parse("mqtt://anna:p%40ss%3A@broker.example", None).expect("good");
        assert_eq!(broker.name(), "broker.example:1883");
        assert_eq!(broker.user.as_deref(), Some("anna"));
        assert_eq!(broker.password.as_ref().map(Secret::reveal), Some("p@ss:"));
        assert!(!format!("{broker:?}").contains("p@ss"), "{broker:?}");
        let broker = Broker::parse("mqtts://[::1]/", None).expect("good");
        assert_eq!((broker.name().as_str(), broker.tls), ("::1:8883", true));
        for wrong in [
            "broker:1883",
            "http://broker",
            "mqtt://",
            "mqtt://broker/topic",
            "mqtt://broker?x",
            "mqtt://a:%zz@broker",
        ] {
            assert!(Broker::parse(wrong, None).is_err(), "{wrong}");
        }
    }
}
