//! What a device that trusts a root would refuse is not offered to it in the first place. These
//! are its own rules: breaking them here costs a download, never its safety.

use fota_proto::{SkipReason, log::LogHead};

use super::{
    log::Tree,
    model::{Device, Plan, Release, Signed},
};

/// Whether, and if not why not, the device would take the release.
pub fn takes(
    device: &Device,
    plan: &Plan,
    release: &Release,
    now: i64,
) -> Result<(), (SkipReason, String)> {
    if !device.trust.needs_signature() {
        return Ok(());
    }
    let version = &release.version;
    let Some(signed) = &release.signed else {
        let detail = format!("release {version} is not signed");
        return Err((SkipReason::UntrustedRelease, detail));
    };
    if !signed.trusted {
        let keys = signed.signed_by.join(", ");
        let detail = format!("the keys that signed release {version} count no more: {keys}");
        return Err((SkipReason::UntrustedRelease, detail));
    }
    if let Some(expires) = signed.expires
        && is_over(expires, now)
    {
        let detail = format!("release {version} expired at Unix time {expires}");
        return Err((SkipReason::ExpiredRelease, detail));
    }
    follows(device, plan, release, signed)
}

/// Whether the release comes after what runs and is not below the device's epoch.
fn follows(
    device: &Device,
    plan: &Plan,
    release: &Release,
    signed: &Signed,
) -> Result<(), (SkipReason, String)> {
    let floor = device.trust.epoch.unwrap_or(0);
    if signed.epoch < floor {
        let detail = format!(
            "release {} is of security epoch {}, the device starts nothing below {floor}",
            release.version, signed.epoch
        );
        return Err((SkipReason::NotNewer, detail));
    }
    let runs = device.elf.and_then(|elf| plan.by_elf(elf));
    let runs = runs.filter(|runs| runs.project == release.project && runs.id != release.id);
    match runs.and_then(|runs| runs.signed.as_ref().map(|signed| (runs, signed))) {
        Some((runs, running)) if signed.sequence <= running.sequence => {
            let detail = format!(
                "release {} has sequence {}, the device runs {} with sequence {}",
                release.version, signed.sequence, runs.version, running.sequence
            );
            Err((SkipReason::NotNewer, detail))
        }
        _ => Ok(()),
    }
}

/// Whether a signed time, in seconds, has passed at `now`, in milliseconds.
pub fn is_over(seconds: u64, now: i64) -> bool {
    u64::try_from(now / 1000).is_ok_and(|now| now >= seconds)
}

/// Security epochs of the image that a rollback would boot and of the device, where the first is
/// below the second: the device would refuse.
pub fn below_epoch(device: &Device, plan: &Plan) -> Option<(u32, u32)> {
    let floor = device.trust.epoch?;
    let slot = device.rollback_slot?;
    let held = device.slots.iter().find(|held| held.slot == slot)?;
    let target = held.elf.and_then(|elf| plan.by_elf(elf));
    // As on the device: what nobody signed is of epoch 0.
    let signed = target.and_then(|target| target.signed.as_ref());
    let epoch = signed.map_or(0, |signed| signed.epoch);
    (epoch < floor).then_some((epoch, floor))
}

/// What to show where a device has seen a release log that this server does not have.
pub fn fork_warning(log: &Tree, seen: Option<LogHead>) -> Option<String> {
    let seen = seen.filter(|seen| !log.had(*seen))?;
    let here = match log.head_at(seen.size) {
        Some(here) => format!("the root of as many here is {}", here.root),
        None => format!("here there are {}", log.size()),
    };
    Some(format!(
        "has seen a release log that is not this server's: {} entries, root {}; {here}: run `fota \
         log verify`",
        seen.size, seen.root
    ))
}
