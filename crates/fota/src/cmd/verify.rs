//! `fota verify`: whether a device runs a release, by what the device itself reports.

use std::time::Duration;

use fota_client::Incoming;
use fota_proto::{
    AttemptState,
    manager::{Device, Release},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    args::VerifyArgs,
    clock::{self, now_ms},
    cmd::device::trust,
    context::Context,
    failure::{Exit, Failure, Result},
    output::Mark,
    text,
};

/// Longest time between two looks at a device, in case an event was missed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a device's own report proves about a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It runs that image and has confirmed it.
    Confirmed,
    /// It says so, but its protocol cannot name an image by digest.
    Claimed,
    /// It runs that image, unconfirmed.
    Trial,
    /// It runs something else.
    Other,
}

/// Judges a device's report. The digest of the running image decides, never the version text.
pub fn proof(device: &Device, release: &Release) -> Proof {
    let same_text = device.version.as_deref() == Some(release.version.as_str());
    match (device.elf_sha256, release.elf_sha256) {
        (Some(runs), Some(wanted)) if runs == wanted => match device.confirmed {
            Some(true) => Proof::Confirmed,
            _ => Proof::Trial,
        },
        (Some(_), _) => Proof::Other,
        (None, _) if same_text => Proof::Claimed,
        (None, _) => Proof::Other,
    }
}

pub async fn run(context: &Context, args: &VerifyArgs) -> Result {
    let release = context.release(&args.expect).await?;
    let device = settle(context, args, &release).await?;
    let proof = proof(&device, &release);
    let good = match proof {
        Proof::Confirmed => true,
        Proof::Claimed => args.accept_claim,
        Proof::Trial | Proof::Other => false,
    };
    let sentence = sentence(&device, &release, proof, now_ms());
    let mark = if good { Mark::Good } else { Mark::Bad };
    context.out.verdict(mark, &sentence);
    let report = json!({
        "device": device.id, "expected": release.version, "expected_elf_sha256": release.elf_sha256,
        "running": device.version, "elf_sha256": device.elf_sha256, "confirmed": device.confirmed,
        "verified": good, "attempt": device.attempt,
    });
    context.out.document("fota.verify/1", &report);
    match good {
        true => Ok(()),
        false => Err(not_verified(context, sentence, proof)),
    }
}

/// The sentence stands on stdout already; with `--json` the error carries it too.
fn not_verified(context: &Context, sentence: String, proof: Proof) -> Failure {
    let message = if context.out.json {
        sentence
    } else {
        String::new()
    };
    let failure = Failure::new(Exit::NotSuccessful, "not_verified", message);
    match proof {
        Proof::Claimed => failure.hint("add --accept-claim to believe the device's word"),
        _ => failure,
    }
}

/// Looks at the device until it runs the release, nothing is under way, or time is up.
async fn settle(context: &Context, args: &VerifyArgs, release: &Release) -> Result<Device> {
    let client = context.client()?;
    let deadline = clock::now() + args.timeout;
    let mut stream = client.event_stream(None, None);
    let mut device = client.device(&args.device).await?;
    loop {
        let done = proof(&device, release) == Proof::Confirmed || !under_way(&device, release);
        if done || clock::now() >= deadline {
            return Ok(device);
        }
        let pause = deadline.min(clock::now() + LOOK_EVERY);
        wait_for_device(&mut stream, &args.device, pause).await?;
        device = client.device(&args.device).await?;
    }
}

/// Returns when something is heard of the device, or at `until`.
async fn wait_for_device(
    stream: &mut fota_client::EventStream,
    device: &str,
    until: Instant,
) -> Result {
    let heard = async {
        loop {
            match stream.next().await? {
                Incoming::Event(event) if event.device.as_deref() == Some(device) => return Ok(()),
                _ => {}
            }
        }
    };
    // Time being up is no error here.
    tokio::time::timeout_at(until, heard)
        .await
        .unwrap_or(Ok(()))
}

fn under_way(device: &Device, release: &Release) -> bool {
    let attempt = device.attempt.as_ref();
    attempt.is_some_and(|attempt| attempt.release == release.id && !attempt.state.is_end())
}

/// `ESP32-001 runs 1.0.5 (confirmed, elf 6acb60d9…), expected 1.0.6 – last update: …`
pub fn sentence(device: &Device, release: &Release, proof: Proof, now: i64) -> String {
    let version = device
        .version
        .as_deref()
        .map_or_else(|| "an unknown version".into(), text::plain);
    let elf = match device.elf_sha256 {
        Some(elf) => format!("elf {}…", elf.short()),
        None => "its protocol names no digest".to_owned(),
    };
    let runs = format!("{} runs {version} ({}, {elf})", device.id, trust(device));
    let expected = &release.version;
    match proof {
        Proof::Confirmed => runs,
        Proof::Claimed => format!("{runs}: as expected by its word, which is no proof"),
        Proof::Trial => format!("{runs}, expected it confirmed{}", last_update(device, now)),
        Proof::Other if device.version.as_deref() == Some(expected) => {
            let wanted = release
                .elf_sha256
                .map(|elf| format!(" (elf {}…)", elf.short()));
            let wanted = wanted.unwrap_or_default();
            format!(
                "{runs}, expected the image of {expected}{wanted}: the version text is not true"
            )
        }
        Proof::Other => format!("{runs}, expected {expected}{}", last_update(device, now)),
    }
}

fn last_update(device: &Device, now: i64) -> String {
    let Some(attempt) = &device.attempt else {
        return " – no update was tried".to_owned();
    };
    let age = text::age(attempt.updated_at, now);
    let state = match attempt.state {
        AttemptState::Downloading => format!("downloading {}%", attempt.percent),
        state => state.to_string(),
    };
    format!(" – last update: {state} {age} ago")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use fota_proto::{Sha256, manager::Presence};

    pub fn release() -> Release {
        Release {
            id: 2,
            version: "1.0.6".into(),
            project: "acme".into(),
            chip: Some("esp32".into()),
            bytes: 1,
            sha256: Sha256([1; 32]),
            elf_sha256: Some(Sha256([6; 32])),
            idf_version: None,
            secure_version: 0,
            chip_revision_min: 0,
            chip_revision_max: None,
            notes: String::new(),
            lab: false,
            yanked: false,
            uploaded_at: 0,
            running_on: 0,
            spared_bytes: 0,
            signed: None,
        }
    }

    pub fn device(version: &str, elf: Option<u8>, confirmed: Option<bool>) -> Device {
        Device {
            id: "ESP32-001".into(),
            groups: vec![],
            chip: None,
            project: None,
            version: Some(version.into()),
            elf_sha256: elf.map(|elf| Sha256([elf; 32])),
            confirmed,
            slot: None,
            rollback_version: None,
            rollback_available: false,
            protocol: "native".into(),
            presence: Presence::Online,
            last_seen: 0,
            first_seen: 0,
            warning: None,
            attempt: None,
            rollback: None,
            blocked: vec![],
            tags: std::collections::BTreeMap::new(),
            attributes: std::collections::BTreeMap::new(),
            metrics: std::collections::BTreeMap::new(),
            root_version: None,
            epoch: None,
            log: None,
            pin: None,
            heard: String::new(),
        }
    }

    #[test]
    fn only_the_digest_of_a_confirmed_image_proves_a_release() {
        let cases = [
            (device("1.0.6", Some(6), Some(true)), Proof::Confirmed),
            (device("renamed", Some(6), Some(true)), Proof::Confirmed),
            (device("1.0.6", Some(6), Some(false)), Proof::Trial),
            (device("1.0.6", Some(5), Some(true)), Proof::Other),
            (device("1.0.6", None, None), Proof::Claimed),
            (device("1.0.5", None, None), Proof::Other),
        ];
        for (device, expected) in cases {
            assert_eq!(proof(&device, &release()), expected, "{device:?}");
        }
    }

    #[test]
    fn the_sentence_names_a_lie() {
        let device = device("1.0.6", Some(5), Some(true));
        let text = sentence(&device, &release(), Proof::Other, 0);
        assert_eq!(
            text,
            "ESP32-001 runs 1.0.6 (confirmed, elf 05050505…), expected the image of 1.0.6 \
             (elf 06060606…): the version text is not true"
        );
    }
}
