//! `fota sim powercut`: the power fails at every flash operation of a device's life; see
//! `docs/power-cuts.md`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fota_sim::powercut::{Mode, Phase, Plan, Replay, Row};
use serde::Serialize;

use crate::output;

/// Arguments of `fota sim powercut`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// About how long it may take: what has no end of its own is cut short, and printed as such
    /// [default: the whole proof, some minutes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=86_400))]
    pub seconds: Option<u64>,
    /// What the random walks follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Play one sequence of cuts again, as a violation prints it
    #[arg(long, value_name = "STORY:MODE:CUTS", conflicts_with_all = ["seconds", "seed"])]
    pub replay: Option<Replay>,
}

/// Random walks for each kind of bootloader, in the whole proof.
const WALKS: u64 = 2_000;
/// About how long a walk and a network fault take. With `--seconds`, a quarter of the time is for each
/// of the two; the other phases take about half of a minute.
const WALK_MS: u64 = 40;
const FAULT_MS: u64 = 3;
/// About how many body bytes there are, with faults at each.
const NETWORK_PLACES: u64 = 62_000 * 6;

#[derive(Serialize)]
struct Report {
    rows: Vec<Line>,
    cuts: u64,
    sequences: u64,
    distinct: u64,
    bricks: u64,
    unmonitored_boots: u64,
    lost_updates: u64,
    seconds: f64,
    cuts_per_s: u64,
    sequences_per_s: u64,
}

#[derive(Serialize)]
struct Line {
    phase: Phase,
    mode: &'static str,
    #[serde(flatten)]
    row: Row,
    seconds: f64,
}

/// Runs the proof; the first promise that does not hold ends it.
pub fn run(args: &Args, json: bool) -> Result<()> {
    if let Some(replay) = &args.replay {
        output::to_stdout(&format!("{}\n", replay.play()?));
        return Ok(());
    }
    let plan = plan(args);
    let mut lines = Vec::new();
    for phase in Phase::ALL {
        for &mode in phase.modes() {
            let (row, took) = timed(|| plan.run(phase, mode));
            let row = row?;
            if row.planned != row.executed {
                bail!(
                    "{} cuts were planned and {} executed",
                    row.planned,
                    row.executed
                );
            }
            let line = Line {
                phase,
                mode: mode.name(),
                row,
                seconds: took.as_secs_f64(),
            };
            if !json {
                output::to_stdout(&line.for_people());
            }
            lines.push(line);
        }
    }
    let report = Report::new(lines);
    match json {
        true => {
            let document = output::document("fota.sim-powercut/1", &report);
            output::to_stdout(&format!("{document:#}\n"));
        }
        false => output::to_stdout(&report.for_people()),
    }
    Ok(())
}

fn plan(args: &Args) -> Plan {
    let modes = Mode::ALL.len() as u64;
    let Some(seconds) = args.seconds else {
        return Plan {
            seed: args.seed,
            walks: WALKS,
            network_stride: 1,
        };
    };
    let share_ms = seconds * 1_000 / 4;
    Plan {
        seed: args.seed,
        walks: (share_ms / modes / WALK_MS).max(1),
        // Odd, so that it meets each place of a page.
        network_stride: (NETWORK_PLACES * FAULT_MS / share_ms) | 1,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long it takes is what is asked"
)]
fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

impl Line {
    fn for_people(&self) -> String {
        let row = &self.row;
        let coverage = row.places as f64 * 100.0 / row.places_total.max(1) as f64;
        format!(
            "{:<30} {:<12} {:>8} of {:>6} places ({coverage:.0} %), {:>8} cuts, {:>9} sequences, \
             {:>7} distinct; at most +{} starts, +{} bytes, +{} erases{}; {:.1} s\n",
            self.phase.name(),
            self.mode,
            row.places,
            row.places_total,
            row.executed,
            row.sequences,
            row.distinct,
            row.extra_starts,
            row.extra_bytes,
            row.extra_erases,
            match row.given_up {
                0 => String::new(),
                given_up => format!(", {given_up} trials given up after too many power losses"),
            },
            self.seconds,
        )
    }
}

impl Report {
    fn new(rows: Vec<Line>) -> Self {
        let sum = |of: fn(&Row) -> u64| rows.iter().map(|line| of(&line.row)).sum::<u64>();
        let seconds: f64 = rows.iter().map(|line| line.seconds).sum();
        let per_s = |count: u64| (count as f64 / seconds.max(0.001)) as u64;
        let (cuts, sequences) = (sum(|row| row.executed), sum(|row| row.sequences));
        Self {
            cuts,
            sequences,
            distinct: sum(|row| row.distinct),
            // The first of them would have ended the run.
            bricks: 0,
            unmonitored_boots: 0,
            lost_updates: 0,
            seconds,
            cuts_per_s: per_s(cuts),
            sequences_per_s: per_s(sequences),
            rows,
        }
    }

    fn for_people(&self) -> String {
        format!(
            "\n{} cuts executed as planned; {} sequences of cuts, {} distinct worlds\n\
             bricks {}, unmonitored boots {}, lost updates {}\n\
             {:.1} s: {} cuts and {} sequences a second\n",
            self.cuts,
            self.sequences,
            self.distinct,
            self.bricks,
            self.unmonitored_boots,
            self.lost_updates,
            self.seconds,
            self.cuts_per_s,
            self.sequences_per_s,
        )
    }
}
