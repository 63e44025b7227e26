//! Signed releases and signed answers, as an honest server gives them.

use std::time::Duration;

use bytes::Bytes;
use fota_proto::{
    AttemptState, SkipReason,
    manager::{ProductSigning, Release},
    signed::index,
};
use reqwest::{Method, StatusCode, header};
use serde_json::json;
use tower::ServiceExt;

use crate::{
    keys::{Keys, ask, key},
    support::*,
};

#[tokio::test]
async fn a_bundle_becomes_a_release_whose_parts_can_be_downloaded() {
    each_database(async |server| {
        let keys = Keys::on(&server).await;
        let image = Image::new("1.0.6");
        let bundle = keys.bundle_with(&image, 6, |release| {
            release.expires = Some((NOON / 1000) as u64 + 60);
            release.advisory = Some("https://example.com/a");
        });
        let release: Release = server.upload(&bundle, "").await.value(StatusCode::CREATED);
        let again: Release = server.upload(&bundle, "").await.value(StatusCode::OK);
        assert_eq!(release, again);
        assert_eq!(release.sha256, image.sha256, "the image, not the bundle");
        let signed = release.signed.expect("signed");
        assert_eq!((signed.sequence, signed.epoch), (6, 1));
        assert_eq!(signed.advisory.as_deref(), Some("https://example.com/a"));
        assert_eq!(signed.signed_by.len(), 1);
        assert!(signed.trusted);
        let (_, artifact) = index::build(&image.bytes);
        let blob = async |digest| server.get(&format!("/d/v1/blobs/{digest}")).await.body;
        assert_eq!(blob(signed.artifact).await, artifact);
        assert_eq!(blob(image.sha256).await, image.bytes);
        assert_eq!(
            fota_server::blobs::digest(&blob(signed.digest).await),
            signed.digest
        );
    })
    .await;
}

#[tokio::test]
async fn a_signature_can_follow_its_image() {
    each_database(async |server| {
        let image = Image::new("1.0.6");
        let unsigned = server.release(&image).await;
        assert_eq!(unsigned.signed, None);
        let keys = Keys::on(&server).await;
        let reply = server.upload(&keys.bundle(&image, 6), "").await;
        let signed: Release = reply.value(StatusCode::OK);
        assert_eq!(signed.id, unsigned.id);
        assert!(signed.signed.is_some());
        // Its place in the order never changes again, nor is it given twice.
        let (code, ..) = server
            .upload(&keys.bundle(&image, 7), "")
            .await
            .problem(409);
        assert_eq!(code, "sequence_exists");
        let other = keys.bundle(&Image::new("1.0.7"), 6);
        let (code, _, detail) = server.upload(&other, "").await.problem(409);
        assert_eq!(code, "sequence_exists");
        assert!(detail.contains("1.0.6"), "{detail}");
        // Lower than the newest is taken: devices enforce the order.
        keys.release(&server, &Image::new("1.0.5"), 5).await;
    })
    .await;
}

#[tokio::test]
async fn a_product_may_be_let_off() {
    each_database(async |server| {
        Keys::on(&server).await;
        let path = format!("/api/v1/products/{PROJECT}/signing");
        let get: ProductSigning = server.get(&path).await.value(StatusCode::OK);
        assert!(!get.unsigned);
        let image = Image::new("1.0.5");
        let put = async |unsigned: bool| {
            let request = server.request(Method::PUT, &path);
            let reply = Reply::of(request.json(&json!({"unsigned": unsigned}))).await;
            reply.value::<ProductSigning>(StatusCode::OK)
        };
        server.upload(&image.bytes, "").await.problem(422);
        assert!(put(true).await.unsigned);
        server.release(&image).await;
        put(false).await;
        let other = Image::new("1.0.6");
        let (code, ..) = server.upload(&other.bytes, "").await.problem(422);
        assert_eq!(code, "unsigned");
    })
    .await;
}

#[tokio::test]
async fn without_allow_unsigned_a_server_without_a_root_takes_nothing_either() {
    let setup = Setup {
        signed_only: true,
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    let (code, _, detail) = server
        .upload(&Image::new("1.0.5").bytes, "")
        .await
        .problem(422);
    assert_eq!(code, "unsigned");
    assert!(detail.contains("--allow-unsigned"), "{detail}");
}

#[tokio::test]
async fn every_answer_to_a_device_with_a_root_is_signed_for_it() {
    each_database(async |server| {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        let keys = Keys::on(&server).await;
        let root = keys.root(1);
        keys.release(&server, &old, 5).await;
        let mut device = TestDevice::running("ESP32-001", &old);
        device.root = Some(1);
        device.epoch = Some(1);
        // Twice: the second "nothing for you" comes from memory and is signed as well.
        for _ in 0..2 {
            let heard = ask(&server, &mut device, &root).await;
            assert_eq!(
                (heard.device.as_deref(), heard.root),
                (Some("ESP32-001"), Some(1))
            );
            assert_eq!(heard.install, None);
            assert_eq!(heard.log.expect("a head").size, 1);
        }
        let signed = keys.release(&server, &new, 6).await.signed.expect("signed");
        server
            .rollout(json!({"release": "1.0.6", "to": ["all"]}))
            .await;
        let heard = ask(&server, &mut device, &root).await;
        assert_eq!(heard.log.expect("a head").size, 2);
        let install = (Some(signed.digest), Some(signed.artifact));
        assert_eq!(heard.install, Some(install));
        // One that asks for a first root hears it too; one that knows no roots is answered plainly.
        let mut waiting = TestDevice::running("waiting", &old);
        waiting.root = Some(0);
        assert_eq!(
            ask(&server, &mut waiting, &root).await.install,
            Some(install)
        );
        let mut plain = TestDevice::running("plain", &old);
        plain.check_in(&server).await.install();
        let shown = server.show_device("ESP32-001").await;
        assert_eq!((shown.root_version, shown.epoch), (Some(1), Some(1)));
    })
    .await;
}

#[tokio::test]
async fn what_a_device_would_refuse_is_not_offered_to_it() {
    each_database(async |server| {
        let old = Image::new("1.0.5");
        let unsigned = Image::new("1.0.9");
        server.release(&unsigned).await;
        let keys = Keys::on(&server).await;
        let root = keys.root(1);
        // Or the unsigned one could not be started for anybody.
        let put = server.request(Method::PUT, "/api/v1/products/thermostat/signing");
        Reply::of(put.json(&json!({"unsigned": true}))).await;
        keys.release(&server, &old, 5).await;
        keys.release(&server, &Image::new("1.0.4"), 4).await;
        let expiring = keys.bundle_with(&Image::new("1.0.7"), 7, |release| {
            release.expires = Some((NOON / 1000) as u64 + 3600);
        });
        server
            .upload(&expiring, "")
            .await
            .value::<Release>(StatusCode::CREATED);
        let low = Image::new("1.0.8");
        keys.release(&server, &low, 8).await;
        server.clock.advance_ms(3_600_000);
        for (version, epoch, why) in [
            ("1.0.9", 1, SkipReason::UntrustedRelease),
            ("1.0.4", 1, SkipReason::NotNewer),
            ("1.0.7", 1, SkipReason::ExpiredRelease),
            ("1.0.8", 2, SkipReason::NotNewer),
        ] {
            let id = format!("to-{version}");
            let mut device = TestDevice::running(&id, &old);
            (device.root, device.epoch) = (Some(1), Some(epoch));
            device.check_in(&server).await;
            let request = json!({"release": version, "to": [id]});
            let preview = server
                .post("/api/v1/rollouts/preview", request.clone())
                .await;
            assert_eq!(preview.json()["excluded"][0]["reason"], why.to_string());
            server.rollout(request).await;
            assert_eq!(ask(&server, &mut device, &root).await.install, None);
            assert_eq!(server.attempt_state(&id).await, AttemptState::Skipped(why));
            // A device that takes anything is not left out.
            let mut plain = TestDevice::running(&id, &old);
            plain.id = format!("plain-{version}");
            let request = json!({"release": version, "to": [plain.id.clone()]});
            server.rollout(request).await;
            plain.check_in(&server).await.install();
        }
    })
    .await;
}

#[tokio::test]
async fn an_offer_ends_when_its_release_expires() {
    let server = Server::start(Setup::default()).await;
    let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
    let keys = Keys::on(&server).await;
    let expiring = keys.bundle_with(&new, 6, |release| {
        release.expires = Some((NOON / 1000) as u64 + 60);
    });
    server
        .upload(&expiring, "")
        .await
        .value::<Release>(StatusCode::CREATED);
    server
        .rollout(json!({"release": "1.0.6", "to": ["all"]}))
        .await;
    let mut device = TestDevice::running("ESP32-001", &old);
    device.root = Some(1);
    assert!(
        ask(&server, &mut device, &keys.root(1))
            .await
            .install
            .is_some()
    );
    server.clock.advance_ms(60_000);
    assert_eq!(ask(&server, &mut device, &keys.root(1)).await.install, None);
    let expired = AttemptState::Skipped(SkipReason::ExpiredRelease);
    assert_eq!(server.attempt_state("ESP32-001").await, expired);
}

#[tokio::test]
async fn a_release_of_a_key_that_was_rotated_out_is_no_longer_offered() {
    each_database(async |server| {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        let mut keys = Keys::on(&server).await;
        let release = keys.release(&server, &new, 6).await;
        keys.release = key(4);
        let second = keys.root(2);
        assert_eq!(
            keys.add_root(&server, &second).await.status,
            StatusCode::CREATED
        );
        let path = format!("/api/v1/releases/{}", release.id);
        let shown: Release = server.get(&path).await.value(StatusCode::OK);
        assert!(!shown.signed.expect("signed").trusted);
        server
            .rollout(json!({"release": "1.0.6", "to": ["all"]}))
            .await;
        let mut device = TestDevice::running("ESP32-001", &old);
        device.root = Some(1);
        assert_eq!(ask(&server, &mut device, &second).await.install, None);
        // Signed again by the new key, it is offered after a retry.
        let reply = server.upload(&keys.bundle(&new, 6), "").await;
        assert!(
            reply
                .value::<Release>(StatusCode::OK)
                .signed
                .expect("signed")
                .trusted
        );
        server.post("/api/v1/rollouts/r-1/retry", json!({})).await;
        assert!(ask(&server, &mut device, &second).await.install.is_some());
    })
    .await;
}

#[tokio::test]
async fn a_rollback_below_the_devices_epoch_is_refused_at_once() {
    let server = Server::start(Setup::default()).await;
    let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
    let keys = Keys::on(&server).await;
    keys.release(&server, &old, 5).await;
    let raised = keys.bundle_with(&new, 6, |release| release.epoch = 2);
    server
        .upload(&raised, "")
        .await
        .value::<Release>(StatusCode::CREATED);
    let mut device = TestDevice::running("ESP32-001", &old);
    device.boots(&new, true);
    (device.root, device.epoch) = (Some(1), Some(2));
    device.check_in(&server).await;
    let request = json!({"to": ["ESP32-001"], "reason": "try"});
    let reply = server.post("/api/v1/rollbacks", request).await.json();
    assert_eq!(reply["excluded"][0]["reason"], "below_security_epoch");
    assert_eq!(reply["orders"].as_array().map(Vec::len), Some(0));
}

/// Prints what signing costs; with `--release` for a figure that means something:
/// `cargo test --release -p fota-server --test it signed::a_signed -- --nocapture`
#[tokio::test]
async fn a_signed_check_in_needs_no_database() {
    let server = Server::start(Setup::default()).await;
    let old = Image::new("1.0.5");
    let keys = Keys::on(&server).await;
    let mut plain = TestDevice::running("plain", &old);
    plain.check_in(&server).await;
    let mut device = TestDevice::running("ESP32-001", &old);
    device.root = Some(1);
    ask(&server, &mut device, &keys.root(1)).await;
    // Without its database the server still answers, and signs.
    server.running.state.store.close().await;
    let heard = ask(&server, &mut device, &keys.root(1)).await;
    assert_eq!(heard.device.as_deref(), Some("ESP32-001"));
    let (bare, signed) = (each(&server, &plain).await, each(&server, &device).await);
    let per_second = |time: Duration| 1_000_000_000 / time.as_nanos();
    println!(
        "not signed: {bare:?} a check-in, {} per second on a core",
        per_second(bare)
    );
    println!(
        "signed: {signed:?} a check-in, {} per second on a core",
        per_second(signed)
    );
}

/// What a quiet check-in takes inside the server, without a network.
async fn each(server: &Server, device: &TestDevice) -> Duration {
    const CHECK_INS: u32 = 200;
    let router = fota_server::router(server.running.state.clone());
    let message = Bytes::from(device.message());
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    let begin = std::time::Instant::now();
    for _ in 0..CHECK_INS {
        let request = axum::http::Request::post("/d/v1/check-in")
            .header(header::CONTENT_TYPE, "application/cbor")
            .body(axum::body::Body::from(message.clone()))
            .expect("a request");
        let response = router.clone().oneshot(request).await.expect("never fails");
        assert_eq!(response.status(), StatusCode::OK);
    }
    begin.elapsed() / CHECK_INS
}
