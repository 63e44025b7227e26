//! The command line: every command and option, with the help text that describes it.

mod deltas;
mod device_identity;
mod notify;
mod operators;
mod products;
pub mod rollouts;

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use fota_proto::Sha256;

use crate::{bench, cmd::serial::SerialArgs, demo, sim, text::parse_duration, tls::TlsArgs};

mod keys;

pub use keys::*;

pub use products::{LogCommand, LogVerifyArgs, ProductCommand};

pub use notify::{MqttArgs, WebhookCommand};
pub use rollouts::{RolloutCommand, RolloutId, RolloutOptions, RolloutPlanArgs};

pub use operators::{AuditCommand, LoginArgs, TokenCommand, UserCommand};

pub use deltas::{DeltaBuildArgs, ReleaseDeltaCommand};
pub use device_identity::{EnrolmentKeyCommand, ProvisionArgs, RevokeArgs};

const AFTER_HELP: &str = "\
Exit codes: 0 done · 1 error · 2 usage, or a question nobody can answer · 3 update not
successful · 4 login · 5 timed out waiting · 6 not found · 7 refused · 8 server unreachable
· 130 interrupted (the work goes on).
Environment: FOTA_SERVER FOTA_TOKEN FOTA_CA FOTA_JSON FOTA_KEYS FOTA_KEY_PASSPHRASE FOTA_LEGACY_PSK
FOTA_ENROLMENT_KEY NO_COLOR CLICOLOR_FORCE CI";

/// Self-hosted firmware updates over the air for ESP32.
#[derive(Debug, Parser)]
#[command(name = "fota", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Server [env: FOTA_SERVER] [default: http://127.0.0.1:8080]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// Operator token [env: FOTA_TOKEN]
    #[arg(long, global = true, value_name = "T", hide_env_values = true)]
    pub token: Option<String>,
    /// Certificates (PEM) that the server's must come from, instead of those that the system
    /// trusts [env: FOTA_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Print JSON: one document, or one per line where a command follows something
    #[arg(long, global = true)]
    pub json: bool,
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log more; -vv for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Colours
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: When,
    /// Never ask; fail with exit code 2 where an answer is needed
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Answer y/N questions with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// How progress is shown
    #[arg(long, global = true, value_enum, default_value_t, value_name = "HOW")]
    pub progress: Progress,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// Bars on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Moving bars
    Bar,
    /// A line at each change and every 10 seconds
    Log,
    /// Nothing
    None,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server and its dashboard
    Serve(ServeArgs),
    /// Server and simulated fleet that live through an update, a failure and a rollback
    Demo(demo::Args),
    /// Simulated ESP32s against a server
    Sim(sim::Args),
    /// Stand between a device on a serial line and a server
    Serial(SerialArgs),
    /// The interactive manager
    Menu(MenuArgs),
    /// Upload firmware (= release upload)
    Upload(UploadArgs),
    /// Upload, roll out, watch, verify, and roll back if it fails
    Update(UpdateArgs),
    /// The fleet, one line per device
    Status(StatusArgs),
    /// Whether a device runs a release, as the device itself reports
    Verify(VerifyArgs),
    /// Order devices back to their earlier image
    Rollback(RollbackArgs),
    /// Releases
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// Products
    #[command(subcommand)]
    Product(ProductCommand),
    /// The release log, which must be the same for everybody
    #[command(subcommand)]
    Log(LogCommand),
    /// Keys and roots, offline
    #[command(subcommand)]
    Key(KeyCommand),
    /// Devices
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Groups of devices
    #[command(subcommand)]
    Group(GroupCommand),
    /// Rollouts
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// The history of everything
    #[command(subcommand)]
    Event(EventCommand),
    /// Image files, offline
    #[command(subcommand)]
    Image(ImageCommand),
    /// Patches between two images, offline
    #[command(subcommand)]
    Delta(DeltaCommand),
    /// Measurements
    Bench(bench::Args),
    /// Check the connection, the token and the fleet
    Doctor,
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Log in as a user, or store a token
    Login(LoginArgs),
    /// End the session and forget it; forget a token
    Logout,
    /// Who you are to the server, and what you may do
    Whoami,
    /// Users: who may log in
    #[command(subcommand)]
    User(UserCommand),
    /// API tokens, for programs
    #[command(subcommand)]
    Token(TokenCommand),
    /// Who did what, and whether that log is whole
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Webhooks: who is told of what happens
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Completions for a shell, on stdout
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Where a server keeps its data, and whom it listens to.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Folder for the database, the images and the operator token
    #[arg(long, value_name = "DIR", default_value = "fota-data")]
    pub data: PathBuf,
    /// Address to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: std::net::SocketAddr,
    /// PostgreSQL instead of the built-in database
    #[arg(long, value_name = "postgres://…")]
    pub db: Option<String>,
    /// Let the seed's operator paths (/api/cloud/…) work without a token
    #[arg(long)]
    pub legacy_open: bool,
    /// Which check-ins are taken: all, those that devices with a credential have sealed and plain
    /// ones of the others, or sealed ones
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub device_auth: DeviceAuth,
    /// With --device-auth required: an id that the seed's API may still speak for (repeatable)
    #[arg(long, value_name = "ID")]
    pub legacy_allow: Vec<fota_proto::DeviceId>,
    /// Take files that no chip would boot; for tests only
    #[arg(long)]
    pub lab: bool,
    /// Seconds between check-ins that devices are told
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub poll: Option<u32>,
    /// Bytes of images that all rollouts together may send each second, on average
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub bandwidth_budget: Option<u64>,
    /// File with the chunk key of the seed's devices, 64 hex digits [env: FOTA_LEGACY_PSK holds
    /// the digits themselves]
    #[arg(long, value_name = "F")]
    pub legacy_psk_file: Option<PathBuf>,
    /// File with the key that signs answers, PKCS#8 PEM [default: online-key.pem in the data
    /// folder, made at the first start]
    #[arg(long, value_name = "FILE")]
    pub online_key: Option<PathBuf>,
    /// Take unsigned images while the server has no root
    #[arg(long)]
    pub allow_unsigned: bool,
    /// Patches that are made at the same time; 0 makes none [default: one less than there are cores]
    #[arg(long, value_name = "N")]
    pub delta_workers: Option<usize>,
    #[command(flatten)]
    pub tls: Box<TlsArgs>,
    #[command(flatten)]
    pub mqtt: Box<MqttArgs>,
    /// File with the settings of a login provider (OpenID Connect), see docs/operators.md
    #[cfg(feature = "oidc")]
    #[arg(long, value_name = "FILE")]
    pub oidc: Option<PathBuf>,
}

/// Which check-ins are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DeviceAuth {
    /// All; seals are not looked at
    Off,
    /// A device with a credential must seal; the others may be plain
    #[default]
    Optional,
    /// Every device must seal
    Required,
}

#[derive(Debug, Default, Args)]
pub struct MenuArgs {
    /// Take the answers from a file instead of the keyboard
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
}

/// A firmware file and what to say about it.
#[derive(Clone, Debug, Default, Args)]
pub struct UploadArgs {
    /// Image (.bin) or signed bundle (.fota); left out: fota.toml, .pio/build, build/flasher_args.json
    pub file: Option<PathBuf>,
    /// Version you expect; refused where the image says another
    #[arg(long, value_name = "V")]
    pub version: Option<String>,
    /// Upload under --version although the image says another
    #[arg(long, requires = "version")]
    pub allow_version_mismatch: bool,
    /// Notes for operators
    #[arg(long, value_name = "T")]
    pub notes: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct UpdateArgs {
    /// Image file, signed bundle, or the version of a release that is on the server
    pub what: Option<String>,
    /// Targets: all, group:NAME or device ids
    #[arg(long, value_name = "TARGET", num_args = 1.., required = true, value_delimiter = ',')]
    pub to: Vec<String>,
    #[command(flatten)]
    pub options: RolloutOptions,
    /// Version you expect; refused where the image says another
    #[arg(long, value_name = "V")]
    pub version: Option<String>,
    /// Upload under --version although the image says another
    #[arg(long, requires = "version")]
    pub allow_version_mismatch: bool,
    /// Notes for operators
    #[arg(long, value_name = "T")]
    pub notes: Option<String>,
    /// How long to wait for the devices; offline ones are waited for until then, and the rollout
    /// goes on after it
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Default, Args)]
pub struct StatusArgs {
    /// Only this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only those whose newest attempt is in this state, e.g. failed
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only those of which this holds, e.g. "chip == esp32 and has tag.site" (docs/filter.md)
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,
    /// Only these devices
    pub devices: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Device
    pub device: String,
    /// Version (or release number) it must run
    #[arg(long, value_name = "V")]
    pub expect: String,
    /// How long to wait while an update to that release is under way
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Believe a device that cannot name its image by digest (the seed's protocol)
    #[arg(long)]
    pub accept_claim: bool,
}

#[derive(Clone, Debug, Args)]
pub struct RollbackArgs {
    /// Targets: all, group:NAME or device ids
    #[arg(required = true, value_name = "TARGET", value_delimiter = ',')]
    pub to: Vec<String>,
    /// Why; kept in the devices' history
    #[arg(long, value_name = "R")]
    pub reason: Option<String>,
    /// Only devices that run this release
    #[arg(long, value_name = "V")]
    pub release: Option<String>,
    /// Order only; do not wait until the devices are seen on the other image
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub timeout: Duration,
    /// The name of what is rolled back, instead of typing it; needed for `all` in scripts
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Every release
    List,
    /// Patches that the server makes for releases
    Delta {
        #[command(subcommand)]
        command: ReleaseDeltaCommand,
    },
    /// One release
    Show {
        /// Version or number; or a bundle (.fota), which needs no server
        release: String,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Upload firmware
    Upload(UploadArgs),
    /// Check and sign an image, offline: makes a bundle to upload
    Sign(Box<SignArgs>),
    /// Whether a bundle is signed by the release keys of a root, offline
    Verify {
        /// Bundle (.fota)
        file: PathBuf,
        /// Root [default: the newest in the key folder]
        #[arg(long, value_name = "FILE")]
        root: Option<PathBuf>,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Withdraw a release: it is never offered again
    Yank {
        /// Version or number
        release: String,
        /// Why
        #[arg(long, value_name = "R", default_value = "")]
        reason: String,
    },
    /// Get the image back
    Download {
        /// Version or number
        release: String,
        /// Where to [default: PROJECT-VERSION.bin]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write over an existing file
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Every device (= status)
    List(StatusArgs),
    /// Everything about one device
    Show {
        /// Device
        device: String,
    },
    /// The history of one device
    Events {
        /// Device
        device: String,
    },
    /// Why a device gets, or does not get, an order now, and when that will change
    Why {
        /// Device
        device: String,
    },
    /// Tags of a device, for filters: NAME=VALUE sets one, NAME= takes it away
    Tag {
        /// Device; it need not have been seen yet
        device: String,
        /// Tags
        #[arg(required = true, value_name = "NAME=VALUE")]
        tags: Vec<String>,
    },
    /// Let a device take one release and no other, or, without one, none at all
    Pin {
        /// Device
        device: String,
        /// Version or number
        release: Option<String>,
        /// Why
        #[arg(long, value_name = "R", default_value = "")]
        reason: String,
    },
    /// Let a device take releases again as rollouts bring them
    Unpin {
        /// Device
        device: String,
    },
    /// Never offer a release to a device, until it is unblocked there
    Block {
        /// Device
        device: String,
        /// Version or number
        release: String,
    },
    /// Let a release be offered again to a device that went back from it
    Unblock {
        /// Device
        device: String,
        /// Version or number
        release: String,
    },
    /// Give a device a credential to seal its check-ins with
    Provision(ProvisionArgs),
    /// Take a factory's list of devices and their credentials, all of it or nothing
    Claim {
        /// CSV with the columns id, kind (key or secret) and key (hex digits)
        file: PathBuf,
    },
    /// What a device proves itself with
    Credentials {
        /// Device
        device: String,
    },
    /// End the credentials of a device for good: its check-ins are refused
    Revoke(RevokeArgs),
    /// Let a device enrol another key within a day, once
    ReEnrol {
        /// Device
        device: String,
    },
    /// Keys that devices enrol themselves with
    #[command(subcommand)]
    EnrolmentKey(EnrolmentKeyCommand),
}

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Every group
    List,
    /// Make an empty group
    Create {
        /// Name
        name: String,
    },
    /// Add devices; they need not have been seen yet
    Add {
        /// Group
        name: String,
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// Take devices out
    Remove {
        /// Group
        name: String,
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// What the group is besides its list of devices; what is left out is taken away
    Rule {
        /// Group
        name: String,
        /// Devices of which it holds are in it too, whenever they come
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// Bytes that may go to it each second, on average
        #[arg(long, value_name = "BYTES")]
        bandwidth: Option<u64>,
    },
    /// Remove the group; its devices stay
    Rm {
        /// Group
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// The newest events
    List {
        /// Only this device
        #[arg(long, value_name = "D")]
        device: Option<String>,
        /// Only this rollout
        #[arg(long, value_name = "R")]
        rollout: Option<RolloutId>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Events as they happen, until Ctrl-C
    Follow {
        /// Only this rollout
        #[arg(long, value_name = "R")]
        rollout: Option<RolloutId>,
        /// Begin after this event
        #[arg(long, value_name = "ID")]
        after: Option<i64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// What an image says about itself
    Inspect {
        /// Image
        file: PathBuf,
    },
    /// Whether a chip would boot it
    Check {
        /// Image
        file: PathBuf,
        /// Refuse it unless this secure boot key has signed it: the SHA-256 that `espsecure
        /// digest-sbv2-public-key` writes; repeat it for several keys, one of which will do
        #[arg(long, value_name = "HEX")]
        secure_boot_key_digest: Vec<Sha256>,
    },
    /// What differs between two images, and what an update from one to the other costs
    Diff {
        /// Image that devices run
        old: PathBuf,
        /// Image that they are to run
        new: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum DeltaCommand {
    /// Make the patch that turns one image into another
    Encode(DeltaEncodeArgs),
    /// Make the new image from the old one and a patch
    Decode {
        /// Image that the patch starts from; - for none, where it is a compressed full image
        old: PathBuf,
        /// Patch
        patch: PathBuf,
        /// Where the new image goes
        new: PathBuf,
        /// Write over an existing file
        #[arg(long)]
        force: bool,
    },
    /// What the bytes of a patch are spent on
    Explain {
        /// Image that the patch starts from; - for none
        old: PathBuf,
        /// Patch
        patch: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct DeltaEncodeArgs {
    /// Image that devices run; - for none, which makes a compressed full image
    pub old: PathBuf,
    /// Image that they are to run
    pub new: PathBuf,
    /// Where the patch goes
    pub patch: PathBuf,
    /// Memory that the decoder has
    #[arg(long, value_enum, default_value_t, value_name = "PROFILE")]
    pub profile: DeltaProfile,
    /// Who reads the patch
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: DeltaFormat,
    /// Write over an existing file
    #[arg(long)]
    pub force: bool,
}

/// Memory of a patch's decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DeltaProfile {
    /// At most 32 KB
    #[default]
    Default,
    /// At most 16 KB
    Small,
}

/// Who reads a patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DeltaFormat {
    /// fota (docs/delta-format.md)
    #[default]
    Fota,
    /// Espressif's esp_delta_ota (detools with heatshrink); far larger
    Esp,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// The values in force
    Show {
        /// Also where each comes from
        #[arg(long)]
        origin: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
