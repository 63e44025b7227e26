//! `fota bench fleet`: what a rollout, its preview and the lists cost with a large fleet.
//!
//! Some devices check in and are put into groups as everywhere; the others are copies of their
//! rows, with ids and sightings of their own. A test holds that a copy is what a check-in makes.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use fota_client::Client;
use fota_image::{Grouped, app::Chip};
use fota_proto::manager::{ReleaseUpload, RolloutPlan, RolloutRequest};
use fota_server::{
    AppState, Clock, Config, Running,
    domain::model::{Protocol, Report, Slot},
    service::{checkin::check_in, population, view},
    store::{Copies, DeviceFilter, ListFilter, Sort},
};
use fota_sim::firmware::{self, Spec};
use serde::Serialize;

use crate::{
    clock,
    output::{document, to_stdout},
    text,
};

/// Devices that check in themselves, each of another kind.
const KINDS_MAX: u64 = 2000;
/// Fewest devices of a kind, where the fleet is small.
const PER_KIND_MIN: u64 = 10;
/// Devices that come after a rollout has begun, so that it has attempts.
const COME: i64 = 200;
/// Rows that the start of a rollout may write, whatever the fleet: itself, its event, its audit
/// entry, and some to spare. More is a failure.
const START_ROWS_MAX: u64 = 8;
/// A preview and the other screens.
const SCREEN: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_millis(100);
/// How often each question is asked; the middle one counts.
const ASKED: usize = 5;

const PRODUCTS: [&str; 4] = ["thermostat", "inverter", "lamp", "meter"];
const VERSIONS: [&str; 5] = ["1.0.1", "1.0.2", "1.0.3", "1.0.4", "1.0.5"];
const CHIPS: [Chip; 3] = [Chip::Esp32, Chip::Esp32C3, Chip::Esp32S3];
const SITES: [&str; 6] = ["graz", "linz", "wien", "wels", "villach", "steyr"];
const GROUPS: u64 = 20;

/// Arguments of `fota bench fleet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Devices that are registered
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    pub devices: u64,
    /// Kinds of devices: combinations of product, chip, version, groups, tags and attributes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub kinds: Option<u64>,
    /// An empty PostgreSQL database to measure on, which keeps the fleet; SQLite in a temporary
    /// folder where none is given
    #[arg(long, value_name = "postgres://…")]
    pub database: Option<String>,
}

#[derive(Serialize)]
struct Figures {
    database: String,
    devices: u64,
    kinds: u64,
    registered_in_ms: u64,
    start_rows: u64,
    peak_memory_bytes: Option<u64>,
    measured: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    what: &'static str,
    found: String,
    time_ms: f64,
    limit_ms: f64,
    ratio: f64,
}

/// Measures and prints.
pub async fn run(args: &Args, json: bool) -> Result<()> {
    let figures = measure(args).await?;
    if json {
        let document = document("fota.bench-fleet/1", &figures);
        to_stdout(&format!("{document:#}\n"));
    } else {
        to_stdout(&for_people(&figures));
    }
    Ok(())
}

async fn measure(args: &Args) -> Result<Figures> {
    let folder = tempfile::tempdir().context("a temporary directory")?;
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        db: args.database.clone(),
        ..Config::new(folder.path())
    };
    let server = fota_server::start(config, Clock::System).await?;
    let known = server.state.store.read().await?.count_devices().await?;
    ensure!(
        known == 0,
        "the database has {known} devices: give one that is empty"
    );
    let client = Client::new(
        &format!("http://{}", server.addr),
        Some(server.operator_token.clone()),
    )?;
    let began = clock::now();
    let usual = KINDS_MAX.min(args.devices.div_ceil(PER_KIND_MIN));
    let kinds = args.kinds.unwrap_or(usual).min(args.devices);
    register(&server, &client, args.devices, kinds).await?;
    let registered_in_ms = began.elapsed().as_millis() as u64;
    let mut bench = Bench {
        server: &server,
        client: &client,
        devices: args.devices,
        measured: Vec::new(),
    };
    bench.previews().await?;
    let (rollout, start_rows) = bench.start().await?;
    bench.screens(rollout).await?;
    let figures = Figures {
        database: server.state.store.engine().to_owned(),
        devices: args.devices,
        kinds: server.state.store.read().await?.cohorts(0, 0).await?.len() as u64,
        registered_in_ms,
        start_rows,
        peak_memory_bytes: peak_memory(),
        measured: bench.measured,
    };
    server.shutdown().await;
    Ok(figures)
}

/// One device of each kind checks in; the rest of the fleet are copies.
async fn register(server: &Running, client: &Client, devices: u64, kinds: u64) -> Result<()> {
    for group in 0..GROUPS {
        client.create_group(&format!("hall-{group}")).await?;
    }
    for version in ["1.0.5", "1.0.6"] {
        let mut spec = Spec::new(version);
        PRODUCTS[0].clone_into(&mut spec.project);
        let image = firmware::image(&spec).context("an image")?;
        client
            .upload(image.into(), &ReleaseUpload::default(), |_| {})
            .await?;
    }
    let state = &server.state;
    for kind in 0..kinds {
        let id = format!("D{kind:05}");
        check_in(state, &report(&id, kind)).await?;
        let mut tx = state.store.write().await?;
        tx.add_to_group(&format!("hall-{}", kind % GROUPS), &id)
            .await?;
        if kind % 3 == 0 {
            tx.put_tag(&id, "ring", ["alpha", "beta"][(kind / 4 % 2) as usize])
                .await?;
        }
        // The last kinds have one device less each where it does not come out even.
        let of_kind = devices / kinds + u64::from(kind < devices % kinds);
        let copies = Copies {
            of: &id,
            number: of_kind as i64 - 1,
            now: state.now_ms(),
            // Twelve polls: a sixth of the fleet is online, as with a fleet that mostly sleeps.
            seen_within_ms: i64::from(state.config.poll_s) * 12_000,
        };
        tx.copy_device(&copies).await?;
        tx.commit().await?;
    }
    let mut tx = state.store.write().await?;
    tx.analyze().await?;
    tx.commit().await?;
    Ok(())
}

/// What a device of this kind says; no two kinds say the same.
fn report(id: &str, kind: u64) -> Report {
    let of = |all: &[&'static str], by: u64| all[((kind / by) % all.len() as u64) as usize];
    let slot = |slot| Slot {
        slot,
        ..Slot::with_room(0x18_0000)
    };
    let site = ("site".to_owned(), of(&SITES, 3).to_owned());
    let line = ("line".to_owned(), (kind / 360).to_string());
    Report {
        chip: Some(CHIPS[(kind / 4 % 3) as usize].id()),
        chip_revision: Some(3),
        elf: Some(fota_proto::Sha256([(kind % 251) as u8; 32])),
        version: Some(of(&VERSIONS, 7).to_owned()),
        project: Some(of(&PRODUCTS, 1).to_owned()),
        confirmed: Some(true),
        slot: Some(0),
        slots: vec![slot(0), slot(1)],
        attributes: [site, line].into(),
        metrics: BTreeMap::from([("heap".to_owned(), 120_000)]),
        ..Report::blank(id.parse().expect("letters and digits"), Protocol::Native)
    }
}

struct Bench<'b> {
    server: &'b Running,
    client: &'b Client,
    devices: u64,
    measured: Vec<Measured>,
}

impl Bench<'_> {
    fn state(&self) -> &AppState {
        &self.server.state
    }

    /// Asks a few times and notes the time in the middle; gives what was found last.
    async fn ask<T>(
        &mut self,
        what: &'static str,
        limit: Duration,
        found: impl Fn(&T) -> String,
        ask: impl AsyncFn() -> Result<T>,
    ) -> Result<T> {
        let mut times = Vec::new();
        let mut answer = None;
        for _ in 0..ASKED {
            let began = clock::now();
            answer = Some(ask().await.context(what)?);
            times.push(began.elapsed());
        }
        times.sort();
        let answer = answer.context("asked at least once")?;
        self.note(what, found(&answer), times[ASKED / 2], limit);
        Ok(answer)
    }

    fn note(&mut self, what: &'static str, found: String, took: Duration, limit: Duration) {
        let tenths = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        self.measured.push(Measured {
            what,
            found,
            time_ms: tenths(took),
            limit_ms: tenths(limit),
            ratio: (took.as_secs_f64() / limit.as_secs_f64() * 1000.0).round() / 1000.0,
        });
    }

    async fn previews(&mut self) -> Result<()> {
        let asked = [
            ("preview, to all", "all", None),
            (
                "preview, filter on version and site",
                "all",
                Some("version < 1.0.4 and attr.site == graz"),
            ),
            (
                "preview, group and tag",
                "group:hall-4",
                Some("tag.ring == beta"),
            ),
            (
                "preview, named by id",
                "all",
                Some("id in (D00000, D00012-1, D00024-2)"),
            ),
            (
                "preview, ids like a pattern",
                "group:hall-4",
                Some("id =~ D000*"),
            ),
        ];
        let client = self.client;
        for (what, to, filter) in asked {
            let request = request(to, filter);
            let found = |preview: &fota_proto::manager::Preview| {
                format!("{} match", Grouped(preview.matched))
            };
            let preview = self
                .ask(what, SCREEN, found, async || {
                    Ok(client.preview(&request).await?)
                })
                .await?;
            let out: u64 = preview.reasons.iter().map(|reason| reason.devices).sum();
            let all = preview.matched + out;
            ensure!(
                filter.is_some() || all == self.devices,
                "the preview speaks of {all} devices, registered are {}",
                self.devices
            );
        }
        Ok(())
    }

    /// Starts one with a filter; gives its id and the rows that this wrote.
    async fn start(&mut self) -> Result<(i64, u64)> {
        let request = request("all", Some("version < 1.0.5 and not attr.site == wels"));
        let before = self.rows().await?;
        let began = clock::now();
        let rollout = self.client.start_rollout(&request).await?;
        let took = began.elapsed();
        let rows = self.rows().await?.saturating_sub(before);
        let found = format!("{rows} rows");
        self.note("start of a rollout, and its view", found, took, START);
        ensure!(
            rows <= START_ROWS_MAX,
            "starting a rollout wrote {rows} rows: at most {START_ROWS_MAX} are expected"
        );
        for number in 0..COME {
            let id = format!("D{:05}-{}", number % 50 * 4, 1 + number / 50);
            check_in(self.state(), &report(&id, (number % 50 * 4) as u64)).await?;
        }
        Ok((rollout.id, rows))
    }

    async fn rows(&self) -> Result<u64> {
        Ok(self.state().store.read().await?.count_rows().await?)
    }

    async fn screens(&mut self, rollout: i64) -> Result<()> {
        let client = self.client;
        let found = |shown: &fota_proto::manager::RolloutDetail| {
            format!("{} wait", Grouped(shown.rollout.counts.waiting))
        };
        self.ask("the running rollout", SCREEN, found, async || {
            Ok(client.rollout(rollout).await?)
        })
        .await?;
        let found = |summary: &fota_proto::manager::FleetSummary| {
            format!("{} online", Grouped(summary.online))
        };
        let summary = self
            .ask("summary of the fleet", SCREEN, found, async || {
                Ok(client.fleet_summary().await?)
            })
            .await?;
        ensure!(
            summary.total == self.devices,
            "the summary counts {} devices, registered are {}",
            summary.total,
            self.devices
        );
        self.lists().await?;
        self.wave(rollout).await
    }

    async fn lists(&mut self) -> Result<()> {
        let state = self.state().clone();
        let found = |devices: &usize| format!("{devices} devices");
        for (what, wanted) in [
            ("first page of devices", None),
            ("first page of a state", Some("offered")),
            ("first page of a state that none is in", Some("failed")),
        ] {
            let filter = DeviceFilter {
                state: wanted.map(str::to_owned),
                limit: 100,
                ..DeviceFilter::default()
            };
            self.ask(what, SCREEN, found, async || {
                let mut tx = state.store.read().await?;
                let plan = state.fleet.plan(&mut tx).await?;
                let devices = tx.devices(&filter).await?;
                for device in &devices {
                    view::device(&state, &mut tx, &plan, device).await?;
                }
                Ok(devices.len())
            })
            .await?;
        }
        let away = ListFilter {
            version: "1.0.4".to_owned(),
            seen: Some((-1, i64::MAX)),
            sort: Sort::Away,
            limit: 100,
            ..ListFilter::default()
        };
        let found = |devices: &u64| format!("{} devices", Grouped(*devices));
        self.ask(
            "of a version, away longest, counted",
            SCREEN,
            found,
            async || {
                let mut tx = state.store.read().await?;
                tx.list_devices(&away).await?;
                Ok(tx.count_listed(&away).await?)
            },
        )
        .await?;
        Ok(())
    }

    /// Counted once, when a wave begins; it depends on every id.
    async fn wave(&mut self, rollout: i64) -> Result<()> {
        let state = self.state().clone();
        let found = |devices: &u64| format!("{} devices", Grouped(*devices));
        let limit = 3 * SCREEN;
        self.ask("devices of a wave, once a wave", limit, found, async || {
            let mut tx = state.store.read().await?;
            let plan = state.fleet.plan(&mut tx).await?;
            let rollout = tx.rollout(rollout).await?.context("the rollout")?;
            Ok(population::wave_devices(&mut tx, &plan, &rollout).await?)
        })
        .await?;
        Ok(())
    }
}

fn request(to: &str, filter: Option<&str>) -> RolloutRequest {
    RolloutRequest {
        plan: filter.map(|filter| RolloutPlan {
            filter: Some(filter.to_owned()),
            ..RolloutPlan::default()
        }),
        ..RolloutRequest::new("1.0.6", vec![to.to_owned()])
    }
}

/// The most memory that this process, which is client and server, has had; Linux says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn for_people(figures: &Figures) -> String {
    let rows: Vec<_> = figures
        .measured
        .iter()
        .map(|row| {
            vec![
                row.what.to_owned(),
                row.found.clone(),
                format!("{:.1} ms", row.time_ms),
                format!("{:.0} ms", row.limit_ms),
                format!("{:.3}", row.ratio),
            ]
        })
        .collect();
    let memory = figures.peak_memory_bytes;
    let memory = memory.map_or("unknown".to_owned(), |bytes| {
        format!("{} MiB", Grouped(bytes / 1024 / 1024))
    });
    format!(
        "{} devices of {} kinds on {}, registered in {:.1} s.\n\
         The time in the middle of {ASKED}; the start was measured once.\n\n{}\n\
         Rows written by the start: {}. Peak memory, server and client: {memory}.\n",
        Grouped(figures.devices),
        Grouped(figures.kinds),
        figures.database,
        figures.registered_in_ms as f64 / 1000.0,
        text::table(&["", "FOUND", "TIME", "LIMIT", "x LIMIT"], &rows),
        figures.start_rows,
    )
}
