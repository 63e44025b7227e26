//! Whether a message is of the device that it names.

use fota_proto::{DeviceId, signed::Sealed};

use super::commit;
use crate::{
    AppState,
    domain::{
        identity::{DeviceAuth, Seal, Untrusted, judge, judge_legacy},
        model::NewEvent,
    },
    identities::{Challenge, Freshness},
    store::StoreError,
};

/// A message that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// As it is: nothing proves who sent it.
    Plain,
    /// It is of the device, and new. The answer is to carry this challenge.
    Fresh(Challenge),
    /// It is of the device, but may be an old one sent again: it must change nothing.
    Stale(Challenge),
}

/// Why a message cannot be judged, or is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("not proven")]
    Untrusted(Untrusted),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] std::io::Error),
}

/// Judges a check-in; `repeated` is the challenge in it.
pub async fn open(
    state: &AppState,
    device: &DeviceId,
    sealed: Option<&Sealed<'_>>,
    repeated: Option<Challenge>,
) -> Result<Trust, TrustError> {
    if state.config.device_auth == DeviceAuth::Off {
        return Ok(Trust::Plain);
    }
    let known = state.identities.known(&state.store, device).await?;
    let seal = sealed.map_or(Seal::Plain, |sealed| known.seal(sealed));
    if let Err(untrusted) = judge(state.config.device_auth, &known, seal) {
        if untrusted == Untrusted::Revoked {
            tell_refusal(state, device).await?;
        }
        return Err(TrustError::Untrusted(untrusted));
    }
    let Seal::Active(credential) = seal else {
        return Ok(Trust::Plain);
    };
    Ok(match state.identities.present(device, repeated)? {
        Freshness::Fresh(challenge) => {
            state.identities.used(credential, state.now_ms());
            Trust::Fresh(challenge)
        }
        Freshness::Stale(challenge) => Trust::Stale(challenge),
    })
}

/// Judges a call of the seed's API, which carries no proof.
pub async fn open_legacy(state: &AppState, device: &DeviceId) -> Result<(), TrustError> {
    let known = state.identities.known(&state.store, device).await?;
    let is_allowed = state.config.legacy_allow.contains(device);
    judge_legacy(state.config.device_auth, &known, is_allowed).map_err(TrustError::Untrusted)
}

/// Now and then, the history tells that a revoked device has come.
async fn tell_refusal(state: &AppState, device: &DeviceId) -> Result<(), StoreError> {
    if !state.identities.tells_refusal(device, state.now_ms()) {
        return Ok(());
    }
    let event = NewEvent {
        kind: "device.refused".to_owned(),
        device: Some(device.to_string()),
        actor: "device",
        text: "a check-in with a revoked credential was refused".to_owned(),
        ..NewEvent::default()
    };
    let tx = state.store.write().await?;
    commit(state, tx, &[event], false).await.map(drop)
}
