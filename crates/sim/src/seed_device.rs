//! A simulated ESP32 that speaks only the seed's API (`facts/seed-api.md`): manifest, chunks of
//! base64 in JSON with an HMAC each, status posts, and the rollback poll that the original's
//! firmware never got.
//!
//! It is as strict as the original and as naive: chunks in order from zero, no resume, and after a
//! failed chunk nothing more until the offer changes or the chip is reset.

mod http;
mod slot;
mod wire;

use std::time::Duration;

use fota_proto::checkin::ResetReason;
use tokio::time::sleep;

use crate::{
    board::{Board, StartError, Started},
    console::Console,
    firmware::Behaviour,
};

pub use http::{HttpError, Server};
pub use slot::SlotError;
use slot::{Slots, Writer};
pub use wire::{
    BASE64_BYTES_MAX, BODY_BYTES_MAX, CHUNK_BYTES_MAX, Chunk, ChunkError, Manifest, Psk,
    parse_chunk, parse_manifest, parse_rollback,
};

const MANIFEST_PATH: &str = "/api/inverter/fota/manifest";
const STATUS_PATH: &str = "/api/inverter/fota/status";
const ROLLBACK_PATH: &str = "/api/inverter/fota/rollback-status";

/// How a seed device lives.
#[derive(Clone, Debug)]
pub struct SeedConfig {
    /// `http://host:port`.
    pub server: String,
    /// Sent as `Device-ID`; the original sends none.
    pub device_id: Option<String>,
    /// Key of the chunk MACs.
    pub psk: Psk,
    /// Between two polls. The original polls once per boot.
    pub poll: Duration,
    /// Before each chunk: 2 s in phase 4 of the original, 500 ms in phase 5.
    pub chunk_pause: Duration,
    /// Chunks between two progress posts.
    pub chunks_per_report: u64,
    /// From reset to the first line of the app.
    pub restart: Duration,
}

impl SeedConfig {
    /// A device with the original's timer.
    pub fn new(server: &str, device_id: Option<String>, psk: Psk) -> Self {
        Self {
            server: server.to_owned(),
            device_id,
            psk,
            poll: Duration::from_secs(10),
            chunk_pause: Duration::from_secs(2),
            chunks_per_report: 3,
            restart: Duration::from_secs(1),
        }
    }

    /// The same life, `speed` times as fast.
    pub fn at_speed(self, speed: f64) -> Self {
        Self {
            poll: self.poll.div_f64(speed),
            chunk_pause: self.chunk_pause.div_f64(speed),
            restart: self.restart.div_f64(speed),
            ..self
        }
    }
}

/// Why an update ended on the device.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    #[error("chunk {number}: {error}")]
    Http { number: u64, error: HttpError },
    #[error("chunk {number}: {error}")]
    Chunk { number: u64, error: ChunkError },
    #[error(transparent)]
    Slot(#[from] SlotError),
}

/// The device.
#[derive(Debug)]
pub struct SeedDevice {
    name: String,
    config: SeedConfig,
    server: Server,
    board: Board,
    console: Console,
    chunk_requests: u64,
    failed: Option<Manifest>,
}

impl SeedDevice {
    /// A device on this board.
    pub fn new(config: SeedConfig, board: Board, console: Console) -> Result<Self, HttpError> {
        let server = Server::new(&config.server, config.device_id.clone())?;
        let name = config.device_id.clone();
        Ok(Self {
            name: name.unwrap_or_else(|| "(no Device-ID)".to_owned()),
            config,
            server,
            board,
            console,
            chunk_requests: 0,
            failed: None,
        })
    }

    /// The board, for a look at its flash.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Chunks requested so far.
    pub fn chunk_requests(&self) -> u64 {
        self.chunk_requests
    }

    /// Lives until nothing boots any more or the future is dropped.
    pub async fn run(mut self) -> StartError {
        loop {
            if let Err(error) = self.live_once().await {
                self.console.say(&self.name, error);
                return error;
            }
        }
    }

    /// From one reset to the next.
    pub async fn live_once(&mut self) -> Result<(), StartError> {
        sleep(self.config.restart).await;
        let started = self.board.start()?;
        self.announce(&started);
        if started.firmware.behaviour == Behaviour::CrashesAtBoot {
            self.console
                .say(&self.name, "Guru Meditation Error: panic before setup()");
            self.board.reset(ResetReason::Panic);
            return Ok(());
        }
        let slots = match Slots::read(&self.board, &started.boot) {
            Ok(slots) => slots,
            Err(error) => return self.stay_dead(&error).await,
        };
        if let Err(error) = slots.mark_valid() {
            self.console.say(&self.name, error);
        }
        self.failed = None;
        let version = started.firmware.claimed_version().to_owned();
        self.post_status(&serde_json::json!({"boot_status": "success", "new_version": version}))
            .await;
        while !self.poll(&slots, &version).await {
            sleep(self.config.poll).await;
        }
        self.board.reset(ResetReason::Software);
        Ok(())
    }

    fn announce(&self, started: &Started) {
        let firmware = &started.firmware;
        let slot = started.boot.slot.ota_index().unwrap_or(u8::MAX);
        let line = format!(
            "boot: ota_{slot}, {} {}",
            firmware.project, firmware.version
        );
        self.console.say(&self.name, line);
        if let Some(message) = &firmware.message {
            self.console.say(&self.name, message);
        }
    }

    async fn stay_dead(&self, error: &SlotError) -> Result<(), StartError> {
        self.console.say(&self.name, error);
        std::future::pending().await
    }

    /// One poll; true if the chip is to be reset.
    async fn poll(&mut self, slots: &Slots, version: &str) -> bool {
        if let Ok(body) = self.server.get(ROLLBACK_PATH).await
            && let Some(reason) = parse_rollback(&body)
        {
            return self.roll_back(slots, &reason).await;
        }
        let Ok(body) = self.server.get(MANIFEST_PATH).await else {
            return false;
        };
        match parse_manifest(&body) {
            Some(manifest) if self.is_wanted(&manifest, version) => {
                self.update(slots, manifest).await
            }
            _ => false,
        }
    }

    /// The original's rule: any other version is an update.
    fn is_wanted(&self, manifest: &Manifest, version: &str) -> bool {
        manifest.version != version && self.failed.as_ref() != Some(manifest)
    }

    async fn roll_back(&mut self, slots: &Slots, reason: &str) -> bool {
        self.console
            .say(&self.name, format_args!("rollback: {reason}"));
        match slots.switch() {
            Ok(()) => {
                self.post_status(&serde_json::json!({"rollback": true, "error": reason}))
                    .await;
                true
            }
            Err(error) => {
                let text = format!("rollback impossible: {error}");
                self.console.say(&self.name, &text);
                self.post_status(&serde_json::json!({"error": text})).await;
                false
            }
        }
    }

    async fn update(&mut self, slots: &Slots, manifest: Manifest) -> bool {
        let (version, chunks) = (manifest.version.clone(), manifest.chunks());
        let line = format!(
            "update to {version}: {} bytes in {chunks} chunks",
            manifest.size
        );
        self.console.say(&self.name, line);
        match self.install(slots, &manifest).await {
            Ok(()) => {
                self.console.say(&self.name, "verified, restarting");
                self.post_status(&serde_json::json!({"verified": true}))
                    .await;
                let status =
                    serde_json::json!({"boot_status": "pending_reboot", "new_version": version});
                self.post_status(&status).await;
                true
            }
            Err(error) => {
                self.console
                    .say(&self.name, format_args!("update failed: {error}"));
                self.post_status(&serde_json::json!({"error": error.to_string()}))
                    .await;
                self.failed = Some(manifest);
                false
            }
        }
    }

    async fn install(&mut self, slots: &Slots, manifest: &Manifest) -> Result<(), UpdateError> {
        let mut writer = slots.begin(manifest.size)?;
        for number in 0..manifest.chunks() {
            sleep(self.config.chunk_pause).await;
            self.fetch(number, &mut writer).await?;
            let count = number + 1;
            if count.is_multiple_of(self.config.chunks_per_report) || count == manifest.chunks() {
                self.post_progress(count, manifest.chunks()).await;
            }
        }
        writer.end(&manifest.hash)?;
        Ok(slots.switch()?)
    }

    async fn fetch(&mut self, number: u64, writer: &mut Writer) -> Result<(), UpdateError> {
        self.chunk_requests += 1;
        let path = format!("/api/inverter/fota/chunk?chunk_number={number}");
        let body = self.server.get(&path).await;
        let body = body.map_err(|error| UpdateError::Http { number, error })?;
        let chunk = parse_chunk(&body).and_then(|chunk| chunk.proven(number, &self.config.psk));
        let bytes = chunk.map_err(|error| UpdateError::Chunk { number, error })?;
        Ok(writer.write(&bytes)?)
    }

    async fn post_progress(&self, count: u64, chunks: u64) {
        let progress = (count as f64) * 100.0 / (chunks as f64);
        self.post_status(&serde_json::json!({
            "chunk_received": count, "total_chunks": chunks, "progress": progress
        }))
        .await;
    }

    /// A lost status post is lost: the original does not try again either.
    async fn post_status(&self, status: &serde_json::Value) {
        let body = serde_json::json!({ "fota_status": status }).to_string();
        if let Err(error) = self.server.post(STATUS_PATH, &body).await {
            self.console
                .say(&self.name, format_args!("status not sent: {error}"));
        }
    }
}
