//! `fota sim fleet`: a plan against thousands of devices for weeks, in virtual time, with the real
//! server; and whether all went as the plan says.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use fota_image::app::Chip;
use fota_proto::{
    limits::CHECK_IN_BYTES_MAX,
    manager::{Release, Rollout, RolloutDetail, RolloutRequest, RolloutState},
};
use fota_server::{
    Clock, Config,
    domain::{
        plan::RolloutPlan,
        window::{Gate, Schedule, Zone},
    },
    embedded::Embedded,
};
use fota_sim::{
    firmware::Spec,
    virtual_fleet::{Happened, Image, PROJECT, VirtualDevice, VirtualFleet, World},
};
use sha2::{Digest, Sha256};

use crate::{cmd::rollout_plan, keys::hex, output, text};

/// Arguments of `fota sim fleet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub devices: u32,
    /// What everything follows from: the same seed, the same world
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Plan of the rollout, as `fota rollout plan` takes it [default: one with waves and windows]
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// On how many of 1,000 devices the new release crashes
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub bad: u32,
    /// Nothing fails by itself: no power cut, no lost answer, nobody away
    #[arg(long)]
    pub calm: bool,
    /// Days after which it ends
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=365))]
    pub days: u32,
}

const PLAN: &str = include_str!("world.toml");
const OLD: &str = "1.0.0";
const NEW: &str = "2.0.0";
/// What goes out where the new release is bad and was stopped.
const FIXED: &str = "2.0.1";
const IMAGE_BYTES: usize = 400_000;
/// Seconds between check-ins.
const POLL_S: u32 = 1_800;
/// How often the server looks at its rollouts in this world; a running one does each second.
const TICK_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Thursday, 26 March 2026, 12:00 UTC: clocks change in Europe in the night to Sunday.
const START_MS: i64 = 1_774_526_400_000;
const JSON: &str = "application/json";

/// Runs it and says how it went; an error where it went otherwise than the plan says.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let plan = match &args.plan {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?,
        None => PLAN.to_owned(),
    };
    let mut request = rollout_plan::parse(&plan).map_err(anyhow::Error::msg)?;
    NEW.clone_into(&mut request.release);
    let mut life = Life::begin(&args, &request).await?;
    life.until(START_MS + 2 * HOUR_MS).await?;
    life.start(&request).await?;
    let end = START_MS + i64::from(args.days) * DAY_MS;
    life.play(end).await?;
    let mut last = NEW;
    if args.bad >= BAD_ENOUGH {
        life.judge_stop(args.bad);
        life.mend(&mut request).await?;
        life.play(end).await?;
        last = FIXED;
    }
    life.judge(last)
}

/// The server, the devices, and what was seen.
struct Life {
    _folder: tempfile::TempDir,
    server: Embedded,
    clock: Clock,
    fleet: VirtualFleet,
    plan: RolloutPlan,
    rollout: Option<Rollout>,
    now: i64,
    next_tick: i64,
    seen: Seen,
}

/// What happened, as far as it is judged.
#[derive(Default)]
struct Seen {
    check_ins: u64,
    began: u64,
    confirmed: u64,
    crashed: u64,
    went_back: u64,
    busiest: usize,
    /// What a plan does not allow, in words.
    wrong: Vec<String>,
    world: Sha256,
}

impl Life {
    async fn begin(args: &Args, request: &RolloutRequest) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("fota-world-").tempdir();
        let folder = folder.context("a temporary directory for the server")?;
        let mut config = Config::new(folder.path());
        config.allow_unsigned = true;
        config.poll_s = POLL_S;
        config.delta_workers = 0;
        let clock = Clock::manual(START_MS);
        let server = Embedded::open(config, clock.clone()).await?;
        let old = upload(&server, OLD).await?;
        upload(&server, NEW).await?;
        let world = match args.calm {
            true => World::calm(args.devices, args.seed, START_MS),
            false => World::rough(args.devices, args.seed, START_MS),
        };
        let mut fleet = VirtualFleet::new(world, &old);
        if args.bad > 0 {
            fleet.make_bad(NEW, args.bad);
        }
        let plan = request.plan.clone().unwrap_or_default();
        Ok(Self {
            _folder: folder,
            server,
            clock,
            fleet,
            plan: RolloutPlan::check(&plan)?,
            rollout: None,
            now: START_MS,
            next_tick: START_MS,
            seen: Seen::default(),
        })
    }

    async fn start(&mut self, request: &RolloutRequest) -> anyhow::Result<()> {
        let body = serde_json::to_vec(request)?;
        let rollout: Rollout = call(&self.server, "POST", "/api/v1/rollouts", JSON, body).await?;
        self.say(&format!("starts: {}", text::plain(&rollout.sentence)));
        self.rollout = Some(rollout);
        Ok(())
    }

    /// Lets devices come until a moment.
    async fn until(&mut self, end: i64) -> anyhow::Result<()> {
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        while let Some(at) = self.fleet.next_at().filter(|at| *at < end) {
            while self.next_tick <= at {
                self.pass_to(self.next_tick);
                self.server.tick().await?;
                self.next_tick += TICK_MS;
            }
            self.pass_to(at);
            self.one(&mut buffer).await?;
        }
        self.pass_to(end);
        Ok(())
    }

    fn pass_to(&mut self, at: i64) {
        if at > self.now {
            self.clock.advance_ms(at - self.now);
            self.now = at;
        }
    }

    /// The device that is next checks in.
    async fn one(&mut self, buffer: &mut [u8; CHECK_IN_BYTES_MAX]) -> anyhow::Result<()> {
        let Some((now, number, lived, message)) = self.fleet.wake(buffer) else {
            return Ok(());
        };
        let message = message.to_vec();
        let path = "/d/v1/check-in";
        let kind = "application/cbor";
        let method = "POST".parse().expect("a method");
        let (status, answer) = self.server.call(method, path, kind, message).await;
        ensure!(
            status.is_success(),
            "a check-in was answered {status}: {}",
            String::from_utf8_lossy(&answer)
        );
        let heard = self.fleet.hear(now, number, Some(&answer));
        self.seen.check_ins += 1;
        for happened in lived.into_iter().chain(heard) {
            self.note(number, &happened);
        }
        Ok(())
    }

    fn note(&mut self, number: usize, happened: &Happened) {
        let line = format!("{} {number} {happened:?}\n", self.now);
        self.seen.world.update(line.as_bytes());
        match happened {
            Happened::Began => {
                self.seen.began += 1;
                self.seen.busiest = self.seen.busiest.max(self.fleet.busy());
                let wrong = self.outside("downloads", number, Some(&self.plan.download));
                self.seen.wrong.extend(wrong);
            }
            Happened::Activated => {
                let wrong = self.outside("installs", number, self.plan.install.as_ref());
                self.seen.wrong.extend(wrong);
            }
            Happened::Confirmed => self.seen.confirmed += 1,
            Happened::Crashed => self.seen.crashed += 1,
            Happened::WentBack => self.seen.went_back += 1,
            Happened::Dropped => {}
        }
    }

    /// What a device does outside of the window that the plan gives it, in its own time.
    fn outside(&self, what: &str, number: usize, schedule: Option<&Schedule>) -> Option<String> {
        let device = &self.fleet.devices[number];
        let zone: Zone = device.zone.parse().expect("a zone of the world");
        match schedule?.gate(self.now, &zone) {
            Gate::Open { .. } => None,
            Gate::Closed { .. } => {
                let (id, at) = (&device.id, text::time(self.now));
                Some(format!(
                    "{id} ({zone}) {what} at {at} UTC, outside its window"
                ))
            }
        }
    }

    /// Plays until the rollout has ended and nobody is busy, or the days are over.
    async fn play(&mut self, end: i64) -> anyhow::Result<()> {
        let mut wave = 0;
        let mut settled_at = None;
        while self.now < end {
            self.until((self.now + HOUR_MS).min(end)).await?;
            let rollout = self.look().await?;
            let number = rollout.wave.as_ref().map_or(1, |wave| wave.number);
            if number > wave {
                let reaches = rollout.wave.as_ref().map(|wave| wave.reaches.clone());
                let reaches = reaches.unwrap_or_else(|| "all".to_owned());
                self.say(&format!("wave {number} reaches {reaches}"));
                wave = number;
            }
            if rollout.state == RolloutState::Active {
                continue;
            }
            if settled_at.is_none() {
                let reason = rollout.reason.as_deref().map(text::plain);
                let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
                self.say(&format!("{:?}{reason}", rollout.state).to_lowercase());
                settled_at = Some(self.now);
            }
            // Devices that are away come back for their order; some never do.
            let waits = rollout.rollback.is_some_and(|back| back.standing > 0);
            let is_late = settled_at.is_some_and(|at| self.now >= at + 4 * DAY_MS);
            if is_late || (!waits && self.fleet.busy() == 0) {
                break;
            }
        }
        Ok(())
    }

    async fn look(&mut self) -> anyhow::Result<Rollout> {
        let id = self.rollout.as_ref().map_or(0, |rollout| rollout.id);
        let path = format!("/api/v1/rollouts/{id}");
        let detail: RolloutDetail = call(&self.server, "GET", &path, JSON, Vec::new()).await?;
        self.rollout = Some(detail.rollout.clone());
        Ok(detail.rollout)
    }

    fn say(&self, line: &str) {
        let since = self.now - START_MS;
        let (day, hour, minute) = (since / DAY_MS, since / HOUR_MS % 24, since / 60_000 % 60);
        output::to_stdout(&format!("day {day:>2} {hour:02}:{minute:02}  {line}\n"));
    }

    /// How many devices that come run this version.
    fn on(&self, version: &str) -> usize {
        let devices = self.fleet.devices.iter();
        let runs = |device: &&VirtualDevice| device.running.version == version && !device.is_gone;
        devices.filter(runs).count()
    }

    /// A bad release: the rollout has stopped by itself, and nobody runs it any more.
    fn judge_stop(&mut self, bad: u32) {
        let (on, total) = (self.on(NEW), self.fleet.devices.len());
        let Some(rollout) = &self.rollout else { return };
        if rollout.state != RolloutState::Paused {
            let state = rollout.state;
            let wrong = format!("{bad} of 1,000 devices crash, and the rollout is {state:?}");
            self.seen.wrong.push(wrong);
        }
        if rollout.rollback_on_failure && on > 0 {
            self.seen
                .wrong
                .push(format!("{on} devices still run {NEW}"));
        }
        let proven = rollout.rollback.map_or(0, |back| back.proven);
        let (began, crashed) = (self.seen.began, self.seen.crashed);
        self.say(&format!(
            "{began} of {total} devices began, {crashed} crashed, {proven} were sent back and seen \
             on {OLD}"
        ));
    }

    /// The release is withdrawn, and a fixed one takes its way.
    async fn mend(&mut self, request: &mut RolloutRequest) -> anyhow::Result<()> {
        let bad = self.rollout.take().map_or(0, |rollout| rollout.release);
        let path = format!("/api/v1/releases/{bad}/yank");
        let reason = br#"{"reason":"it crashes"}"#.to_vec();
        let _: Release = call(&self.server, "POST", &path, JSON, reason).await?;
        upload(&self.server, FIXED).await?;
        self.say(&format!("{NEW} is withdrawn, {FIXED} is uploaded"));
        FIXED.clone_into(&mut request.release);
        self.start(request).await
    }

    fn judge(mut self, last: &str) -> anyhow::Result<()> {
        if let Some(parallel) = self.plan.limits.parallel
            && self.seen.busiest > parallel as usize
        {
            let busiest = self.seen.busiest;
            let wrong =
                format!("{busiest} devices were under way at once; the plan allows {parallel}");
            self.seen.wrong.push(wrong);
        }
        let gone = self.fleet.devices.iter().filter(|device| device.is_gone);
        let (gone, on) = (gone.count(), self.on(last));
        let left = self.fleet.devices.len() - gone - on;
        let seen = &mut self.seen;
        // Whose image crashed is not offered it again.
        if left as u64 > seen.crashed {
            let crashed = seen.crashed;
            let wrong = format!("{left} devices that come do not run {last}; {crashed} crashed");
            seen.wrong.push(wrong);
        }
        let many = |number: u64| text::Grouped(number).to_string();
        output::to_stdout(&text::facts(&[
            ("check-ins", many(seen.check_ins)),
            ("began", many(seen.began)),
            ("confirmed", many(seen.confirmed)),
            ("crashed", many(seen.crashed)),
            ("went back", many(seen.went_back)),
            ("busiest", format!("{} at once", seen.busiest)),
            ("never came", many(gone as u64)),
            ("at the end", format!("{on} run {last}, {left} do not")),
            ("world", hex(&seen.world.clone().finalize()[..WORLD_BYTES])),
        ]));
        if seen.wrong.is_empty() {
            output::to_stdout("all of it went as the plan says\n");
            return Ok(());
        }
        let (count, first) = (seen.wrong.len(), &seen.wrong[..seen.wrong.len().min(10)]);
        bail!(
            "{count} things went otherwise than the plan says:\n{}",
            first.join("\n")
        )
    }
}

/// So many of 1,000 are seen by every gate of the plan that is built in.
const BAD_ENOUGH: u32 = 200;
/// So many bytes of a digest tell two worlds apart.
const WORLD_BYTES: usize = 8;

async fn upload(server: &Embedded, version: &str) -> anyhow::Result<Image> {
    let mut spec = Spec::new(version).image_bytes(IMAGE_BYTES);
    PROJECT.clone_into(&mut spec.project);
    spec.chip = Chip::Esp32C3;
    let image = fota_sim::firmware::image(&spec)?;
    let kind = "application/octet-stream";
    let release: Release = call(server, "POST", "/api/v1/releases", kind, image).await?;
    Ok(Image {
        elf: release.elf_sha256.context("an image has an ELF digest")?,
        version: version.to_owned(),
    })
}

async fn call<T: serde::de::DeserializeOwned>(
    server: &Embedded,
    method: &str,
    path: &str,
    kind: &str,
    body: Vec<u8>,
) -> anyhow::Result<T> {
    let method = method.parse().expect("a method");
    let (status, answer) = server.call(method, path, kind, body).await;
    ensure!(
        status.is_success(),
        "{path} was answered {status}: {}",
        String::from_utf8_lossy(&answer)
    );
    serde_json::from_slice(&answer).with_context(|| format!("the answer to {path}"))
}
