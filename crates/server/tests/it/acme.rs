//! A certificate from an ACME authority: Pebble, Let's Encrypt's own for tests, on loopback.
//!
//! Needs `FOTA_PEBBLE`, the path of its executable, with `pebble-challtestsrv` beside it. Without
//! it the test says that it was skipped.

use std::{
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use fota_server::tls::{Config as TlsConfig, Source, acme};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::support::*;

/// Only a hang takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "fota.example";

/// Ended with the test, whatever comes of it.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn background(command: &mut Command) -> Background {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    Background(quiet.spawn().expect("starts"))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// The authority: where it is, and the root of its own certificate.
struct Pebble {
    directory: String,
    root: PathBuf,
    _running: [Background; 2],
}

impl Pebble {
    /// Starts it; it looks for every name at 127.0.0.1 and this port.
    fn start(program: &Path, folder: &Path, tls_port: u16) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed");
        let (root, key_file) = (folder.join("pebble.pem"), folder.join("pebble-key.pem"));
        std::fs::write(&root, certificate.pem()).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        let (port, management) = (free_port(), free_port());
        let dns = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let dns_port = dns.local_addr().expect("bound").port();
        drop(dns);
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": root, "privateKey": key_file,
            "httpPort": free_port(), "tlsPort": tls_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        let config_file = folder.join("pebble.json");
        std::fs::write(&config_file, config.to_string()).expect("written");
        let off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""];
        let names = background(
            Command::new(program.with_file_name("pebble-challtestsrv"))
                .args(&off[..6])
                .args(["-management", &format!("127.0.0.1:{}", free_port())])
                .args(["-dns01", &format!("127.0.0.1:{dns_port}")])
                .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]),
        );
        let authority = background(
            Command::new(program)
                .arg("-config")
                .arg(config_file)
                .args(["-strict", "-dnsserver", &format!("127.0.0.1:{dns_port}")])
                .env("PEBBLE_VA_NOSLEEP", "1"),
        );
        Self {
            directory: format!("https://127.0.0.1:{port}/dir"),
            root,
            _running: [names, authority],
        }
    }

    /// Answers once it is up.
    async fn up(&self) {
        let pem = std::fs::read(&self.root).expect("there");
        let root = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        drop(http());
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        let http = http.build().expect("a client");
        let answered = async {
            while http.get(&self.directory).send().await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, answered).await.expect("pebble starts");
    }
}

async fn certificate_of(server: &Server) -> fota_proto::Sha256 {
    let tls = server.running.tls.as_ref().expect("TLS");
    let issued = async {
        loop {
            match tls.fingerprint() {
                Some(fingerprint) => return fingerprint,
                None => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(PATIENCE, issued)
        .await
        .expect("a certificate is issued")
}

#[tokio::test(flavor = "multi_thread")]
async fn pebble_issues_a_certificate_that_a_restart_finds_again() {
    let Some(program) = std::env::var_os("FOTA_PEBBLE").map(PathBuf::from) else {
        eprintln!("skipped: FOTA_PEBBLE is not set");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let pebble = Pebble::start(&program, folder.path(), port);
    pebble.up().await;
    let data = folder.path().join("data");
    let with_acme = |config: &mut fota_server::Config| {
        config.data = data.clone();
        config.listen.set_port(port);
        config.tls = Some(TlsConfig::new(Source::Acme(acme::Config {
            directory: pebble.directory.clone(),
            names: vec![NAME.to_owned()],
            contact: None,
            root: Some(pebble.root.clone()),
        })));
    };
    let server = Server::start_with(with_acme).await;
    let first = certificate_of(&server).await;
    // What a client is served is that certificate, for that name.
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .tls_info(true)
        .resolve(NAME, server.running.addr);
    let url = format!("https://{NAME}:{port}/healthz");
    let response = http.build().expect("a client").get(url).send().await;
    let response = response.expect("answers");
    let info = response.extensions().get::<reqwest::tls::TlsInfo>();
    let leaf = info.and_then(|info| info.peer_certificate()).expect("one");
    assert_eq!(fota_proto::Sha256(sha2(leaf)), first);
    server.running.shutdown().await;
    let again = Server::start_with(with_acme).await;
    let tls = again.running.tls.as_ref().expect("TLS");
    assert_eq!(
        tls.fingerprint(),
        Some(first),
        "the stored one is served at once"
    );
}

fn sha2(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}
