//! `cargo xtask rv32-device`: one update by the device crate on a bare RV32IMC in QEMU, plain and
//! signed and by patches, and the memory and instructions of each step.

use anyhow::{Context, Result, ensure};

use crate::{
    process::{cargo, run},
    rv32::{Program, number},
};

/// What the whole path may take, without the network's own buffers: plain, signed, and signed with
/// memory for patches.
const LIMITS: [(&str, u64); 4] = [
    ("plain", 8 * 1024),
    ("signed", 20 * 1024),
    ("small", 32 * 1024),
    ("default", 49 * 1024),
];
/// An ESP32-C3 at 160 MHz does between 0.7 and 1 instruction in a cycle; the slower is assumed.
const INSTRUCTIONS_PER_MS: f64 = 160_000.0 * 0.7;

const PROGRAM: Program = Program {
    name: "device",
    profile: "opt-level = \"s\"\nlto = true\ncodegen-units = 1",
    crates: &["device", "image", "proto"],
    others: "embedded-storage = \"0.3\"\n",
};

/// Builds, runs and judges.
pub fn run_all() -> Result<()> {
    let mut transcript = cargo("run --quiet --locked -p fota-sim --example rv32_transcript");
    run(transcript.arg("--").arg(PROGRAM.dir()?))?;
    let told = PROGRAM.run()?;
    let all = told
        .lines()
        .find(|line| line.starts_with("all "))
        .with_context(|| format!("the program did not finish:\n{told}"))?;
    println!("code of the program: {} bytes", number(all, "text")?);
    for (path, limit) in LIMITS {
        judge(&told, all, path, limit)?;
    }
    Ok(())
}

fn judge(told: &str, all: &str, path: &str, limit: u64) -> Result<()> {
    let mut peak = 0;
    let (mut updater, mut downloaded) = (0, 0);
    for line in told.lines().filter(|line| line.starts_with(path)) {
        if let Ok(bytes) = number(line, "updater") {
            (updater, downloaded) = (bytes, number(line, "downloaded")?);
            continue;
        }
        let (stack, instructions) = (number(line, "stack")?, number(line, "instructions")?);
        let name = line.split(' ').nth(1).unwrap_or_default();
        let ms = instructions as f64 / INSTRUCTIONS_PER_MS;
        println!(
            "{path} {name:9} {stack:6} bytes of stack {instructions:10} instructions, about {ms:.1} ms"
        );
        peak = peak.max(stack);
    }
    let workspace = match path {
        "plain" => 0,
        _ => number(all, "workspace")?,
    };
    let decoder = number(all, path).unwrap_or(0); // only two paths have one
    // The answer takes the place of the check-in.
    let message = number(all, "message")?;
    let memory = peak + updater + workspace + decoder + message;
    println!(
        "{path}: {memory} bytes of memory: {peak} of stack at most, updater {updater}, workspace \
         {workspace}, decoder {decoder}, message {message}; {downloaded} bytes downloaded"
    );
    ensure!(
        memory <= limit,
        "{path}: {memory} bytes of memory, at most {limit}"
    );
    Ok(())
}
