//! The seed-only device against a stub of the seed's server: what the device does with honest and
//! with broken answers. (`seed_runs.rs` runs it against the real server.)

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use fota_image::app::Chip;
use fota_sim::{
    board::{Board, factory_flash},
    console::Console,
    firmware::{self, Behaviour, Spec},
    seed_device::{Psk, SeedConfig, SeedDevice},
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

const PSK: [u8; 32] = [7; 32];

struct Stub {
    image: Vec<u8>,
    version: String,
    chunk_bytes: usize,
    /// Changes the chunk reply before it is sent.
    spoil: fn(&mut Value),
    rollback: AtomicBool,
    posts: Mutex<Vec<Value>>,
    requests: Mutex<Vec<u64>>,
}

impl Stub {
    fn new(image: Vec<u8>, chunk_bytes: usize) -> Self {
        Self {
            image,
            version: "1.0.6".to_owned(),
            chunk_bytes,
            spoil: |_| {},
            rollback: AtomicBool::new(false),
            posts: Mutex::default(),
            requests: Mutex::default(),
        }
    }

    fn posted(&self, field: &str, value: &Value) -> bool {
        let posts = self.posts.lock().expect("lock");
        posts
            .iter()
            .any(|post| post["fota_status"][field] == *value)
    }
}

async fn manifest(State(stub): State<Arc<Stub>>) -> Json<Value> {
    let hash: [u8; 32] = Sha256::digest(&stub.image).into();
    Json(json!({"fota": {"manifest": {
        "version": stub.version, "size": stub.image.len(), "chunk_size": stub.chunk_bytes,
        "hash": fota_proto::Sha256(hash).to_string(), "uploaded_at": "2026-11-23T12:33:26.908185",
    }}}))
}

#[derive(serde::Deserialize)]
struct ChunkQuery {
    chunk_number: u64,
}

async fn chunk(State(stub): State<Arc<Stub>>, Query(query): Query<ChunkQuery>) -> Json<Value> {
    stub.requests.lock().expect("lock").push(query.chunk_number);
    let mut chunks = stub.image.chunks(stub.chunk_bytes);
    let bytes = chunks.nth(query.chunk_number as usize).expect("in range");
    let mut mac = Hmac::<Sha256>::new_from_slice(&PSK).expect("any length");
    mac.update(bytes);
    let mac: [u8; 32] = mac.finalize().into_bytes().into();
    let mut reply = json!({
        "chunk_number": query.chunk_number, "data": STANDARD.encode(bytes),
        "mac": fota_proto::Sha256(mac).to_string(), "size": bytes.len(),
    });
    (stub.spoil)(&mut reply);
    Json(reply)
}

async fn status(State(stub): State<Arc<Stub>>, Json(body): Json<Value>) -> Json<Value> {
    stub.posts.lock().expect("lock").push(body);
    Json(json!({"status": "success"}))
}

async fn rollback(State(stub): State<Arc<Stub>>) -> Json<Value> {
    match stub.rollback.swap(false, Ordering::Relaxed) {
        true => Json(json!({"rollback_required": true, "reason": "Update failed"})),
        false => Json(json!({"rollback_required": false})),
    }
}

async fn serve(stub: Stub) -> (Arc<Stub>, String) {
    let stub = Arc::new(stub);
    let routes = Router::new()
        .route("/api/inverter/fota/manifest", get(manifest))
        .route("/api/inverter/fota/chunk", get(chunk))
        .route("/api/inverter/fota/status", post(status))
        .route("/api/inverter/fota/rollback-status", get(rollback))
        .with_state(Arc::clone(&stub));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (stub, format!("http://{address}"))
}

fn image(version: &str, image_bytes: usize) -> Vec<u8> {
    firmware::image(&Spec::new(version).image_bytes(image_bytes)).expect("builds")
}

fn device(server: &str, console: Console) -> SeedDevice {
    let flash = factory_flash(&image("1.0.5", 65_536)).expect("fits");
    let config = SeedConfig {
        poll: Duration::from_millis(5),
        chunk_pause: Duration::ZERO,
        restart: Duration::ZERO,
        ..SeedConfig::new(server, Some("ESP32-001".to_owned()), Psk(PSK))
    };
    SeedDevice::new(config, Board::new(flash, Chip::Esp32, false), console).expect("valid")
}

/// Lives on until the console has said `line`.
async fn live_until(mut device: SeedDevice, lines: &Mutex<Vec<String>>, line: &str) -> SeedDevice {
    let said = || {
        lines
            .lock()
            .expect("lock")
            .iter()
            .any(|said| said.contains(line))
    };
    let life = async {
        while !said() {
            tokio::select! {
                end = device.live_once() => end.expect("boots"),
                () = async { while !said() { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
            }
        }
    };
    timeout(Duration::from_secs(30), life)
        .await
        .unwrap_or_else(|_| {
            panic!("no {line:?} in {:?}", lines.lock().expect("lock"));
        });
    device
}

#[tokio::test]
async fn updates_in_chunks_in_order_and_boots_the_image() {
    let (stub, server) = serve(Stub::new(image("1.0.6", 306_176), 16_384)).await;
    let (console, lines) = Console::kept();
    let device = live_until(device(&server, console), &lines, "boot: ota_1, acme 1.0.6").await;
    assert_eq!(device.chunk_requests(), 19);
    let requests = stub.requests.lock().expect("lock").clone();
    assert_eq!(requests, (0..19).collect::<Vec<_>>());
    assert!(stub.posted("verified", &json!(true)));
    assert!(stub.posted("boot_status", &json!("pending_reboot")));
    let flash = device.board().flash();
    assert_eq!(flash.with(|flash| flash.violations()), 0);
}

#[tokio::test]
async fn rolls_back_when_the_flag_is_set() {
    let (stub, server) = serve(Stub::new(image("1.0.6", 65_536), 16_384)).await;
    let (console, lines) = Console::kept();
    let device = live_until(device(&server, console), &lines, "boot: ota_1").await;
    lines.lock().expect("lock").clear();
    stub.rollback.store(true, Ordering::Relaxed);
    live_until(device, &lines, "boot: ota_0, acme 1.0.5").await;
    assert!(stub.posted("rollback", &json!(true)));
}

#[tokio::test]
async fn refuses_broken_chunks_and_stays_on_its_version() {
    let spoils: [fn(&mut Value); 4] = [
        |reply| reply["chunk_number"] = json!(5),
        |reply| reply["mac"] = json!("00".repeat(32)),
        |reply| reply["size"] = json!(1),
        |reply| reply["data"] = json!("A".repeat(25_004)),
    ];
    for spoil in spoils {
        let stub = Stub {
            spoil,
            ..Stub::new(image("1.0.6", 65_536), 16_384)
        };
        let (stub, server) = serve(stub).await;
        let (console, lines) = Console::kept();
        let device = live_until(device(&server, console), &lines, "update failed").await;
        assert_eq!(device.chunk_requests(), 1);
        assert!(!stub.posted("verified", &json!(true)));
    }
}

#[tokio::test]
async fn an_image_with_another_hash_or_none_at_all_never_boots() {
    let truncated = image("1.0.6", 65_536)[..10_240].to_vec();
    let (_stub, server) = serve(Stub::new(truncated, 1024)).await;
    let (console, lines) = Console::kept();
    let mut device = live_until(device(&server, console), &lines, "update failed").await;
    assert_eq!(device.chunk_requests(), 10);
    lines.lock().expect("lock").clear();
    device = live_until(device, &lines, "boot: ota_0, acme 1.0.5").await;
    assert_eq!(device.board().starts(), 2);
}

#[tokio::test]
async fn a_crash_at_boot_goes_back_on_a_bootloader_with_rollback() {
    let crashing = Spec::new("1.0.6").behaviour(Behaviour::CrashesAtBoot);
    let crashing = firmware::image(&crashing).expect("builds");
    let (_stub, server) = serve(Stub::new(crashing, 16_384)).await;
    let (console, lines) = Console::kept();
    let flash = factory_flash(&image("1.0.5", 65_536)).expect("fits");
    let config = SeedConfig {
        poll: Duration::from_millis(5),
        chunk_pause: Duration::ZERO,
        restart: Duration::ZERO,
        ..SeedConfig::new(&server, None, Psk(PSK))
    };
    let board = Board::new(flash, Chip::Esp32, true);
    let device = SeedDevice::new(config, board, console).expect("valid");
    let device = live_until(device, &lines, "Guru Meditation").await;
    lines.lock().expect("lock").clear();
    live_until(device, &lines, "boot: ota_0, acme 1.0.5").await;
}
