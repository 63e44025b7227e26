//! The commands of README.md, run as they are written.
//!
//! Above each ```sh block stands a comment that a reader of the page does not see:
//! `<!-- run -->` it must end with 0; `<!-- until TEXT -->` it must print TEXT and is then ended
//! with Ctrl-C; `<!-- keep TEXT -->` likewise, but it stays until the last block has run;
//! `<!-- skip WHY -->`. A block that starts with `cargo` runs in the root, any other in a scratch
//! folder, where `fota` is on the path and `old.bin` and `app.bin` are images.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use fota_image::{app::Chip, build::ImageBuilder};

use crate::process::{Background, cargo, command, root, run as run_command, target};

/// What a block prints first after a build may take this long.
const WAIT_SECONDS_MAX: u32 = 300;
/// Project of the simulated devices: an image of another product is not for them.
const PROJECT: &str = "acme";
const IMAGE_BYTES: usize = 200 * 1024;

#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    mark: String,
    script: String,
}

/// Runs all blocks in order.
pub fn run() -> Result<()> {
    let text = fs::read_to_string(root().join("README.md"))?;
    let blocks = blocks(&text)?;
    ensure!(!blocks.is_empty(), "README.md has no ```sh block");
    run_command(&mut cargo("build --release --locked"))?;
    let scratch = scratch()?;
    let mut kept = Vec::new();
    for block in &blocks {
        println!(
            "--- README.md:{} <!-- {} -->\n{}",
            block.line, block.mark, block.script
        );
        let (verb, text) = block.mark.split_once(' ').unwrap_or((&block.mark, ""));
        let mut shell = shell(block, &scratch);
        let log = scratch.join(format!("line-{}.log", block.line));
        match verb {
            "run" => run_command(&mut shell)?,
            "until" => drop(started(&mut shell, text, &log)?),
            "keep" => kept.push(started(&mut shell, text, &log)?),
            "skip" => println!("skipped: {text}"),
            _ => bail!("README.md:{}: `{verb}` is no mark", block.line),
        }
    }
    println!("readme: {} blocks", blocks.len());
    Ok(())
}

fn scratch() -> Result<PathBuf> {
    let dir = target().join("readme");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    for (name, version) in [("old.bin", "1.0.5"), ("app.bin", "1.0.6")] {
        let image = ImageBuilder::new(Chip::Esp32)
            .version(version)
            .project(PROJECT);
        let image = image.size(IMAGE_BYTES).build().context(name)?;
        fs::write(dir.join(name), image)?;
    }
    Ok(dir)
}

fn shell(block: &Block, scratch: &Path) -> Command {
    let mut shell = command("bash");
    let is_cargo = block.script.trim_start().starts_with("cargo");
    let dir = if is_cargo { root() } else { scratch.to_owned() };
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", target().join("release").display());
    shell.current_dir(dir).env("PATH", path);
    // Nothing of the person who runs this may be read or changed.
    shell
        .env("HOME", scratch)
        .env("XDG_CONFIG_HOME", scratch.join("config"));
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        let default = format!(".{}", name.trim_end_matches("_HOME").to_lowercase());
        let home = std::env::home_dir().unwrap_or_default();
        let value = std::env::var_os(name).unwrap_or_else(|| home.join(default).into());
        shell.env(name, value);
    }
    shell.args(["-euo", "pipefail", "-c", &block.script]);
    shell
}

/// Starts it and waits until it has printed `text`.
fn started(shell: &mut Command, text: &str, log: &Path) -> Result<Background> {
    let file = File::create(log)?;
    shell
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0);
    let mut running = Background::start_group(shell)?;
    for _ in 0..WAIT_SECONDS_MAX * 5 {
        let printed = fs::read_to_string(log)?;
        if printed.contains(text) {
            println!("{printed}");
            return Ok(running);
        }
        if let Some(status) = running.child.try_wait()? {
            bail!("it ended with {status} before it printed {text:?}:\n{printed}");
        }
        thread::sleep(Duration::from_millis(200));
    }
    let printed = fs::read_to_string(log)?;
    bail!("it did not print {text:?} in {WAIT_SECONDS_MAX} s:\n{printed}")
}

fn blocks(text: &str) -> Result<Vec<Block>> {
    let (mut blocks, mut above) = (Vec::new(), "");
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if line == "```sh" {
            let mark = above
                .strip_prefix("<!-- ")
                .and_then(|mark| mark.strip_suffix(" -->"));
            let mark =
                mark.with_context(|| format!("README.md:{index}: a ```sh block without a mark"))?;
            let script: Vec<_> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|l| *l != "```")
                .collect();
            blocks.push(Block {
                line: index + 1,
                mark: mark.to_owned(),
                script: script.join("\n"),
            });
        }
        above = line;
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_marks() {
        let text = "a\n<!-- until done -->\n```sh\nx\ny\n```\n```text\nz\n```\n";
        let block = Block {
            line: 3,
            mark: "until done".into(),
            script: "x\ny".into(),
        };
        assert_eq!(blocks(text).expect("marked"), [block]);
        assert!(blocks("```sh\nx\n```\n").is_err());
    }
}
