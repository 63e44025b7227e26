//! The devices of the demo and the parts they play.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context;
use fota_client::DeviceClient;
use fota_image::app::Chip;
use fota_proto::signed::index;
use fota_sim::{
    board::{Board, StartError, factory_flash},
    console::Console,
    device::{DeviceConfig, SimDevice, SimTrust},
    firmware::{self, Spec},
    flash::SimFlash,
    link::{Fault, SimLink},
    seed_device::{Psk, SeedConfig, SeedDevice},
};
use tokio::task::JoinSet;

use super::Pace;

/// Length of every image of the story: the seed's 1,040 KB.
pub const IMAGE_BYTES: u64 = 1_065_968;
/// What the fleet leaves the factory with.
pub const FACTORY: &str = "1.0.5";
/// What goes wrong on one board.
pub const BAD: &str = "1.0.6";
/// What mends it.
pub const GOOD: &str = "1.0.7";
/// What changes little after that.
pub const NEXT: &str = "1.0.8";

/// Key of the seed device's chunks. No secret: server and device are this one process.
pub const PSK: [u8; 32] = [0x5D; 32];

/// The device that speaks only the seed's API.
pub const SEED_DEVICE: &str = "ESP32-001";
/// The device that goes first.
pub const CANARY: &str = "ESP32-002";
/// The device that loses its network.
pub const LOSES_WIFI: &str = "ESP32-004";
/// The device on which [`BAD`] panics.
pub const CRASHES: &str = "ESP32-005";
/// Devices whose bootloader does not roll back.
const OLD_BOOTLOADERS: [&str; 2] = ["ESP32-003", "ESP32-007"];
/// Devices at the end of the list that are off the network for the first half.
pub const NIGHT_DEVICES: u32 = 2;

/// Where the connection of [`LOSES_WIFI`] breaks: at 40 %.
pub const CUT_AT: u64 = IMAGE_BYTES * 40 / 100;

/// Wi-Fi that takes about five seconds for an image.
const WIFI: SimLink = SimLink::new("wifi", 1_700_000, 30);
/// Wi-Fi at the edge of the building, so that the failure comes when the others are done.
const WEAK_WIFI: SimLink = SimLink::new("weak wifi", 950_000, 60);

/// The image of a version. The same version gives the same bytes.
pub fn image(version: &str) -> anyhow::Result<Vec<u8>> {
    let spec = Spec::new(version).image_bytes(IMAGE_BYTES as usize);
    // The updater that came with the first ones took whole images only.
    let spec = match [FACTORY, BAD].contains(&version) {
        true => spec.without_patches(),
        false => spec,
    };
    firmware::image(&spec).context("the demo's firmware")
}

/// Name of a device, counted from 1.
pub fn name(number: u32) -> String {
    format!("ESP32-{number:03}")
}

/// The simulated devices; they end when this is dropped.
pub struct Devices {
    tasks: JoinSet<StartError>,
    /// Take the network away from the night devices while set.
    pub night: Vec<Arc<AtomicBool>>,
    trust: SimTrust,
}

impl Devices {
    /// Starts `count` devices against the server at `url`.
    ///
    /// The native ones take only what `root` vouches for.
    pub fn start(url: &str, count: u32, pace: Pace, root: &[u8]) -> anyhow::Result<Self> {
        let factory = factory_flash(&image(FACTORY)?)?;
        let client = DeviceClient::new(url, None)?;
        let mut devices = Self {
            tasks: JoinSet::new(),
            night: Vec::new(),
            trust: SimTrust::Root(root.into()),
        };
        for number in 1..=count {
            let id = name(number);
            if id == SEED_DEVICE {
                devices.add_seed(url, id, &factory, pace)?;
            } else {
                let is_night = number > count - NIGHT_DEVICES;
                devices.add_native(client.for_device(&id), &id, &factory, pace, is_night)?;
            }
        }
        Ok(devices)
    }

    fn add_seed(
        &mut self,
        url: &str,
        id: String,
        factory: &SimFlash,
        pace: Pace,
    ) -> anyhow::Result<()> {
        let config = SeedConfig {
            poll: Duration::from_millis(1500),
            // Not the original's two seconds: the story would take two minutes longer.
            chunk_pause: Duration::from_millis(70),
            chunks_per_report: 6,
            ..SeedConfig::new(url, Some(id), Psk(PSK))
        };
        let board = Board::new(factory.clone(), Chip::Esp32, false);
        let device = SeedDevice::new(config.at_speed(pace.speed), board, Console::silent())?;
        self.tasks.spawn(device.run());
        Ok(())
    }

    fn add_native(
        &mut self,
        client: DeviceClient,
        id: &str,
        factory: &SimFlash,
        pace: Pace,
        is_night: bool,
    ) -> anyhow::Result<()> {
        let config = DeviceConfig {
            speed: pace.speed,
            poll_max: Duration::from_millis(1500),
            report_every: Duration::from_millis(300),
            retry: Duration::from_secs(1),
            panics_on: (id == CRASHES).then(|| BAD.to_owned()),
            trust: self.trust.clone(),
            ..DeviceConfig::new(id.parse().context("a device id")?)
        };
        let link = if id == CRASHES { WEAK_WIFI } else { WIFI };
        let mut link = link.live(pace.speed);
        if id == LOSES_WIFI {
            let offline = Duration::from_millis(1200);
            link.add_fault(Fault::Cut {
                at: index::artifact_offset(IMAGE_BYTES as u32, CUT_AT as u32).into(),
                offline,
            });
        }
        if is_night {
            self.night.push(link.off_switch());
        }
        let rollback = !OLD_BOOTLOADERS.contains(&id);
        let board = Board::new(factory.clone(), Chip::Esp32, rollback);
        let device = SimDevice::new(config, client, board, link, Console::silent());
        self.tasks.spawn(device.run());
        Ok(())
    }
}
