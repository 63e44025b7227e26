//! Patches: made by the server, proven before use, offered to who can apply them.

use std::time::Duration;

use fota_delta::Options;
use fota_proto::{
    Sha256,
    checkin::{Patch, PatchProfile, Phase},
    manager::{Delta, Page, Release},
};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::sleep;

use crate::{keys::Keys, support::*};

/// A patch is made in well under a second; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device that trusts a root and can apply patches.
fn taker(id: &str, image: &Image) -> TestDevice {
    TestDevice {
        root: Some(1),
        epoch: Some(1),
        patches: Some(PatchProfile::Default),
        ..TestDevice::running(id, image)
    }
}

/// Signed 1.0.5 and 1.0.6, and what the server says of the latter.
async fn two_releases(server: &Server) -> (Image, Image, Release) {
    let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
    let keys = Keys::on(server).await;
    keys.release(server, &old, 5).await;
    let release = keys.release(server, &new, 6).await;
    (old, new, release)
}

async fn deltas(server: &Server) -> Vec<Delta> {
    let page: Page<Delta> = server.get("/api/v1/deltas").await.value(StatusCode::OK);
    page.items
}

/// Waits until one was asked for, which a rollout does beside its start, and none is open.
async fn made(server: &Server) -> Vec<Delta> {
    let waiting = async {
        loop {
            let deltas = deltas(server).await;
            let is_open = |delta: &Delta| matches!(&*delta.state, "queued" | "making");
            if !deltas.is_empty() && !deltas.iter().any(is_open) {
                return deltas;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("made in time")
}

/// The patch that the device is ordered to take; none where it is to take the artifact.
async fn offered(server: &Server, device: &mut TestDevice) -> Option<Patch> {
    device.check_in(server).await.patch()
}

#[tokio::test]
async fn a_patch_is_made_for_what_devices_run_when_a_rollout_starts_and_then_offered() {
    each_database(async |server| {
        let (old, new, release) = two_releases(&server).await;
        let mut device = taker("d1", &old);
        device.check_in(&server).await;
        server
            .rollout(json!({"release": "1.0.6", "to": ["all"]}))
            .await;
        let deltas = made(&server).await;
        let sources = deltas
            .iter()
            .map(|it| (it.from_version.as_deref(), &*it.state));
        let sources: Vec<_> = sources.collect();
        assert_eq!(sources, [(Some("1.0.5"), "ready")], "{deltas:?}");
        let patch = offered(&server, &mut device).await.expect("a patch");
        assert_eq!(deltas[0].sha256, Some(patch.sha256));
        // The blob is what was made, and it makes the image.
        let blob = server.get(&format!("/d/v1/blobs/{}", patch.sha256)).await;
        assert_eq!(blob.body.len(), patch.bytes as usize);
        let expected = fota_delta::encode(Some(&old.bytes), &new.bytes, &Options::default());
        assert_eq!(blob.body, expected.expect("encodes"));
        // The same question, the same order.
        assert_eq!(offered(&server, &mut device).await, Some(patch));
        let attempt = server.show_device("d1").await.attempt.expect("an attempt");
        assert_eq!(attempt.patch_bytes, Some(patch.bytes.into()));
        assert_eq!(
            attempt.artifact_bytes,
            release.bytes + release.bytes.div_ceil(4096) * 16
        );
    })
    .await;
}

#[tokio::test]
async fn who_cannot_apply_patches_or_prove_what_comes_out_gets_the_artifact() {
    let server = Server::start(Setup::default()).await;
    let (old, _, _) = two_releases(&server).await;
    let mut able = taker("able", &old);
    able.check_in(&server).await;
    server
        .rollout(json!({"release": "1.0.6", "to": ["all"]}))
        .await;
    made(&server).await;
    let mut unable = taker("unable", &old);
    unable.patches = None;
    assert_eq!(offered(&server, &mut unable).await, None);
    let mut rootless = taker("rootless", &old);
    (rootless.root, rootless.epoch) = (None, None);
    assert_eq!(offered(&server, &mut rootless).await, None);
    assert!(offered(&server, &mut able).await.is_some());
}

#[tokio::test]
async fn the_first_device_of_a_version_asks_for_its_patch_and_waits_a_bounded_time() {
    let server = Server::start_with(|config| config.delta_encode = never).await;
    let (old, _, _) = two_releases(&server).await;
    server
        .rollout(json!({"release": "1.0.6", "to": ["all"]}))
        .await;
    assert_eq!(deltas(&server).await, [], "nobody runs anything yet");
    let mut device = taker("d1", &old);
    for _ in 0..3 {
        let told = device.check_in(&server).await;
        assert_eq!((told.order, told.retry_after_s), (None, 3));
    }
    let asked: Vec<_> = deltas(&server)
        .await
        .iter()
        .map(|it| it.from_version.clone())
        .collect();
    assert_eq!(asked, [Some("1.0.5".to_owned())], "once");
    assert!(server.show_device("d1").await.attempt.is_none());
    server.clock.advance_ms(59_999);
    assert_eq!(device.check_in(&server).await.order, None);
    server.clock.advance_ms(1);
    let told = device.check_in(&server).await;
    told.install();
    assert_eq!(told.patch(), None, "it has waited long enough");
}

/// An encoder that comes to no end while a test runs.
fn never(_: Option<&[u8]>, _: &[u8], _: PatchProfile) -> Result<Vec<u8>, String> {
    std::thread::sleep(Duration::from_secs(600));
    Err("woken".to_owned())
}

/// An encoder that errs: its patches make the old image.
fn errs(old: Option<&[u8]>, new: &[u8], profile: PatchProfile) -> Result<Vec<u8>, String> {
    fota_server::service::deltas::encode(old, old.unwrap_or(new), profile)
}

#[tokio::test]
async fn a_patch_that_does_not_make_the_image_is_never_offered() {
    let server = Server::start_with(|config| config.delta_encode = errs).await;
    let (old, _, release) = two_releases(&server).await;
    let mut device = taker("d1", &old);
    device.check_in(&server).await;
    server
        .rollout(json!({"release": "1.0.6", "to": ["all"]}))
        .await;
    let deltas = made(&server).await;
    let failed = deltas
        .iter()
        .find(|it| it.from.is_some())
        .expect("asked for");
    assert_eq!((&*failed.state, failed.sha256), ("failed", None));
    let why = failed.detail.as_deref().expect("a reason");
    assert!(why.contains("other bytes"), "{why}");
    // It asks for the next best then: noise, which cannot be compressed.
    assert_eq!(device.check_in(&server).await.order, None);
    assert_eq!(made(&server).await[0].state, "useless");
    let told = device.check_in(&server).await;
    told.install();
    assert_eq!(told.patch(), None);
    let events = server.get("/api/v1/events?limit=1000").await.json();
    let told = events["items"].as_array().expect("items").iter();
    let told: Vec<_> = told
        .filter(|event| event["kind"] == "delta.failed")
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["release"], release.id);
}

#[tokio::test]
async fn where_a_patch_did_not_work_it_is_not_offered_again_in_that_attempt() {
    let server = Server::start(Setup::default()).await;
    let (old, _, _) = two_releases(&server).await;
    let mut device = taker("d1", &old);
    device.check_in(&server).await;
    server
        .rollout(json!({"release": "1.0.6", "to": ["all"]}))
        .await;
    made(&server).await;
    let told = device.check_in(&server).await;
    let order = told.install();
    assert!(told.patch().is_some());
    device.patches = None;
    device
        .reports(&server, order, Phase::Downloading, 4096)
        .await;
    assert_eq!(offered(&server, &mut device).await, None);
    // After a restart it has forgotten; the server has not.
    device.patches = Some(PatchProfile::Default);
    let told = device.check_in(&server).await;
    assert_eq!((told.install(), told.patch()), (order, None));
    let attempt = server.show_device("d1").await.attempt.expect("an attempt");
    assert!(attempt.patch_given_up);
}

#[tokio::test]
async fn what_was_being_made_when_a_server_died_is_made_by_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = || Setup {
        data: Some(folder.path().to_owned()),
        ..Setup::default()
    };
    let server = Server::start_in(folder.path(), |config| config.delta_encode = never).await;
    two_releases(&server).await;
    let request = json!({"release": "1.0.6", "from": ["1.0.5"]});
    let reply = server.post("/api/v1/deltas", request).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    while deltas(&server).await[0].state != "making" {
        sleep(Duration::from_millis(10)).await;
    }
    // It ends in order and gives the job back; the lease of one that was killed looks like this.
    server.running.shutdown().await;
    let server = Server::start(setup()).await;
    assert_eq!(made(&server).await[0].state, "ready");
    server
        .sql("UPDATE delta SET state = 'making', leased_until = 9000000000000, tries = 1")
        .await;
    server.running.shutdown().await;
    let server = Server::start(setup()).await;
    assert_eq!(made(&server).await[0].state, "ready");
    server
        .sql("UPDATE delta SET state = 'making', leased_until = 0, tries = 3")
        .await;
    server.running.shutdown().await;
    let server = Server::start(setup()).await;
    let failed = made(&server).await.remove(0);
    assert_eq!(failed.state, "failed", "it may be what the server dies of");
    // An operator may try again.
    let request = json!({"release": "1.0.6", "from": ["1.0.5"]});
    server.post("/api/v1/deltas", request).await;
    assert_eq!(made(&server).await[0].state, "ready");
}

#[tokio::test]
async fn an_operator_asks_for_patches() {
    each_database(async |server| {
        let keys = Keys::on(&server).await;
        let images = ["1.0.3", "1.0.4", "1.0.5", "1.0.6"].map(Image::new);
        for (image, sequence) in images.iter().zip(3..) {
            keys.release(&server, image, sequence).await;
        }
        for (image, id) in images[..2].iter().zip(["a", "b"]) {
            taker(id, image).check_in(&server).await;
        }
        let build = async |body| server.post("/api/v1/deltas", body).await;
        let reply =
            build(json!({"release": "1.0.6", "all_running": true, "profile": "small"})).await;
        let built: Vec<Delta> = reply.value(StatusCode::ACCEPTED);
        let from: Vec<_> = built
            .iter()
            .filter_map(|it| it.from_version.as_deref())
            .collect();
        assert_eq!(from, ["1.0.3", "1.0.4"]);
        let reply = build(json!({"release": "1.0.6"})).await;
        let full: Vec<Delta> = reply.value(StatusCode::ACCEPTED);
        assert_eq!(full[0].from, None);
        let all = made(&server).await;
        assert_eq!(all.len(), 3);
        let again: Vec<Delta> = build(json!({"release": "1.0.6"}))
            .await
            .value(StatusCode::ACCEPTED);
        assert_eq!(again[0].id, full[0].id, "asked for twice, made once");
        let one: Page<Delta> = server
            .get("/api/v1/deltas?release=1.0.6&limit=2")
            .await
            .value(StatusCode::OK);
        assert_eq!((one.items.len(), one.next.is_some()), (2, true));
        let none: Page<Delta> = server
            .get("/api/v1/deltas?release=1.0.5")
            .await
            .value(StatusCode::OK);
        assert_eq!(none.items, []);
    })
    .await;
}

#[tokio::test]
async fn a_server_without_workers_makes_nothing_and_keeps_nobody_waiting() {
    let server = Server::start_with(|config| config.delta_workers = 0).await;
    let (old, _, _) = two_releases(&server).await;
    let mut device = taker("d1", &old);
    device.check_in(&server).await;
    server
        .rollout(json!({"release": "1.0.6", "to": ["all"]}))
        .await;
    let told = device.check_in(&server).await;
    told.install();
    assert_eq!(told.patch(), None);
    assert_eq!(deltas(&server).await, []);
    let (code, ..) = server
        .post("/api/v1/deltas", json!({"release": "1.0.6"}))
        .await
        .problem(409);
    assert_eq!(code, "deltas_off");
}

#[tokio::test]
async fn what_was_spared_is_counted_for_release_rollout_and_fleet() {
    each_database(async |server| {
        let (old, new, release) = two_releases(&server).await;
        let mut device = taker("d1", &old);
        device.check_in(&server).await;
        let rollout = server
            .rollout(json!({"release": "1.0.6", "to": ["all"]}))
            .await;
        made(&server).await;
        let patch = offered(&server, &mut device).await.expect("a patch");
        let url = format!("{}/d/v1/blobs/{}", server.base, patch.sha256);
        let request = server.http.get(url).header("device-id", "d1");
        assert_eq!(Reply::of(request).await.status, StatusCode::OK);
        device.updates_to(&server, &new).await;
        let plain = release.bytes + release.bytes.div_ceil(4096) * 16;
        let spared = (plain - u64::from(patch.bytes)) as i64;
        let shown = server.show_rollout(rollout.id).await;
        assert_eq!(shown.attempts[0].bytes_sent, u64::from(patch.bytes));
        assert_eq!(shown.rollout.spared_bytes, spared);
        let path = format!("/api/v1/releases/{}", release.id);
        assert_eq!(server.get(&path).await.json()["spared_bytes"], spared);
        let summary = server.get("/api/v1/fleet/summary").await.json();
        assert_eq!(summary["spared_bytes"], spared);
        let ready = deltas(&server).await;
        let ready = ready
            .iter()
            .find(|it| it.sha256 == Some(patch.sha256))
            .expect("listed");
        assert_eq!(
            (ready.offered, ready.succeeded, ready.spared_bytes),
            (1, 1, spared)
        );
    })
    .await;
}

#[tokio::test]
async fn a_damaged_image_in_the_store_makes_no_patch() {
    let server = Server::start(Setup::default()).await;
    let (old, _, _) = two_releases(&server).await;
    let name = |sha256: Sha256| sha256.to_string();
    let path = server
        .data
        .join("blobs")
        .join(&name(old.sha256)[..2])
        .join(name(old.sha256));
    let mut bytes = std::fs::read(&path).expect("stored");
    bytes[30_000] ^= 1;
    std::fs::write(&path, bytes).expect("damaged");
    server
        .post(
            "/api/v1/deltas",
            json!({"release": "1.0.6", "from": ["1.0.5"]}),
        )
        .await;
    let failed = made(&server).await.remove(0);
    assert_eq!(failed.state, "failed");
    assert!(failed.detail.expect("why").contains("is damaged"));
}

#[tokio::test]
async fn what_no_patch_can_be_made_from_is_refused() {
    let server = Server::start(Setup::default()).await;
    let keys = Keys::on(&server).await;
    keys.release(&server, &Image::new("1.0.6"), 6).await;
    let refused = async |from: serde_json::Value, status| {
        let body = json!({"release": "1.0.6", "from": from});
        let (code, field, _) = server.post("/api/v1/deltas", body).await.problem(status);
        assert_eq!(field.as_deref(), Some("from"), "{code}");
    };
    refused(json!(["1.0.6"]), 400).await;
    refused(json!(["9.9.9"]), 404).await;
    refused(json!(vec!["1.0.6"; 65]), 400).await;
    assert_eq!(deltas(&server).await, []);
}
