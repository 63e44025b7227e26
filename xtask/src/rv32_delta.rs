//! `cargo xtask rv32-delta`: the decoder on a bare RV32IMC in QEMU, with a real patch: it makes the
//! image bit for bit, and says how much memory and how many instructions it took.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use fota_delta::{Options, Profile};

use crate::{
    corpus,
    rv32::{Program, number},
};

const PAIR: &str = "modi-3.1.5-3.1.6";
/// What the profiles promise, with the stack.
const PROFILES: [(&str, Profile, u64); 2] = [
    ("default", Profile::Default, 32 * 1024),
    ("small", Profile::Small, 16 * 1024),
];
/// An ESP32-C3 does an instruction in one cycle but for loads, multiplications, taken branches and
/// cache misses: an assumption, on the safe side for code that stays in the cache.
const CYCLES_PER_INSTRUCTION: f64 = 1.5;
const CLOCK_HZ: f64 = 160e6;
/// Erasing and writing a megabyte of flash takes at least so long.
const FLASH_S_PER_MB: f64 = 5.5;

const PROGRAM: Program = Program {
    name: "delta",
    profile: "opt-level = 3",
    crates: &["delta"],
    others: "",
};

/// Builds, runs and judges.
pub fn run_all() -> Result<()> {
    patches(&PROGRAM.dir()?)?;
    let told = PROGRAM.run("")?;
    print!("{told}");
    for (name, _, limit) in PROFILES {
        let line = told.lines().find(|line| line.starts_with(name));
        judge(name, line.context("the program did not finish")?, limit)?;
    }
    Ok(())
}

/// The images, and a patch for each profile.
fn patches(dir: &Path) -> Result<()> {
    let corpus = corpus::fetch()?;
    let image = |age: &str| -> Result<Vec<u8>> {
        let image = fs::read(corpus.join(format!("{PAIR}.{age}.bin")))?;
        fs::write(dir.join(format!("{age}.bin")), &image)?;
        Ok(image)
    };
    let (old, new) = (image("old")?, image("new")?);
    for (name, profile, _) in PROFILES {
        let patch = fota_delta::encode(Some(&old), &new, &Options { profile })?;
        fs::write(dir.join(format!("{name}.patch")), patch)?;
    }
    Ok(())
}

fn judge(name: &str, line: &str, limit: u64) -> Result<()> {
    let (state, stack) = (number(line, "state")?, number(line, "stack")?);
    let memory = state + stack;
    ensure!(
        memory <= limit,
        "{name}: {memory} bytes of memory, at most {limit}"
    );
    let megabytes = number(line, "image")? as f64 / 1e6;
    let seconds =
        number(line, "instructions")? as f64 * CYCLES_PER_INSTRUCTION / CLOCK_HZ / megabytes;
    println!(
        "{name}: {memory} bytes of memory ({state} + {stack} of stack); about {seconds:.2} s per MB \
         at 160 MHz, flash takes {FLASH_S_PER_MB}"
    );
    ensure!(
        seconds < FLASH_S_PER_MB,
        "{name}: {seconds:.2} s per MB is slower than flash"
    );
    Ok(())
}
