//! `POST /d/v1/check-in`: CBOR in, plain or sealed, CBOR out; see `docs/protocol.md`.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fota_proto::{
    DeviceId, FailureCode,
    checkin::{self, Action, Answer, CheckIn, Install, Patch, Rollback, Running},
    limits::{
        ATTRIBUTES_TEXT_BYTES_MAX, CHALLENGE_BYTES, CHECK_IN_BYTES_MAX, METRICS_NAME_BYTES_MAX,
        PROJECT_BYTES_MAX, REASON_BYTES_MAX, SEALED_BYTES_MAX, VERSION_BYTES_MAX,
    },
    signed::Sealed,
};

use super::{
    extract::{require_type_of, too_large, whole_body},
    problem::Refusal,
};
use crate::{
    AppState,
    domain::{
        identity::Untrusted,
        model::{Outcome, Plan, Progress, Protocol, Release, Report, Slot, Trust},
        step::{Decision, Order},
    },
    service::{
        self,
        credentials::no_random,
        trust::{self, TrustError},
    },
    tls,
};

/// The media type of CBOR.
pub const CBOR: &str = "application/cbor";
/// The media type of signed objects (RFC 9052 section 11.3).
pub const COSE: &str = "application/cose";

/// A device says what is; the answer is the order that stands.
#[utoipa::path(post, path = "/d/v1/check-in", tag = "device", security(()),
    request_body(content = Vec<u8>, content_type = "application/cbor", description = "CheckIn, at most 1,024 bytes, plain or in a COSE_Mac0 or COSE_Sign1 (application/cose)"),
    responses((status = 200, content_type = "application/cbor", body = Vec<u8>,
            description = "Answer; as application/cose, signed by the online key, to a device that says a root version"),
        (status = 400, body = fota_proto::manager::Problem),
        (status = 403, body = fota_proto::manager::Problem)))]
pub async fn check_in(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    require_type_of(&parts.headers, &[CBOR, COSE])?;
    let body = whole_body(body, SEALED_BYTES_MAX as u64).await?;
    let sealed = sealed(&body)?;
    let message: CheckIn = parse(sealed.as_ref().map_or(&body, Sealed::payload))?;
    let report = report(&message)?;
    tls::refuse_other_device(&parts.extensions, report.device.as_str())?;
    let sender = trusted(&state, &report, sealed.as_ref(), &message).await?;
    let (challenge, decision) = match sender {
        trust::Trust::Plain => (
            None,
            Some(service::checkin::check_in(&state, &report).await?),
        ),
        trust::Trust::Fresh(challenge) => {
            let decision = service::checkin::check_in(&state, &report).await?;
            (Some(challenge), Some(decision))
        }
        trust::Trust::Stale(challenge) => (Some(challenge), None),
    };
    let decision = decision.unwrap_or(NOT_TAKEN);
    let plan = state.fleet.newest_plan(&state.store).await?;
    let answer = answer(&state, &plan, &message, &decision, challenge).await?;
    // A device that knows roots takes only what is signed; no other could read it.
    match message.root.and(plan.root) {
        Some(_) => signed(&state, &answer),
        None => Ok(reply(CBOR, answer)),
    }
}

/// The answer to a check-in that may be an old one: nothing is decided, come again at once.
const NOT_TAKEN: Decision = Decision {
    retry_after_s: 0,
    acknowledged: None,
    order: None,
    valid_until: None,
    limited: None,
};

/// The seal around a check-in; none around a plain one, which must be as short as one.
fn sealed(body: &[u8]) -> Result<Option<Sealed<'_>>, Refusal> {
    if Sealed::looks_like(body) {
        let sealed = Sealed::parse(body);
        return sealed.map(Some).map_err(|error| {
            let detail = format!("body is no sealed check-in: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, "check_in_invalid", detail).of("body")
        });
    }
    match body.len() <= CHECK_IN_BYTES_MAX {
        true => Ok(None),
        false => Err(too_large(body.len() as u64, CHECK_IN_BYTES_MAX as u64)),
    }
}

/// Whether the check-in is of the device that it names.
async fn trusted(
    state: &AppState,
    report: &Report,
    sealed: Option<&Sealed<'_>>,
    message: &CheckIn<'_>,
) -> Result<trust::Trust, Refusal> {
    let refused = |code, detail| Refusal::new(StatusCode::FORBIDDEN, code, detail);
    let trust = trust::open(state, &report.device, sealed, message.challenge).await;
    trust.map_err(|error| match error {
        TrustError::Untrusted(Untrusted::Revoked) => refused(
            "device_revoked",
            "the credential that seals this check-in was revoked: give the device a new one",
        ),
        TrustError::Untrusted(Untrusted::NotProven) => refused(
            "device_not_trusted",
            "the check-in is not sealed with a credential that this server has for the device: \
             see `fota device credentials` and `fota device provision`",
        ),
        TrustError::Store(error) => error.into(),
        TrustError::Random(error) => no_random(error),
    })
}

fn parse(body: &[u8]) -> Result<CheckIn<'_>, Refusal> {
    let mut decoder = minicbor::Decoder::new(body);
    let message: CheckIn = decoder.decode().map_err(|error| {
        let detail = format!("body is no check-in of protocol 1: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, "check_in_invalid", detail).of("body")
    })?;
    if decoder.position() != body.len() {
        let rest = body.len() - decoder.position();
        let detail = format!("{rest} bytes follow the check-in");
        return Err(Refusal::field("body", detail));
    }
    if message.protocol != checkin::VERSION {
        let detail = format!(
            "protocol is {}; this server speaks {}",
            message.protocol,
            checkin::VERSION
        );
        return Err(Refusal::field("protocol", detail));
    }
    Ok(message)
}

/// The check-in with every text and number checked.
fn report(message: &CheckIn) -> Result<Report, Refusal> {
    let device: DeviceId = message
        .device
        .parse()
        .map_err(|error| Refusal::field("device", format!("device: {error}")))?;
    text("version", message.version, VERSION_BYTES_MAX)?;
    text("project", message.project, PROJECT_BYTES_MAX)?;
    Ok(Report {
        device,
        protocol: Protocol::Native,
        chip: Some(message.chip),
        chip_revision: message.chip_revision,
        elf: Some(message.running_elf),
        version: Some(message.version.to_owned()),
        project: Some(message.project.to_owned()),
        confirmed: Some(message.confirmed == Running::Confirmed),
        slot: Some(message.slot),
        slots: message.slots.iter().map(slot).collect::<Result<_, _>>()?,
        rollback_slot: message.rollback_slot,
        progress: message.progress.map(|progress| Progress {
            order: progress.order,
            phase: progress.phase,
            bytes: progress.bytes,
        }),
        outcome: message.outcome.as_ref().map(outcome).transpose()?,
        reset: Some(message.reset),
        uptime_s: Some(message.uptime_s),
        trust: trust(message)?,
        patches: message.patches,
        attributes: attributes(message)?,
        metrics: metrics(message)?,
        waits: message.waits,
    })
}

fn trust(message: &CheckIn) -> Result<Trust, Refusal> {
    // No log is so long, and no database could store its length.
    if let Some(head) = message.log
        && i64::try_from(head.size).is_err()
    {
        let (size, max) = (head.size, i64::MAX);
        let detail = format!("log has {size} entries; at most {max} are possible");
        return Err(Refusal::field("log", detail));
    }
    Ok(Trust {
        root: message.root,
        epoch: message.epoch,
        log: message.log,
    })
}

fn attributes(message: &CheckIn) -> Result<BTreeMap<String, String>, Refusal> {
    let given = message.attributes.as_deref().unwrap_or_default();
    let texts = given.iter().flat_map(|it| [it.name, it.value]);
    short("attributes", texts, ATTRIBUTES_TEXT_BYTES_MAX)?;
    let pairs = given
        .iter()
        .map(|it| (it.name.to_owned(), it.value.to_owned()));
    Ok(pairs.collect())
}

fn metrics(message: &CheckIn) -> Result<BTreeMap<String, i32>, Refusal> {
    let given = message.metrics.as_deref().unwrap_or_default();
    let names = given.iter().map(|metric| metric.name);
    short("metrics", names, METRICS_NAME_BYTES_MAX)?;
    let pairs = given
        .iter()
        .map(|metric| (metric.name.to_owned(), metric.value));
    Ok(pairs.collect())
}

/// Texts that together have at most `max` bytes.
fn short<'t>(field: &str, texts: impl Iterator<Item = &'t str>, max: usize) -> Result<(), Refusal> {
    let mut bytes = 0;
    for part in texts {
        text(field, part, max)?;
        bytes += part.len();
    }
    if bytes > max {
        let detail = format!("{field} have {bytes} bytes of text; at most {max} are taken");
        return Err(Refusal::field(field, detail));
    }
    Ok(())
}

/// A text of the protocol: short, and nothing that could change a terminal or a log line.
fn text(field: &str, text: &str, max: usize) -> Result<(), Refusal> {
    if text.len() > max {
        let detail = format!("{field} has {} bytes; at most {max} are taken", text.len());
        return Err(Refusal::field(field, detail));
    }
    if text.chars().any(char::is_control) {
        let detail = format!("{field} has a control character");
        return Err(Refusal::field(field, detail));
    }
    Ok(())
}

fn slot(slot: &checkin::SlotReport) -> Result<Slot, Refusal> {
    if let Some(version) = slot.version {
        text("slots.version", version, VERSION_BYTES_MAX)?;
    }
    Ok(Slot {
        slot: slot.slot,
        bytes: slot.bytes,
        state: slot.state,
        elf: slot.elf,
        version: slot.version.map(str::to_owned),
    })
}

fn outcome(outcome: &checkin::Outcome) -> Result<Outcome, Refusal> {
    let detail = outcome.detail.unwrap_or("");
    text("outcome.detail", detail, REASON_BYTES_MAX)?;
    Ok(Outcome {
        order: outcome.order,
        end: outcome.end,
        code: FailureCode::from_number(outcome.code),
        reset: outcome.reset,
        detail: detail.to_owned(),
    })
}

/// The answer in its encoding.
async fn answer(
    state: &AppState,
    plan: &Plan,
    message: &CheckIn<'_>,
    decision: &Decision,
    challenge: Option<[u8; CHALLENGE_BYTES]>,
) -> Result<Vec<u8>, Refusal> {
    let knows_roots = message.root.is_some();
    let order = match &decision.order {
        Some(order) => wire_order(state, plan, message, order).await?,
        None => None,
    };
    encode(&Answer {
        acknowledged: decision.acknowledged,
        order,
        device: plan.root.filter(|_| knows_roots).map(|_| message.device),
        root: plan.root.filter(|_| knows_roots),
        log: Some(plan.log.head()),
        challenge,
        ..Answer::nothing(message.nonce, decision.retry_after_s)
    })
}

async fn wire_order<'o>(
    state: &AppState,
    plan: &'o Plan,
    message: &CheckIn<'_>,
    order: &'o Order,
) -> Result<Option<checkin::Order<'o>>, Refusal> {
    Ok(match order {
        Order::Install {
            id,
            release,
            trial_deadline_s,
            patch,
            hold,
            conditions,
        } => {
            let Some(release) = plan.releases.get(release) else {
                return Ok(None);
            };
            let install = install(state, release, message, (*trial_deadline_s, *patch)).await?;
            install.map(|install| checkin::Order {
                id: *id,
                action: Action::Install(Install {
                    hold: hold.then_some(true),
                    conditions: *conditions,
                    ..install
                }),
            })
        }
        Order::Rollback { id, order } => order.leave_elf.map(|leave| checkin::Order {
            id: *id,
            action: Action::Rollback(Rollback {
                leave,
                reason: &order.reason,
            }),
        }),
        Order::Cancel { id } => Some(checkin::Order {
            id: *id,
            action: Action::Cancel,
        }),
    })
}

/// None for a release that is no image: it is never offered to a device of this protocol.
async fn install<'r>(
    state: &AppState,
    release: &'r Release,
    message: &CheckIn<'_>,
    (trial_deadline_s, patch): (u32, Option<Patch>),
) -> Result<Option<Install<'r>>, Refusal> {
    let (Some(elf), Ok(bytes)) = (release.elf, u32::try_from(release.bytes)) else {
        return Ok(None);
    };
    let held = &message.held;
    // A device that knows no roots takes the bare image.
    let signed = release.signed.as_ref().filter(|_| message.root.is_some());
    Ok(Some(Install {
        image: release.sha256,
        bytes,
        head: release.head,
        elf,
        version: &release.version,
        resume_from: service::download::longest_held(state, release.sha256, held).await?,
        trial_deadline_s,
        release: signed.map(|signed| signed.digest),
        artifact: signed.map(|signed| signed.artifact),
        // What comes out of it is proven by the index of the signed release alone.
        patch: patch.filter(|_| signed.is_some()),
        hold: None,
        conditions: None,
    }))
}

fn encode(answer: &Answer) -> Result<Vec<u8>, Refusal> {
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let bytes = checkin::encode(answer, &mut buffer).ok_or_else(too_long)?;
    Ok(bytes.to_vec())
}

/// The answer as an object that the server's online key has signed.
fn signed(state: &AppState, answer: &[u8]) -> Result<Response, Refusal> {
    let signed = state.online_key.sign(answer).map_err(|error| {
        tracing::error!(%error, "an answer could not be signed");
        too_long()
    })?;
    Ok(reply(COSE, signed))
}

fn too_long() -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "bug",
        "the answer is longer than the protocol allows: please report it",
    )
}

fn reply(kind: &'static str, bytes: Vec<u8>) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
    (kind, Body::from(bytes)).into_response()
}
