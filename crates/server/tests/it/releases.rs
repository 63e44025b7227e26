//! `/api/v1/releases`: what is taken in, what is refused, and that it stays.

use fota_image::{app::Chip, build::ImageBuilder};
use fota_proto::manager::Release;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn an_image_is_taken_in_and_described() {
    each_database(async |server| {
        let builder = ImageBuilder::new(Chip::Esp32S3)
            .project("kettle")
            .secure_version(3)
            .min_rev(1)
            .max_rev(199);
        let image = Image::built("2.1.0", builder);
        let reply = server.upload(&image.bytes, "notes=first%20light").await;
        let release: Release = reply.value(StatusCode::CREATED);
        let expected = Release {
            id: 1,
            version: "2.1.0".to_owned(),
            project: "kettle".to_owned(),
            chip: Some("esp32s3".to_owned()),
            bytes: image.bytes.len() as u64,
            sha256: image.sha256,
            elf_sha256: Some(image.elf),
            idf_version: Some("v5.3".to_owned()),
            secure_version: 3,
            chip_revision_min: 1,
            chip_revision_max: Some(199),
            notes: "first light".to_owned(),
            lab: false,
            yanked: false,
            uploaded_at: NOON,
            running_on: 0,
            signed: None,
            spared_bytes: 0,
        };
        assert_eq!(release, expected);
        let shown: Release = server.get("/api/v1/releases/1").await.value(StatusCode::OK);
        assert_eq!(shown, expected);
        let image_back = server.get("/api/v1/releases/1/image").await;
        assert_eq!(image_back.body, image.bytes);
    })
    .await;
}

#[tokio::test]
async fn the_same_bytes_again_are_the_same_release() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        let first = server.release(&image).await;
        let again: Release = server.upload(&image.bytes, "").await.value(StatusCode::OK);
        assert_eq!(first, again);
        let page = server.get("/api/v1/releases").await.json();
        assert_eq!(page["items"].as_array().map(Vec::len), Some(1));
    })
    .await;
}

#[tokio::test]
async fn a_version_never_changes() {
    each_database(async |server| {
        server.release(&Image::new("1.0.5")).await;
        let builder = ImageBuilder::new(Chip::Esp32C3).project(PROJECT).fill(99);
        let other = Image::built("1.0.5", builder);
        let (code, field, detail) = server.upload(&other.bytes, "").await.problem(409);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("version_exists", Some("version"))
        );
        assert!(
            detail.contains("build this one under a new version"),
            "{detail}"
        );
        // Another chip's build of the same version is another thing.
        server
            .release(&Image::of("1.0.5", Chip::Esp32S3, PROJECT))
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_version_that_the_image_does_not_say_is_refused_unless_allowed() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        let (code, field, detail) = server
            .upload(&image.bytes, "version=1.0.6")
            .await
            .problem(409);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("version_mismatch", Some("version"))
        );
        assert!(
            detail.contains("1.0.5") && detail.contains("1.0.6"),
            "{detail}"
        );
        let query = "version=1.0.6&allow_version_mismatch=true";
        let release: Release = server
            .upload(&image.bytes, query)
            .await
            .value(StatusCode::CREATED);
        assert_eq!(release.version, "1.0.6");
    })
    .await;
}

/// Bug museum 13: the seed's quick upload sends the first 10 KB of a firmware.
#[tokio::test]
async fn truncated_image_refused() {
    each_database(async |server| {
        let whole = Image::built(
            "1.0.5",
            ImageBuilder::new(Chip::Esp32C3)
                .project(PROJECT)
                .size(1_065_968),
        );
        let (code, _, detail) = server.upload(&whole.bytes[..10_240], "").await.problem(422);
        assert_eq!(code, "image_invalid");
        assert!(
            detail.contains("truncated ESP image: 10,240 of "),
            "{detail}"
        );
        assert_nothing_stored(&server).await;
    })
    .await;
}

/// Bug museum 6: the seed takes `size: 1` with 40,000 bytes of data. Here the image itself says
/// how long it is.
#[tokio::test]
async fn size_not_data_refused() {
    each_database(async |server| {
        let mut image = Image::new("1.0.5").bytes;
        image.extend([0x55; 40_000]);
        let (code, field, _) = server.upload(&image, "").await.problem(422);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("image_invalid", Some("body"))
        );
        assert_nothing_stored(&server).await;
    })
    .await;
}

/// Bug museum 14: nothing in the seed looks at the chip.
#[tokio::test]
async fn wrong_chip_refused() {
    each_database(async |server| {
        let mut unknown = Image::new("1.0.5").bytes;
        unknown[12..14].copy_from_slice(&0x7777u16.to_le_bytes());
        let (code, _, detail) = server.upload(&unknown, "").await.problem(422);
        assert_eq!(code, "image_invalid");
        assert!(detail.contains("unknown chip"), "{detail}");
        assert_nothing_stored(&server).await;
        // A chip that we know, but not this device's: never offered, and said so.
        let old = Image::new("1.0.5");
        server
            .release(&Image::of("1.0.6", Chip::Esp32, PROJECT))
            .await;
        let mut device = TestDevice::running("ESP32-001", &old);
        device.check_in(&server).await;
        let request = json!({"release": "1.0.6", "to": ["all"]});
        let preview = server
            .post("/api/v1/rollouts/preview", request.clone())
            .await
            .json();
        let excluded = json!([{"device": "ESP32-001", "reason": "skipped:incompatible_chip"}]);
        let named = json!([{"device": "ESP32-001", "reason": "incompatible_chip"}]);
        assert!(
            [excluded, named].contains(&preview["excluded"]),
            "{preview}"
        );
        server.rollout(request).await;
        assert_eq!(device.check_in(&server).await.order, None);
        let attempt = server
            .show_device("ESP32-001")
            .await
            .attempt
            .expect("an attempt");
        assert_eq!(attempt.state.to_string(), "skipped:incompatible_chip");
        let why = attempt.explanation.expect("told");
        assert!(
            why.contains("release 1.0.6 is for esp32, the device is esp32c3"),
            "{why}"
        );
    })
    .await;
}

#[tokio::test]
async fn what_no_chip_would_boot_is_refused_with_the_reason() {
    each_database(async |server| {
        let good = Image::new("1.0.5").bytes;
        let mut damaged = good.clone();
        damaged[4096] ^= 1;
        let no_desc = ImageBuilder::new(Chip::Esp32C3)
            .without_desc()
            .build()
            .expect("builds");
        let no_elf = ImageBuilder::new(Chip::Esp32C3).elf_sha256([0; 32]).build();
        for (bytes, reason) in [
            (Vec::new(), "empty file"),
            (vec![0xff; 4096], "erased flash"),
            (b"\x7fELF\x01\x01\x01".repeat(64), "ELF file"),
            (b"hello, world".repeat(64), "text"),
            (vec![0x01; 4096], "first byte is 0x01"),
            (damaged, "damaged image"),
            (no_desc, "no app description"),
            (no_elf.expect("builds"), "app_elf_sha256 is zero"),
        ] {
            let (code, field, detail) = server.upload(&bytes, "").await.problem(422);
            assert_eq!(
                (code.as_str(), field.as_deref()),
                ("image_invalid", Some("body"))
            );
            assert!(
                detail.contains(reason),
                "{detail:?} does not say {reason:?}"
            );
        }
        assert_nothing_stored(&server).await;
    })
    .await;
}

async fn assert_nothing_stored(server: &Server) {
    assert_eq!(
        server.get("/api/v1/releases").await.json()["items"],
        json!([])
    );
    assert_eq!(
        server.get("/api/v1/events").await.json()["items"],
        json!([])
    );
    let blobs = std::fs::read_dir(server.data.join("blobs")).expect("a folder");
    assert_eq!(blobs.count(), 0);
}

#[tokio::test]
async fn more_than_a_chip_can_map_is_refused_with_both_numbers() {
    each_database(async |server| {
        let huge = vec![0xe9; 16 * 1024 * 1024 + 1];
        let (code, _, detail) = server.upload(&huge, "").await.problem(413);
        assert_eq!(code, "too_large");
        assert!(
            detail.contains("16,777,217") && detail.contains("16,777,216"),
            "{detail}"
        );
    })
    .await;
}

#[tokio::test]
async fn the_lab_takes_what_is_no_image_but_offers_it_to_no_native_device() {
    let server = Server::lab().await;
    let bytes: Vec<u8> = (0..40_000u32).map(|i| (7 * i % 256) as u8).collect();
    let (_, field, _) = server.upload(&bytes, "").await.problem(400);
    assert_eq!(field.as_deref(), Some("version"));
    let release: Release = server
        .upload(&bytes, "version=9.9")
        .await
        .value(StatusCode::CREATED);
    assert!(release.lab && release.chip.is_none() && release.elf_sha256.is_none());
    let mut device = TestDevice::running("ESP32-001", &Image::new("1.0.5"));
    device.check_in(&server).await;
    server
        .rollout(json!({"release": "9.9", "to": ["all"]}))
        .await;
    assert_eq!(device.check_in(&server).await.order, None);
    // A real image is a real release there, too.
    assert!(!server.release(&Image::new("1.0.5")).await.lab);
}

#[tokio::test]
async fn releases_know_how_many_devices_run_them() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        server.release(&image).await;
        for number in 0..3 {
            TestDevice::running(&format!("d{number}"), &image)
                .check_in(&server)
                .await;
        }
        let release = server.get("/api/v1/releases/1").await.json();
        assert_eq!(release["running_on"], 3);
    })
    .await;
}

#[tokio::test]
async fn releases_come_in_pages_newest_first() {
    each_database(async |server| {
        for version in ["1.0", "1.1", "1.2"] {
            server.release(&Image::new(version)).await;
        }
        let page = server.get("/api/v1/releases?limit=2").await.json();
        assert_eq!(page["items"][0]["version"], "1.2");
        let next = page["next"].as_str().expect("more");
        let rest = server
            .get(&format!("/api/v1/releases?limit=2&after={next}"))
            .await
            .json();
        assert_eq!(rest["items"][0]["version"], "1.0");
        assert_eq!(rest.get("next"), None);
    })
    .await;
}

#[tokio::test]
async fn a_yanked_release_starts_no_rollout() {
    each_database(async |server| {
        server.release(&Image::new("1.0.5")).await;
        let yanked = server
            .post("/api/v1/releases/1/yank", json!({"reason": "bad"}))
            .await
            .json();
        assert_eq!(yanked["yanked"], true);
        let request = json!({"release": "1.0.5", "to": ["all"]});
        let (code, field, _) = server.post("/api/v1/rollouts", request).await.problem(409);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("release_yanked", Some("release"))
        );
    })
    .await;
}
