//! `cargo xtask emulator`: real code on Espressif's real ROM and bootloader, in the emulator of
//! `crates/emulator`. First the bootloader's choices, state by state; then one life of the firmware
//! in `examples/esp32c3`, with `fota serial` and `fota serve` at the other end of its line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    no_std,
    process::{cargo, command, output, root, run, target},
    tools,
};

/// Carries ROM and bootloader in its sources; pinned, because its bootloader is what is tested.
const ESPFLASH: &str = "=4.7.0";
const TARGET: &str = "riscv32imc-unknown-none-elf";
/// Name, version and features of the firmware's builds.
const FIRMWARE: [(&str, &str, &str); 3] = [
    ("a", "1.0.0", ""),
    ("b", "1.0.1", ""),
    ("c", "1.0.2", "crash"),
];

/// Builds what is needed and runs the tests.
pub fn run_all() -> Result<()> {
    let espflash = espflash()?;
    let firmware = firmware()?;
    run(&mut cargo("build --release --locked"))?;
    let mut test = cargo("test --release --locked -p fota-emulator -- --nocapture");
    test.env("FOTA_ESPFLASH", espflash)
        .env("FOTA_FIRMWARE", firmware)
        .env("FOTA_BIN", target().join("release/fota"));
    run(&mut test)
}

/// The folder with the sources of the espflash crate, fetched by name like any dependency. Nothing of
/// it is built.
fn espflash() -> Result<PathBuf> {
    let dir = target().join("espflash");
    fs::create_dir_all(dir.join("src")).with_context(|| dir.display().to_string())?;
    let manifest = format!(
        "[package]\nname = \"roms\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\nespflash = {{ version = {ESPFLASH:?}, default-features = false }}\n"
    );
    fs::write(dir.join("Cargo.toml"), manifest)?;
    fs::write(dir.join("src/lib.rs"), "")?;
    let mut metadata = cargo("metadata --quiet --format-version 1");
    let told: Value = serde_json::from_str(&output(metadata.current_dir(&dir))?)?;
    let packages = told["packages"].as_array().context("no packages")?;
    let package = packages
        .iter()
        .find(|package| package["name"] == "espflash");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = Path::new(manifest.context("no espflash among the packages")?);
    Ok(manifest.parent().context("a file has a folder")?.to_owned())
}

/// The folder with the images of the firmware, and the ELF that each was made of.
fn firmware() -> Result<PathBuf> {
    let esptool = tools::esptool()?;
    let (source, built) = (root().join("examples/esp32c3"), target().join("esp32c3"));
    let dir = built.join("images");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    for (name, version, features) in FIRMWARE {
        let mut build = no_std::target_build(&source)?;
        build.args(["--locked", "--features", features]);
        build.env("CARGO_TARGET_DIR", &built);
        run(build.env("FOTA_VERSION", version))?;
        let elf = dir.join(format!("{name}.elf"));
        let program = built.join(TARGET).join("release/fota-esp32c3");
        fs::copy(&program, &elf).with_context(|| program.display().to_string())?;
        // The digest of the ELF goes where `esp_app_desc_t` has it: it is how an image is known.
        let mut image = command(&esptool);
        image.args(["--chip", "esp32c3", "elf2image", "--flash-size", "4MB"]);
        image.args(["--use-segments", "--elf-sha256-offset", "0xb0", "-o"]);
        run(image.arg(dir.join(format!("{name}.bin"))).arg(&elf))?;
    }
    Ok(dir)
}
