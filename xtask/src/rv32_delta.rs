//! `cargo xtask rv32-delta`: the decoder on a bare RV32IMC in QEMU, with a real patch: it makes the
//! image bit for bit, and says how much memory and how many instructions it took.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use fota_delta::{Options, Profile};

use crate::{
    corpus, no_std,
    process::{command, output, root, run, target},
    tools,
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

/// Builds, runs and judges.
pub fn run_all() -> Result<()> {
    tools::need("qemu-system-riscv32", "qemu-system-misc")?;
    let dir = target().join("rv32-delta");
    fs::create_dir_all(dir.join("src")).with_context(|| dir.display().to_string())?;
    patches(&dir)?;
    write_program(&dir)?;
    run(&mut no_std::target_build(&dir)?)?;
    let program = no_std::target_program(&dir, "rv32-delta")?;
    let mut qemu = command("timeout");
    qemu.args(["120", "qemu-system-riscv32", "-M", "virt"])
        .args(["-cpu", "rv32,a=false,f=false,d=false", "-bios", "none"])
        .args(["-icount", "shift=0", "-display", "none", "-monitor", "none"])
        .args(["-serial", "stdio", "-kernel"]);
    let told = output(qemu.arg(program))?;
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

fn write_program(dir: &Path) -> Result<()> {
    let delta = root().join("crates/delta");
    let manifest = format!(
        "[package]\nname = \"rv32-delta\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [profile.release]\npanic = \"abort\"\nopt-level = 3\n\n\
         [dependencies]\nfota-delta = {{ path = {delta:?} }}\n"
    );
    let source = root().join("xtask/rv32");
    fs::write(dir.join("Cargo.toml"), manifest)?;
    fs::copy(source.join("main.rs"), dir.join("src/main.rs"))?;
    fs::copy(source.join("link.x"), dir.join("link.x"))?;
    fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock"))?;
    let link = "fn main() {\n    println!(\"cargo:rustc-link-arg=-Tlink.x\");\n    \
                println!(\"cargo:rustc-link-search={}\", env!(\"CARGO_MANIFEST_DIR\"));\n}\n";
    fs::write(dir.join("build.rs"), link)?;
    Ok(())
}

fn judge(name: &str, line: &str, limit: u64) -> Result<()> {
    let number = |what: &str| -> Result<u64> {
        let mut words = line.split(' ').skip_while(|word| *word != what).skip(1);
        let number = words.next().with_context(|| format!("no {what}: {line}"))?;
        Ok(number.trim().parse()?)
    };
    let (state, stack) = (number("state")?, number("stack")?);
    let memory = state + stack;
    ensure!(
        memory <= limit,
        "{name}: {memory} bytes of memory, at most {limit}"
    );
    let megabytes = number("image")? as f64 / 1e6;
    let seconds = number("instructions")? as f64 * CYCLES_PER_INSTRUCTION / CLOCK_HZ / megabytes;
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
