//! `cargo xtask rv32-device`: one update by the device crate on a bare RV32IMC in QEMU, plain and
//! signed and by patches: code, memory and instructions of each step, as README's table says them.

use std::{fmt::Write, fs};

use anyhow::{Context, Result, bail, ensure};
use fota_image::Grouped;

use crate::{
    process::{cargo, root, run},
    rv32::{Program, number},
};

/// The longest that each path may be in memory, without the network's own buffers.
const LIMITS: [(&str, u64); 4] = [
    ("plain", 8 * 1024),
    ("signed", 20 * 1024),
    ("small", 32 * 1024),
    ("default", 49 * 1024),
];
/// An ESP32-C3 at 160 MHz does between 0.7 and 1 instruction in a cycle; the slower is assumed.
const INSTRUCTIONS_PER_MS: f64 = 160_000.0 * 0.7;
/// Bytes of the image that is installed.
const IMAGE_BYTES: f64 = 100_000.0;
/// Where the table stands in README.
const MARKS: [&str; 2] = ["<!-- rv32-device -->\n", "<!-- /rv32-device -->"];
/// How far a number of the table may be from what was measured, as a share or in bytes: compilers
/// differ.
const DRIFT_MAX: f64 = 0.05;
const DRIFT_BYTES_MAX: f64 = 32.0;

const PROGRAM: Program = Program {
    name: "device",
    profile: "opt-level = \"s\"\nlto = true\ncodegen-units = 1",
    crates: &["device", "image", "proto"],
    others: "embedded-storage = \"0.3\"\n",
};

/// One call of the device crate.
struct Step {
    name: String,
    stack: u64,
    instructions: u64,
}

/// One update.
struct Path {
    name: &'static str,
    steps: Vec<Step>,
    memory: u64,
    downloaded: u64,
}

/// `cargo xtask rv32-device [--fix]`.
pub fn main(args: &[String]) -> Result<()> {
    match args {
        [] => run_all(),
        [fix] if fix == "--fix" => in_readme(&measured()?, true),
        _ => bail!("wanted nothing or --fix"),
    }
}

/// Builds, runs, judges, and compares with README.
pub fn run_all() -> Result<()> {
    in_readme(&measured()?, false)
}

/// Runs the program without patches and with them, and makes the table.
fn measured() -> Result<String> {
    let mut transcript = cargo("run --quiet --locked -p fota-sim --example rv32_transcript");
    run(transcript.arg("--").arg(PROGRAM.dir()?))?;
    let code = |told: &str| -> Result<u64> { number(last(told)?, "code") };
    let without = code(&PROGRAM.run("")?)?;
    let told = PROGRAM.run("patches")?;
    let paths = LIMITS.map(|(name, limit)| path(&told, name, limit));
    let paths = paths.into_iter().collect::<Result<Vec<_>>>()?;
    let table = table(&paths, last(&told)?, [without, code(&told)?])?;
    print!("{table}");
    Ok(table)
}

/// The line with what all paths share.
fn last(told: &str) -> Result<&str> {
    let line = told.lines().find(|line| line.starts_with("all "));
    line.with_context(|| format!("the program did not finish:\n{told}"))
}

fn path(told: &str, name: &'static str, limit: u64) -> Result<Path> {
    let (mut steps, mut updater, mut downloaded) = (Vec::new(), 0, 0);
    for line in told.lines().filter(|line| line.starts_with(name)) {
        if let Ok(bytes) = number(line, "updater") {
            (updater, downloaded) = (bytes, number(line, "downloaded")?);
            continue;
        }
        let step = line.split(' ').nth(1).unwrap_or_default();
        steps.push(Step {
            name: step.to_owned(),
            stack: number(line, "stack")?,
            instructions: number(line, "instructions")?,
        });
    }
    let all = last(told)?;
    let workspace = match name {
        "plain" => 0,
        _ => number(all, "workspace")?,
    };
    let decoder = number(all, name).unwrap_or(0); // only two paths have one
    let peak = steps.iter().map(|step| step.stack).max().unwrap_or(0);
    // The answer takes the place of the check-in.
    let memory = peak + updater + workspace + decoder + number(all, "message")?;
    ensure!(
        memory <= limit,
        "{name}: {memory} bytes of memory, at most {limit}"
    );
    Ok(Path {
        name,
        steps,
        memory,
        downloaded,
    })
}

impl Path {
    /// The steps of this name, one after the other.
    fn step(&self, name: &str) -> Result<Step> {
        let steps = || self.steps.iter().filter(|step| step.name == name);
        let stack = steps().map(|step| step.stack).max();
        Ok(Step {
            name: name.to_owned(),
            stack: stack.with_context(|| format!("{}: no step {name}", self.name))?,
            instructions: steps().map(|step| step.instructions).sum(),
        })
    }
}

fn table(paths: &[Path], all: &str, code: [u64; 2]) -> Result<String> {
    let [plain, signed, small, default] = paths else {
        bail!("there are four paths");
    };
    let mut out = format!(
        "| on RV32IMC | memory, stack included | code and constants |\n|---|--:|--:|\n\
         | one update, unsigned | {} bytes | |\n\
         | one update, signed: two P-256 verifications, every chunk proven | {} bytes | {} bytes |\n\
         | the same by a patch of {} bytes, `SmallDecoder` | {} bytes | |\n\
         | the same by one of {} bytes, `DefaultDecoder` | {} bytes | {} bytes with both decoders |\n\n\
         Of these, static: `Updater` {} bytes, `Workspace` {}, one message {}, `SmallDecoder` {}, \
         `DefaultDecoder` {}. No heap.\n\n\
         | step, signed | peak stack | about, at 160 MHz |\n|---|--:|--:|\n",
        Grouped(plain.memory),
        Grouped(signed.memory),
        Grouped(code[0]),
        Grouped(small.downloaded),
        Grouped(small.memory),
        Grouped(default.downloaded),
        Grouped(default.memory),
        Grouped(code[1]),
        Grouped(number(all, "updater")?),
        Grouped(number(all, "workspace")?),
        Grouped(number(all, "message")?),
        Grouped(number(all, "small")?),
        Grouped(number(all, "default")?),
    );
    for (name, what) in [
        ("start", "start, where a trial is guarded"),
        ("check_in", "make a check-in"),
        ("answer", "verify an answer"),
        ("release", "verify a release"),
        ("receive", "prove and write what arrives"),
        ("prove", "read it back and prove it, twice"),
        ("activate", "activate"),
    ] {
        let step = signed.step(name)?;
        let ms = step.instructions as f64 / INSTRUCTIONS_PER_MS;
        let time = match name {
            "receive" | "prove" => format!("{:.0} ms per MB", ms * 1e6 / IMAGE_BYTES),
            _ => format!("{ms:.1} ms"),
        };
        writeln!(out, "| {what} | {} bytes | {time} |", Grouped(step.stack))?;
    }
    Ok(out)
}

/// Writes the table into README, or compares it with what stands there.
fn in_readme(table: &str, fix: bool) -> Result<()> {
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path)?;
    let [from, to] = MARKS;
    let (before, rest) = readme
        .split_once(from)
        .context("README has no place for it")?;
    let (stands, after) = rest
        .split_once(to)
        .context("the place in README has no end")?;
    if fix {
        return Ok(fs::write(
            path,
            format!("{before}{from}{table}{to}{after}"),
        )?);
    }
    let (stands, measured) = (numbers(stands), numbers(table));
    let is_near = |(said, found): (&f64, &f64)| {
        (said - found).abs() <= (DRIFT_MAX * found).max(DRIFT_BYTES_MAX)
    };
    let is_true = stands.len() == measured.len() && stands.iter().zip(&measured).all(is_near);
    ensure!(
        is_true,
        "README's table is not what was measured: `cargo xtask rv32-device --fix`"
    );
    Ok(())
}

/// Every number in a text, thousands separators removed.
fn numbers(text: &str) -> Vec<f64> {
    let text = text.replace(',', "");
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.filter_map(|word| word.parse().ok()).collect()
}
