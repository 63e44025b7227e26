//! Licences and bans of the dependencies, by `cargo deny` where it is installed.

use anyhow::Result;

use crate::{
    process::{cargo, run},
    tools,
};

/// Checks `deny.toml`; advisories are left out, because their database is not in a registry.
pub fn check() -> Result<()> {
    tools::need("cargo-deny", "it with `cargo install cargo-deny --locked`")?;
    run(&mut cargo(
        "deny --all-features --locked check bans licenses sources",
    ))
}
