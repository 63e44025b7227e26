//! A simulated ESP32 that speaks fota's own protocol: the device crate on a simulated flash, under
//! a simulated bootloader, talking HTTP to a real server through a simulated link.
//!
//! What it does after a start is read from the image that booted (see [`crate::firmware`]); what it
//! reports is what the device crate finds in its flash. This file only carries messages and bytes,
//! as an application's main loop would.

mod identity;
mod life;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fota_client::{DeviceClient, Error as ClientError};
use fota_device::{BootInfo, Started, Trust, Updater, Workspace};
use fota_image::partition::TABLE_OFFSET;
use fota_proto::{
    DeviceId,
    checkin::{PatchProfile, ResetReason},
    enrol::Enrolled,
};
use tokio::time::{Instant, sleep};

use crate::{
    board::{self, Board, StartError},
    console::Console,
    decoder::SimDecoder,
    firmware::Behaviour,
    flash::{DEFAULT_BYTES, SharedFlash},
    link::LiveLink,
};
pub use identity::{EnrolmentKey, Identity, IdentityKind};
use life::{Life, LifeEnd};

/// Rounds of one enrolment: one for the challenge, one with it, and one where it was too late.
const ENROL_ROUNDS_MAX: u32 = 3;

/// How a device lives.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Its id.
    pub id: DeviceId,
    /// How much faster than real its clock runs.
    pub speed: f64,
    /// Longest wait between check-ins whatever the server says, in device time.
    pub poll_max: Duration,
    /// Least time between two progress reports, in device time.
    pub report_every: Duration,
    /// A progress report comes at most once per this share of the image, so that reports stay
    /// below 1 % of the bytes on any link.
    pub reports_max: u32,
    /// Wait after a lost link or an unreachable server, in device time.
    pub retry: Duration,
    /// From reset to the first line of the app, in device time.
    pub restart: Duration,
    /// A version that panics on this very board: a fault of its hardware that only this firmware
    /// trips over. (An image that crashes everywhere is [`Behaviour::CrashesAtBoot`].)
    pub panics_on: Option<String>,
    /// What it seals its check-ins with.
    pub identity: Identity,
    /// What it enrols its key with at its first start.
    pub enrolment_key: Option<EnrolmentKey>,
    /// Whose orders it takes.
    pub trust: SimTrust,
    /// The patches that it applies, where it takes orders not from anybody.
    pub patches: Option<PatchProfile>,
}

/// Whose orders a simulated device takes.
#[derive(Clone, Debug, Default)]
pub enum SimTrust {
    /// Anybody's.
    #[default]
    Anybody,
    /// Those of the first server that shows it a root.
    FirstUse,
    /// Those that this root vouches for.
    Root(Arc<[u8]>),
}

impl SimTrust {
    fn with<'w>(&'w self, workspace: &'w mut Workspace) -> Trust<'w> {
        match self {
            Self::Anybody => Trust::Anybody,
            Self::FirstUse => Trust::FirstUse(workspace),
            Self::Root(root) => Trust::Root(root, workspace),
        }
    }
}

impl DeviceConfig {
    /// A device in real time that polls when the server says.
    pub fn new(id: DeviceId) -> Self {
        Self {
            id,
            speed: 1.0,
            poll_max: Duration::from_secs(3600),
            report_every: Duration::from_secs(5),
            reports_max: 20,
            retry: Duration::from_secs(5),
            restart: Duration::from_secs(1),
            panics_on: None,
            identity: Identity::None,
            enrolment_key: None,
            trust: SimTrust::default(),
            patches: Some(PatchProfile::Default),
        }
    }

    fn real(&self, device_time: Duration) -> Duration {
        device_time.div_f64(self.speed)
    }
}

/// What a device has done so far; clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    check_ins: AtomicU64,
    downloads: AtomicU64,
    image_bytes: AtomicU64,
    lost_links: AtomicU64,
}

impl Counters {
    /// Check-ins that were answered.
    pub fn check_ins(&self) -> u64 {
        self.0.check_ins.load(Ordering::Relaxed)
    }

    /// Requests for image bytes that were answered.
    pub fn downloads(&self) -> u64 {
        self.0.downloads.load(Ordering::Relaxed)
    }

    /// Image bytes that came over the link, repeated ones included.
    pub fn image_bytes(&self) -> u64 {
        self.0.image_bytes.load(Ordering::Relaxed)
    }

    /// Downloads that broke.
    pub fn lost_links(&self) -> u64 {
        self.0.lost_links.load(Ordering::Relaxed)
    }

    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// The device.
#[derive(Debug)]
pub struct SimDevice {
    config: DeviceConfig,
    client: DeviceClient,
    board: Board,
    link: LiveLink,
    console: Console,
    counters: Counters,
    dice: u64,
    is_enrolled: bool,
}

impl SimDevice {
    /// A device on this board behind this link. `client` decides which server it talks to.
    pub fn new(
        config: DeviceConfig,
        client: DeviceClient,
        board: Board,
        link: LiveLink,
        console: Console,
    ) -> Self {
        let dice = config
            .id
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        Self {
            config,
            client,
            board,
            link,
            console,
            counters: Counters::default(),
            dice,
            is_enrolled: false,
        }
    }

    /// The board, for a look at its flash.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The link, to add faults to.
    pub fn link_mut(&mut self) -> &mut LiveLink {
        &mut self.link
    }

    /// Notes why the next start happens, after a life that was cut short.
    pub fn reset(&mut self, reason: ResetReason) {
        self.board.reset(reason);
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Lives until nothing boots any more or the future is dropped.
    pub async fn run(mut self) -> StartError {
        loop {
            if let Err(error) = self.live_once().await {
                self.say(error);
                return error;
            }
        }
    }

    /// From one reset to the next.
    pub async fn live_once(&mut self) -> Result<(), StartError> {
        sleep(self.config.real(self.config.restart)).await;
        let started = self.board.start()?;
        self.announce(&started);
        let trust = self.config.trust.clone();
        let mut workspace = Box::new(Workspace::new());
        let decoder = self.config.patches;
        let mut decoder = decoder
            .filter(|_| started.firmware.applies_patches)
            .map(SimDecoder::new);
        let (flash, info) = (self.board.flash().clone(), self.boot_info(&started));
        let reason = match Updater::start(flash, info, trust.with(&mut workspace)) {
            Ok(Started::Run(mut updater)) => {
                if let Some(decoder) = &mut decoder {
                    updater.apply_patches_with(decoder);
                }
                self.run_app(&started, updater).await
            }
            Ok(Started::Reset(_)) => {
                self.say("updater: this image crashed on trial and is given up");
                ResetReason::Software
            }
            Err(error) => {
                self.say(format_args!("updater: {error}"));
                std::future::pending().await
            }
        };
        self.board.reset(reason);
        Ok(())
    }

    fn boot_info(&self, started: &board::Started) -> BootInfo {
        BootInfo {
            device: self.config.id.clone(),
            chip: self.board.chip(),
            chip_revision: None,
            hardware: None,
            table_offset: TABLE_OFFSET,
            flash_bytes: DEFAULT_BYTES as u32,
            running_offset: started.boot.region.offset,
            reset: started.reset,
        }
    }

    fn announce(&self, started: &board::Started) {
        let firmware = &started.firmware;
        let slot = started
            .boot
            .slot
            .ota_index()
            .unwrap_or(fota_device::FACTORY);
        self.say(format_args!(
            "boot: ota_{slot}, {} {}, after {:?}",
            firmware.project, firmware.version, started.reset
        ));
        if let Some(message) = &firmware.message {
            self.say(message);
        }
    }

    /// The app until the next reset.
    async fn run_app(
        &mut self,
        started: &board::Started,
        updater: Updater<'_, SharedFlash>,
    ) -> ResetReason {
        let firmware = &started.firmware;
        let panics_here = self.config.panics_on.as_deref() == Some(firmware.version.as_str());
        let crashes = match firmware.behaviour {
            Behaviour::CrashesAtBoot => true,
            Behaviour::CrashesOnTrial => updater.is_on_trial(),
            _ => panics_here,
        };
        if crashes {
            self.say("Guru Meditation Error: Core 0 panic'ed");
            return ResetReason::Panic;
        }
        if firmware.behaviour != Behaviour::NeverConnects {
            self.enrol().await;
        }
        let life = Life {
            config: &self.config,
            client: &self.client,
            link: &mut self.link,
            console: &self.console,
            counters: &self.counters.0,
            firmware,
            updater,
            started_at: Instant::now(),
            dice: &mut self.dice,
        };
        match life.run().await {
            LifeEnd::Reset => ResetReason::Software,
        }
    }

    /// Tells the server of its key, once in its life. Whatever the server says to it, the device
    /// goes on: its check-ins are taken or they are not.
    async fn enrol(&mut self) {
        let Some(key) = self.config.enrolment_key.clone() else {
            return;
        };
        while !self.is_enrolled {
            match self.enrol_once(&key).await {
                Ok(()) => self.say("enrolled"),
                Err(error @ ClientError::Unreachable { .. }) => {
                    self.say(format_args!("enrol: {error}"));
                    sleep(self.config.real(self.config.retry)).await;
                    continue;
                }
                Err(error) => self.say(format_args!("enrol: {error}")),
            }
            self.is_enrolled = true;
        }
    }

    async fn enrol_once(&mut self, key: &EnrolmentKey) -> fota_client::Result<()> {
        let wrong = |reason: &str| ClientError::Protocol {
            url: "/d/v1/enrol".to_owned(),
            reason: reason.to_owned(),
        };
        let mut challenge = None;
        for nonce in 0..u64::from(ENROL_ROUNDS_MAX) {
            let message = self
                .config
                .identity
                .enrol(&self.config.id, key, nonce, challenge);
            let message = message.ok_or_else(|| wrong("a device without a key cannot enrol"))?;
            let answer = self.client.enrol(&message).await?;
            let answer: Enrolled =
                minicbor::decode(&answer).map_err(|_| wrong("no answer of protocol 1"))?;
            challenge = answer.challenge;
            if challenge.is_none() {
                return Ok(());
            }
        }
        Err(wrong("it asks for another challenge each time"))
    }

    fn say(&self, line: impl std::fmt::Display) {
        self.console.say(self.config.id.as_str(), line);
    }
}
