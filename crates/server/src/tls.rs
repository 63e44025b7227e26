//! TLS: a certificate from files, one that the server makes for itself, or one from an ACME
//! authority; client certificates where a client CA is named.
//!
//! Whatever the source, what is served is a pair of PEM files, and new files are taken up without
//! a restart: open connections keep the certificate that they were opened with, new ones get the
//! new one. Files that are no pair are named in the log, and the old pair stays.
//!
//! Main path: [`Tls::load`] at start, [`Tls::server_config`] for each connection,
//! [`Tls::reload`] at SIGHUP and, through `Tls::watch`, when a file has changed.

#[cfg(feature = "acme")]
pub mod acme;
mod files;
mod identity;
mod self_signed;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::Clock;

pub use files::TlsError;
pub use identity::{PeerIdentity, certificate_end_ms, require_client_certificate};
pub(crate) use identity::{name_of, refuse_other_device};

/// How often the files are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// A certificate that ends sooner than this is worth a word in the log.
const ENDS_SOON_MS: i64 = 14 * 24 * 3600 * 1000;
/// What browsers are told: for a year, only by TLS.
pub(crate) const HSTS: &str = "max-age=31536000";

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// PEM files that somebody else renews.
    Files {
        /// The certificate and those that link it to a root, leaf first.
        cert: PathBuf,
        /// Its private key: PKCS#8, PKCS#1 or SEC1.
        key: PathBuf,
    },
    /// A pair of the server's own, made at the first start and kept in the data directory.
    SelfSigned {
        /// Host names and IP addresses that it is for.
        names: Vec<String>,
    },
    /// An ACME authority, such as Let's Encrypt or one's own.
    #[cfg(feature = "acme")]
    Acme(acme::Config),
}

/// How TLS is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the certificate comes from.
    pub source: Source,
    /// PEM file of the authority whose client certificates are believed.
    pub client_ca: Option<PathBuf>,
    /// Whether devices must show a client certificate.
    pub client_cert_required: bool,
    /// How often the files are looked at.
    pub check_every: Duration,
}

impl Config {
    /// TLS with this certificate, without client certificates.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            client_ca: None,
            client_cert_required: false,
            check_every: CHECK_EVERY,
        }
    }
}

/// TLS as it is served now.
pub struct Tls {
    config: Config,
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
    /// Digest of the files that were last tried, good or not: a broken pair is told once.
    tried: Mutex<[u8; 32]>,
    clock: Clock,
    #[cfg(feature = "acme")]
    challenges: acme::Challenges,
}

struct Current {
    config: Arc<ServerConfig>,
    leaf: Option<CertificateDer<'static>>,
}

impl Tls {
    /// Reads the files, after making them where the server makes its own.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it. A certificate that an ACME authority
    /// is yet to issue is no error.
    pub fn load(config: Config, data: &Path, clock: Clock) -> Result<Arc<Self>, TlsError> {
        let (cert, key) = match &config.source {
            Source::Files { cert, key } => (cert.clone(), key.clone()),
            Source::SelfSigned { names } => self_signed::load_or_make(data, names)?,
            #[cfg(feature = "acme")]
            Source::Acme(_) => acme::files(data)?,
        };
        let tls = Self {
            config,
            cert,
            key,
            // Replaced below: a server without a certificate answers no handshake.
            current: RwLock::new(Current {
                config: Arc::new(server_config(Arc::new(Resolver::default()), None)?),
                leaf: None,
            }),
            tried: Mutex::default(),
            clock,
            #[cfg(feature = "acme")]
            challenges: acme::Challenges::default(),
        };
        tls.reload()?;
        Ok(Arc::new(tls))
    }

    /// What a new connection is to be served with.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner).config)
    }

    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` shows it without colons.
    pub fn fingerprint(&self) -> Option<fota_proto::Sha256> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let leaf = current.leaf.as_ref()?;
        Some(crate::blobs::digest(leaf))
    }

    /// When the certificate ends, milliseconds since the Unix epoch; none where there is none.
    pub fn end_ms(&self) -> Option<i64> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        identity::certificate_end_ms(current.leaf.as_ref()?)
    }

    /// The file that holds the certificate.
    pub fn cert_file(&self) -> &Path {
        &self.cert
    }

    /// Whether browsers may be told to insist on TLS: not with a certificate that they do not
    /// know, because they would then let nobody go past their warning.
    pub fn is_for_browsers(&self) -> bool {
        !matches!(self.config.source, Source::SelfSigned { .. })
    }

    /// Takes up the files where they have changed since the last time; false where they have not.
    ///
    /// # Errors
    /// [`TlsError`] where the new files are no pair; the old ones stay in force.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = files::Files::read(&self.cert, &self.key, self.config.client_ca.as_deref());
        let files = match (read, self.may_be_absent()) {
            (Err(error), true) if error.is_not_found_at(&self.cert) => {
                tracing::debug!(%error, "no certificate yet");
                return self.install(None, None).map(|()| false);
            }
            (read, _) => read?,
        };
        let digest = files.digest();
        {
            let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
            if *tried == digest {
                return Ok(false);
            }
            *tried = digest;
        }
        let (key, roots) = files.parse()?;
        self.tell_end(&key);
        self.install(Some(Arc::new(key)), roots)?;
        Ok(true)
    }

    fn install(
        &self,
        key: Option<Arc<CertifiedKey>>,
        client_roots: Option<rustls::RootCertStore>,
    ) -> Result<(), TlsError> {
        let leaf = key.as_ref().and_then(|key| key.cert.first().cloned());
        let resolver = Resolver {
            key,
            #[cfg(feature = "acme")]
            challenges: self.challenges.clone(),
        };
        let client_ca = client_roots.zip(self.config.client_ca.as_deref());
        let mut config = server_config(Arc::new(resolver), client_ca)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        #[cfg(feature = "acme")]
        if matches!(self.config.source, Source::Acme(_)) {
            config.alpn_protocols.push(acme::ALPN.to_vec());
        }
        // A new config has a new session cache, so no old session outlives a change of the
        // client authority.
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current {
            config: Arc::new(config),
            leaf,
        };
        Ok(())
    }

    /// Whether an authority is yet to issue the first certificate.
    fn may_be_absent(&self) -> bool {
        #[cfg(feature = "acme")]
        return matches!(self.config.source, Source::Acme(_)) && self.fingerprint().is_none();
        #[cfg(not(feature = "acme"))]
        false
    }

    /// Says when the certificate ends, where that is soon or past.
    fn tell_end(&self, key: &CertifiedKey) {
        let end = key.cert.first().and_then(|leaf| certificate_end_ms(leaf));
        let left_ms = end.map_or(i64::MAX, |end| end - self.clock.now_ms());
        let days = left_ms / (24 * 3600 * 1000);
        let cert = self.cert.display();
        if left_ms < 0 {
            tracing::warn!(%cert, "the certificate ended {} days ago: renew it", -days);
        } else if left_ms < ENDS_SOON_MS {
            tracing::warn!(%cert, "the certificate ends in {days} days: renew it");
        }
    }

    /// Looks at the files at an interval until the server ends.
    pub(crate) async fn watch(self: Arc<Self>, mut closing: watch::Receiver<bool>) {
        loop {
            let pause = tokio::time::sleep(self.config.check_every);
            tokio::select! {
                _ = closing.wait_for(|end| *end) => return,
                () = pause => self.reload_and_tell(),
            }
        }
    }

    /// [`Tls::reload`], with what came of it in the log.
    pub fn reload_and_tell(&self) {
        match self.reload() {
            Ok(true) => {
                tracing::info!(cert = %self.cert.display(), "new connections get the new certificate");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the old certificate stays in force");
            }
        }
    }
}

/// Chooses the certificate of a handshake.
#[derive(Debug, Default)]
struct Resolver {
    key: Option<Arc<CertifiedKey>>,
    #[cfg(feature = "acme")]
    challenges: acme::Challenges,
}

impl ResolvesServerCert for Resolver {
    #[cfg_attr(not(feature = "acme"), allow(unused_variables))]
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        #[cfg(feature = "acme")]
        if acme::is_challenge(&hello) {
            return self.challenges.answer(hello.server_name()?);
        }
        self.key.clone()
    }
}

/// TLS 1.2 and 1.3 with ring. Client certificates are asked for where there is a client CA, and
/// verified where they are given; whether one is needed is the business of the routes.
fn server_config(
    resolver: Arc<Resolver>,
    client_ca: Option<(rustls::RootCertStore, &Path)>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match client_ca {
        None => Arc::new(NoClientAuth),
        Some((roots, path)) => {
            let builder =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            let built = builder.allow_unauthenticated().build();
            built.map_err(|error| TlsError::unusable(path, &error))?
        }
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of both versions");
    Ok(builder
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver))
}
