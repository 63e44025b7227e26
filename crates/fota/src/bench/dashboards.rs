//! `fota bench dashboards`: what open dashboards cost a server while its devices update.
//!
//! The server is a process of its own, so that its processor time is told apart from that of the
//! devices and browsers, which are light clients in this process: a device sends the four check-ins
//! of one update, a dashboard follows the event stream and fetches the parts of the fleet's screen
//! by the rules of the page's own script. The same update runs twice, at the same pace: with nobody
//! looking, and with everybody.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use fota_client::{Client, DeviceClient, Incoming};
use fota_proto::{
    Sha256,
    checkin::{self, Answer, CheckIn, Phase, Progress, Running},
    limits::CHECK_IN_BYTES_MAX,
    manager::{ReleaseUpload, RolloutRequest},
};
use fota_sim::firmware::{self, Spec};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    output::{document, to_stdout},
    text,
};

const OLD: &str = "1.0.5";
const NEW: &str = "1.0.6";
/// As `firmware::Spec` names it.
const PROJECT: &str = "acme";
const IMAGE_BYTES: usize = 128 * 1024;
/// Devices that speak at the same time.
const AT_ONCE: usize = 16;
/// Check-ins of one update: the order, half the image, on trial, confirmed.
const STEPS: u32 = 4;
/// As the page's script: at most this often, and at most an eighth of the time.
const REFRESH: Duration = Duration::from_millis(500);
const REFRESH_SHARE: u32 = 8;
/// Presence changes without an event.
const IDLE: Duration = Duration::from_secs(5);
/// Ticks of the processor time that Linux tells in `/proc`.
const TICKS_PER_S: f64 = 100.0;

/// Arguments of `fota bench dashboards`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Devices that update
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub devices: u32,
    /// Dashboards that are open
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub dashboards: u32,
    /// Seconds in which all devices update
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// Program that serves, to compare with another version [default: this one]
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    devices: u32,
    check_ins: u32,
    dashboards: u32,
    unwatched: Run,
    watched: Run,
    /// Processor time of the server with all dashboards, over that without.
    ratio: f64,
}

/// One update of all devices.
#[derive(Serialize)]
struct Run {
    seconds: f64,
    /// Processor time of the server.
    cpu_s: f64,
    events: u64,
    refreshes: u64,
    refreshed_bytes: u64,
}

pub async fn run(args: &Args, json: bool) -> Result<()> {
    let unwatched = update(args, 0).await.context("with nobody looking")?;
    let watched = update(args, args.dashboards)
        .await
        .context("with all dashboards open")?;
    let report = Report {
        devices: args.devices,
        check_ins: args.devices * STEPS,
        dashboards: args.dashboards,
        ratio: (watched.cpu_s / unwatched.cpu_s * 100.0).round() / 100.0,
        unwatched,
        watched,
    };
    match json {
        true => to_stdout(&format!(
            "{:#}\n",
            document("fota.bench-dashboards/1", &report)
        )),
        false => to_stdout(&for_people(&report)),
    }
    Ok(())
}

fn for_people(report: &Report) -> String {
    let row = |name: &str, run: &Run| {
        vec![
            name.to_owned(),
            format!("{:.1} s", run.seconds),
            format!("{:.1} s", run.cpu_s),
            run.events.to_string(),
            run.refreshes.to_string(),
            format!("{} KiB", run.refreshed_bytes / 1024),
        ]
    };
    let heading = [
        "",
        "TIME",
        "SERVER CPU",
        "EVENTS SENT",
        "REFRESHES",
        "OF BYTES",
    ];
    let dashboards = format!("{} dashboards", report.dashboards);
    let rows = [
        row("nobody looks", &report.unwatched),
        row(&dashboards, &report.watched),
    ];
    format!(
        "{} devices update, {} check-ins.\n{}{:.2} x the processor time, {:.0} ms for each dashboard\n",
        report.devices,
        report.check_ins,
        text::table(&heading, &rows),
        report.ratio,
        (report.watched.cpu_s - report.unwatched.cpu_s) * 1000.0 / f64::from(report.dashboards),
    )
}

async fn update(args: &Args, dashboards: u32) -> Result<Run> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("this program")?,
    };
    let server = Server::start(&program)?;
    let client = Client::new(&server.url, Some(server.token()?))?;
    let [old, new] = [image(OLD)?, image(NEW)?];
    let options = ReleaseUpload::default();
    client.upload(old.1.into(), &options, |_| {}).await?;
    let release = client.upload(new.1.into(), &options, |_| {}).await?;
    let fleet = Fleet {
        server: server.url.clone(),
        devices: args.devices,
        images: [old.0, new.0],
    };
    fleet.arrive().await.context("the devices arrive")?;
    let counts = Arc::new(Counts::default());
    let mut looking = JoinSet::new();
    for _ in 0..dashboards {
        looking.spawn(look(client.clone(), Arc::clone(&counts)));
    }
    let rollout = RolloutRequest::new(release.id.to_string(), vec!["all".to_owned()]);
    client.start_rollout(&rollout).await?;
    let (began, before) = (Instant::now(), server.cpu_s()?);
    fleet
        .update(Duration::from_secs(args.seconds.into()))
        .await?;
    let (took, after) = (began.elapsed(), server.cpu_s()?);
    looking.shutdown().await;
    let done = client.rollout(1).await?.rollout.counts.succeeded;
    ensure!(
        done == u64::from(args.devices),
        "{done} of {} devices updated",
        args.devices
    );
    Ok(Run {
        seconds: took.as_secs_f64(),
        cpu_s: after - before,
        events: counts.events.load(Ordering::Relaxed),
        refreshes: counts.refreshes.load(Ordering::Relaxed),
        refreshed_bytes: counts.bytes.load(Ordering::Relaxed),
    })
}

/// The digest by which a device names an image, and the image.
fn image(version: &str) -> Result<(Sha256, Vec<u8>)> {
    let bytes = firmware::image(&Spec::new(version).image_bytes(IMAGE_BYTES))?;
    let image = fota_image::app::check_bytes(&bytes);
    let desc = image
        .ok()
        .and_then(|image| image.desc)
        .context("the image names itself")?;
    Ok((Sha256(desc.app_elf_sha256), bytes))
}

/// `fota serve` as a process of its own; it ends with this value.
struct Server {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(program: &Path) -> Result<Self> {
        let folder = tempfile::tempdir().context("a temporary directory")?;
        let mut child = Command::new(program)
            .args([
                "serve",
                "--json",
                "--listen",
                "127.0.0.1:0",
                "--allow-unsigned",
                "--data",
            ])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let said: serde_json::Value = serde_json::from_str(&line).context("the server started")?;
        let url = said["url"].as_str().context("an address")?.to_owned();
        Ok(Self { child, url, folder })
    }

    fn token(&self) -> Result<String> {
        let path = self.folder.path().join("operator-token");
        Ok(std::fs::read_to_string(path)?.trim().to_owned())
    }

    /// What it has used of the processors, in and for it.
    fn cpu_s(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).context("only Linux tells it, in /proc")?;
        // The name of the program, in brackets, may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("its fields")?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
        Ok(ticks / TICKS_PER_S)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Clone)]
struct Fleet {
    server: String,
    devices: u32,
    /// Old and new.
    images: [Sha256; 2],
}

impl Fleet {
    async fn arrive(&self) -> Result<()> {
        self.each(Duration::ZERO, 0..1).await
    }

    /// All devices go step by step, evenly over the time.
    async fn update(&self, time: Duration) -> Result<()> {
        self.each(time, 0..STEPS).await
    }

    async fn each(&self, time: Duration, steps: std::ops::Range<u32>) -> Result<()> {
        let mut at_work = JoinSet::new();
        let began = Instant::now();
        for worker in 0..AT_ONCE as u32 {
            let (fleet, steps) = (self.clone(), steps.clone());
            at_work.spawn(async move {
                let client = DeviceClient::new(&fleet.server, None)?;
                let own = (worker..fleet.devices).step_by(AT_ONCE);
                let all = own.len() as u32 * steps.len() as u32;
                let mut orders = vec![0; own.len()];
                let mut done = 0;
                for step in steps {
                    for (order, number) in orders.iter_mut().zip(own.clone()) {
                        tokio::time::sleep_until(began + time * done / all).await;
                        fleet.step(&client, number, step, order).await?;
                        done += 1;
                    }
                }
                Ok::<(), anyhow::Error>(())
            });
        }
        while let Some(ended) = at_work.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn step(
        &self,
        client: &DeviceClient,
        number: u32,
        step: u32,
        order: &mut u64,
    ) -> Result<()> {
        let id = format!("D-{number}");
        let is_new = step >= 2;
        let running = usize::from(is_new);
        let check_in = CheckIn {
            nonce: u64::from(step) + 1,
            confirmed: if step == 2 {
                Running::Trial
            } else {
                Running::Confirmed
            },
            slot: u8::from(is_new),
            progress: (step == 1).then_some(Progress {
                order: *order,
                phase: Phase::Downloading,
                bytes: IMAGE_BYTES as u32 / 2,
            }),
            ..CheckIn::idle(&id, PROJECT, [OLD, NEW][running], self.images[running])
        };
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let Some(message) = checkin::encode(&check_in, &mut buffer) else {
            bail!("the check-in is too long");
        };
        let answer = client.check_in(message).await?;
        let answer: Answer = minicbor::decode(&answer).context("an answer")?;
        *order = answer.order.map_or(*order, |order| order.id);
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    events: AtomicU64,
    refreshes: AtomicU64,
    bytes: AtomicU64,
}

/// One open dashboard: `web/assets/page.js` in short.
async fn look(client: Client, counts: Arc<Counts>) -> Result<()> {
    let mut events = client.event_stream(None, None);
    let mut pause = REFRESH;
    let mut due = Instant::now() + IDLE;
    loop {
        tokio::select! {
            incoming = events.next() => {
                if let Incoming::Event(event) = incoming? {
                    counts.events.fetch_add(1, Ordering::Relaxed);
                    // Progress moves a bar without a refresh.
                    if event.id != 0 {
                        due = due.min(Instant::now() + pause);
                    }
                }
            }
            () = tokio::time::sleep_until(due) => {
                let began = Instant::now();
                let mut parts = client.screen("/?part=main").await?;
                while let Some(bytes) = parts.chunk().await? {
                    counts.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                counts.refreshes.fetch_add(1, Ordering::Relaxed);
                pause = REFRESH.max(began.elapsed() * (REFRESH_SHARE - 1));
                due = Instant::now() + IDLE;
            }
        }
    }
}
