//! The device side builds for a microcontroller, with no allocator in the whole graph.
//!
//! A static library that links `alloc` without a global allocator does not compile, so a library
//! that merely depends on the four crates proves that neither they nor what they depend on
//! allocate.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    ci::Skipped,
    process::{cargo, command, has, output, root, run, target},
};

const TARGET: &str = "riscv32imc-unknown-none-elf";
const CRATES: [&str; 4] = ["proto", "image", "delta", "device"];

/// What Debian calls a compiler with its matching source, for machines where rustup may not
/// fetch the target.
const DEBIAN: &str = "rustc-web cargo-web rust-web-src rust-web-llvm lld-22";

/// Builds the proof.
pub fn build() -> Result<()> {
    let dir = target().join("no-alloc");
    write_library(&dir)?;
    run(&mut target_build(&dir)?)
}

/// A release build of the package in `dir` for the microcontroller, with whatever compiler there
/// is for it.
pub fn target_build(dir: &Path) -> Result<Command> {
    if have_target() {
        let mut build = cargo("build --release --target");
        build.arg(TARGET).current_dir(dir);
        build.env("CARGO_TARGET_DIR", dir.join("target"));
        return Ok(build);
    }
    println!("rustup cannot add {TARGET}; using Debian's compiler and building core");
    debian(dir)
}

/// The program that [`target_build`] made.
pub fn target_program(dir: &Path, name: &str) -> Result<PathBuf> {
    let dirs = [dir.join("target"), target().join("no-alloc-debian")];
    let mut programs = dirs
        .map(|dir| dir.join(TARGET).join("release").join(name))
        .into_iter();
    let program = programs.find(|program| program.is_file());
    program.with_context(|| format!("no {name} was built"))
}

fn have_target() -> bool {
    let installed = output(command("rustup").args(["target", "list", "--installed"]));
    let is_there = installed.is_ok_and(|list| list.lines().any(|line| line == TARGET));
    is_there || (has("rustup") && run(command("rustup").args(["target", "add", TARGET])).is_ok())
}

/// rustup's own cargo comes first on the path and does not work with Debian's source: name all.
fn debian(dir: &Path) -> Result<Command> {
    let _ = run(command("apt-get").args(["update", "-q"])); // an old list of packages may do
    let mut apt = command("apt-get");
    apt.args(["install", "-y", "-q", "--no-install-recommends"]);
    run(apt.args(DEBIAN.split(' '))).map_err(|error| Skipped(format!("{error:#}")))?;
    let mut build = command("/usr/bin/cargo");
    build
        .args([
            "build",
            "--release",
            "-Z",
            "build-std=core",
            "--target",
            TARGET,
        ])
        .current_dir(dir)
        .env("PATH", "/usr/bin:/bin")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("CARGO_TARGET_DIR", target().join("no-alloc-debian"));
    Ok(build)
}

fn write_library(dir: &Path) -> Result<()> {
    let (crates, mut uses) = (root().join("crates"), String::new());
    let mut manifest = String::from(
        "[package]\nname = \"no-alloc\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [lib]\ncrate-type = [\"staticlib\"]\n\n[workspace]\n\n\
         [profile.release]\npanic = \"abort\"\n\n[dependencies]\n",
    );
    for name in CRATES {
        let path = crates.join(name);
        if !path.join("Cargo.toml").is_file() {
            bail!("there is no crates/{name}");
        }
        manifest += &format!("fota-{name} = {{ path = {path:?}, default-features = false }}\n");
        uses += &format!("pub use fota_{name};\n");
    }
    let library = format!(
        "#![no_std]\n{uses}\n#[panic_handler]\n\
         fn panic(_: &core::panic::PanicInfo) -> ! {{\n    loop {{}}\n}}\n"
    );
    fs::create_dir_all(dir.join("src")).with_context(|| dir.display().to_string())?;
    fs::write(dir.join("Cargo.toml"), manifest)?;
    fs::write(dir.join("src/lib.rs"), library)?;
    fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock"))?;
    Ok(())
}
