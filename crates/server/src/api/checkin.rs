//! `POST /d/v1/check-in`: CBOR in, CBOR out; see `docs/protocol.md`.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fota_proto::{
    DeviceId, FailureCode,
    checkin::{self, Action, Answer, CheckIn, Install, Rollback, Running},
    limits::{CHECK_IN_BYTES_MAX, PROJECT_BYTES_MAX, REASON_BYTES_MAX, VERSION_BYTES_MAX},
};

use super::{
    extract::{require_type, whole_body},
    problem::Refusal,
};
use crate::{
    AppState,
    domain::{
        model::{Outcome, Plan, Progress, Protocol, Release, Report, Slot, Trust},
        step::{Decision, Order},
    },
    service, tls,
};

/// The media type of CBOR.
pub const CBOR: &str = "application/cbor";
/// The media type of signed objects (RFC 9052 section 11.3).
pub const COSE: &str = "application/cose";

/// A device says what is; the answer is the order that stands.
#[utoipa::path(post, path = "/d/v1/check-in", tag = "device", security(()),
    request_body(content = Vec<u8>, content_type = "application/cbor", description = "CheckIn, at most 1,024 bytes"),
    responses((status = 200, content_type = "application/cbor", body = Vec<u8>,
            description = "Answer; as application/cose, signed by the online key, to a device that says a root version"),
        (status = 400, body = fota_proto::manager::Problem),
        (status = 403, body = fota_proto::manager::Problem)))]
pub async fn check_in(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    require_type(&parts.headers, CBOR)?;
    let body = whole_body(body, CHECK_IN_BYTES_MAX as u64).await?;
    let message: CheckIn = parse(&body)?;
    let report = report(&message)?;
    tls::refuse_other_device(&parts.extensions, report.device.as_str())?;
    let decision = service::checkin::check_in(&state, &report).await?;
    let plan = state.fleet.newest_plan(&state.store).await?;
    let answer = answer(&state, &plan, &message, &decision).await?;
    // A device that knows roots takes only what is signed; no other could read it.
    match message.root.and(plan.root) {
        Some(_) => signed(&state, &answer),
        None => Ok(reply(CBOR, answer)),
    }
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
        trust: trust(message)?,
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
        } => {
            let Some(release) = plan.releases.get(release) else {
                return Ok(None);
            };
            let install = install(state, release, message, *trial_deadline_s).await?;
            install.map(|install| checkin::Order {
                id: *id,
                action: Action::Install(install),
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
    trial_deadline_s: u32,
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
