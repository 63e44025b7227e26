//! `fota bench`: measurements that anyone can repeat.

/// Arguments of `fota bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure
    #[command(subcommand)]
    pub what: What,
}

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// One image over simulated links, by the seed's protocol and by the native one
    Transfer,
}

/// Runs a measurement and prints it; `json` asks for one JSON document.
pub async fn run(_args: Args, _json: bool) -> anyhow::Result<()> {
    anyhow::bail!("the measurement is not there yet")
}
