//! `fota sim`: simulated ESP32s against any server.

pub mod powercut;
pub mod world;

#[cfg(unix)]
use std::os::unix::fs::OpenOptionsExt;
use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use fota_image::app::Chip;
use fota_proto::checkin::PatchProfile;
use fota_sim::{
    console::Console,
    device::{EnrolmentKey, IdentityKind, SimTrust},
    firmware::Spec,
    fleet::{Fleet, FleetConfig, FleetIdentity, Protocol as Speaks},
    link::SimLink,
    seed_device::Psk,
};

use crate::{config, output, text};

/// Arguments of `fota sim`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How many devices: ESP32-001, ESP32-002 …
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub devices: u32,
    /// What they speak
    #[arg(long, value_enum, default_value_t = Protocol::Native)]
    pub protocol: Protocol,
    /// What their ids begin with
    #[arg(long, value_name = "TEXT", default_value = "ESP32-")]
    pub prefix: String,
    /// Whether their bootloaders roll back
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub rollback: Switch,
    /// Longest wait between polls; without it, what the server says (seed protocol: 10s)
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration)]
    pub poll: Option<Duration>,
    /// How much faster than real they live
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = parse_speed)]
    pub speed: f64,
    /// Link between them and the server: none, lan, wan, lte-m or nb-iot
    #[arg(long, value_name = "LINK", default_value = "lan")]
    pub link: SimLink,
    /// Whose orders they take: `first-use` is the first server that shows them a root of trust,
    /// `anybody` is whoever answers, a file is a root built into them
    #[arg(
        long,
        value_name = "first-use|anybody|FILE",
        default_value = "first-use"
    )]
    pub trust: String,
    /// Memory that they have for applying patches (native protocol, unless they trust anybody)
    #[arg(long, value_enum, default_value_t = Patches::Default)]
    pub patches: Patches,
    /// Their chip
    #[arg(long, value_name = "CHIP", default_value = "esp32")]
    pub chip: Chip,
    /// Version of the firmware they leave the factory with
    #[arg(long, value_name = "VERSION", default_value = "1.0.5")]
    pub firmware: String,
    /// Project of that firmware; only releases of the same project are for them
    #[arg(long, value_name = "NAME", default_value = "acme")]
    pub project: String,
    /// Length of that firmware
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    pub firmware_bytes: u32,
    /// A version that panics on them, so that they go back (native protocol)
    #[arg(long, value_name = "VERSION")]
    pub panics_on: Option<String>,
    /// What they seal their check-ins with (native protocol)
    #[arg(long, value_enum, default_value_t)]
    pub identity: Identity,
    /// What their secrets and keys follow from: the same seed, the same devices
    #[arg(long, value_name = "TEXT", default_value = "fota")]
    pub seed: String,
    /// Enrol their keys at the first start with this enrolment key, 64 hex digits
    /// [env: FOTA_ENROLMENT_KEY]
    #[arg(long, value_name = "KEY")]
    pub enrol: Option<EnrolmentKey>,
    /// Write the list for `fota device claim` to this file and end
    #[arg(long, value_name = "FILE.csv")]
    pub claims: Option<PathBuf>,
}

/// What else is simulated.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// A rollout plan against thousands of devices for weeks, in virtual time, without a network
    Fleet(world::Args),
    /// The power fails at every flash operation of a device's life, and the network at every byte
    Powercut(powercut::Args),
}

/// What a simulated device proves itself with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Identity {
    /// Nothing
    #[default]
    None,
    /// A secret that the server has too
    Secret,
    /// A key of its own
    Key,
}

/// What a simulated device applies patches with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Patches {
    /// Nothing: it takes whole images
    None,
    /// 16 KB
    Small,
    /// 32 KB
    Default,
}

impl Patches {
    fn profile(self) -> Option<PatchProfile> {
        match self {
            Self::None => None,
            Self::Small => Some(PatchProfile::Small),
            Self::Default => Some(PatchProfile::Default),
        }
    }
}

/// What a simulated device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// fota's own protocol
    Native,
    /// The seed's chunks in JSON; their key is $FOTA_LEGACY_PSK
    Seed,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// On
    On,
    /// Off
    Off,
}

/// Runs the devices until Ctrl-C. `server` is the URL from `--server`, the environment or the
/// configuration; `ca` what its certificate must come from.
pub async fn run(args: Args, server: &str, ca: Option<Vec<u8>>) -> anyhow::Result<()> {
    let config = args.fleet(server, ca)?;
    if let Some(path) = &args.claims {
        return write_claims(&config, path);
    }
    let console = Console::new(|device, line| output::to_stderr(&format!("{device}  {line}\n")));
    let mut fleet = Fleet::start(&config, &console)?;
    let devices = text::count(u64::from(args.devices), "simulated device");
    output::to_stderr(&format!("{devices} against {server}; Ctrl-C ends them\n"));
    let is_native = args.protocol == Protocol::Native;
    let online = fleet.online();
    let tell = async {
        online.await;
        if is_native {
            output::to_stderr("all of them have checked in\n");
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = tell => Ok(()),
        () = fleet.run() => bail!("no device boots any more"),
        ctrl_c = tokio::signal::ctrl_c() => ctrl_c.context("cannot wait for Ctrl-C"),
    }
}

/// The list holds secrets where the identities are secrets: nobody else may read it.
fn write_claims(config: &FleetConfig, path: &Path) -> anyhow::Result<()> {
    if config.identity.kind == IdentityKind::None {
        bail!("without an identity there is nothing to claim: add --identity key");
    }
    let list = config.claims()?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    options.mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(list.as_bytes()));
    written.with_context(|| path.display().to_string())?;
    let devices = text::count(u64::from(config.devices), "device");
    output::to_stderr(&format!("{}: {devices}\n", path.display()));
    Ok(())
}

impl Args {
    fn fleet(&self, server: &str, ca: Option<Vec<u8>>) -> anyhow::Result<FleetConfig> {
        let firmware = Spec {
            chip: self.chip,
            project: self.project.clone(),
            ..Spec::new(&self.firmware).image_bytes(self.firmware_bytes as usize)
        };
        let protocol = match self.protocol {
            Protocol::Native => Speaks::Native,
            Protocol::Seed => Speaks::Seed(legacy_psk()?),
        };
        Ok(FleetConfig {
            server: server.to_owned(),
            ca,
            devices: self.devices,
            prefix: self.prefix.clone(),
            protocol,
            rollback: self.rollback == Switch::On,
            firmware,
            poll: self.poll,
            speed: self.speed,
            link: self.link,
            identity: self.fleet_identity()?,
            trust: trust(&self.trust)?,
            patches: self.patches.profile(),
            panics_on: self.panics_on.clone(),
        })
    }

    fn fleet_identity(&self) -> anyhow::Result<FleetIdentity> {
        let from_env = || {
            let text = config::env("FOTA_ENROLMENT_KEY")?;
            let key: Result<EnrolmentKey, _> = text.parse();
            Some(key.map_err(|error| anyhow::anyhow!("FOTA_ENROLMENT_KEY: {error}")))
        };
        let is_key = self.identity == Identity::Key;
        let enrolment_key = match &self.enrol {
            Some(_) if !is_key => bail!("only keys are enrolled: add --identity key"),
            Some(key) => Some(key.clone()),
            None if is_key => from_env().transpose()?,
            None => None,
        };
        Ok(FleetIdentity {
            kind: match self.identity {
                Identity::None => IdentityKind::None,
                Identity::Secret => IdentityKind::Secret,
                Identity::Key => IdentityKind::Key,
            },
            seed: self.seed.clone(),
            enrolment_key,
        })
    }
}

/// What `--trust` says. A root must stand by itself, so that a damaged file is found here and not
/// by devices that listen to nobody.
fn trust(text: &str) -> anyhow::Result<SimTrust> {
    match text {
        "anybody" => Ok(SimTrust::Anybody),
        "first-use" => Ok(SimTrust::FirstUse),
        file => {
            let root = std::fs::read(file).with_context(|| format!("root {file}"))?;
            let parsed = fota_proto::signed::Root::first(&root);
            parsed.with_context(|| format!("root {file}"))?;
            Ok(SimTrust::Root(root.into()))
        }
    }
}

/// The key of the seed's chunks, the same as the server's. Never shown.
fn legacy_psk() -> anyhow::Result<Psk> {
    let text = config::env("FOTA_LEGACY_PSK")
        .context("the seed's protocol needs its chunk key: set FOTA_LEGACY_PSK to 64 hex digits")?;
    let key: fota_proto::Sha256 = text
        .trim()
        .parse()
        .ok()
        .context("FOTA_LEGACY_PSK is not 64 hex digits")?;
    Ok(Psk(key.0))
}

fn parse_speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if (0.01..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("a number from 0.01 to 1000 is needed".to_owned()),
    }
}
