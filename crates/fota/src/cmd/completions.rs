//! `fota completions`

use clap::CommandFactory;

use crate::{args::Cli, failure::Result, output::to_stdout};

pub fn run(shell: clap_complete::Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fota", &mut script);
    to_stdout(&String::from_utf8_lossy(&script));
    Ok(())
}
