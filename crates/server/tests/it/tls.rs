//! TLS: certificates, their change while connections are open, and client certificates.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use fota_server::{
    Clock, start,
    tls::{Config as TlsConfig, Source},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use reqwest::StatusCode;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::*;

/// Only a hang takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// An authority that issues certificates for a test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Certificate and key as PEM.
struct Pair {
    cert: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    fn issue(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        Pair {
            cert: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    fn server(&self) -> Pair {
        self.issue(CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name"))
    }

    /// A client certificate with a common name, or else with this alternative name.
    fn client(&self, common: Option<&str>, alternative: Option<SanType>) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names.extend(alternative);
        self.issue(params)
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn client_config(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A client that trusts only this authority, and shows a certificate where there is one.
    fn http(&self, identity: Option<&Pair>) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = reqwest::Certificate::from_pem(self.pem().as_bytes()).expect("a certificate");
        let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        builder = builder.redirect(reqwest::redirect::Policy::none());
        if let Some(pair) = identity {
            let pem = format!("{}{}", pair.cert, pair.key);
            builder =
                builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).expect("a pair"));
        }
        builder.build().expect("a client")
    }
}

/// Writes a pair as the server's files.
fn write(folder: &Path, pair: &Pair) -> Source {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, &pair.cert).expect("written");
    std::fs::write(&key, &pair.key).expect("written");
    Source::Files { cert, key }
}

fn files(folder: &Path, pair: &Pair) -> TlsConfig {
    TlsConfig {
        check_every: Duration::from_millis(100),
        ..TlsConfig::new(write(folder, pair))
    }
}

async fn connect(addr: SocketAddr, config: ClientConfig) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(addr).await.expect("connects");
    let name = ServerName::from(addr.ip());
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connected.await.expect("a handshake")
}

fn leaf(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let certificates = stream.get_ref().1.peer_certificates();
    certificates.expect("a certificate")[0].to_vec()
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.expect("written");
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.expect("answered");
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test]
async fn both_versions_are_spoken_and_browsers_are_told_to_stay() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("a"));
    let tls = files(folder.path(), &authority.server());
    let server = Server::start_with(|config| config.tls = Some(tls)).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = authority.client_config(&[version]);
        let mut stream = connect(server.running.addr, config).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let answer = ask(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer.contains("strict-transport-security: max-age="),
            "{answer}"
        );
    }
    let url = format!("{}/", server.base);
    let http = authority.http(None);
    let page = Reply::of(http.get(&url).bearer_auth(TOKEN)).await;
    let html = String::from_utf8_lossy(&page.body).into_owned();
    assert!(
        html.contains(&server.base),
        "the page names an https address"
    );
    let login = http.get(format!("{url}?token={TOKEN}"));
    let cookie = Reply::of(login).await.headers["set-cookie"].clone();
    assert!(
        cookie.to_str().expect("text").ends_with("; Secure"),
        "{cookie:?}"
    );
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_open_connections_go_on() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("a"));
    let first = authority.server();
    let tls = files(folder.path(), &first);
    let server = Server::start_with(|config| config.tls = Some(tls)).await;
    let addr = server.running.addr;
    let config = || authority.client_config(rustls::ALL_VERSIONS);
    let mut open = connect(addr, config()).await;
    let old = leaf(&open);
    ask(&mut open).await;
    // By itself, at the interval.
    write(folder.path(), &authority.server());
    let changed = async {
        while leaf(&connect(addr, config()).await) == old {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, changed)
        .await
        .expect("the new certificate is served");
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"));
    // At once, as at SIGHUP.
    let served = leaf(&connect(addr, config()).await);
    write(folder.path(), &first);
    let tls = server.running.tls.as_ref().expect("TLS");
    assert!(tls.reload().is_ok());
    assert_ne!(leaf(&connect(addr, config()).await), served);
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_broken_pair_is_named_and_the_old_one_stays() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("a"));
    let good = authority.server();
    let config = TlsConfig::new(write(folder.path(), &good));
    let server = Server::start_with(|it| it.tls = Some(config)).await;
    let addr = server.running.addr;
    let versions = rustls::ALL_VERSIONS;
    let served = leaf(&connect(addr, authority.client_config(versions)).await);
    let tls = server.running.tls.as_ref().expect("TLS");
    let other = authority.server();
    let broken = [
        (other.cert.clone(), good.key.clone(), "key.pem"),
        ("nothing".to_owned(), good.key.clone(), "cert.pem"),
        (good.cert.clone(), "nothing".to_owned(), "key.pem"),
        (other.cert.replace("MI", "xx"), good.key.clone(), "cert.pem"),
    ];
    for (cert, key, named) in broken {
        write(folder.path(), &Pair { cert, key });
        let error = tls.reload().expect_err("refused").to_string();
        assert!(error.contains(named), "{error}");
        let now = leaf(&connect(addr, authority.client_config(versions)).await);
        assert_eq!(now, served, "{error}");
        assert_eq!(
            tls.reload().ok(),
            Some(false),
            "the same files are told once"
        );
    }
    std::fs::remove_file(folder.path().join("key.pem")).expect("removed");
    let error = tls.reload().expect_err("refused").to_string();
    assert!(error.contains("key.pem"), "{error}");
    write(folder.path(), &other);
    assert!(tls.reload().expect("taken"));
    assert_ne!(
        leaf(&connect(addr, authority.client_config(versions)).await),
        served
    );
}

#[tokio::test]
async fn a_server_without_a_usable_pair_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = Authority::new("a").server();
    let broken = Pair {
        key: Authority::new("b").server().key,
        ..pair
    };
    let mut config = config(folder.path(), &Setup::default());
    config.tls = Some(TlsConfig::new(write(folder.path(), &broken)));
    let Err(error) = start(config.clone(), Clock::System).await else {
        panic!("it started");
    };
    let text = error.to_string();
    assert!(
        text.contains("key.pem") && text.contains("cert.pem"),
        "{text}"
    );
    let mut tls = TlsConfig::new(write(folder.path(), &broken));
    tls.client_cert_required = true;
    config.tls = Some(tls);
    let Err(error) = start(config, Clock::System).await else {
        panic!("it started");
    };
    assert!(error.to_string().contains("--tls-client-ca"), "{error}");
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("a"));
    let tls = files(folder.path(), &authority.server());
    let server = Server::start_with(|config| {
        config.tls = Some(tls);
        config.limits.handshake = Duration::from_secs(1);
    })
    .await;
    let mut held = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(server.running.addr)
            .await
            .expect("connects");
        // The first bytes of a hello, or none.
        let hello = [0x16, 3, 1, 2, 0, 1, 0];
        stream
            .write_all(&hello[..number % 8])
            .await
            .expect("written");
        held.push(stream);
    }
    let url = format!("{}/healthz", server.base);
    let reply = Reply::of(authority.http(None).get(url)).await;
    assert_eq!(reply.status, StatusCode::OK);
    for mut stream in held {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        drop(read.expect("closed"));
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_made_once_and_kept_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path(), &Setup::default());
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    config.tls = Some(TlsConfig::new(Source::SelfSigned { names }));
    let mut fingerprints = Vec::new();
    for _ in 0..2 {
        let running = start(config.clone(), Clock::System).await;
        let running = running.unwrap_or_else(|error| panic!("{error}"));
        let tls = running.tls.as_ref().expect("TLS");
        fingerprints.push(tls.fingerprint().expect("a certificate"));
        let pem = std::fs::read(tls.cert_file()).expect("there");
        let key = std::fs::metadata(folder.path().join("tls-key.pem")).expect("there");
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        let url = format!("https://{}/healthz", running.addr);
        let reply = Reply::of(http.build().expect("a client").get(url)).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert!(!reply.headers.contains_key("strict-transport-security"));
        running.shutdown().await;
    }
    assert_eq!(fingerprints[0], fingerprints[1]);
}

async fn check_in(http: &reqwest::Client, server: &Server, device: &str) -> Reply {
    let message = TestDevice::running(device, &Image::new("1.0.5")).message();
    let request = http.post(format!("{}/d/v1/check-in", server.base));
    Reply::of(
        request
            .header("content-type", "application/cbor")
            .body(message),
    )
    .await
}

#[tokio::test]
async fn a_client_certificate_speaks_for_its_device_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let (authority, devices) = (Authority::new("a"), Authority::new("devices"));
    let client_ca = folder.path().join("devices.pem");
    std::fs::write(&client_ca, devices.pem()).expect("written");
    let mut tls = files(folder.path(), &authority.server());
    tls.client_ca = Some(client_ca);
    let server = Server::start_with(|config| config.tls = Some(tls)).await;
    let dns = |name: &str| Some(SanType::DnsName(name.try_into().expect("a name")));
    let uri = |name: &str| Some(SanType::URI(name.try_into().expect("a name")));
    let cases = [
        (Some("ESP32-001"), None, "ESP32-001"),
        (None, dns("esp32-002.local"), "esp32-002.local"),
        (Some("ESP32-003"), dns("other"), "ESP32-003"),
        (None, uri("urn:dev:mac:1"), "urn:dev:mac:1"),
    ];
    for (common, alternative, device) in cases {
        let http = authority.http(Some(&devices.client(common, alternative)));
        let reply = check_in(&http, &server, device).await;
        assert_eq!(reply.status, StatusCode::OK, "{device}");
        let (code, field, detail) = check_in(&http, &server, "ESP32-999").await.problem(403);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("device_identity", Some("device"))
        );
        assert!(
            detail.contains(device) && detail.contains("ESP32-999"),
            "{detail}"
        );
        let seed = http.get(format!("{}/api/inverter/fota/manifest", server.base));
        let (code, ..) = Reply::of(seed.header("device-id", "ESP32-999"))
            .await
            .problem(403);
        assert_eq!(code, "device_identity");
    }
    // Nobody is made to show one, but a wrong one is not overlooked.
    let reply = check_in(&authority.http(None), &server, "ESP32-001").await;
    assert_eq!(reply.status, StatusCode::OK);
    let stranger = Authority::new("devices").client(Some("ESP32-001"), None);
    let request = authority
        .http(Some(&stranger))
        .get(format!("{}/healthz", server.base));
    assert!(
        request.send().await.is_err(),
        "a stranger's certificate ends the connection"
    );
}

#[tokio::test]
async fn devices_need_a_certificate_where_it_is_required_and_operators_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (authority, devices) = (Authority::new("a"), Authority::new("devices"));
    let client_ca = folder.path().join("devices.pem");
    std::fs::write(&client_ca, devices.pem()).expect("written");
    let mut tls = files(folder.path(), &authority.server());
    tls.client_ca = Some(client_ca);
    tls.client_cert_required = true;
    let server = Server::start_with(|config| config.tls = Some(tls)).await;
    let (plain, device) = (
        authority.http(None),
        authority.http(Some(&devices.client(Some("ESP32-001"), None))),
    );
    let zeros = "0".repeat(64);
    let paths = [
        format!("/d/v1/blobs/{zeros}"),
        "/api/inverter/fota/manifest".to_owned(),
        "/api/inverter/fota/chunk?chunk_number=0".to_owned(),
        "/api/inverter/status".to_owned(),
    ];
    let (code, ..) = check_in(&plain, &server, "ESP32-001").await.problem(403);
    assert_eq!(code, "client_certificate_needed");
    for path in &paths {
        let url = format!("{}{path}", server.base);
        let (code, ..) = Reply::of(plain.get(&url)).await.problem(403);
        assert_eq!(code, "client_certificate_needed", "{path}");
        let reply = Reply::of(device.get(&url)).await;
        assert_ne!(reply.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(
        check_in(&device, &server, "ESP32-001").await.status,
        StatusCode::OK
    );
    let url = format!("{}/api/v1/server", server.base);
    let reply = Reply::of(plain.get(url).bearer_auth(TOKEN)).await;
    assert_eq!(reply.status, StatusCode::OK);
}
