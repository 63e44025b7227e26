//! Attacks on signed releases, each against the running server. None may succeed.

use fota_proto::{
    log::{Path, verify_consistency},
    signed::{
        Form, Release, index,
        sign::{encode, sign},
    },
};
use reqwest::StatusCode;
use sqlx::{Connection, Executor};

use crate::{
    keys::{Keys, ask, key, packed},
    support::*,
};

/// What is refused changes nothing.
async fn is_untouched(server: &Server) {
    let releases = server.get("/api/v1/releases").await.json();
    assert_eq!(releases["items"].as_array().map(Vec::len), Some(0));
    let log = server.get("/api/v1/log").await.json();
    assert_eq!(log["items"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn an_unsigned_release_is_refused() {
    each_database(async |server| {
        Keys::on(&server).await;
        let image = Image::new("1.0.6");
        let (code, field, _) = server.upload(&image.bytes, "").await.problem(422);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("unsigned", Some("body"))
        );
        // Nor by the seed's API, whatever it asks to skip.
        let body = serde_json::json!({
            "version": "1.0.6",
            "size": image.bytes.len(),
            "hash": image.sha256.to_string(),
            "firmware_data": base64::Engine::encode(
                &base64::engine::general_purpose::STANDARD, &image.bytes),
        });
        let reply = server.post("/api/cloud/fota/upload", body).await;
        assert!(reply.status.is_client_error(), "{}", reply.status);
        let error = reply.json()["error"].to_string();
        assert!(error.contains("not signed"), "{error}");
        is_untouched(&server).await;
    })
    .await;
}

#[tokio::test]
async fn what_the_seeds_tools_upload_goes_to_no_device_that_trusts_a_root() {
    let setup = Setup {
        legacy_open: true,
        signed_only: true,
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    let keys = Keys::on(&server).await;
    let image = Image::new("1.0.6");
    let body = serde_json::json!({
        "version": "1.0.6",
        "size": image.bytes.len(),
        "hash": image.sha256.to_string(),
        "firmware_data": base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD, &image.bytes),
    });
    let reply = server.post("/api/cloud/fota/upload", body).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.json());
    // By the manager API it is refused all the same.
    let other = Image::new("1.0.7");
    let (code, ..) = server.upload(&other.bytes, "").await.problem(422);
    assert_eq!(code, "unsigned");
    let rollout = serde_json::json!({"release": "1.0.6", "to": ["all"]});
    server.rollout(rollout).await;
    let mut device = TestDevice::running("ESP32-001", &Image::new("1.0.5"));
    device.root = Some(1);
    let told = ask(&server, &mut device, &keys.root(1)).await;
    assert_eq!(told.install, None);
}

#[tokio::test]
async fn a_release_of_another_key_is_refused() {
    let server = Server::start(Setup::default()).await;
    let mut keys = Keys::on(&server).await;
    let image = Image::new("1.0.6");
    let good = keys.bundle(&image, 6);
    // A stranger's key, a root key, and the stolen online key: none may release.
    for other in [9, 1] {
        keys.release = key(other);
        let (code, ..) = server
            .upload(&keys.bundle(&image, 6), "")
            .await
            .problem(422);
        assert_eq!(code, "signature_invalid", "key {other}");
    }
    keys.release = key(3);
    let envelope = keys.envelope(&image, 6, |_| {});
    let payload = fota_proto::signed::Envelope::parse(&envelope)
        .expect("signed")
        .payload;
    let online = server
        .running
        .state
        .online_key
        .sign(payload)
        .expect("signs");
    let (code, ..) = server
        .upload(&packed(&online, &image.bytes), "")
        .await
        .problem(422);
    assert_eq!(code, "signature_invalid");
    // Every hundredth bit of the signed release flipped.
    for bit in (0..envelope.len() * 8).step_by(97) {
        let mut bad = envelope.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let (code, ..) = server
            .upload(&packed(&bad, &image.bytes), "")
            .await
            .problem(422);
        assert_eq!(code, "signature_invalid", "bit {bit}");
    }
    is_untouched(&server).await;
    server
        .upload(&good, "")
        .await
        .value::<fota_proto::manager::Release>(StatusCode::CREATED);
}

#[tokio::test]
async fn a_root_out_of_order_is_refused() {
    each_database(async |server| {
        let mut keys = Keys::on(&server).await;
        for version in [3, 4, u32::MAX] {
            let (code, _, detail) = keys
                .add_root(&server, &keys.root(version))
                .await
                .problem(409);
            assert_eq!(code, "root_out_of_order");
            assert!(detail.contains("upload root 2 next"), "{detail}");
        }
        // Another root 1, which would undo a rotation, and a second one by other keys.
        let other = keys.root_with(1, |root| root.expires = Some(u64::MAX));
        let (code, ..) = keys.add_root(&server, &other).await.problem(409);
        assert_eq!(code, "root_out_of_order");
        keys.roots = [key(7), key(8)];
        let (code, ..) = keys.add_root(&server, &keys.root(2)).await.problem(422);
        assert_eq!(code, "root_invalid");
        keys.roots = [key(1), key(8)];
        let (code, _, detail) = keys.add_root(&server, &keys.root(2)).await.problem(422);
        assert_eq!(code, "root_invalid");
        assert!(detail.contains("1 of 2"), "{detail}");
        let listed = server.get("/api/v1/roots").await.json();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    })
    .await;
}

#[tokio::test]
async fn a_bundle_whose_image_was_swapped_is_refused() {
    let server = Server::start(Setup::default()).await;
    let keys = Keys::on(&server).await;
    let (signed, other) = (Image::new("1.0.6"), Image::new("1.0.7"));
    let envelope = keys.envelope(&signed, 6, |_| {});
    let swapped = server.upload(&packed(&envelope, &other.bytes), "").await;
    // The version is compared first: the image says one, the signature another.
    assert_eq!(swapped.problem(409).0, "version_mismatch");
    let built = fota_image::build::ImageBuilder::new(fota_image::app::Chip::Esp32C3);
    let evil = Image::built("1.0.6", built.project(PROJECT).secure_version(9));
    assert_ne!(evil.bytes, signed.bytes);
    let swapped = server.upload(&packed(&envelope, &evil.bytes), "").await;
    assert_eq!(swapped.problem(422).0, "bundle_mismatch");
    // A signature that says other things of the right image.
    type Lie = fn(&mut Release);
    let lies: [(&str, Lie); 6] = [
        ("product", |release| release.product = "kettle"),
        ("chip", |release| release.chip = 9),
        ("version", |release| release.version = "1.0.9"),
        ("digest", |release| release.image.0[0] ^= 1),
        ("elf", |release| release.elf.0[31] ^= 1),
        ("bytes", |release| release.bytes -= 1),
    ];
    for (what, lie) in lies {
        let bundle = keys.bundle_with(&signed, 6, lie);
        let reply = server.upload(&bundle, "").await;
        assert!(reply.status.is_client_error(), "{what}: {}", reply.status);
    }
    // A root for one product vouches for no other.
    let kettle = keys.root_with(2, |root| root.product = Some("kettle"));
    assert_eq!(
        keys.add_root(&server, &kettle).await.status,
        StatusCode::CREATED
    );
    let (code, ..) = server
        .upload(&keys.bundle(&signed, 6), "")
        .await
        .problem(422);
    assert_eq!(code, "bundle_mismatch");
    is_untouched(&server).await;
}

#[tokio::test]
async fn a_truncated_index_is_refused() {
    let server = Server::start(Setup::default()).await;
    let keys = Keys::on(&server).await;
    let image = Image::new("1.0.6");
    let (pages, _) = index::build(&image.bytes);
    for cut in [0, 1, index::HASH_BYTES - 1] {
        // Signed by the true key, as by a broken tool of its owner.
        let pages = pages[..cut].to_vec();
        let mut payload = Vec::new();
        let envelope = keys.envelope(&image, 6, |release| {
            let mut short = release.clone();
            short.pages = &pages;
            payload = encode(&short).expect("fits");
        });
        drop(envelope);
        let envelope = sign(Form::Sign1, &payload, &[&keys.release]).expect("fits");
        let (code, _, detail) = server
            .upload(&packed(&envelope, &image.bytes), "")
            .await
            .problem(422);
        assert_eq!(code, "signature_invalid");
        assert!(detail.contains("pages"), "{detail}");
    }
    let mut wrong = pages.clone();
    wrong[0] ^= 1;
    let mut payload = Vec::new();
    keys.envelope(&image, 6, |release| {
        let mut other = release.clone();
        other.pages = &wrong;
        payload = encode(&other).expect("fits");
    });
    let envelope = sign(Form::Sign1, &payload, &[&keys.release]).expect("fits");
    let (code, ..) = server
        .upload(&packed(&envelope, &image.bytes), "")
        .await
        .problem(422);
    assert_eq!(code, "bundle_mismatch");
    // A bundle that is cut short anywhere.
    let bundle = keys.bundle(&image, 6);
    for cut in [
        8,
        11,
        12,
        40,
        bundle.len() - image.bytes.len(),
        bundle.len() - 1,
    ] {
        let reply = server.upload(&bundle[..cut], "").await;
        reply.problem(422);
    }
    is_untouched(&server).await;
}

#[tokio::test]
async fn an_expired_release_is_refused() {
    let server = Server::start(Setup::default()).await;
    let keys = Keys::on(&server).await;
    let bundle = keys.bundle_with(&Image::new("1.0.6"), 6, |release| {
        release.expires = Some((NOON / 1000) as u64);
    });
    let (code, ..) = server.upload(&bundle, "").await.problem(409);
    assert_eq!(code, "expired");
    is_untouched(&server).await;
}

/// Here by the devices and the proofs; by the operator's command in `crates/fota/tests/it/log.rs`.
#[tokio::test]
async fn a_forked_log_is_caught_by_whoever_saw_the_true_one() {
    let server = Server::start(Setup::default()).await;
    let keys = Keys::on(&server).await;
    for number in 1..=4 {
        let image = Image::new(&format!("1.0.{number}"));
        keys.release(&server, &image, number).await;
    }
    let mut device = TestDevice::running("ESP32-001", &Image::new("1.0.4"));
    device.root = Some(1);
    let root = keys.root(1);
    let honest = ask(&server, &mut device, &root).await.log.expect("a head");
    device.log = Some(honest);
    ask(&server, &mut device, &root).await;
    assert_eq!(server.show_device("ESP32-001").await.warning, None);
    // Behind the server: entry 1 was another release, as somebody else is to be told.
    let path = server.data.join("fota.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .expect("opens");
    let sql = "UPDATE release_log SET sha256 = \
               'abababababababababababababababababababababababababababababababab' WHERE entry = 1";
    connection.execute(sql).await.expect("runs");
    connection.close().await.expect("closes");
    let server = server.restart().await;
    keys.release(&server, &Image::new("1.0.5"), 5).await;
    let forked = ask(&server, &mut device, &root).await.log.expect("a head");
    // Whatever proof it gives: it does not lead from the head that the device knows.
    let path = format!(
        "/d/v1/log/consistency?from={}&to={}",
        honest.size, forked.size
    );
    let proof: Path = minicbor::decode(&server.get(&path).await.body).expect("a proof");
    assert!(!verify_consistency(honest, forked, &proof));
    let warning = server.show_device("ESP32-001").await.warning;
    assert!(warning.expect("a warning").contains("fota log verify"));
    assert!(
        server
            .history("ESP32-001")
            .await
            .contains(&"log.forked".to_owned())
    );
}
