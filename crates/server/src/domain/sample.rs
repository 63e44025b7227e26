//! Stored values for tests; each test changes what it is about.

use std::sync::Arc;

use fota_proto::Sha256;

use super::model::{Release, Rollout, Signed, Standing, Target};

/// An unsigned release 1.0.`id` of a thermostat with an ESP32-C3.
pub fn release(id: i64) -> Release {
    Release {
        id,
        version: format!("1.0.{id}"),
        project: "thermostat".to_owned(),
        chip: Some(5),
        bytes: 1000,
        sha256: Sha256([id as u8; 32]),
        head: [0xe9; 16],
        elf: Some(elf(id)),
        idf_version: None,
        secure_version: 0,
        chip_revision_min: 0,
        chip_revision_max: None,
        notes: String::new(),
        lab: false,
        yanked: false,
        seed_chunk_bytes: None,
        uploaded_at: 0,
        signed: None,
    }
}

/// The ELF digest of that release.
pub fn elf(release: i64) -> Sha256 {
    Sha256([0x80 | release as u8; 32])
}

/// What the release keys say of it.
pub fn signed(release: i64) -> Signed {
    Signed {
        digest: Sha256([0x40 | release as u8; 32]),
        artifact: Sha256([0x20 | release as u8; 32]),
        sequence: release as u32,
        epoch: 0,
        expires: None,
        support_until: None,
        advisory: None,
        self_test_deadline_s: None,
        signed_by: Vec::new(),
        trusted: true,
    }
}

/// An active rollout of the release to all, without a plan.
pub fn rollout(id: i64, release: i64) -> Rollout {
    Rollout {
        id,
        release,
        target: Target {
            all: true,
            ..Target::default()
        },
        standing: Standing::Active,
        held: false,
        reason: None,
        failures_max: None,
        rollback_on_failure: false,
        trial_deadline_s: 300,
        allow_product_change: false,
        idempotency_key: None,
        created_at: 0,
        plan: Arc::default(),
        wave: 0,
        wave_since: 0,
        wave_devices: None,
        created_by: String::new(),
        approved_by: None,
        forgiven: 0,
    }
}
