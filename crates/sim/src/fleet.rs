//! Many simulated devices in one process. They share the bytes of their factory image (flash is
//! copied when written), so thousands fit.

use std::time::Duration;

use fota_client::DeviceClient;
use fota_image::build::BuildError;
use fota_proto::{DeviceId, checkin::PatchProfile};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    board::{Board, StartError, factory_flash},
    console::Console,
    device::{Counters, DeviceConfig, EnrolmentKey, Identity, IdentityKind, SimDevice, SimTrust},
    firmware::{self, Spec},
    flash::{FlashError, SimFlash},
    link::SimLink,
    seed_device::{HttpError, Psk, SeedConfig, SeedDevice},
};

/// Devices of one process: beyond this, start a second one.
pub const DEVICES_MAX: u32 = 10_000;
/// Starts per second, so that a large fleet does not connect all at once.
const STARTS_PER_S: f64 = 500.0;

/// Between two looks at whether a device has been answered.
const ONLINE_POLL: Duration = Duration::from_millis(50);

/// What a fleet speaks.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// fota's own protocol.
    Native,
    /// The seed's, with this key.
    Seed(Psk),
}

/// A fleet to start.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// `http://host:port`.
    pub server: String,
    /// PEM of what the server's certificate must come from, where the system does not trust it.
    pub ca: Option<Vec<u8>>,
    /// How many.
    pub devices: u32,
    /// Ids are the prefix and a number of three digits or more, from 1.
    pub prefix: String,
    /// What they speak.
    pub protocol: Protocol,
    /// Whether their bootloaders roll back.
    pub rollback: bool,
    /// Their firmware as the factory wrote it.
    pub firmware: Spec,
    /// Longest wait between two polls, in device time; none is what the server says.
    pub poll: Option<Duration>,
    /// How much faster than real they live.
    pub speed: f64,
    /// Their network.
    pub link: SimLink,
    /// Whose orders they take, where they speak fota's own protocol.
    pub trust: SimTrust,
    /// What the native ones prove themselves with.
    pub identity: FleetIdentity,
    /// The patches that the native ones apply, where they take orders not from anybody.
    pub patches: Option<PatchProfile>,
    /// A version that panics on the native ones.
    pub panics_on: Option<String>,
}

/// What the devices of a fleet prove themselves with.
#[derive(Clone, Debug, Default)]
pub struct FleetIdentity {
    /// Which kind.
    pub kind: IdentityKind,
    /// What the secrets and keys follow from.
    pub seed: String,
    /// What they enrol with at their first start.
    pub enrolment_key: Option<EnrolmentKey>,
}

/// Why a fleet cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Too many, or none.
    #[error("{0} devices; 1 to {DEVICES_MAX} run in one process: start several for more")]
    Devices(u32),
    /// The prefix does not make device ids.
    #[error("{0:?} is no device id: use another prefix")]
    Id(String),
    /// The firmware cannot be built.
    #[error("the factory firmware: {0}")]
    Firmware(#[from] BuildError),
    /// The firmware does not fit.
    #[error("the factory firmware: {0}")]
    Flash(#[from] FlashError),
    /// The server's address.
    #[error(transparent)]
    Client(#[from] fota_client::Error),
    /// The server's address, for seed devices.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// A fleet that lives until it is dropped.
#[derive(Debug)]
pub struct Fleet {
    devices: JoinSet<StartError>,
    /// Of the native ones.
    counters: Vec<Counters>,
    /// Answers until a device has been listened to: a sealed check-in needs a challenge first.
    answers_min: u64,
}

impl Fleet {
    /// Starts the devices one after another; what they say goes to `console`.
    pub fn start(config: &FleetConfig, console: &Console) -> Result<Self, FleetError> {
        if !(1..=DEVICES_MAX).contains(&config.devices) {
            return Err(FleetError::Devices(config.devices));
        }
        let factory = factory_flash(&firmware::image(&config.firmware)?)?;
        let client = DeviceClient::trusting(&config.server, None, config.ca.as_deref())?;
        let mut fleet = Self {
            devices: JoinSet::new(),
            counters: Vec::new(),
            answers_min: match config.identity.kind {
                IdentityKind::None => 1,
                IdentityKind::Secret | IdentityKind::Key => 2,
            },
        };
        for index in 0..config.devices {
            let delay = Duration::from_secs_f64(f64::from(index) / STARTS_PER_S);
            fleet.add(config, &client, &factory, index, delay, console)?;
        }
        Ok(fleet)
    }

    fn add(
        &mut self,
        config: &FleetConfig,
        client: &DeviceClient,
        factory: &SimFlash,
        index: u32,
        delay: Duration,
        console: &Console,
    ) -> Result<(), FleetError> {
        let id = config.id(index)?;
        let board = Board::new(factory.clone(), config.firmware.chip, config.rollback);
        match &config.protocol {
            Protocol::Native => {
                let client = client.for_device(id.as_str());
                let link = config.link.live(config.speed);
                let device =
                    SimDevice::new(config.native(id), client, board, link, console.clone());
                self.counters.push(device.counters());
                self.devices.spawn(async move {
                    sleep(delay).await;
                    device.run().await
                });
            }
            Protocol::Seed(psk) => {
                let device = SeedDevice::new(config.seed(&id, psk), board, console.clone())?;
                self.devices.spawn(async move {
                    sleep(delay).await;
                    device.run().await
                });
            }
        }
        Ok(())
    }

    /// Waits until the server has answered every native device.
    pub fn online(&self) -> impl Future<Output = ()> + use<> {
        let (counters, answers_min) = (self.counters.clone(), self.answers_min);
        async move {
            for device in &counters {
                while device.check_ins() < answers_min {
                    sleep(ONLINE_POLL).await;
                }
            }
        }
    }

    /// Waits until no device boots any more, which is not meant to happen.
    pub async fn run(&mut self) {
        while self.devices.join_next().await.is_some() {}
    }
}

impl FleetConfig {
    fn id(&self, index: u32) -> Result<DeviceId, FleetError> {
        let id = format!("{}{:03}", self.prefix, index + 1);
        id.parse().map_err(|_| FleetError::Id(id))
    }

    /// The list that makes a server know these devices; see `fota device claim`.
    pub fn claims(&self) -> Result<String, FleetError> {
        let mut list = String::from("id,kind,key\n");
        for index in 0..self.devices {
            let id = self.id(index)?;
            let identity = Identity::derive(self.identity.kind, &self.identity.seed, &id);
            if let Some(line) = identity.claim(&id) {
                list.push_str(&line);
                list.push('\n');
            }
        }
        Ok(list)
    }

    fn native(&self, id: DeviceId) -> DeviceConfig {
        let identity = Identity::derive(self.identity.kind, &self.identity.seed, &id);
        let config = DeviceConfig::new(id);
        DeviceConfig {
            identity,
            enrolment_key: self.identity.enrolment_key.clone(),
            speed: self.speed,
            poll_max: self.poll.unwrap_or(config.poll_max),
            trust: self.trust.clone(),
            patches: self.patches,
            panics_on: self.panics_on.clone(),
            ..config
        }
    }

    fn seed(&self, id: &DeviceId, psk: &Psk) -> SeedConfig {
        let config = SeedConfig::new(&self.server, Some(id.to_string()), psk.clone());
        SeedConfig {
            poll: self.poll.unwrap_or(config.poll),
            ..config
        }
        .at_speed(self.speed)
    }
}
