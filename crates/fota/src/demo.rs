//! `fota demo`: server, dashboard and a simulated fleet that live through an update, told as a story.

use std::net::SocketAddr;

/// Arguments of `fota demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tell the story in under 15 seconds
    #[arg(long)]
    pub fast: bool,
    /// End after the story; exit 0 only if every step was observed
    #[arg(long)]
    pub exit: bool,
    /// Where the server listens; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Simulated devices
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub devices: u32,
    /// Repeats a run exactly
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Runs the story.
pub async fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the demo is not there yet")
}
