//! Power cuts against the real server: its handlers and its database, with no network between.
//!
//! A server cannot be forked at each cut. So each cut has a device of its own: it is updated, then
//! ordered back by an operator, loses its power once on the way, and in the end the server must know
//! of it what is true.

use std::ops::ControlFlow;

use fota_device::{BootInfo, CHECK_IN_BYTES_MAX, Next, Started, Trust, Updater};
use fota_image::partition::{TABLE_OFFSET, TableBuilder};
use fota_proto::{
    Sha256,
    checkin::ResetReason,
    manager::{Device as Known, RollbackAccepted, Rollout},
};
use fota_server::{Clock, Config, embedded::Embedded};
use fota_sim::{
    boot::BootModel,
    firmware::{Spec, image},
    flash::{DEFAULT_BYTES, SimFlash, Tear},
};
use serde::de::DeserializeOwned;
use serde_json::json;

const START_MS: i64 = 1_750_000_000_000;
const IMAGE_BYTES: usize = 12 * 1024 + 16;
const SLOT_BYTES: u32 = 0x2_0000;
const FIRST_SLOT: u32 = 0x1_0000;
/// Far more than any update and rollback with one cut needs.
const STARTS_MAX: u32 = 16;
const TURNS_MAX: u32 = 200;
const CHUNK_BYTES: usize = 251;

struct Server {
    embedded: Embedded,
    clock: Clock,
    images: Vec<(Sha256, Vec<u8>)>,
}

impl Server {
    async fn open(folder: &std::path::Path) -> Self {
        let mut config = Config::new(folder);
        config.allow_unsigned = true;
        config.delta_workers = 0;
        let clock = Clock::manual(START_MS);
        let embedded = Embedded::open(config, clock.clone()).await.unwrap();
        let mut server = Self {
            embedded,
            clock,
            images: Vec::new(),
        };
        for version in ["1.0.0", "2.0.0"] {
            let image = firmware(version);
            let kind = "application/octet-stream";
            let _: serde_json::Value = server
                .ask("POST", "/api/v1/releases", kind, image.clone())
                .await;
            let digest = Sha256(<sha2::Sha256 as sha2::Digest>::digest(&image).into());
            server.images.push((digest, image));
        }
        let _: Rollout = server
            .post(
                "/api/v1/rollouts",
                json!({"release": "2.0.0", "to": ["all"]}),
            )
            .await;
        server
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> T {
        let method = method.parse().unwrap();
        let (status, answer) = self.embedded.call(method, path, kind, body).await;
        assert!(
            status.is_success(),
            "{path}: {status} {}",
            String::from_utf8_lossy(&answer)
        );
        serde_json::from_slice(&answer).unwrap()
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: serde_json::Value) -> T {
        let body = serde_json::to_vec(&body).unwrap();
        self.ask("POST", path, "application/json", body).await
    }

    async fn check_in(&self, message: Vec<u8>) -> Vec<u8> {
        let method = "POST".parse().unwrap();
        let (status, answer) = self
            .embedded
            .call(method, "/d/v1/check-in", "application/cbor", message)
            .await;
        assert!(status.is_success(), "{status}");
        answer
    }

    async fn blob(&self, name: &Sha256) -> Vec<u8> {
        let path = format!("/d/v1/blobs/{name}");
        let (status, blob) = self
            .embedded
            .call("GET".parse().unwrap(), &path, "", Vec::new())
            .await;
        assert!(status.is_success(), "{path}: {status}");
        blob
    }

    async fn pass(&self, seconds: u32) {
        self.clock.advance_ms(i64::from(seconds) * 1_000);
        self.embedded.tick().await.unwrap();
    }

    async fn device(&self, id: &str) -> Known {
        let path = format!("/api/v1/devices/{id}");
        self.ask("GET", &path, "application/json", Vec::new()).await
    }
}

fn firmware(version: &str) -> Vec<u8> {
    image(&Spec::new(version).image_bytes(IMAGE_BYTES).seed(1)).unwrap()
}

/// A device, and how often it started.
struct Device {
    id: String,
    flash: SimFlash,
    boot: BootModel,
    reset: ResetReason,
    starts: u32,
    nonce: u64,
}

/// How a start ended.
#[derive(PartialEq, Eq)]
enum Ended {
    Reset,
    Settled,
}

impl Device {
    fn new(number: usize, rollback: bool) -> Self {
        let table = TableBuilder::two_ota(SLOT_BYTES).build().unwrap();
        let mut flash = SimFlash::default();
        flash.load(TABLE_OFFSET, &table).unwrap();
        flash.load(FIRST_SLOT, &firmware("1.0.0")).unwrap();
        Self {
            id: format!("CUT-{number:04}"),
            flash,
            boot: BootModel::new(rollback),
            reset: ResetReason::PowerOn,
            starts: 0,
            nonce: 0,
        }
    }

    /// Starts until it runs `until` and the server knows, through a power cut.
    async fn live(&mut self, server: &Server, until: &str) {
        loop {
            self.starts += 1;
            assert!(self.starts <= STARTS_MAX, "{} never settles", self.id);
            let ended = self.start(server, until).await;
            if !self.flash.is_powered() {
                self.flash.power_on();
                self.reset = ResetReason::PowerOn;
                continue;
            }
            match ended.unwrap_or_else(|error| panic!("{}: {error}", self.id)) {
                Ended::Settled => return,
                Ended::Reset => self.reset = ResetReason::Software,
            }
        }
    }

    /// One start; an error where the flash gave one, which only a power cut may.
    async fn start(&mut self, server: &Server, until: &str) -> Result<Ended, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let boot = self
            .boot
            .boot(&mut self.flash)
            .map_err(|error| text(&error))?;
        let info = BootInfo {
            device: self.id.parse().unwrap(),
            chip: boot.image.header.chip.unwrap(),
            chip_revision: Some(300),
            hardware: None,
            table_offset: TABLE_OFFSET,
            flash_bytes: DEFAULT_BYTES as u32,
            running_offset: boot.region.offset,
            reset: self.reset,
        };
        let started = Updater::start(&mut self.flash, info, Trust::Anybody);
        let Started::Run(mut updater) = started.map_err(|error| text(&error))? else {
            return Ok(Ended::Reset);
        };
        let mut next = Next::CheckIn;
        for turn in 0..TURNS_MAX {
            self.nonce += 1;
            next = match step(&mut updater, server, next, self.nonce, turn).await? {
                ControlFlow::Continue(Next::Wait { seconds }) => {
                    server.pass(seconds).await;
                    let known = server.device(&self.id).await;
                    if known.version.as_deref() == Some(until) && known.confirmed == Some(true) {
                        return Ok(Ended::Settled);
                    }
                    Next::CheckIn
                }
                ControlFlow::Continue(next) => next,
                ControlFlow::Break(ended) => return Ok(ended),
            };
        }
        let attempt = server.device(&self.id).await.attempt;
        Err(format!("does not come to {until}: {attempt:?}"))
    }
}

async fn step(
    updater: &mut Updater<'_, &mut SimFlash>,
    server: &Server,
    next: Next,
    nonce: u64,
    uptime_s: u32,
) -> Result<ControlFlow<Ended, Next>, String> {
    let next = match next {
        Next::CheckIn => {
            let mut buffer = [0; CHECK_IN_BYTES_MAX];
            let message = updater.check_in(nonce, uptime_s, &mut buffer).to_vec();
            let answer = server.check_in(message).await;
            let was_on_trial = updater.is_on_trial();
            updater.confirm().map_err(|error| error.to_string())?;
            let next = updater.answer(&answer).map_err(|error| error.to_string())?;
            // The server is told of it at once.
            if was_on_trial { Next::CheckIn } else { next }
        }
        Next::Download(part) => {
            let blob = server.blob(&part.blob).await;
            for bytes in blob[part.from as usize..part.to as usize].chunks(CHUNK_BYTES) {
                updater.receive(bytes).map_err(|error| error.to_string())?;
            }
            updater.next()
        }
        Next::Prove => {
            let verified = updater.prove().map_err(|error| error.to_string())?;
            let _ = verified.activate().map_err(|error| error.to_string())?;
            return Ok(ControlFlow::Break(Ended::Reset));
        }
        wait @ Next::Wait { .. } => wait,
        Next::Reset(_) => return Ok(ControlFlow::Break(Ended::Reset)),
        other => return Err(format!("not of this story: {other:?}")),
    };
    Ok(ControlFlow::Continue(next))
}

/// Updates a device and orders it back; the server must know of both.
async fn whole_story(server: &Server, device: &mut Device) {
    device.live(server, "2.0.0").await;
    let known = server.device(&device.id).await;
    assert_eq!(known.version.as_deref(), Some("2.0.0"), "{}", device.id);
    assert_eq!(known.confirmed, Some(true), "{}", device.id);
    let state = known.attempt.map(|attempt| attempt.state.to_string());
    assert_eq!(state.as_deref(), Some("succeeded"), "{}", device.id);
    let order = json!({"to": [device.id], "reason": "to see it go back"});
    let order: RollbackAccepted = server.post("/api/v1/rollbacks", order).await;
    assert_eq!(order.orders.len(), 1, "{}", device.id);
    device.live(server, "1.0.0").await;
    let known = server.device(&device.id).await;
    assert_eq!(known.version.as_deref(), Some("1.0.0"), "{}", device.id);
    assert_eq!(known.confirmed, Some(true), "{}", device.id);
    assert_eq!(known.blocked, ["2.0.0"], "{}", device.id);
    let boot = device.boot.boot(&mut device.flash).unwrap();
    let runs = boot.image.desc.unwrap();
    assert_eq!(runs.version.as_str(), "1.0.0", "{}", device.id);
}

#[tokio::test]
async fn the_real_server_knows_what_is_true_after_a_power_cut_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::open(folder.path()).await;
    let (mut number, mut cuts) = (0, 0);
    for rollback in [false, true] {
        let mut undisturbed = Device::new(number, rollback);
        number += 1;
        whole_story(&server, &mut undisturbed).await;
        let ops = undisturbed.flash.ops();
        for op in 0..ops {
            for tear in [Tear::Before, Tear::RandomWords(op)] {
                let mut device = Device::new(number, rollback);
                number += 1;
                device.flash.cut_at(op, tear);
                whole_story(&server, &mut device).await;
                assert!(
                    device.flash.ops() > op,
                    "{}: the cut did not happen",
                    device.id
                );
                cuts += 1;
            }
        }
        assert!(ops > 60, "{ops}");
    }
    println!("{cuts} cuts against the real server, {number} devices");
}
