//! Mutants of the device crate: each takes one precaution away, and the power-cut proof must find it.
//!
//! The crates are copied to `target/mutants`, a text is replaced in the copy, and the short run of the
//! proof (`crates/sim/examples/powercut.rs`) is built and run there. A mutant that survives is a hole
//! in the proof; a text that is not found any more is a mutant to write anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{command, output, root, target};

/// Crates that the proof is built of.
const CRATES: &[&str] = &["proto", "image", "delta", "device", "client", "sim"];
/// Mutants that CI runs at a commit.
const PER_COMMIT: usize = 6;
/// What the run prints when a promise does not hold.
const FOUND: &str = "repeat it with";

/// A precaution that is taken away, and how: file under `crates/device/src`, text, other text.
struct Mutant {
    what: &'static str,
    edits: &'static [[&'static str; 3]],
}

const fn mutant(what: &'static str, edits: &'static [[&'static str; 3]]) -> Mutant {
    Mutant { what, edits }
}

// tidy: table
const MUTANTS: &[Mutant] = &[
    mutant(
        "the CRC of an entry is written first",
        &[
            [
                "choice.rs",
                "            .program_checked(at, body)\n",
                "            .program_checked(at + CRC_OFFSET as u32, crc)\n",
            ],
            [
                "choice.rs",
                ".and_then(|()| flash.program_checked(at + CRC_OFFSET as u32, crc));",
                ".and_then(|()| flash.program_checked(at, body));",
            ],
        ],
    ),
    mutant(
        "the image is not read back",
        &[[
            "install.rs",
            "        let image = check_with_head(&mut self.flash, slot, job)?;\n",
            "        let head = job.head;\n        let free = self.free(slot)?;\n        self.choice.hand_over(&mut self.flash, free)?;\n        self.flash.program_checked(slot.region.offset, &head)?;\n        if bool::from(true) {\n            return Ok(());\n        }\n        let Some(job) = &mut self.job else {\n            return Ok(());\n        };\n        let image = check_with_head(&mut self.flash, slot, job)?;\n",
        ]],
    ),
    mutant(
        "the image is activated before it is proven",
        &[[
            "install.rs",
            "        match self.proof(slot) {",
            "        match self.activate().map_err(|_| Unproven::Digest).and_then(|_| self.proof(slot)) {",
        ]],
    ),
    mutant(
        "the entry with the lower number is followed",
        &[[
            "choice.rs",
            "        otadata::active(&self.entries)\n",
            "        let active = otadata::active(&self.entries)?;\n        Some(if self.entries[1 - active].usable() { 1 - active } else { active })\n",
        ]],
    ),
    mutant(
        "a slot is written while an entry names it",
        &[[
            "install.rs",
            "        self.free(slot)?;\n        self.forget_content",
            "        self.forget_content",
        ]],
    ),
    mutant(
        "an entry is erased before it is retired",
        &[[
            "choice.rs",
            "        if !self.entries[index].is_empty() && self.entries[index].is_crc_right() {",
            "        if bool::from(false) {",
        ]],
    ),
    mutant(
        "an image confirms itself at its first start",
        &[[
            "trial.rs",
            "            Start::Trial(mark) => self.guard(index, mark)?,",
            "            Start::Trial(mark) => {\n                self.guard(index, mark)?;\n                let _ = self.confirm();\n            }",
        ]],
    ),
    mutant(
        "the start of a trial is not noted",
        &[[
            "trial.rs",
            "        let word = mark.trial_word();\n",
            "        let word = [0xFF; 4];\n",
        ]],
    ),
    mutant(
        "an image that the bootloader gave up is not seen",
        &[[
            "trial.rs",
            "            State::Aborted | State::Invalid => {",
            "            State::Invalid => {",
        ]],
    ),
    mutant(
        "a power loss in the trial counts as a crash",
        &[[
            "trial.rs",
            "    matches!(reset, ResetReason::PowerOn | ResetReason::BrownOut)",
            "    let _ = reset;\n    false",
        ]],
    ),
    mutant(
        "an entry that was torn is taken for one that was refused",
        &[[
            "trial.rs",
            "verdict_of(mark, self.boot.reset, End::Failed,",
            "verdict_of(mark, ResetReason::Panic, End::Failed,",
        ]],
    ),
    mutant(
        "a damaged entry of what runs is not written again",
        &[["trial.rs", "            self.heal()?;\n", ""]],
    ),
    mutant(
        "the hand-over to a new image is not noted",
        &[[
            "choice.rs",
            "        let index = 1 - free;\n",
            "        let index = 1 - free;\n        if index < 2 {\n            return Ok(());\n        }\n",
        ]],
    ),
    mutant(
        "what was last written before a power loss is believed",
        &[[
            "install.rs",
            "is_power_loss(self.boot.reset)",
            "{\n            let _ = is_power_loss(self.boot.reset);\n            false\n        }",
        ]],
    ),
    mutant(
        "a download goes on where the server did not say",
        &[[
            "job.rs",
            "resume_from.min(longest).max(*known)",
            "resume_from.max(longest).max(*known)",
        ]],
    ),
    mutant(
        "the running slot is the one to write",
        &[
            [
                "slot.rs",
                "            _ => (running + 1) % layout.count(),",
                "            _ => running,",
            ],
            [
                "slot.rs",
                "Self::numbered(layout, next).filter(|slot| slot.number != running)",
                "Self::numbered(layout, next)",
            ],
        ],
    ),
    mutant(
        "a root is written over the only one",
        &[[
            "trust.rs",
            "self.sector.map_or(0, |sector| 1 - sector)",
            "self.sector.unwrap_or(0)",
        ]],
    ),
];

/// Runs all of them, or those whose description holds a text.
pub fn main(args: &[String]) -> Result<()> {
    let wanted = |mutant: &&Mutant| args.iter().all(|text| mutant.what.contains(text.as_str()));
    run(&MUTANTS.iter().filter(wanted).collect::<Vec<_>>())
}

/// Runs some of them, others at each commit: all take some minutes.
pub fn some() -> Result<()> {
    let head = output(command("git").args(["rev-parse", "HEAD"]))?;
    let digits = head.get(..8).context("a commit has a name")?;
    let first = usize::from_str_radix(digits, 16)? % MUTANTS.len();
    let chosen = MUTANTS.iter().cycle().skip(first).take(PER_COMMIT);
    run(&chosen.collect::<Vec<_>>())
}

fn run(mutants: &[&Mutant]) -> Result<()> {
    ensure!(!mutants.is_empty(), "no mutant is called that");
    let dir = copy()?;
    let mut survived = Vec::new();
    for mutant in mutants {
        match found_in(&dir, mutant)? {
            Some(found) => println!("found: {}\n       {found}", mutant.what),
            None => {
                println!("SURVIVED: {}", mutant.what);
                survived.push(mutant.what);
            }
        }
    }
    println!(
        "mutants: {} of {} found",
        mutants.len() - survived.len(),
        mutants.len()
    );
    match survived.is_empty() {
        true => Ok(()),
        false => bail!(
            "the proof does not see that {}",
            survived.join(", nor that ")
        ),
    }
}

/// The copy, without what the proof does not need.
fn copy() -> Result<PathBuf> {
    let dir = target().join("mutants");
    let _ = fs::remove_dir_all(&dir);
    for name in CRATES {
        let from = Path::new("crates").join(name);
        copy_dir(&root().join(&from), &dir.join(&from))?;
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml"))?;
    let workspace = workspace.replace(", \"xtask\"", "");
    let workspace = workspace.replace("default-members = [\"crates/fota\"]\n", "");
    fs::write(dir.join("Cargo.toml"), workspace)?;
    fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock"))?;
    // Tests need the server; the proof does not.
    let manifest = dir.join("crates/sim/Cargo.toml");
    let sim = fs::read_to_string(&manifest)?;
    let server = |line: &&str| !line.starts_with("fota-server") && !line.starts_with("axum");
    let lines: Vec<&str> = sim.lines().filter(server).collect();
    fs::write(manifest, lines.join("\n"))?;
    Ok(dir)
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            true => copy_dir(&from, &to)?,
            false => fs::copy(&from, &to).map(drop)?,
        }
    }
    Ok(())
}

/// What the proof says of a mutant; none where it says nothing.
fn found_in(dir: &Path, mutant: &Mutant) -> Result<Option<String>> {
    let device = Path::new("crates/device/src");
    for [file, text, other] in mutant.edits {
        let path = dir.join(device).join(file);
        let source = fs::read_to_string(&path)?;
        let found = source.matches(text).count();
        ensure!(
            found == 1,
            "{file} holds {found} times what \"{}\" replaces",
            mutant.what
        );
        fs::write(path, source.replace(text, other))?;
    }
    let mut proof = command("cargo");
    proof.args(["run", "--quiet", "-p", "fota-sim", "--example", "powercut"]);
    proof.current_dir(dir).env("CARGO_TARGET_DIR", target());
    let ended = proof.output().context("cargo")?;
    for [file, ..] in mutant.edits {
        let file = device.join(file);
        fs::copy(root().join(&file), dir.join(&file))?;
    }
    let said = String::from_utf8_lossy(&ended.stdout);
    match (
        ended.status.success(),
        said.lines().find(|line| line.contains(FOUND)),
    ) {
        (true, _) => Ok(None),
        (false, Some(found)) => Ok(Some(found.to_owned())),
        (false, None) => bail!(
            "\"{}\" does not build or run:\n{}",
            mutant.what,
            String::from_utf8_lossy(&ended.stderr)
        ),
    }
}
