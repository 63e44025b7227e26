//! Devices that prove who they are, against a server that takes no others.

use std::time::Duration;

use fota_proto::{
    AttemptState,
    manager::{CredentialSource, EnrolmentKeyRequest, RolloutState},
};
use fota_server::domain::identity::DeviceAuth;
use fota_sim::{
    device::{DeviceConfig, Identity, IdentityKind},
    link::SimLink,
};

use crate::world::{IMAGE_BYTES, World, config, device, image};

fn identity(id: &str, kind: IdentityKind) -> Identity {
    Identity::derive(kind, "test", &id.parse().expect("an id"))
}

fn sealing(id: &str, kind: IdentityKind) -> DeviceConfig {
    DeviceConfig {
        identity: identity(id, kind),
        ..config(id)
    }
}

async fn strict_world() -> World {
    World::with(|config| config.device_auth = DeviceAuth::Required).await
}

async fn claim(world: &World, devices: &[(&str, IdentityKind)]) {
    let lines = devices.iter().map(|(id, kind)| {
        let line = identity(id, *kind).claim(&id.parse().expect("an id"));
        line.expect("an identity") + "\n"
    });
    world.client.claim(lines.collect()).await.expect("claimed");
}

/// One with a secret and one with a key from the factory's list, one that enrols its key; the
/// server is killed on the way and forgets every challenge.
#[tokio::test]
async fn devices_that_seal_update_through_a_restart_of_the_server() {
    let mut world = strict_world().await;
    let (secret, key) = (IdentityKind::Secret, IdentityKind::Key);
    claim(&world, &[("d1", secret), ("d2", key)]).await;
    let request = EnrolmentKeyRequest {
        name: "batch".to_owned(),
        devices_max: 1,
        expires_in_s: 3600,
        group: None,
        id_prefix: None,
    };
    let batch = world
        .client
        .create_enrolment_key(&request)
        .await
        .expect("made");
    let release = world.upload(&image("1.0.6")).await;
    let rollout = world.roll_out(&release, 300).await;
    let enrolling = DeviceConfig {
        enrolment_key: Some(batch.secret.parse().expect("64 digits")),
        ..sealing("d3", key)
    };
    let mut lives = tokio::task::JoinSet::new();
    for config in [
        sealing("d1", secret),
        sealing("d2", key),
        enrolling,
        config("plain"),
    ] {
        let link = SimLink::new("test", 1_500_000, 20).live(10.0);
        lives.spawn(device(&world.url(), config, link, true).run());
    }
    world
        .until("a download", async |world| {
            let detail = world.client.rollout(rollout).await.ok()?;
            let is_on = |done: u64| done > 0 && done < IMAGE_BYTES as u64;
            detail
                .attempts
                .iter()
                .any(|attempt| is_on(attempt.bytes_done))
                .then_some(())
        })
        .await;
    world.kill();
    world.revive().await;
    for id in ["d1", "d2", "d3"] {
        let attempt = world.attempt_ended(rollout, id).await;
        assert_eq!(
            attempt.state,
            AttemptState::Succeeded,
            "{:?}",
            attempt.explanation
        );
    }
    assert!(world.device("plain").await.is_none(), "it was listened to");
    let enrolled = world.client.credentials("d3").await.expect("known");
    assert_eq!(enrolled[0].source, CredentialSource::Enrolment);
    let detail = world.client.rollout(rollout).await.expect("there");
    assert_eq!(detail.rollout.state, RolloutState::Complete);
}

/// Progress reports run beside the download: with a challenge each they cost no bytes, and as good
/// as no round trips.
#[tokio::test]
async fn a_sealed_download_reports_its_progress_in_one_request() {
    let world = strict_world().await;
    claim(&world, &[("d1", IdentityKind::Secret)]).await;
    let release = world.upload(&image("1.0.6")).await;
    let rollout = world.roll_out(&release, 300).await;
    let config = DeviceConfig {
        report_every: Duration::from_millis(100),
        ..sealing("d1", IdentityKind::Secret)
    };
    let link = SimLink::new("test", 4_000_000, 5).live(10.0);
    let device = device(&world.url(), config, link, true);
    let counters = device.counters();
    let life = tokio::spawn(device.run());
    let attempt = world.attempt_ended(rollout, "d1").await;
    assert_eq!(attempt.state, AttemptState::Succeeded);
    life.abort();
    assert_eq!(counters.image_bytes(), IMAGE_BYTES as u64);
    assert_eq!((counters.downloads(), counters.lost_links()), (1, 0));
    println!("{} check-ins for a sealed update", counters.check_ins());
}
