//! `cargo xtask rv32-device`: one update by the device crate on a bare RV32IMC in QEMU, plain and
//! signed, and the memory and instructions of each step.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    no_std,
    process::{cargo, command, output, root, run, target},
    tools,
};

/// What the whole path may take, without the network's own buffers: plain and signed.
const LIMITS: [(&str, u64); 2] = [("plain", 24 * 1024), ("signed", 28 * 1024)];
/// An ESP32-C3 at 160 MHz does between 0.7 and 1 instruction in a cycle; the slower is assumed.
const INSTRUCTIONS_PER_MS: f64 = 160_000.0 * 0.7;

/// Builds, runs and judges.
pub fn run_all() -> Result<()> {
    tools::need("qemu-system-riscv32", "qemu-system-misc")?;
    let dir = target().join("rv32-device");
    fs::create_dir_all(dir.join("src")).with_context(|| dir.display().to_string())?;
    let mut transcript = cargo("run --quiet --locked -p fota-sim --example rv32_transcript");
    run(transcript.arg("--").arg(&dir))?;
    write_program(&dir)?;
    run(&mut no_std::target_build(&dir)?)?;
    let program = no_std::target_program(&dir, "rv32-device")?;
    let mut qemu = command("timeout");
    qemu.args(["120", "qemu-system-riscv32", "-M", "virt"])
        .args(["-cpu", "rv32,a=false,f=false,d=false", "-bios", "none"])
        .args(["-icount", "shift=0", "-display", "none", "-monitor", "none"])
        .args(["-serial", "stdio", "-kernel"]);
    let told = output(qemu.arg(program))?;
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
    let mut updater = 0;
    for line in told.lines().filter(|line| line.starts_with(path)) {
        if let Ok(bytes) = number(line, "updater") {
            updater = bytes;
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
        "signed" => number(all, "workspace")?,
        _ => 0,
    };
    let messages = number(all, "messages")?;
    let memory = peak + updater + workspace + messages;
    println!(
        "{path}: {memory} bytes of memory: {peak} of stack at most, updater {updater}, workspace \
         {workspace}, messages {messages}"
    );
    ensure!(
        memory <= limit,
        "{path}: {memory} bytes of memory, at most {limit}"
    );
    Ok(())
}

fn number(line: &str, what: &str) -> Result<u64> {
    let mut words = line.split(' ').skip_while(|word| *word != what).skip(1);
    let number = words.next().with_context(|| format!("no {what}: {line}"))?;
    Ok(number.trim().parse()?)
}

fn write_program(dir: &Path) -> Result<()> {
    let crates = root().join("crates");
    let path = |name: &str| crates.join(name).display().to_string();
    let manifest = format!(
        "[package]\nname = \"rv32-device\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [profile.release]\npanic = \"abort\"\nopt-level = \"s\"\nlto = true\ncodegen-units = 1\n\n\
         [dependencies]\nembedded-storage = \"0.3\"\nfota-device = {{ path = {:?} }}\n\
         fota-image = {{ path = {:?} }}\nfota-proto = {{ path = {:?} }}\n",
        path("device"),
        path("image"),
        path("proto"),
    );
    let source = root().join("xtask/rv32");
    fs::write(dir.join("Cargo.toml"), manifest)?;
    fs::copy(source.join("device.rs"), dir.join("src/main.rs"))?;
    fs::copy(source.join("link.x"), dir.join("link.x"))?;
    fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock"))?;
    let link = "fn main() {\n    println!(\"cargo:rustc-link-arg=-Tlink.x\");\n    \
                println!(\"cargo:rustc-link-search={}\", env!(\"CARGO_MANIFEST_DIR\"));\n}\n";
    fs::write(dir.join("build.rs"), link)?;
    Ok(())
}
