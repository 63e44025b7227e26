//! The program of `examples/hotfix`, built twice with another sentence in it: what the patch of a
//! hotfix takes.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use fota_delta::{Options, encode};

use crate::{
    no_std,
    process::{command, output, root, run, target},
    tools,
};

/// What a patch of one changed sentence may take, with its header of 76 bytes and the 32 of the
/// new `app_elf_sha256`.
const PATCH_BYTES_MAX: usize = 300;
/// An image smaller than this would prove little.
const IMAGE_BYTES_MIN: usize = 150_000;
const TEXT: &str = "pump controller: started, valve closed";

/// Builds both images and measures the patch.
pub fn run_all() -> Result<()> {
    let esptool = tools::esptool()?;
    let old = image(&esptool, "old", None)?;
    let new = image(&esptool, "new", Some(TEXT))?;
    ensure!(
        new.len() >= IMAGE_BYTES_MIN,
        "the image has only {} bytes",
        new.len()
    );
    ensure!(old != new, "both images are the same");
    let patch = encode(Some(&old), &new, &Options::default())?;
    println!(
        "hotfix: one sentence of a Rust image of {} bytes is a patch of {} bytes, at most {PATCH_BYTES_MAX}",
        new.len(),
        patch.len()
    );
    ensure!(
        patch.len() <= PATCH_BYTES_MAX,
        "the hotfix takes {} bytes; the target is {PATCH_BYTES_MAX}",
        patch.len()
    );
    Ok(())
}

/// The app image for an ESP32-C3, with the sentence `text` or its own.
fn image(esptool: &Path, name: &str, text: Option<&str>) -> Result<Vec<u8>> {
    let mut build = no_std::target_build(&root().join("examples/hotfix"))?;
    let dir = target().join("hotfix");
    build.env("CARGO_TARGET_DIR", dir.join("target"));
    match text {
        Some(text) => build.env("HOTFIX_TEXT", text),
        None => build.env_remove("HOTFIX_TEXT"),
    };
    run(&mut build)?;
    let elf = no_std::target_program(&dir, "fota-hotfix")?;
    let image = dir.join(format!("{name}.bin"));
    let mut make = command(esptool);
    make.args([
        "--chip",
        "esp32c3",
        "elf2image",
        "--elf-sha256-offset",
        "0xb0",
    ]);
    output(make.arg("-o").arg(&image).arg(elf))?;
    fs::read(&image).with_context(|| image.display().to_string())
}
