//! `POST /d/v1/enrol`: a device tells its public key; see `docs/device-identity.md`.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use fota_proto::{
    checkin,
    enrol::{Enrol, Enrolled, VERSION},
    limits::{CHECK_IN_BYTES_MAX, SEALED_BYTES_MAX},
    signed::Sealed,
};

use super::{
    checkin::{CBOR, COSE},
    extract::{require_type, whole_body},
    problem::Refusal,
};
use crate::{
    AppState,
    service::{
        enrolment::{self, Told},
        rollouts::device_id,
    },
};

/// A device offers its public key, proven with an enrolment key.
#[utoipa::path(post, path = "/d/v1/enrol", tag = "device", security(()),
    request_body(content = Vec<u8>, content_type = "application/cose", description = "Enrol in a COSE_Sign1 of the device's key"),
    responses((status = 200, content_type = "application/cbor", body = Vec<u8>, description = "Enrolled"),
        (status = 400, body = fota_proto::manager::Problem),
        (status = 403, body = fota_proto::manager::Problem),
        (status = 409, body = fota_proto::manager::Problem)))]
pub async fn enrol(State(state): State<AppState>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    require_type(&parts.headers, COSE)?;
    let body = whole_body(body, SEALED_BYTES_MAX as u64).await?;
    let sealed = Sealed::parse(&body)
        .map_err(|error| Refusal::field("body", format!("body is no COSE_Sign1: {error}")))?;
    let message = parse(sealed.payload())?;
    let device = device_id("device", message.device)?;
    let told = enrolment::enrol(&state, &device, &message, &sealed).await?;
    let answer = Enrolled {
        protocol: VERSION,
        nonce: message.nonce,
        challenge: match told {
            Told::Again(challenge) => Some(challenge),
            Told::Done => None,
        },
    };
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let bytes = checkin::encode(&answer, &mut buffer).expect("three short fields fit");
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(CBOR))];
    Ok((kind, bytes.to_vec()).into_response())
}

fn parse(payload: &[u8]) -> Result<Enrol<'_>, Refusal> {
    let mut decoder = minicbor::Decoder::new(payload);
    let message: Enrol = decoder.decode().map_err(|error| {
        let detail = format!("payload is no enrolment of protocol 1: {error}");
        Refusal::field("body", detail)
    })?;
    if decoder.position() != payload.len() {
        let rest = payload.len() - decoder.position();
        let detail = format!("{rest} bytes follow the enrolment");
        return Err(Refusal::field("body", detail));
    }
    if message.protocol != VERSION {
        let detail = format!(
            "protocol is {}; this server speaks {VERSION}",
            message.protocol
        );
        return Err(Refusal::field("protocol", detail));
    }
    Ok(message)
}
