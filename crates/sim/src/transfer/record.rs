//! Runs a simulated device once against a real server and records the transfer.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use fota_client::DeviceClient;
use fota_image::app::Chip;
use fota_proto::DeviceId;
use tokio::time::timeout;

use super::{Exchange, Recorder, Trace, flash_work, proven_flash_work};
use crate::{
    board::{Board, StartError},
    console::Console,
    device::{DeviceConfig, SimDevice, SimTrust},
    flash::SimFlash,
    link::SimLink,
    seed_device::{HttpError, Psk, SeedConfig, SeedDevice},
};

/// Longest a recorded download may take in real time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Slow enough that the device reports progress, fast enough to take a tenth of a second.
const RECORDING_LINK: SimLink = SimLink::new("recording", 100_000_000, 0);

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The proxy.
    #[error("recording proxy: {0}")]
    Proxy(#[from] io::Error),
    /// The device found nothing to boot.
    #[error("the device does not boot: {0}")]
    Start(#[from] StartError),
    /// The address.
    #[error(transparent)]
    Client(#[from] fota_client::Error),
    /// The address.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// No update came.
    #[error("the device was not updated within {} s: its server has nothing for it", PATIENCE.as_secs())]
    NoUpdate,
}

/// Records the native device `id`, which follows `root`, updating itself to the image of
/// `image_bytes` that the server has for it.
pub async fn record_native(
    server: SocketAddr,
    id: DeviceId,
    root: Arc<[u8]>,
    factory: SimFlash,
    image_bytes: u32,
) -> Result<Trace, RecordError> {
    let recorder = Recorder::start(server).await?;
    let client = DeviceClient::new(&url(&recorder), Some(id.to_string()))?;
    let config = DeviceConfig {
        restart: Duration::ZERO,
        report_every: Duration::ZERO,
        trust: SimTrust::Root(root),
        // The whole image is what is compared.
        patches: None,
        ..DeviceConfig::new(id)
    };
    let board = Board::new(factory, Chip::Esp32, true);
    let link = RECORDING_LINK.live(1.0);
    let mut device = SimDevice::new(config, client, board, link, Console::silent());
    device.board().flash().with(SimFlash::start_log);
    let lived = timeout(PATIENCE, device.live_once()).await;
    lived.map_err(|_| RecordError::NoUpdate)??;
    let (exchanges, log) = (
        recorder.take(),
        device.board().flash().with(|f| f.log().to_vec()),
    );
    let work = proven_flash_work(&log, Board::slots()[1], image_bytes);
    Ok(Trace::native(&exchanges, work, image_bytes.into()))
}

/// Records the seed device `id` doing the same by the seed's API.
pub async fn record_seed(
    server: SocketAddr,
    id: DeviceId,
    psk: Psk,
    factory: SimFlash,
    (image_bytes, chunk_bytes): (u64, u64),
) -> Result<Trace, RecordError> {
    let recorder = Recorder::start(server).await?;
    let config = SeedConfig {
        poll: Duration::from_millis(20),
        chunk_pause: Duration::ZERO,
        restart: Duration::ZERO,
        ..SeedConfig::new(&url(&recorder), Some(id.to_string()), psk)
    };
    let board = Board::new(factory, Chip::Esp32, false);
    let mut device = SeedDevice::new(config, board, Console::silent())?;
    device.board().flash().with(SimFlash::start_log);
    let lived = timeout(PATIENCE, device.live_once()).await;
    lived.map_err(|_| RecordError::NoUpdate)??;
    let (exchanges, log): (Vec<Exchange>, _) = (
        recorder.take(),
        device.board().flash().with(|f| f.log().to_vec()),
    );
    let work = flash_work(&log, Board::slots()[1]);
    Ok(Trace::seed(&exchanges, work, image_bytes, chunk_bytes))
}

fn url(recorder: &Recorder) -> String {
    format!("http://{}", recorder.address())
}
