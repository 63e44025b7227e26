//! Licences and bans of the dependencies, as `deny.toml` says.
//!
//! `cargo deny` takes several minutes to build, so it is used where it is installed; the bans are
//! checked against Cargo.lock in any case, so that none can land unseen.

use std::fs;

use anyhow::{Result, ensure};

use crate::process::{cargo, has, root, run};

/// Checks them; advisories are left out, because their database is not in a package registry.
pub fn check() -> Result<()> {
    let rules = fs::read_to_string(root().join("deny.toml"))?;
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let locked: Vec<&str> = lock
        .lines()
        .filter_map(|line| quoted(line, "name = "))
        .collect();
    let banned: Vec<&str> = rules
        .lines()
        .filter_map(|line| quoted(line, "  { crate = "))
        .collect();
    let found: Vec<&&str> = banned.iter().filter(|name| locked.contains(name)).collect();
    ensure!(
        found.is_empty(),
        "deny.toml bans {found:?}, which Cargo.lock has"
    );
    println!(
        "{} packages, none of the {} banned",
        locked.len(),
        banned.len()
    );
    if has("cargo-deny") {
        return run(&mut cargo(
            "deny --all-features --locked check bans licenses sources",
        ));
    }
    println!("licences not checked here: `cargo install cargo-deny --locked` would");
    Ok(())
}

/// The text in quotes that follows `start` at the beginning of the line.
fn quoted<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?
        .strip_prefix('"')?
        .split('"')
        .next()
}
