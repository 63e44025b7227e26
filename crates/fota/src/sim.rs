//! `fota sim`: simulated ESP32s against any server.

/// Arguments of `fota sim`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many devices: ESP32-001, ESP32-002 …
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub devices: u32,
    /// What they speak
    #[arg(long, value_enum, default_value_t = Protocol::Native)]
    pub protocol: Protocol,
    /// Link between them and the server
    #[arg(long, value_name = "LINK", default_value = "lan")]
    pub link: String,
    /// Repeats a run exactly
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What a simulated device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// fota's own protocol.
    Native,
    /// The seed's chunks in JSON.
    Seed,
}

/// Runs the devices until Ctrl-C. `server` is the URL from `--server`, the environment or the
/// configuration.
pub async fn run(_args: Args, _server: &str) -> anyhow::Result<()> {
    anyhow::bail!("the simulated fleet is not there yet")
}
