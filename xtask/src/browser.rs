//! The dashboard in a real browser, beside a running demo and on a server of the tests' own: see
//! `xtask/browser.mjs` and docs/dashboard.md.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::process::{Background, cargo, command, root, run as run_command, target};
use crate::tools;

const START_SECONDS_MAX: u32 = 30;

/// The files that a browser runs with: the tests and the screenshots, each with its parts.
const SCRIPTS: [&str; 6] = [
    "browser.mjs",
    "browser/tests.mjs",
    "browser/demo.mjs",
    "browser/own.mjs",
    "browser/plan.mjs",
    "browser/screenshots.mjs",
];

/// Starts a demo and drives its screens; screenshots go to `target/browser`.
pub fn run() -> Result<()> {
    let stage = Stage::set()?;
    let program = target().join("debug/fota");
    let mut node = stage.node("browser.mjs");
    run_command(node.arg(&stage.address).arg(&stage.dir).arg(program))
        .with_context(|| format!("the demo's output is in {}", stage.log.display()))
}

/// Makes the screenshots that README shows.
pub fn screenshots() -> Result<()> {
    let stage = Stage::set()?;
    let mut node = stage.node("browser/screenshots.mjs");
    run_command(node.arg(&stage.address).arg(root().join("docs/screens")))
}

/// A running demo, and the scripts beside the driver that they import.
struct Stage {
    address: String,
    dir: PathBuf,
    log: PathBuf,
    scripts: PathBuf,
    _demo: Background,
}

impl Stage {
    fn set() -> Result<Self> {
        tools::need("chromium", "chromium")?;
        tools::need("node", "nodejs")?;
        let scripts = tools::playwright()?;
        fs::create_dir_all(scripts.join("browser"))?;
        for script in SCRIPTS {
            let from = root().join("xtask").join(script);
            fs::copy(&from, scripts.join(script)).with_context(|| from.display().to_string())?;
        }
        // As the tests build it: what is clicked here is no faster in a release build.
        run_command(&mut cargo("build --locked --package fota"))?;
        let dir = target().join("browser");
        fs::create_dir_all(&dir)?;
        let log = dir.join("demo.log");
        let mut demo = command(target().join("debug/fota"));
        // Not --fast: on a busy machine its story gives up before the devices are done.
        demo.args(["demo", "--devices", "24"])
            .stdout(File::create(&log)?)
            .stderr(File::create(dir.join("demo.err"))?);
        let mut demo = Background::start_group(&mut demo)?;
        Ok(Self {
            address: address(&log, &mut demo)?,
            dir,
            log,
            scripts,
            _demo: demo,
        })
    }

    fn node(&self, script: &str) -> std::process::Command {
        let mut node = command("node");
        node.arg(self.scripts.join(script));
        node
    }
}

/// The address of the page, with its token, as the demo prints it.
fn address(log: &Path, demo: &mut Background) -> Result<String> {
    for _ in 0..START_SECONDS_MAX * 10 {
        let printed = fs::read_to_string(log)?;
        let word = printed
            .split_whitespace()
            .find(|word| word.starts_with("http://") && word.contains("token="));
        if let (Some(word), true) = (word, printed.contains('\n')) {
            return Ok(word.trim_end_matches(['.', ',', ')']).to_owned());
        }
        if let Some(status) = demo.child.try_wait()? {
            bail!("the demo ended with {status}:\n{printed}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("the demo printed no address in {START_SECONDS_MAX} s")
}
