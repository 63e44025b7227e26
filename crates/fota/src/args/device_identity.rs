//! `fota device provision|claim|enrolment-key|…`: what devices prove themselves with.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::text::parse_duration;

/// Which credential to give a device.
#[derive(Debug, Args)]
pub struct ProvisionArgs {
    /// Device; it need not have been seen yet
    pub device: String,
    #[command(flatten)]
    pub credential: CredentialArgs,
}

/// One of two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct CredentialArgs {
    /// Register the device's public key: a PEM file with a P-256 public key
    #[arg(long, value_name = "PUB.pem")]
    pub key: Option<PathBuf>,
    /// Make a secret that the device is to hold too; it is printed this once
    #[arg(long)]
    pub secret: bool,
}

/// Which credentials to end.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Device
    pub device: String,
    /// Only the credential with this number [default: all of them]
    #[arg(long, value_name = "N")]
    pub credential: Option<i64>,
}

/// Keys that devices enrol themselves with.
#[derive(Debug, Subcommand)]
pub enum EnrolmentKeyCommand {
    /// Make one; its secret is printed this once, for the firmware of a batch
    Create {
        /// Name
        #[arg(long, value_name = "N")]
        name: String,
        /// How many devices it may enrol
        #[arg(long, value_name = "N")]
        max: u32,
        /// How long it lives
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        expires: Duration,
        /// Group that its devices join
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        /// What the ids of its devices must begin with
        #[arg(long, value_name = "TEXT")]
        id_prefix: Option<String>,
    },
    /// All of them
    List,
    /// End one for good; the devices that it enrolled stay
    Revoke {
        /// Name
        name: String,
    },
}
