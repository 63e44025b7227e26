//! `cargo xtask ci`: named steps, each with its seconds, and a summary at the end.
//!
//! All steps run even after one has failed, so that one run tells everything; `--fail-fast` stops
//! at the first. A step that cannot run here says why; in CI (`CI=true`) that is a failure.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    bench_delta, browser, corpus, deny, emulator, fuzz, mqtt, no_std, postgres,
    process::{cargo, command, in_ci, output, run},
    readme, rv32_delta, rv32_device, signed, tidy, tools,
};

/// A named thing that must pass.
struct Step {
    name: &'static str,
    run: fn() -> Result<()>,
}

/// Cheap ones first; what shares a build stands together.
const STEPS: &[Step] = &[
    step("fmt", fmt),
    step("tidy", tidy::check),
    step("clippy", clippy),
    step("doc", doc),
    step("no-std", no_std::build),
    step("test", postgres::test),
    step("corpus", || corpus::fetch().map(drop)),
    step("esptool", esptool),
    step("bench-delta", bench_delta::run_all),
    step("rv32-delta", rv32_delta::run_all),
    step("rv32-device", rv32_device::run_all),
    step("acme", acme),
    step("c-verifier", signed::c_verifier),
    step("cose-differential", signed::cose_differential),
    step("softhsm", signed::softhsm),
    step("fuzz", fuzz::smoke),
    step("emulator", emulator::run_all),
    step("demo", demo),
    step("bench", bench),
    step("bench-fleet", bench_fleet),
    step("mqtt", mqtt::run),
    step("readme", readme::run),
    step("browser", browser::run),
    step("deny", deny::check),
];

const fn step(name: &'static str, run: fn() -> Result<()>) -> Step {
    Step { name, run }
}

/// The reason why a step cannot run on this machine, as an error that [`main`] looks for.
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs the steps that the arguments name, or all.
pub fn main(args: &[String]) -> Result<()> {
    let plan = Plan::parse(args)?;
    if plan.list {
        STEPS.iter().for_each(|step| println!("{}", step.name));
        return Ok(());
    }
    let mut results = Vec::new();
    for step in STEPS.iter().filter(|step| plan.wants(step.name)) {
        println!("\n=== {} ===", step.name);
        let (outcome, took) = timed(step.run);
        let failed = matches!(outcome, Outcome::Failed(_));
        print_line(step.name, &outcome, took);
        results.push((step.name, outcome, took));
        if failed && plan.fail_fast {
            break;
        }
    }
    summarise(&results)
}

struct Plan {
    only: Vec<String>,
    fail_fast: bool,
    list: bool,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        let mut plan = Self {
            only: Vec::new(),
            fail_fast: false,
            list: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match (arg.as_str(), args.clone().next()) {
                ("--only", Some(name)) if STEPS.iter().any(|step| step.name == name) => {
                    plan.only.push(name.clone());
                    args.next();
                }
                ("--fail-fast", _) => plan.fail_fast = true,
                ("--list", _) => plan.list = true,
                _ => bail!("`{arg}`: wanted --only STEP (see --list), --fail-fast or --list"),
            }
        }
        Ok(plan)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a step takes is what is asked"
)]
fn timed(step: fn() -> Result<()>) -> (Outcome, Duration) {
    let start = std::time::Instant::now();
    let outcome = match step() {
        Ok(()) => Outcome::Passed,
        Err(error) => match error.downcast_ref::<Skipped>() {
            Some(why) if in_ci() => Outcome::Failed(format!("may not be skipped in CI: {why}")),
            Some(why) => Outcome::Skipped(why.0.clone()),
            None => Outcome::Failed(format!("{error:#}")),
        },
    };
    (outcome, start.elapsed())
}

fn print_line(name: &str, outcome: &Outcome, took: Duration) {
    let seconds = took.as_secs_f32();
    match outcome {
        Outcome::Passed => println!("{name:<17} {seconds:>7.1} s  passed"),
        Outcome::Skipped(why) => println!("{name:<17} {seconds:>7.1} s  skipped: {why}"),
        Outcome::Failed(why) => println!("{name:<17} {seconds:>7.1} s  FAILED: {why}"),
    }
}

fn summarise(results: &[(&str, Outcome, Duration)]) -> Result<()> {
    println!("\n=== summary ===");
    let mut total = Duration::ZERO;
    for (name, outcome, took) in results {
        print_line(name, outcome, *took);
        total += *took;
    }
    let count = |wanted: fn(&Outcome) -> bool| results.iter().filter(|r| wanted(&r.1)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let passed = results.len() - failed - skipped;
    println!("steps: {passed} passed, {failed} failed, {skipped} skipped");
    println!("total: {:.0} s", total.as_secs_f32());
    if failed > 0 {
        bail!("{failed} of {} steps failed", results.len());
    }
    Ok(())
}

fn fmt() -> Result<()> {
    run(&mut cargo("fmt --all --check"))
}

fn clippy() -> Result<()> {
    run(&mut cargo(
        "clippy --workspace --all-targets --all-features --locked -- -D warnings \
         -D clippy::todo -D clippy::unimplemented -D clippy::dbg_macro",
    ))
}

fn doc() -> Result<()> {
    let mut doc = cargo("doc --workspace --all-features --no-deps --locked");
    run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// The image crate agrees with Espressif's own tools, on images made here and on real ones, and on
/// the secure boot signatures that espsecure makes.
fn esptool() -> Result<()> {
    let corpus = corpus::fetch()?;
    let esptool = tools::esptool()?;
    let mut test = cargo("test --workspace --locked --test esptool --test espsecure");
    run(test.env("FOTA_ESPTOOL", esptool).env("FOTA_CORPUS", corpus))
}

/// Pebble, Let's Encrypt's authority for tests, issues a certificate to the server.
fn acme() -> Result<()> {
    tools::need("pebble", "pebble")?;
    let pebble = output(command("sh").args(["-c", "command -v pebble"]))?;
    let mut test = cargo("test -p fota-server --features acme --locked --test it acme::");
    run(test.env("FOTA_PEBBLE", pebble.trim()))
}

fn demo() -> Result<()> {
    run(&mut cargo("run --release --locked -- demo --fast --exit"))
}

fn bench() -> Result<()> {
    run(&mut cargo("run --release --locked -- bench transfer"))
}

/// What a rollout costs with a fleet of 50,000, on both databases. It fails where the start of a
/// rollout writes a row per device or a count is wrong, not where this machine is slow.
fn bench_fleet() -> Result<()> {
    let fleet = "run --release --locked -- bench fleet --devices 50000";
    run(&mut cargo(fleet))?;
    let postgres = postgres::Postgres::start()?;
    run(cargo(fleet).args(["--database", &postgres.url()]))
}
