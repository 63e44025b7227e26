//! `fota bench`: measurements that anyone can repeat.

mod dashboards;
mod delta;
mod fleet;

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use fota_client::Client;
use fota_image::Grouped;
use fota_proto::{
    manager::{ReleaseUpload, RolloutRequest},
    signed::Alg,
};
use fota_server::{Clock, Config, Running};
use fota_sim::{
    board::{Board, factory_flash},
    firmware::{self, Spec},
    flash::SimFlash,
    link::{LWIP_WINDOW_BYTES, SimLink},
    seed_device::{Psk, Server as SeedServer},
    transfer::{Cost, Pace, Trace, flash_limit, limit, record_native, record_seed},
};
use serde::Serialize;
use sha2::Digest;
use tempfile::TempDir;

use crate::{
    firmware::Firmware,
    keys,
    output::{document, to_stdout},
    signing::dev,
    text,
};

/// The seed's 1,040 KB image.
const IMAGE_BYTES: u64 = 1_065_968;
/// The seed's pause between two chunks.
const SEED_PAUSE: Duration = Duration::from_secs(2);
/// Least time between progress reports, of both protocols.
const PER_REPORT: Duration = Duration::from_secs(5);
/// Native progress reports of one download at most.
const REPORTS_MAX: u64 = 20;
/// A receive window that the device guide asks for; the seed's prebuilt core cannot have it.
const WIDE_WINDOW_BYTES: u64 = 32_768;
/// The widest that TCP has without scaling, and the widest that ESP-IDF offers.
const WIDEST_WINDOW_BYTES: u64 = 65_535;
/// Key of the seed's chunks. No secret: server and device are this one process.
const PSK: [u8; 32] = [0x5D; 32];
const DEVICE: &str = "bench";

/// Arguments of `fota bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure
    #[command(subcommand)]
    pub what: What,
}

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// One image over simulated links, by the seed's protocol and by the native one
    Transfer,
    /// What open dashboards cost the server while devices update
    Dashboards(dashboards::Args),
    /// Patches of two images or of a corpus: ours, and those of the peers that are installed
    Delta(delta::Args),
    /// What a rollout, its preview and the lists cost with a large fleet
    Fleet(fleet::Args),
}

/// Runs a measurement and prints it; `json` asks for one JSON document.
pub async fn run(args: Args, json: bool) -> Result<()> {
    match &args.what {
        What::Transfer => {}
        What::Dashboards(args) => return dashboards::run(args, json).await,
        What::Delta(args) => return delta::run(args, json),
        What::Fleet(args) => return fleet::run(args, json).await,
    }
    let rows = transfer().await?;
    if json {
        let report = Report {
            image_bytes: IMAGE_BYTES,
            flash_limit_ms: millis(flash_limit(IMAGE_BYTES)),
            rows,
        };
        let document = document("fota.bench-transfer/1", &report);
        to_stdout(&format!("{document:#}\n"));
    } else {
        to_stdout(&for_people(&rows));
    }
    Ok(())
}

#[derive(Serialize)]
struct Report {
    image_bytes: u64,
    flash_limit_ms: u64,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    link: &'static str,
    bits_per_s: u64,
    round_trip_ms: u64,
    strategy: &'static str,
    receive_window_bytes: u64,
    time_ms: u64,
    wire_bytes_down: u64,
    wire_bytes_up: u64,
    body_bytes: u64,
    requests: u64,
    image_requests: u64,
    /// The larger of image bits, in full TCP segments, ÷ bandwidth, and of the flash's erase and
    /// program time.
    limit_ms: u64,
    ratio: f64,
}

struct Strategy<'t> {
    name: &'static str,
    trace: &'t Trace,
    pause: Duration,
    window_bytes: u64,
}

/// Records each protocol once, then runs the recordings over every link.
async fn transfer() -> Result<Vec<Row>> {
    let one_kib = seed(1024)
        .await
        .context("recording the seed's protocol at 1 KiB")?;
    let sixteen_kib = seed(16_384)
        .await
        .context("recording the seed's protocol at 16 KiB")?;
    let native = native().await.context("recording the native protocol")?;
    let strategy = |name, trace, pause, window_bytes| Strategy {
        name,
        trace,
        pause,
        window_bytes,
    };
    let none = Duration::ZERO;
    let strategies = [
        strategy(
            "seed 1 KiB, 2 s timer",
            &one_kib,
            SEED_PAUSE,
            LWIP_WINDOW_BYTES,
        ),
        strategy(
            "seed 16 KiB, 2 s timer",
            &sixteen_kib,
            SEED_PAUSE,
            LWIP_WINDOW_BYTES,
        ),
        strategy("seed 1 KiB, no timer", &one_kib, none, LWIP_WINDOW_BYTES),
        strategy(
            "seed 16 KiB, no timer",
            &sixteen_kib,
            none,
            LWIP_WINDOW_BYTES,
        ),
        strategy("native", &native, none, LWIP_WINDOW_BYTES),
        strategy("native, 32 KiB window", &native, none, WIDE_WINDOW_BYTES),
        strategy("native, 64 KiB window", &native, none, WIDEST_WINDOW_BYTES),
    ];
    let links = [SimLink::LAN, SimLink::WAN, SimLink::LTE_M, SimLink::NB_IOT];
    let rows = links
        .iter()
        .flat_map(|link| strategies.iter().map(|one| one.over(*link)));
    Ok(rows.collect())
}

impl Strategy<'_> {
    fn over(&self, link: SimLink) -> Row {
        let pace = Pace {
            per_chunk: self.pause,
            per_report: PER_REPORT,
            reports_max: REPORTS_MAX,
        };
        let cost: Cost = self.trace.replay(link.with_window(self.window_bytes), pace);
        let limit = limit(IMAGE_BYTES, &link);
        Row {
            link: link.name,
            bits_per_s: link.bits_per_s,
            round_trip_ms: millis(link.round_trip),
            strategy: self.name,
            receive_window_bytes: self.window_bytes,
            time_ms: millis(cost.time),
            wire_bytes_down: cost.wire.down,
            wire_bytes_up: cost.wire.up,
            body_bytes: cost.body_bytes,
            requests: cost.requests,
            image_requests: self.trace.image_requests(),
            limit_ms: millis(limit),
            ratio: (cost.time.as_secs_f64() / limit.as_secs_f64() * 100.0).round() / 100.0,
        }
    }
}

/// A server of its own for one recording.
struct Bench {
    folder: TempDir,
    server: Running,
}

impl Bench {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir().context("a temporary directory")?;
        let config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            legacy_open: true,
            legacy_psk: Some(PSK),
            ..Config::new(folder.path())
        };
        let server = fota_server::start(config, Clock::System).await?;
        Ok(Self { folder, server })
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.addr)
    }

    async fn end(self) {
        self.server.shutdown().await;
    }
}

async fn native() -> Result<Trace> {
    let bench = Bench::start().await?;
    let client = Client::new(&bench.url(), Some(bench.server.operator_token.clone()))?;
    let dev = keys::generate(Alg::Esp256)?;
    let root = dev::publish_root(&client, &dev).await?;
    let file = bench.folder.path().join("app.bin");
    fs::write(&file, image()?).with_context(|| file.display().to_string())?;
    let bundle = dev::bundle(&dev, &Firmware::load(&file)?)?;
    let options = ReleaseUpload::default();
    let release = client.upload(bundle.into(), &options, |_| {}).await?;
    let rollout = RolloutRequest::new(release.id.to_string(), vec!["all".to_owned()]);
    client.start_rollout(&rollout).await?;
    let id = DEVICE.parse().context("a device id")?;
    let (server, bytes) = (bench.server.addr, IMAGE_BYTES as u32);
    let trace = record_native(server, id, root.into(), factory()?, bytes).await?;
    bench.end().await;
    Ok(trace)
}

async fn seed(chunk_bytes: u64) -> Result<Trace> {
    let bench = Bench::start().await?;
    let image = image()?;
    let sha256 = fota_proto::Sha256(sha2::Sha256::digest(&image).into());
    let upload = serde_json::json!({
        "version": "1.0.6", "size": image.len(), "hash": sha256.to_string(),
        "chunk_size": chunk_bytes, "firmware_data": STANDARD.encode(&image),
    });
    let api = SeedServer::new(&bench.url(), None)?;
    api.post("/api/cloud/fota/upload", &upload.to_string())
        .await?;
    let id = DEVICE.parse().context("a device id")?;
    let sizes = (IMAGE_BYTES, chunk_bytes);
    let trace = record_seed(bench.server.addr, id, Psk(PSK), factory()?, sizes).await?;
    bench.end().await;
    Ok(trace)
}

fn image() -> Result<Vec<u8>> {
    let spec = Spec::new("1.0.6").image_bytes(IMAGE_BYTES as usize);
    firmware::image(&spec).context("the image")
}

/// A device in the field: its other slot holds an older image, which has to be erased.
fn factory() -> Result<SimFlash> {
    let image = firmware::image(&Spec::new("1.0.5")).context("the factory image")?;
    let older = Spec::new("1.0.4").image_bytes(IMAGE_BYTES as usize).seed(4);
    let older = firmware::image(&older).context("the older image")?;
    let mut flash = factory_flash(&image).context("the factory flash")?;
    flash.load(Board::slots()[1].offset, &older)?;
    Ok(flash)
}

fn for_people(rows: &[Row]) -> String {
    let mut out = format!(
        "One image of {} bytes to one ESP32. Requests, answers and flash operations are\n\
         recorded from simulated devices and the real server, then run over each link in\n\
         virtual time: TCP from 10 segments, window {} bytes unless said, no loss,\n\
         plain HTTP; the radio, TLS and the CPU are not modelled. LIMIT is the larger of\n\
         the image's bits in full segments over bandwidth and {:.1} s of flash (64 KiB block\n\
         150 ms, sector 45 ms, page 0.7 ms). The native transfers are signed and proven.\n",
        Grouped(IMAGE_BYTES),
        Grouped(LWIP_WINDOW_BYTES),
        flash_limit(IMAGE_BYTES).as_secs_f64(),
    );
    for of_link in rows.chunk_by(|a, b| a.link == b.link) {
        let first = &of_link[0];
        out += &format!(
            "\n{}: {} kbit/s, {} ms round trip, limit {}\n",
            first.link,
            Grouped(first.bits_per_s / 1000),
            first.round_trip_ms,
            seconds(first.limit_ms),
        );
        let cells: Vec<_> = of_link.iter().map(Row::cells).collect();
        let heading = [
            "",
            "TIME",
            "x LIMIT",
            "BYTES ON THE WIRE",
            "x IMAGE",
            "REQUESTS",
        ];
        out += &text::table(&heading, &cells);
    }
    out + "\nMost of the seed's time is its own 2 s timer: compare with the rows without it.\n\
           The native device asks once and streams; the other requests are its progress.\n"
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let wire = self.wire_bytes_down + self.wire_bytes_up;
        vec![
            self.strategy.to_owned(),
            seconds(self.time_ms),
            format!("{:.2}", self.ratio),
            Grouped(wire).to_string(),
            format!("{:.2}", wire as f64 / IMAGE_BYTES as f64),
            self.requests.to_string(),
        ]
    }
}

fn seconds(ms: u64) -> String {
    match ms {
        0..300_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => format!("{:.1} min", ms as f64 / 60_000.0),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times are virtual: the same on every machine.
    #[tokio::test]
    async fn a_signed_download_is_near_the_limit_of_link_and_flash() {
        let rows = transfer().await.expect("recorded");
        let ratio = |link, strategy| {
            let mut rows = rows.iter();
            let row = rows.find(|row| row.link == link && row.strategy == strategy);
            row.expect("measured").ratio
        };
        assert!(ratio("lan", "native") <= 1.10);
        assert!(ratio("wan", "native, 64 KiB window") <= 1.11);
        for slow in ["lte-m", "nb-iot"] {
            assert!(ratio(slow, "native, 32 KiB window") <= 1.05, "{slow}");
        }
    }
}
