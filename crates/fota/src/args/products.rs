//! What products ask of their releases, and the log of those.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fota_proto::Sha256;

#[derive(Debug, Subcommand)]
pub enum ProductCommand {
    /// Whether unsigned images of a product are taken
    Signing {
        /// Product: the project name in its images
        name: String,
        /// Take them although the server has a root
        #[arg(long, conflicts_with = "require")]
        allow_unsigned: bool,
        /// Take signed releases only
        #[arg(long)]
        require: bool,
    },
    /// Which secure boot keys its images must be signed with; shows them without an option
    SecureBoot {
        /// Product: the project name of its images
        name: String,
        /// Take only images signed by this key: the SHA-256 that `espsecure
        /// digest-sbv2-public-key` writes; repeat it for several keys, one of which will do
        #[arg(long, value_name = "HEX", conflicts_with = "off")]
        digest: Vec<Sha256>,
        /// Take images without a signature again
        #[arg(long)]
        off: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Its entries and its head
    Show,
    /// Whether it is the one that devices, you, and your last run have seen
    Verify(LogVerifyArgs),
}

#[derive(Debug, Args)]
pub struct LogVerifyArgs {
    /// A head that somebody was shown, as a device prints it
    #[arg(long, value_name = "SIZE:ROOT")]
    pub head: Vec<SeenHead>,
    /// File that remembers the head between runs [default: log-heads.json beside the credentials]
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Root to trust instead of the one that the server names
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
}

/// A head of the release log, written `12:4f5a…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenHead(pub fota_proto::log::LogHead);

impl std::str::FromStr for SeenHead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':');
        let head = parts.and_then(|(size, root)| {
            let (size, root) = (size.parse().ok()?, root.parse().ok()?);
            Some(fota_proto::log::LogHead { size, root })
        });
        head.map(Self).ok_or_else(|| {
            format!("{text:?} is no head: write SIZE:ROOT, the root as 64 hex digits")
        })
    }
}
