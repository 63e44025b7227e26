//! The page at `/` in a real browser, beside a running demo: see `xtask/browser.mjs`.

use std::{
    fs::{self, File},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::process::{Background, cargo, command, root, run as run_command, target};
use crate::tools;

const START_SECONDS_MAX: u32 = 30;

/// Starts a demo and drives its page; screenshots go to `target/browser`.
pub fn run() -> Result<()> {
    tools::need("chromium", "chromium")?;
    tools::need("node", "nodejs")?;
    let playwright = tools::playwright()?;
    run_command(&mut cargo("build --release --locked"))?;
    let dir = target().join("browser");
    fs::create_dir_all(&dir)?;
    let log = dir.join("demo.log");
    let mut demo = command(target().join("release/fota"));
    demo.arg("demo")
        .stdout(File::create(&log)?)
        .stderr(File::create(dir.join("demo.err"))?);
    let mut demo = Background::start_group(&mut demo)?;
    let address = address(&log, &mut demo)?;
    let script = playwright.join("browser.mjs");
    fs::copy(root().join("xtask/browser.mjs"), &script)?;
    let mut node = command("node");
    run_command(node.arg(script).arg(address).arg(&dir))
        .with_context(|| format!("the demo's output is in {}", log.display()))
}

/// The address of the page, with its token, as the demo prints it.
fn address(log: &std::path::Path, demo: &mut Background) -> Result<String> {
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
