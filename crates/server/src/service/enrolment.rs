//! Enrolment keys, and devices that enrol themselves with them.

use axum::http::StatusCode;
use fota_proto::{
    DeviceId,
    enrol::{self, Enrol},
    manager::{CredentialSource, EnrolmentKeyRequest, EnrolmentKeyState, NewEnrolmentKey},
    signed::{Alg, Credential, Sealed, open_seal},
};

use super::{
    commit, commit_by,
    credentials::{event, name, no_random},
};
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{By, Record},
    domain::{
        hex,
        identity::{Admission, EnrolmentKey, Known, Material, NotAdmitted, admit},
        model::NewEvent,
    },
    identities::Challenge,
    random,
    service::rollouts::device_id,
    store::NewStored,
};

/// Devices that one key may enrol.
const DEVICES_MAX: u32 = 100_000;
/// Longest life of a key, seconds: a year. It lies in every device of its batch.
const LIFE_S_MAX: u32 = 366 * 24 * 60 * 60;

/// What a device is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Say it again with this challenge.
    Again(Challenge),
    /// The key is the device's from now on.
    Done,
}

/// Makes an enrolment key.
pub async fn create(
    state: &AppState,
    by: &By,
    request: &EnrolmentKeyRequest,
) -> Result<NewEnrolmentKey, Refusal> {
    let now = state.now_ms();
    check(request)?;
    let secret = random::bytes().map_err(no_random)?;
    let key = EnrolmentKey {
        id: 0,
        name: request.name.clone(),
        key_id: hex::encode(&enrol::enrolment_key_id(&secret)),
        devices_max: request.devices_max,
        devices: 0,
        expires_at: now + i64::from(request.expires_in_s) * 1000,
        group: request.group.clone(),
        id_prefix: request.id_prefix.clone(),
        is_revoked: false,
        created_at: now,
    };
    let mut tx = state.store.write().await?;
    if let Some(group) = &key.group
        && !tx.group_exists(group).await?
    {
        return Err(Refusal::not_found(format!("group {group:?}")).of("group"));
    }
    if !tx.insert_enrolment_key(&key, &secret).await? {
        let detail = format!(
            "there is an enrolment key {:?} already, or was one",
            key.name
        );
        return Err(Refusal::conflict("enrolment_key_exists", detail).of("name"));
    }
    let text = format!("{}: for {} devices", key.name, key.devices_max);
    let told = key_event("enrolment_key.created", text);
    let record = key_record("enrolment_key.created", &key.name, terms(&key));
    commit_by(state, tx, by, record, &[told], false).await?;
    Ok(NewEnrolmentKey {
        enrolment_key: shown(&key, now),
        secret: hex::encode(&secret),
    })
}

fn check(request: &EnrolmentKeyRequest) -> Result<(), Refusal> {
    device_id("name", &request.name)?;
    if let Some(group) = &request.group {
        device_id("group", group)?;
    }
    if let Some(prefix) = &request.id_prefix {
        device_id("id_prefix", prefix)?;
    }
    let within = |field: &'static str, value: u32, max: u32| match (1..=max).contains(&value) {
        true => Ok(()),
        false => Err(Refusal::field(
            field,
            format!("{field} is {value}: give 1 to {max}"),
        )),
    };
    within("devices_max", request.devices_max, DEVICES_MAX)?;
    within("expires_in_s", request.expires_in_s, LIFE_S_MAX)
}

/// Every enrolment key, by name.
pub async fn list(state: &AppState) -> Result<Vec<fota_proto::manager::EnrolmentKey>, Refusal> {
    let keys = state.store.read().await?.enrolment_keys().await?;
    let now = state.now_ms();
    Ok(keys.iter().map(|key| shown(key, now)).collect())
}

/// Ends an enrolment key for good; devices that it enrolled stay.
pub async fn revoke(state: &AppState, by: &By, name: &DeviceId) -> Result<(), Refusal> {
    let mut tx = state.store.write().await?;
    if tx.enrolment_key(name.as_str()).await?.is_none() {
        return Err(Refusal::not_found(format!("enrolment key {name}")).of("name"));
    }
    if !tx.revoke_enrolment_key(name.as_str()).await? {
        let detail = format!("enrolment key {name} is revoked already");
        return Err(Refusal::conflict("not_active", detail).of("name"));
    }
    let told = key_event("enrolment_key.revoked", name.to_string());
    let record = key_record("enrolment_key.revoked", name.as_str(), String::new());
    commit_by(state, tx, by, record, &[told], false).await?;
    Ok(())
}

/// A device offers its key.
pub async fn enrol(
    state: &AppState,
    device: &DeviceId,
    message: &Enrol<'_>,
    sealed: &Sealed<'_>,
) -> Result<Told, Refusal> {
    let now = state.now_ms();
    let key_id = hex::encode(&message.enrolment_key);
    let mut tx = state.store.read().await?;
    let found = tx.enrolment_key_on_wire(&key_id).await?;
    let known = Known(tx.credentials_of(device.as_str()).await?);
    drop(tx);
    // Until here nothing is told apart: a stranger learns neither keys nor devices.
    let key = found.filter(|(_, secret)| enrol::proves(secret, message));
    let (key, _) = key.ok_or_else(not_proven)?;
    let is_own =
        message.key.alg() == Alg::Esp256 && open_seal(sealed, Credential::Key(message.key)).is_ok();
    if !is_own {
        return Err(not_proven());
    }
    let challenges = state
        .identities
        .enrolment_challenges(device, known.0.len(), now)
        .map_err(no_random)?;
    let is_fresh = message
        .challenge
        .is_some_and(|given| challenges.contains(&given));
    if !is_fresh && !has(&known, message) {
        return Ok(Told::Again(challenges[0]));
    }
    if state.config.legacy_allow.contains(device) {
        let detail = format!("{device} is an id of the seed's API: take it out of --legacy-allow");
        return Err(Refusal::conflict("device_taken", detail).of("device"));
    }
    if !state.identities.may_enrol(key.id, now) {
        let detail = "too many devices enrol with this key at once: try again in a minute";
        return Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "enrolment_rate",
            detail,
        ));
    }
    store(state, device, message, &key_id, now).await
}

/// Whether the device has this very key: its last answer was lost, and repeating it needs no
/// challenge, since it changes nothing.
fn has(known: &Known, message: &Enrol<'_>) -> bool {
    known.active().any(|stored| {
        matches!(&stored.material, Material::Key(bytes) if bytes[..] == *message.key.bytes())
    })
}

async fn store(
    state: &AppState,
    device: &DeviceId,
    message: &Enrol<'_>,
    key_id: &str,
    now: i64,
) -> Result<Told, Refusal> {
    let mut tx = state.store.write().await?;
    // Read again: another device may have used up the key meanwhile.
    let found = tx.enrolment_key_on_wire(key_id).await?;
    let (key, _) = found.ok_or_else(not_proven)?;
    let known = Known(tx.credentials_of(device.as_str()).await?);
    let until = tx.re_enrol_until(device.as_str()).await?;
    let bytes = message.key.bytes();
    let admission = admit(&key, device, bytes, &known, until, now);
    let replaces = match admission.map_err(|refused| not_admitted(device, &key, refused))? {
        Admission::Already => return Ok(Told::Done),
        Admission::New { replaces } => replaces,
    };
    let material = bytes
        .try_into()
        .map(Material::Key)
        .map_err(|_| not_proven())?;
    let new = NewStored {
        device: device.as_str(),
        material: &material,
        source: CredentialSource::Enrolment,
        enrolment_key: Some(&key.name),
    };
    let id = tx.next_credential_id().await?;
    tx.insert_credential(id, &new, now).await?;
    tx.count_enrolment(key.id).await?;
    tx.end_re_enrolment(device.as_str()).await?;
    for id in &replaces {
        tx.revoke_credential(device.as_str(), *id, now).await?;
    }
    if let Some(group) = &key.group
        && tx.group_exists(group).await?
    {
        tx.add_to_group(group, device.as_str()).await?;
    }
    let text = format!("{} came with enrolment key {}", name(&material), key.name);
    let told = NewEvent {
        actor: "device",
        ..event(device, "device.enrolled", text)
    };
    tx.bump_credential_generation().await?;
    let committed = commit(state, tx, &[told], key.group.is_some()).await;
    state.identities.changed([device.as_str()]);
    committed?;
    Ok(Told::Done)
}

fn not_proven() -> Refusal {
    let detail = "the enrolment is not proven: the enrolment key is not known here, or the proof \
                  or the signature is wrong";
    Refusal::new(StatusCode::FORBIDDEN, "enrolment_not_proven", detail)
}

/// Told to whoever has proven to hold the enrolment key.
fn not_admitted(device: &DeviceId, key: &EnrolmentKey, refused: NotAdmitted) -> Refusal {
    let forbidden = |code, detail: String| Refusal::new(StatusCode::FORBIDDEN, code, detail);
    let (name, devices, max) = (&key.name, key.devices, key.devices_max);
    match refused {
        NotAdmitted::Key(EnrolmentKeyState::Full) => {
            let detail = format!(
                "enrolment key {name} has enrolled {devices} of {max} devices: make another key"
            );
            forbidden("enrolment_key_full", detail)
        }
        NotAdmitted::Key(EnrolmentKeyState::Expired) => {
            let detail = format!("enrolment key {name} has expired: make another key");
            forbidden("enrolment_key_expired", detail)
        }
        NotAdmitted::Key(_) => {
            let detail = format!("enrolment key {name} is revoked: make another key");
            forbidden("enrolment_key_revoked", detail)
        }
        NotAdmitted::Prefix(prefix) => {
            let detail = format!("enrolment key {name} is for ids that begin with {prefix:?}");
            forbidden("enrolment_id", detail).of("device")
        }
        NotAdmitted::Taken => {
            let detail = format!(
                "{device} has, or had, another credential: an operator may allow a new one with \
                 `fota device re-enrol {device}`"
            );
            Refusal::conflict("device_taken", detail).of("device")
        }
    }
}

/// What a new key may do, for the audit log: its public id, never its secret.
fn terms(key: &EnrolmentKey) -> String {
    let EnrolmentKey {
        key_id,
        devices_max,
        expires_at,
        ..
    } = key;
    let mut terms = format!("key {key_id}: {devices_max} devices until {expires_at} ms");
    if let Some(group) = &key.group {
        terms += &format!(", into group {group}");
    }
    if let Some(prefix) = &key.id_prefix {
        terms += &format!(", ids that begin with {prefix:?}");
    }
    terms
}

fn key_record(action: &'static str, name: &str, detail: String) -> Record {
    Record::new(action, format!("enrolment-key:{name}"), detail)
}

fn key_event(kind: &str, text: String) -> NewEvent {
    NewEvent {
        kind: kind.to_owned(),
        actor: "operator",
        text,
        ..NewEvent::default()
    }
}

fn shown(key: &EnrolmentKey, now: i64) -> fota_proto::manager::EnrolmentKey {
    fota_proto::manager::EnrolmentKey {
        name: key.name.clone(),
        key_id: key.key_id.clone(),
        devices_max: key.devices_max,
        devices: key.devices,
        expires_at: key.expires_at,
        group: key.group.clone(),
        id_prefix: key.id_prefix.clone(),
        state: key.state(now),
        created_at: key.created_at,
    }
}
