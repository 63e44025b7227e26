//! The credentials of devices, as operators give and take them.

use axum::http::StatusCode;
use fota_proto::{
    DeviceId,
    limits::DEVICE_SECRET_BYTES,
    manager::{
        ClaimsAccepted, CredentialKind, CredentialRequest, CredentialSource, DeviceCredential,
        NewCredential, ReEnrolment,
    },
    signed::{Alg, PublicKey},
};

use super::commit_by;
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{By, Record},
    domain::{
        claim::{Claim, WRONG_LINES_MAX, WrongLine},
        hex,
        identity::{CREDENTIALS_MAX, Known, Material, Stored},
        model::NewEvent,
    },
    random,
    store::{NewStored, StoreError, Tx},
};

/// How long an operator's leave to enrol another key lasts, ms: a day's work.
const RE_ENROL_MS: i64 = 24 * 60 * 60 * 1000;

/// The credentials of a device that is known, or that has one.
pub async fn list(state: &AppState, device: &DeviceId) -> Result<Vec<DeviceCredential>, Refusal> {
    state.identities.flush(&state.store).await?;
    let mut tx = state.store.read().await?;
    let known = known_device(&mut tx, device).await?;
    Ok(known.0.iter().map(shown).collect())
}

/// Gives a device a credential; it need not have been seen yet.
pub async fn provision(
    state: &AppState,
    by: &By,
    device: &DeviceId,
    request: &CredentialRequest,
) -> Result<NewCredential, Refusal> {
    let (material, secret) = material(request)?;
    let mut tx = state.store.write().await?;
    let known = Known(tx.credentials_of(device.as_str()).await?);
    if known.0.iter().any(|stored| stored.material == material) {
        let detail = format!("{device} has, or had, this key already: make a new one");
        return Err(Refusal::conflict("credential_exists", detail).of("public_key"));
    }
    let count = known.active().count();
    if count >= CREDENTIALS_MAX {
        let detail = format!(
            "{device} has {count} active credentials; at most {CREDENTIALS_MAX} are kept: revoke one"
        );
        return Err(Refusal::conflict("credentials_max", detail).of("id"));
    }
    let new = NewStored {
        device: device.as_str(),
        material: &material,
        source: CredentialSource::Operator,
        enrolment_key: None,
    };
    let id = tx.next_credential_id().await?;
    tx.insert_credential(id, &new, state.now_ms()).await?;
    let what = name(&material);
    let told = event(device, "device.provisioned", format!("{what} was added"));
    let record = record(
        "device.provisioned",
        device,
        format!("credential {id}: {what}"),
    );
    let stored = tx.credentials_of(device.as_str()).await?;
    store(state, tx, (by, record), &[told], &[device.as_str()]).await?;
    let stored = stored.iter().find(|stored| stored.id == id);
    let stored = stored.ok_or_else(|| Refusal::not_found(format!("credential {id}")))?;
    Ok(NewCredential {
        credential: shown(stored),
        secret: secret.map(|secret| hex::encode(&secret)),
    })
}

/// What is to be stored, and the secret where one was made.
fn material(
    request: &CredentialRequest,
) -> Result<(Material, Option<[u8; DEVICE_SECRET_BYTES]>), Refusal> {
    match (request.kind, &request.public_key) {
        (CredentialKind::Secret, None) => {
            let secret = random::bytes().map_err(no_random)?;
            Ok((Material::Secret(secret), Some(secret)))
        }
        (CredentialKind::Secret, Some(_)) => {
            let detail = "public_key is given for a secret: leave it out, the server makes one";
            Err(Refusal::field("public_key", detail))
        }
        (CredentialKind::Key, None) => {
            let detail = "public_key is missing: give 130 hex digits beginning with 04";
            Err(Refusal::field("public_key", detail))
        }
        (CredentialKind::Key, Some(text)) => {
            let key = Material::key_from_hex(text).ok_or_else(|| {
                let digits = text.chars().count();
                let detail = format!(
                    "public_key is no P-256 public key: 130 hex digits beginning with 04 are \
                     needed, found {digits} characters"
                );
                Refusal::field("public_key", detail)
            });
            Ok((key?, None))
        }
    }
}

/// The system has no randomness: nothing that needs a secret can go on.
pub fn no_random(error: std::io::Error) -> Refusal {
    tracing::error!(%error, "the system gives no random bytes");
    let detail = "the server could not make a secret: see its log, then try again";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "random", detail)
}

/// Takes a factory's list: all of it or nothing.
pub async fn claim(state: &AppState, by: &By, claims: &[Claim]) -> Result<ClaimsAccepted, Refusal> {
    let mut tx = state.store.write().await?;
    let mut next = tx.next_credential_id().await?;
    let (mut wrong, mut claimed) = (Vec::new(), Vec::new());
    for claim in claims {
        let known = Known(tx.credentials_of(claim.device.as_str()).await?);
        if known
            .active()
            .any(|stored| stored.material == claim.material)
        {
            continue;
        }
        if !known.is_empty() {
            let reason = format!(
                "{} has, or had, another credential: use `fota device provision`",
                claim.device
            );
            wrong.push(WrongLine {
                line: claim.line,
                reason,
            });
            continue;
        }
        let new = NewStored {
            device: claim.device.as_str(),
            material: &claim.material,
            source: CredentialSource::Claim,
            enrolment_key: None,
        };
        tx.insert_credential(next, &new, state.now_ms()).await?;
        next += 1;
        claimed.push(claim.device.as_str());
    }
    if !wrong.is_empty() {
        return Err(wrong_lines(
            "credential_exists",
            StatusCode::CONFLICT,
            &wrong,
        ));
    }
    let accepted = ClaimsAccepted {
        claimed: claimed.len() as u64,
        unchanged: (claims.len() - claimed.len()) as u64,
    };
    if claimed.is_empty() {
        return Ok(accepted);
    }
    let told = NewEvent {
        kind: "device.claimed".to_owned(),
        actor: "operator",
        text: format!("{} devices of a factory's list", claimed.len()),
        ..NewEvent::default()
    };
    let ends = [claimed.first(), claimed.last()].map(|id| *id.unwrap_or(&""));
    let detail = format!("{}: first {}, last {}", told.text, ends[0], ends[1]);
    let record = Record::new("device.claimed", "device-claims", detail);
    store(state, tx, (by, record), &[told], &claimed).await?;
    Ok(accepted)
}

/// The refusal of a list, with the numbers of its first wrong lines.
pub fn wrong_lines(code: &'static str, status: StatusCode, wrong: &[WrongLine]) -> Refusal {
    let first = wrong.iter().take(WRONG_LINES_MAX);
    let lines: Vec<String> = first.map(WrongLine::to_string).collect();
    let detail = format!("nothing was taken: {}", lines.join("; "));
    Refusal::new(status, code, detail).of("body")
}

/// Ends credentials of a device for good: the one with this number, or all.
pub async fn revoke(
    state: &AppState,
    by: &By,
    device: &DeviceId,
    only: Option<i64>,
) -> Result<(), Refusal> {
    let now = state.now_ms();
    let mut tx = state.store.write().await?;
    let known = known_device(&mut tx, device).await?;
    let is_meant = |stored: &&Stored| only.is_none_or(|id| stored.id == id);
    if let Some(id) = only
        && !known.0.iter().any(|stored| stored.id == id)
    {
        return Err(Refusal::not_found(format!("credential {id} of {device}")).of("credential"));
    }
    let meant: Vec<&Stored> = known.active().filter(is_meant).collect();
    if meant.is_empty() {
        let detail = format!("{device} has no such active credential: nothing is to be revoked");
        return Err(Refusal::conflict("not_active", detail).of("id"));
    }
    let (mut told, mut names) = (Vec::new(), Vec::new());
    for stored in &meant {
        tx.revoke_credential(device.as_str(), stored.id, now)
            .await?;
        let what = name(&stored.material);
        names.push(format!("credential {}: {what}", stored.id));
        let text = format!("{what} was revoked");
        told.push(event(device, "device.revoked", text));
    }
    tx.end_re_enrolment(device.as_str()).await?;
    let record = record("device.revoked", device, names.join("; "));
    store(state, tx, (by, record), &told, &[device.as_str()]).await
}

/// Lets a device enrol another key, once.
pub async fn allow_re_enrolment(
    state: &AppState,
    by: &By,
    device: &DeviceId,
) -> Result<ReEnrolment, Refusal> {
    let expires_at = state.now_ms() + RE_ENROL_MS;
    let mut tx = state.store.write().await?;
    known_device(&mut tx, device).await?;
    tx.allow_re_enrolment(device.as_str(), expires_at).await?;
    let text = "may enrol another key within 24 hours, once".to_owned();
    let record = record("device.re_enrolment", device, text.clone());
    let told = event(device, "device.re_enrolment", text);
    store(state, tx, (by, record), &[told], &[device.as_str()]).await?;
    Ok(ReEnrolment {
        device: device.to_string(),
        expires_at,
    })
}

/// The credentials of a device; a refusal where nobody has heard of it.
async fn known_device(tx: &mut Tx, device: &DeviceId) -> Result<Known, Refusal> {
    let known = Known(tx.credentials_of(device.as_str()).await?);
    if known.is_empty() && tx.device(device.as_str()).await?.is_none() {
        return Err(Refusal::not_found(format!("device {device}")).of("id"));
    }
    Ok(known)
}

/// What the audit log says of a device's credentials: numbers and key ids, never a secret.
fn record(action: &'static str, device: &DeviceId, detail: String) -> Record {
    Record::new(action, format!("device:{device}"), detail)
}

/// Commits with the audit record of who did it, and makes it count from now on.
async fn store(
    state: &AppState,
    mut tx: Tx,
    (by, record): (&By, Record),
    events: &[NewEvent],
    devices: &[&str],
) -> Result<(), Refusal> {
    tx.bump_credential_generation().await?;
    let committed: Result<i64, StoreError> = commit_by(state, tx, by, record, events, false).await;
    // Also where the answer of the database is lost: then the truth is read again.
    state.identities.changed(devices.iter().copied());
    Ok(committed.map(drop)?)
}

pub(super) fn event(device: &DeviceId, kind: &str, text: String) -> NewEvent {
    NewEvent {
        kind: kind.to_owned(),
        device: Some(device.to_string()),
        actor: "operator",
        text,
        ..NewEvent::default()
    }
}

/// A credential for people: never a secret.
pub(super) fn name(material: &Material) -> String {
    match key_id(material) {
        Some(id) => format!("key {id}"),
        None => "a secret".to_owned(),
    }
}

fn key_id(material: &Material) -> Option<String> {
    match material {
        Material::Key(bytes) => PublicKey::new(Alg::Esp256, bytes).map(|key| key.id().to_string()),
        Material::Secret(_) => None,
    }
}

fn shown(stored: &Stored) -> DeviceCredential {
    DeviceCredential {
        id: stored.id,
        device: stored.device.clone(),
        kind: stored.material.kind(),
        public_key: match &stored.material {
            Material::Key(bytes) => Some(hex::encode(bytes)),
            Material::Secret(_) => None,
        },
        key_id: key_id(&stored.material),
        state: stored.state,
        source: stored.source,
        enrolment_key: stored.enrolment_key.clone(),
        created_at: stored.created_at,
        revoked_at: stored.revoked_at,
        last_used: stored.last_used,
    }
}
