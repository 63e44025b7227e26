//! Tools from package registries, installed by name into the target folder.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{
    ci::Skipped,
    process::{command, has, output, run, target},
};

/// Espressif's esptool in a virtual environment of its own: the oracle for app images.
pub fn esptool() -> Result<PathBuf> {
    let venv = target().join("esptool");
    let program = venv.join("bin/esptool");
    if !program.is_file() {
        run(command("python3").args(["-m", "venv"]).arg(&venv))?;
        run(command(venv.join("bin/pip")).args(["install", "--quiet", "esptool>=5,<6"]))?;
    }
    let version = output(command(&program).arg("version"))?;
    println!("{}", version.trim());
    Ok(program)
}

/// Python with the makers of patches that are compared with ours.
pub fn patch_peers() -> Result<PathBuf> {
    let venv = target().join("peers");
    let python = venv.join("bin/python");
    let wanted = ["detools==0.53.0", "hdiffpatch==2.6.0"];
    if !venv.join("bin/detools").is_file() {
        run(command("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = command(venv.join("bin/pip"));
        run(pip.args(["install", "--quiet"]).args(wanted))?;
    }
    Ok(python)
}

/// Python with `pycose`, a COSE that shares nothing with ours: the oracle for signed objects.
pub fn pycose() -> Result<PathBuf> {
    let venv = target().join("cose");
    let python = venv.join("bin/python");
    if !venv.join("bin/pip").is_file() {
        run(command("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let there = command(&python).args(["-c", "import pycose"]).output();
    if !there.is_ok_and(|done| done.status.success()) {
        run(command(venv.join("bin/pip")).args([
            "install",
            "--quiet",
            "pycose>=1.1,<2",
            "cbor2>=5.6,<6",
        ]))?;
    }
    Ok(python)
}

/// What the browser test needs from npm: the driver, without the browser it would download, and a
/// judge of JSON Schemas (ajv, MIT).
pub fn playwright() -> Result<PathBuf> {
    let dir = target().join("playwright");
    let is_there = |package: &&str| dir.join("node_modules").join(package).is_dir();
    if !["playwright-core", "ajv"].iter().all(is_there) {
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        std::fs::write(dir.join("package.json"), "{\"private\":true}\n")?;
        let mut npm = command("npm");
        npm.current_dir(&dir)
            .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
        run(npm.args([
            "install",
            "--no-audit",
            "--no-fund",
            "--silent",
            "playwright-core@1",
            "ajv@8",
        ]))?;
    }
    Ok(dir)
}

/// An error that skips the step unless this program is there.
pub fn need(program: &str, package: &str) -> Result<()> {
    if has(program) {
        return Ok(());
    }
    let why = format!("there is no `{program}` here: install {package}");
    Err(Skipped(why).into())
}
