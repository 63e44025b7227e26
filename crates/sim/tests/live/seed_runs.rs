//! The three test runs of the seed's report, and the rollback that its firmware never had, on a
//! device that speaks only the seed's API.

use std::{sync::Mutex, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use fota_image::app::Chip;
use fota_proto::Sha256;
use fota_sim::{
    board::{Board, factory_flash},
    console::Console,
    firmware::Spec,
    seed_device::{HttpError, Psk, SeedConfig, SeedDevice, Server},
};
use serde_json::{Value, json};
use sha2::Digest;

use crate::world::{IMAGE_BYTES, PSK, World, build, image};

const DEVICE: &str = "ESP32-001";
/// What the seed's second run wrote to the serial line.
const MESSAGE: &str = "MINIMAL TEST FIRMWARE v1.0.5 - FOTA UPDATE SUCCESSFUL!";

/// The seed's upload, as its own script sends it.
async fn upload(
    world: &World,
    version: &str,
    image: &[u8],
    chunk_bytes: u32,
) -> Result<Value, HttpError> {
    let sha256 = Sha256(sha2::Sha256::digest(image).into());
    let body = json!({
        "version": version, "size": image.len(), "hash": sha256.to_string(),
        "chunk_size": chunk_bytes, "firmware_data": STANDARD.encode(image),
    });
    let server = Server::new(&world.url(), None)?;
    let answer = server
        .post("/api/cloud/fota/upload", &body.to_string())
        .await?;
    Ok(serde_json::from_slice(&answer).expect("JSON"))
}

fn device(world: &World, factory: &str, console: Console) -> SeedDevice {
    let flash = factory_flash(&build(&Spec::new(factory))).expect("fits");
    let config = SeedConfig {
        poll: Duration::from_millis(20),
        chunk_pause: Duration::ZERO,
        restart: Duration::from_millis(10),
        ..SeedConfig::new(&world.url(), Some(DEVICE.to_owned()), Psk(PSK))
    };
    SeedDevice::new(config, Board::new(flash, Chip::Esp32, false), console).expect("a device")
}

/// Lives until `line` was said, and a little longer, so that the report of it is sent.
async fn live_until(
    world: &World,
    device: &mut SeedDevice,
    lines: &Mutex<Vec<String>>,
    line: &str,
) {
    let said = |line: &str| {
        lines
            .lock()
            .expect("lock")
            .iter()
            .any(|one| one.contains(line))
    };
    let life = async { while device.live_once().await.is_ok() {} };
    tokio::select! {
        () = life => panic!("does not boot"),
        () = async {
            world.until(line, async |_| said(line).then_some(())).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        } => {}
    }
}

async fn version(world: &World) -> Option<String> {
    world.device(DEVICE).await?.version
}

#[tokio::test]
async fn test_run_1_10_kb_image_refused() {
    let truncated = &image("1.0.6")[..10_240];
    let world = World::start().await;
    let refused = upload(&world, "1.0.6", truncated, 1024).await;
    assert!(
        matches!(refused, Err(HttpError::Status(400))),
        "{refused:?}"
    );

    // A server that lets it through changes nothing: the device takes ten chunks and refuses.
    let lab = World::with(|config| config.lab = true).await;
    let taken = upload(&lab, "1.0.6", truncated, 1024).await.expect("taken");
    assert_eq!(taken["total_chunks"], 10);
    let (console, lines) = Console::kept();
    let mut device = device(&lab, "1.0.5", console);
    live_until(
        &lab,
        &mut device,
        &lines,
        "update failed: the image would not boot",
    )
    .await;
    assert_eq!(device.chunk_requests(), 10);
    assert_eq!(version(&lab).await.as_deref(), Some("1.0.5"));
}

#[tokio::test]
async fn test_run_2_299_kb_image_in_19_chunks_boots_with_its_message() {
    let world = World::start().await;
    let minimal = build(&Spec::new("1.0.5").image_bytes(306_176).message(MESSAGE));
    let taken = upload(&world, "1.0.5", &minimal, 16_384)
        .await
        .expect("taken");
    assert_eq!(taken["total_chunks"], 19);
    let (console, lines) = Console::kept();
    let mut device = device(&world, "1.0.4", console);
    live_until(&world, &mut device, &lines, MESSAGE).await;
    assert_eq!(device.chunk_requests(), 19);
    assert_eq!(version(&world).await.as_deref(), Some("1.0.5"));
}

#[tokio::test]
async fn test_run_3_1040_kb_image_in_66_chunks() {
    for (chunk_bytes, chunks) in [(16_384, 66), (1024, 1041)] {
        let world = World::start().await;
        let whole = image("1.0.6");
        assert_eq!(whole.len(), IMAGE_BYTES);
        let taken = upload(&world, "1.0.6", &whole, chunk_bytes)
            .await
            .expect("taken");
        assert_eq!(taken["total_chunks"], chunks);
        let (console, lines) = Console::kept();
        let mut device = device(&world, "1.0.5", console);
        live_until(&world, &mut device, &lines, "boot: ota_1, acme 1.0.6").await;
        assert_eq!(device.chunk_requests(), chunks);
        assert_eq!(version(&world).await.as_deref(), Some("1.0.6"));
    }
}

#[tokio::test]
async fn rolls_back_when_asked() {
    let world = World::start().await;
    upload(&world, "1.0.6", &image("1.0.6"), 16_384)
        .await
        .expect("taken");
    let (console, lines) = Console::kept();
    let mut device = device(&world, "1.0.5", console);
    live_until(&world, &mut device, &lines, "boot: ota_1, acme 1.0.6").await;
    lines.lock().expect("lock").clear();

    let order = r#"{"device_id":"ESP32-001","reason":"Update failed"}"#;
    let server = Server::new(&world.url(), Some(DEVICE.to_owned())).expect("a URL");
    server
        .post("/api/cloud/fota/rollback", order)
        .await
        .expect("accepted");
    let status = server
        .get("/api/inverter/fota/rollback-status")
        .await
        .expect("an answer");
    let status: Value = serde_json::from_slice(&status).expect("JSON");
    assert_eq!(status["rollback_required"], true);
    assert_eq!(status["reason"], "Update failed");

    let chunks = device.chunk_requests();
    live_until(&world, &mut device, &lines, "boot: ota_0, acme 1.0.5").await;
    assert_eq!(version(&world).await.as_deref(), Some("1.0.5"));
    let status = server
        .get("/api/inverter/fota/rollback-status")
        .await
        .expect("an answer");
    let status: Value = serde_json::from_slice(&status).expect("JSON");
    assert_eq!(status["rollback_required"], false);
    assert_eq!(
        device.chunk_requests(),
        chunks,
        "1.0.6 is not offered to it again"
    );
}
