//! Patches that the server makes.

use clap::{Args, Subcommand};

use super::DeltaProfile;

#[derive(Debug, Subcommand)]
pub enum ReleaseDeltaCommand {
    /// The patches that the server has, and what they spared
    List {
        /// Only those that make this release (version or number)
        release: Option<String>,
    },
    /// Have patches made now, before a rollout needs them; failed ones are made again
    Build(DeltaBuildArgs),
    /// Why the patch between two releases is as large as it is
    Explain {
        /// Version or number
        release: String,
        /// Release that devices run (version or number)
        #[arg(long, value_name = "VERSION")]
        from: String,
        /// Memory that the devices have for it
        #[arg(long, value_enum, default_value_t, value_name = "PROFILE")]
        profile: DeltaProfile,
    },
}

#[derive(Debug, Args)]
pub struct DeltaBuildArgs {
    /// Release to make (version or number)
    pub release: String,
    /// Release that devices run (repeatable), or all-running for every one that a device runs
    /// [default: none, which makes the compressed image]
    #[arg(long, value_name = "VERSION|all-running")]
    pub from: Vec<String>,
    /// Memory that the devices have for it
    #[arg(long, value_enum, default_value_t, value_name = "PROFILE")]
    pub profile: DeltaProfile,
}
