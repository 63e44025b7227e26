//! What a server's certificate says, and whether this machine would believe it.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::*;

use crate::{CONNECT_TIMEOUT, Error, Result, url};

/// What a handshake showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Who the certificate is for, as it says itself.
    pub subject: String,
    /// Milliseconds since the Unix epoch at which it ends.
    pub end_ms: i64,
    /// How many certificates the server sent, its own included.
    pub chain: usize,
    /// `TLSv1_2` or `TLSv1_3`.
    pub version: String,
    /// Why it is not believed for this name: unknown authority, other name, ended.
    pub refused: Option<String>,
}

/// Looks at the certificate of the server at `base`, with the same trust as
/// [`Client::trusting`](crate::Client::trusting). Only a handshake is made, nothing is sent on the
/// connection, so that also a certificate that is not believed can be told of.
///
/// # Errors
/// [`Error::Unreachable`] where no handshake comes about; [`Error::Protocol`] where `base` is no
/// https URL.
pub async fn inspect(base: &str, ca: Option<&[u8]>) -> Result<Inspection> {
    let url = url(base)?;
    let host = url.host_str().unwrap_or_default();
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    if url.scheme() != "https" {
        return Err(Error::protocol(base, "an https:// URL is needed"));
    }
    let port = url.port_or_known_default().unwrap_or(443);
    let name = ServerName::try_from(host.clone()).map_err(|error| Error::protocol(base, error))?;
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(ca, Arc::clone(&provider));
    let witness = Arc::new(Witness {
        verifier: verifier.map_err(|reason| Error::protocol(base, reason))?,
        refused: Mutex::default(),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::protocol(base, error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let shaken = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    };
    let shaken = timeout(CONNECT_TIMEOUT, shaken).await;
    let stream = shaken
        .map_err(|error| Error::unreachable(base, &error))?
        .map_err(|error| Error::unreachable(base, &error))?;
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    let (subject, end_ms) = chain.first().and_then(facts).unwrap_or_default();
    let refused = witness.refused.lock();
    Ok(Inspection {
        subject,
        end_ms,
        chain: chain.len(),
        version: format!(
            "{:?}",
            session.protocol_version().unwrap_or_else(|| 0.into())
        ),
        refused: refused.unwrap_or_else(PoisonError::into_inner).clone(),
    })
}

/// Subject, and when it ends.
fn facts(certificate: &CertificateDer<'_>) -> Option<(String, i64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let end = certificate.validity().not_after.timestamp();
    Some((certificate.subject().to_string(), end.saturating_mul(1000)))
}

fn verifier(
    ca: Option<&[u8]>,
    provider: Arc<CryptoProvider>,
) -> std::result::Result<Arc<dyn ServerCertVerifier>, String> {
    let Some(pem) = ca else {
        let verifier = rustls_platform_verifier::Verifier::new(provider);
        return Ok(Arc::new(verifier.map_err(|error| error.to_string())?));
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("ca: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("ca: {error}"))?;
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    Ok(builder.build().map_err(|error| format!("ca: {error}"))?)
}

/// Asks the real verifier, notes what it says, and lets the handshake end in any case.
#[derive(Debug)]
struct Witness {
    verifier: Arc<dyn ServerCertVerifier>,
    refused: Mutex<Option<String>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = verified.err().map(|error| error.to_string());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
