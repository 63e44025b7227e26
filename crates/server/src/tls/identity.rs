//! Who a client certificate says its holder is.

use axum::{
    extract::{Request, State},
    http::{Extensions, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use x509_parser::{extensions::GeneralName, prelude::*};

use crate::{AppState, api::problem::Refusal};

/// The name in a client certificate that was verified against the client CA; among a request's
/// extensions where there was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity(pub String);

/// The subject's common name, or else the first DNS name or URI that it is for.
pub(crate) fn name_of(certificate: &[u8]) -> Option<PeerIdentity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common = certificate.subject().iter_common_name().next();
    let common = common.and_then(|name| name.as_str().ok());
    if let Some(name) = common.filter(|name| !name.is_empty()) {
        return Some(PeerIdentity(name.to_owned()));
    }
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => {
                Some(PeerIdentity((*name).to_owned()))
            }
            _ => None,
        })
}

/// Milliseconds since the Unix epoch at which a certificate (DER) ends.
pub fn certificate_end_ms(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    seconds.checked_mul(1000)
}

/// Refuses a message of another device than the one that the client certificate names.
pub(crate) fn refuse_other_device(extensions: &Extensions, device: &str) -> Result<(), Refusal> {
    match extensions.get::<PeerIdentity>() {
        Some(PeerIdentity(name)) if name != device => {
            let name: String = name.chars().take(80).collect();
            let detail = format!(
                "the client certificate is of {name:?} and the message of {device:?}: \
                 a device speaks for itself only"
            );
            Err(Refusal::new(StatusCode::FORBIDDEN, "device_identity", detail).of("device"))
        }
        _ => Ok(()),
    }
}

/// For the routes of devices: where `--require-client-cert` is given, only devices with a verified
/// certificate get through; and the `Device-ID` of a request with one is the certificate's.
pub async fn require_client_certificate(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let tls = state.config.tls.as_ref();
    let is_required = tls.is_some_and(|tls| tls.client_cert_required);
    let extensions = request.extensions();
    if is_required && extensions.get::<PeerIdentity>().is_none() {
        let detail = "this server answers devices only with a client certificate of its client \
                      CA: give the device one";
        let code = "client_certificate_needed";
        return Refusal::new(StatusCode::FORBIDDEN, code, detail).into_response();
    }
    let header = request.headers().get("device-id");
    let refused = header.and_then(|id| {
        let id = String::from_utf8_lossy(id.as_bytes());
        refuse_other_device(extensions, id.trim()).err()
    });
    if let Some(refusal) = refused {
        return refusal.into_response();
    }
    let own = extensions.get::<PeerIdentity>();
    if let Some(own) = own.and_then(|own| HeaderValue::from_str(&own.0).ok()) {
        request.headers_mut().insert("device-id", own);
    }
    next.run(request).await
}
