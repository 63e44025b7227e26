//! Patches from end to end: the server makes them by itself, devices apply them out of their own
//! flash, and whatever goes wrong ends with the right image.

use std::{sync::Arc, time::Duration};

use fota_client::DeviceClient;
use fota_image::app::Chip;
use fota_proto::{
    AttemptState,
    checkin::PatchProfile,
    manager::{Delta, DeltaRequest, Release},
    signed::sign::P256Key,
};
use fota_sim::{
    board::{Board, FIRST_SLOT_OFFSET, factory_flash},
    console::Console,
    device::{Counters, DeviceConfig, SimDevice, SimTrust},
    firmware::Spec,
    flash::SharedFlash,
};

use crate::{
    signed::{bundle, key, root},
    world::{World, build, config, fast_link},
};

const IMAGE_BYTES: usize = 300_000;
/// The image with its index.
const ARTIFACT_BYTES: u64 = IMAGE_BYTES as u64 + (IMAGE_BYTES as u64).div_ceil(4096) * 16;
const OLD: [&str; 4] = ["1.0.2", "1.0.3", "1.0.4", "1.0.5"];
const NEW: &str = "1.0.6";

fn image(version: &str) -> Vec<u8> {
    build(&Spec::new(version).image_bytes(IMAGE_BYTES))
}

/// A maker's world: a root on the server, and a key for releases.
struct Fleet {
    world: World,
    root: Arc<[u8]>,
    releaser: P256Key,
}

impl Fleet {
    async fn on(world: World) -> Self {
        let releaser = key(2);
        let root = root(&world, 1, &releaser).await;
        let added = world.client.add_root(root.clone().into()).await;
        added.expect("taken");
        Self {
            world,
            root: root.into(),
            releaser,
        }
    }

    async fn upload(&self, version: &str, sequence: u32) -> Release {
        let bundle = bundle(&image(version), sequence, &self.releaser);
        self.world.upload(&bundle).await
    }

    /// Uploads all old versions and the new one, which it gives.
    async fn upload_all(&self) -> Release {
        for (version, sequence) in OLD.iter().zip(2..) {
            self.upload(version, sequence).await;
        }
        self.upload(NEW, 6).await
    }

    /// Starts a device on a version; it lives until the test ends.
    fn start(
        &self,
        id: &str,
        version: &str,
        patches: Option<PatchProfile>,
    ) -> (Counters, SharedFlash) {
        let config = DeviceConfig {
            trust: SimTrust::Root(self.root.clone()),
            patches,
            ..config(id)
        };
        let flash = factory_flash(&image(version)).expect("fits");
        let client = DeviceClient::new(&self.world.url(), Some(id.to_owned())).expect("a URL");
        let board = Board::new(flash, Chip::Esp32, true);
        let console = Console::silent();
        let device = SimDevice::new(config, client, board, fast_link(), console);
        let parts = (device.counters(), device.board().flash().clone());
        tokio::spawn(device.run());
        parts
    }

    async fn until_seen(&self, ids: &[&str]) {
        for id in ids {
            let what = format!("{id} to be seen");
            let seen = async |world: &World| world.device(id).await.map(drop);
            self.world.until(&what, seen).await;
        }
    }

    async fn deltas(&self) -> Vec<Delta> {
        self.world.client.deltas(None).await.expect("answers")
    }

    async fn until_made(&self) -> Vec<Delta> {
        let made = async |world: &World| {
            let deltas = world.client.deltas(None).await.ok()?;
            let is_open = |delta: &Delta| matches!(&*delta.state, "queued" | "making");
            let all = !deltas.is_empty() && !deltas.iter().any(is_open);
            all.then_some(deltas)
        };
        self.world.until("the patches", made).await
    }
}

#[tokio::test]
async fn a_fleet_on_four_old_versions_updates_by_four_patches() {
    let fleet = Fleet::on(World::start().await).await;
    let release = fleet.upload_all().await;
    let ids = OLD.map(|version| format!("on-{version}"));
    let profiles = [
        PatchProfile::Default,
        PatchProfile::Small,
        PatchProfile::Default,
        PatchProfile::Small,
    ];
    let mut counters = Vec::new();
    for ((version, id), profile) in OLD.iter().zip(&ids).zip(profiles) {
        counters.push(fleet.start(id, version, Some(profile)).0);
    }
    let (plain, _) = fleet.start("plain", "1.0.5", None);
    let shown: Vec<&str> = ids.iter().map(String::as_str).collect();
    fleet.until_seen(&shown).await;
    let rollout = fleet.world.roll_out(&release, 300).await;
    for (id, counters) in ids.iter().zip(&counters) {
        let ended = fleet.world.attempt_ended(rollout, id).await;
        assert_eq!(ended.state, AttemptState::Succeeded, "{ended:?}");
        let patch = ended.patch_bytes.expect("a patch was offered");
        let bytes = counters.image_bytes();
        let index = ARTIFACT_BYTES - IMAGE_BYTES as u64;
        assert_eq!(bytes, patch + index, "{id}: the patch and the index, once");
        assert!(bytes * 20 < ARTIFACT_BYTES, "{id}: {bytes} bytes");
        let device = fleet.world.device(id).await.expect("known");
        assert_eq!(device.elf_sha256, release.elf_sha256);
    }
    // Each took its own.
    let deltas = fleet.deltas().await;
    for version in OLD {
        let of = |delta: &&Delta| delta.from_version.as_deref() == Some(version);
        let used: Vec<_> = deltas.iter().filter(of).collect();
        let sums = used.iter().map(|it| (it.offered, it.succeeded));
        assert_eq!(sums.collect::<Vec<_>>(), [(1, 1)], "{version}: {used:?}");
    }
    let ended = fleet.world.attempt_ended(rollout, "plain").await;
    assert_eq!(ended.state, AttemptState::Succeeded, "{ended:?}");
    assert_eq!(
        (ended.patch_bytes, plain.image_bytes()),
        (None, ARTIFACT_BYTES)
    );
    // What the server says it spared is what the devices did not fetch.
    let fetched: u64 = counters.iter().map(Counters::image_bytes).sum();
    let spared = (4 * ARTIFACT_BYTES - fetched) as i64;
    let told = async |world: &World| {
        let detail = world.client.rollout(rollout).await.ok()?;
        (detail.rollout.spared_bytes == spared).then_some(())
    };
    fleet.world.until("the bytes spared", told).await;
}

#[tokio::test]
async fn a_device_whose_old_image_has_a_flipped_bit_recovers_by_itself() {
    let fleet = Fleet::on(World::start().await).await;
    let release = fleet.upload_all().await;
    let (counters, flash) = fleet.start("worn", "1.0.5", Some(PatchProfile::Default));
    fleet.until_seen(&["worn"]).await;
    let at = FIRST_SLOT_OFFSET + IMAGE_BYTES as u32 / 2;
    flash.with(|flash| {
        let byte = flash.bytes(at..at + 1).expect("there")[0];
        flash.load(at, &[byte ^ 4]).expect("worn");
    });
    let rollout = fleet.world.roll_out(&release, 300).await;
    let ended = fleet.world.attempt_ended(rollout, "worn").await;
    assert_eq!(ended.state, AttemptState::Succeeded, "{ended:?}");
    assert!(ended.patch_bytes.is_some(), "a patch was offered");
    let device = fleet.world.device("worn").await.expect("known");
    assert_eq!(device.elf_sha256, release.elf_sha256);
    // From the damaged place on it took the artifact, and nothing of what the patch had made.
    let bytes = counters.image_bytes();
    assert!(bytes > ARTIFACT_BYTES / 3, "{bytes} bytes");
    assert!(bytes < ARTIFACT_BYTES * 3 / 4, "{bytes} bytes");
}

/// An encoder that comes to no end while a test runs.
fn never(_: Option<&[u8]>, _: &[u8], _: PatchProfile) -> Result<Vec<u8>, String> {
    std::thread::sleep(Duration::from_secs(600));
    Err("woken".to_owned())
}

#[tokio::test]
async fn what_a_killed_server_was_making_is_made_after_its_restart() {
    let world = World::with(|config| config.delta_encode = never).await;
    let mut fleet = Fleet::on(world).await;
    let release = fleet.upload_all().await;
    let request = DeltaRequest {
        release: release.id.to_string(),
        from: vec!["1.0.5".to_owned()],
        all_running: false,
        profile: Default::default(),
    };
    let asked = fleet.world.client.build_deltas(&request).await;
    assert_eq!(asked.expect("taken").len(), 1);
    let making = async |world: &World| {
        let deltas = world.client.deltas(None).await.ok()?;
        (deltas[0].state == "making").then_some(())
    };
    fleet.world.until("a worker at it", making).await;
    fleet.world.kill();
    let encode = fota_server::service::deltas::encode;
    let again = fleet
        .world
        .revive_with(|config| config.delta_encode = encode);
    again.await;
    let made = fleet.until_made().await;
    assert_eq!((made.len(), &*made[0].state), (1, "ready"));
    let (counters, _) = fleet.start("d1", "1.0.5", Some(PatchProfile::Default));
    let rollout = fleet.world.roll_out(&release, 300).await;
    let ended = fleet.world.attempt_ended(rollout, "d1").await;
    assert_eq!(ended.state, AttemptState::Succeeded);
    assert_eq!(ended.patch_bytes, made[0].bytes);
    assert!(counters.image_bytes() * 20 < ARTIFACT_BYTES);
}
