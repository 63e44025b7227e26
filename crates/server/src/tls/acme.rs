//! Certificates from an ACME authority (RFC 8555), proven by TLS-ALPN-01 (RFC 8737): the authority
//! connects to port 443 of the name and asks for the protocol `acme-tls/1`. The listener that
//! serves everything else answers, so no second port and no DNS entry is needed.
//!
//! The pair lands in the data directory and is then taken up like any other pair of files.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{server::ClientHello, sign::CertifiedKey};
use rustls_pki_types::PrivateKeyDer;
use tokio::sync::watch;
use x509_parser::prelude::*;

use super::{Source, Tls, TlsError, self_signed::write_private};

/// The protocol of a challenge.
pub(crate) const ALPN: &[u8] = b"acme-tls/1";
/// The directory of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

const ACCOUNT_FILE: &str = "acme-account.json";
const CERT_FILE: &str = "acme-cert.pem";
const KEY_FILE: &str = "acme-key.pem";

/// How often it is looked whether the certificate must be renewed.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Pause after a first failure; doubled after each, because authorities count failures.
const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(12 * 3600);
/// How long an authority may take to look at an answer, and to issue.
const ORDER_MAX: Duration = Duration::from_secs(120);

/// Which authority, and for which names.
#[derive(Clone, Debug)]
pub struct Config {
    /// URL of the authority's directory.
    pub directory: String,
    /// The names to be certified.
    pub names: Vec<String>,
    /// `mailto:…`, told to the authority.
    pub contact: Option<String>,
    /// PEM file of the root that the authority's own certificate comes from, where no system
    /// trusts it: an authority of one's own.
    pub root: Option<PathBuf>,
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
enum AcmeError {
    #[error("{0}")]
    Protocol(#[from] instant_acme::Error),
    #[error("{0}")]
    File(#[from] TlsError),
    #[error("challenge certificate: {0}")]
    Challenge(String),
    #[error("the authority offers no tls-alpn-01 challenge for {0}: use a certificate from files")]
    NotOffered(String),
    #[error("the authority found the order {0:?}: {1}")]
    Refused(OrderStatus, String),
}

/// Certificates that answer challenges, by name.
#[derive(Clone, Default)]
pub(super) struct Challenges(Arc<RwLock<HashMap<String, Arc<CertifiedKey>>>>);

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenges")
    }
}

impl Challenges {
    pub fn answer(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(name).cloned()
    }

    fn set(&self, name: &str, key: CertifiedKey) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), Arc::new(key));
    }

    fn clear(&self) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.clear();
    }
}

/// Whether a handshake is an authority's.
pub(super) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    let protocols = hello.alpn();
    protocols.is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN))
}

/// Where the pair is, or will be.
pub(super) fn files(data: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    Ok((data.join(CERT_FILE), data.join(KEY_FILE)))
}

/// The task that gets and renews the certificate; none where it comes from elsewhere.
pub(crate) fn renewal(
    tls: &Arc<Tls>,
    mut closing: watch::Receiver<bool>,
) -> Option<impl Future<Output = ()> + use<>> {
    let tls = Arc::clone(tls);
    let Source::Acme(config) = tls.config.source.clone() else {
        return None;
    };
    Some(async move {
        // Installing twice is refused and harmless: the first caller in the process wins.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut retry = RETRY_FIRST;
        loop {
            let mut pause = LOOK_EVERY;
            if is_due(&tls, &config) {
                match issue(&tls, &config).await {
                    Ok(()) => {
                        tls.reload_and_tell();
                        retry = RETRY_FIRST;
                    }
                    Err(error) => {
                        let seconds = retry.as_secs();
                        tracing::error!(%error, "no certificate was issued; next try in {seconds} s");
                        pause = retry;
                        retry = (retry * 2).min(RETRY_MAX);
                    }
                }
            }
            tokio::select! {
                _ = closing.wait_for(|end| *end) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    })
}

/// A certificate is renewed when a third of its life is left, as authorities ask, or when it is
/// not for all names.
fn is_due(tls: &Tls, config: &Config) -> bool {
    let current = tls.current.read().unwrap_or_else(PoisonError::into_inner);
    let leaf = current.leaf.as_ref();
    let parsed = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let Some((_, certificate)) = parsed else {
        return true;
    };
    let validity = certificate.validity();
    let (start, end) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    let left = end - tls.clock.now_ms() / 1000;
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let covers = |name: &String| {
        let names = alternatives.as_ref().map(|it| &it.value.general_names);
        names.is_some_and(|names| names.contains(&GeneralName::DNSName(name)))
    };
    left < (end - start) / 3 || !config.names.iter().all(covers)
}

async fn issue(tls: &Tls, config: &Config) -> Result<(), AcmeError> {
    let account = account(tls, config).await?;
    let names = config.names.iter().cloned().map(Identifier::Dns);
    let identifiers: Vec<_> = names.collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let proven = prove(tls, &mut order).await;
    tls.challenges.clear();
    proven?;
    let key = order.finalize().await?;
    let patience = RetryPolicy::new().timeout(ORDER_MAX);
    let chain = order.poll_certificate(&patience).await?;
    // The key first: with the old certificate it is no pair, and the old pair stays in force.
    write_private(&tls.key, key.as_bytes())?;
    write_private(&tls.cert, chain.as_bytes())?;
    tracing::info!(names = ?config.names, "a certificate was issued");
    Ok(())
}

/// Answers every challenge, and waits until the authority has looked.
async fn prove(tls: &Tls, order: &mut instant_acme::Order) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge = challenge.ok_or_else(|| AcmeError::NotOffered(name.clone()))?;
        let digest = challenge.key_authorization().digest();
        let answer = challenge_certificate(&name, digest.as_ref());
        tls.challenges
            .set(&name, answer.map_err(AcmeError::Challenge)?);
        challenge.set_ready().await?;
    }
    let patience = RetryPolicy::new().timeout(ORDER_MAX);
    match order.poll_ready(&patience).await? {
        OrderStatus::Ready => Ok(()),
        status => {
            let error = order.state().error.as_ref();
            let detail = error.map(ToString::to_string).unwrap_or_default();
            Err(AcmeError::Refused(status, detail))
        }
    }
}

/// A certificate for `name` that carries the answer in the extension that RFC 8737 names.
fn challenge_certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new([name.to_owned()]).map_err(text)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let signer = rustls::crypto::ring::sign::any_supported_type(&key);
    let signer = signer.map_err(|error| error.to_string())?;
    // Not `from_der`, which refuses the extension because it is critical, as it must be.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
}

/// The account in the data directory; a new one at the first start.
async fn account(tls: &Tls, config: &Config) -> Result<Account, AcmeError> {
    let builder = match &config.root {
        Some(root) => Account::builder_with_root(root)?,
        None => Account::builder()?,
    };
    let path = tls.cert.with_file_name(ACCOUNT_FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let stored: AccountCredentials = serde_json::from_slice(&bytes)
                .map_err(|error| TlsError::unusable(&path, &error))?;
            Ok(builder.from_credentials(stored).await?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let contact: Vec<&str> = config.contact.as_deref().into_iter().collect();
            let new = NewAccount {
                contact: &contact,
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let (account, credentials) =
                builder.create(&new, config.directory.clone(), None).await?;
            let bytes = serde_json::to_vec(&credentials)
                .map_err(|error| TlsError::unusable(&path, &error))?;
            write_private(&path, &bytes)?;
            Ok(account)
        }
        Err(error) => Err(TlsError::io(&path, error).into()),
    }
}
