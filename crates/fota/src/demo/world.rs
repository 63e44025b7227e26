//! The stage: a server on loopback, its data in a temporary directory, the images as files, and
//! the fleet. All of it is gone after [`World::end`].

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use fota_client::Client;
use fota_proto::signed::Alg;
use fota_server::{Clock, Config, Running, StartError};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::{
    Pace,
    fleet::{BAD, Devices, GOOD, NEXT, PSK, SEED_DEVICE, image},
};
use crate::{
    firmware::Firmware,
    keys::{self, Keys, Secret},
    output::to_stderr,
    signing::dev,
};

/// Where the seed's server listens, and ours.
const USUAL: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::LOCALHOST,
    8080,
));
/// Seconds between check-ins that the server tells the devices.
const POLL_S: u32 = 2;
/// Folder of the development key.
const KEYS: &str = "keys";
/// How long the server may take to end.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// The stage.
pub struct World {
    folder: TempDir,
    server: Running,
    /// The server's own threads: devices that decode patches must not keep it from answering.
    threads: Threads,
    /// The fleet.
    pub devices: Devices,
    /// How many devices there are.
    pub count: u32,
    /// The operator's connection.
    pub client: Client,
    /// Signs the releases.
    dev: Secret,
}

impl World {
    /// Starts everything.
    pub async fn start(listen: Option<SocketAddr>, count: u32, pace: Pace) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("fota-demo-").tempdir();
        let folder = folder.context("a temporary directory for the demo")?;
        for version in [BAD, GOOD, NEXT] {
            let path = file(&folder, version);
            std::fs::write(&path, image(version)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let threads = Threads::start()?;
        let server = serve(&threads, &folder, listen).await?;
        let url = format!("http://{}", server.addr);
        let client = Client::new(&url, Some(server.operator_token.clone()))?;
        let keys = Keys::open(Some(&folder.path().join(KEYS)))?;
        let dev = keys::generate(Alg::Esp256)?;
        keys.add(dev::NAME, &dev, None)?;
        let root = dev::publish_root(&client, &dev).await?;
        Ok(Self {
            devices: Devices::start(&url, count, pace, &root)?,
            client,
            dev,
            folder,
            server,
            threads,
            count,
        })
    }

    /// Ends devices and server, and removes the directory.
    pub async fn end(self) {
        drop(self.devices);
        drop(self.client);
        // A connection that does not end must not keep the directory.
        let _ = tokio::time::timeout(END_PATIENCE, self.server.shutdown()).await;
        drop(self.threads);
        let path = self.folder.path().to_owned();
        if let Err(error) = self.folder.close() {
            to_stderr(&format!("cannot remove {}: {error}\n", path.display()));
        }
    }

    /// Where the image of a version lies.
    pub fn image_file(&self, version: &str) -> PathBuf {
        file(&self.folder, version)
    }

    /// A version as it is uploaded: image and signed release in one file.
    pub fn bundle(&self, version: &str) -> anyhow::Result<Vec<u8>> {
        dev::bundle(&self.dev, &Firmware::load(&self.image_file(version))?)
    }

    /// Where the development key lies, for commands by hand.
    pub fn keys(&self) -> PathBuf {
        self.folder.path().join(KEYS)
    }

    /// The server's address.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.addr)
    }

    /// The dashboard, with the token that opens it.
    pub fn dashboard(&self) -> String {
        format!("{}/?token={}", self.url(), self.server.operator_token)
    }

    /// The operator's token.
    pub fn token(&self) -> &str {
        &self.server.operator_token
    }

    /// What to try while it goes on.
    pub fn invitation(&self) -> String {
        let port = self.server.addr.port();
        format!(
            "\nIt goes on until Ctrl-C. The seed's own commands work too; they send\n\
             {SEED_DEVICE} back, which you can see on the dashboard:\n\n\
             \x20 curl -X POST http://localhost:{port}/api/cloud/fota/rollback \\\n\
             \x20   -H \"Content-Type: application/json\" \\\n\
             \x20   -d '{{\"device_id\":\"{SEED_DEVICE}\",\"reason\":\"Update failed\"}}'\n\
             \x20 curl http://localhost:{port}/api/inverter/fota/rollback-status \\\n\
             \x20   -H \"Device-ID: {SEED_DEVICE}\"\n\n\
             \x20 {}\n",
            self.dashboard()
        )
    }
}

/// A runtime that may go within another: it waits for nothing.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> anyhow::Result<Self> {
        let threads = Builder::new_multi_thread().enable_all().build();
        Ok(Self(Some(threads.context("threads for the server")?)))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

fn file(folder: &TempDir, version: &str) -> PathBuf {
    folder.path().join(format!("acme-{version}.bin"))
}

/// Starts the server where it was asked for, or on 8080, or on any free port where that is taken.
async fn serve(
    threads: &Threads,
    folder: &TempDir,
    listen: Option<SocketAddr>,
) -> anyhow::Result<Running> {
    let asked = listen.unwrap_or(USUAL);
    if !asked.ip().is_loopback() {
        bail!("the demo listens on this machine only: {asked} is no loopback address");
    }
    match start(threads, folder, asked).await {
        Err(StartError::Listen { error, .. })
            if error.kind() == io::ErrorKind::AddrInUse && listen.is_none() =>
        {
            let running = start(threads, folder, SocketAddr::new(asked.ip(), 0)).await?;
            let free = running.addr;
            to_stderr(&format!(
                "{asked} is taken by another program: the demo is on {free}.\n\
                 Choose another with --listen ADDR.\n"
            ));
            Ok(running)
        }
        other => Ok(other?),
    }
}

async fn start(
    threads: &Threads,
    folder: &TempDir,
    listen: SocketAddr,
) -> Result<Running, StartError> {
    let config = Config {
        listen,
        legacy_open: true,
        legacy_psk: Some(PSK),
        poll_s: POLL_S,
        ..Config::new(folder.path().join("data"))
    };
    let start = fota_server::start(config, Clock::System);
    let started = threads.0.as_ref().map(|threads| threads.spawn(start));
    let started = started.expect("taken only when dropped").await;
    started.expect("a start that panics is a bug, and has said so")
}
