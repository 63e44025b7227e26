//! Arguments of `fota key …` and of signing a release.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::text::{parse_duration, parse_time};

/// Where the operator's keys are.
#[derive(Clone, Debug, Default, Args)]
pub struct KeyFolder {
    /// Folder of the keys [env: FOTA_KEYS] [default: keys in the folder of fota's settings]
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// File with the passphrase in its first line [env: FOTA_KEY_PASSPHRASE holds it itself]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key
    Generate {
        /// Its name
        name: String,
        /// Algorithm; ed25519 only for fleets whose devices all have it
        #[arg(long, value_enum, default_value_t, value_name = "ALG")]
        alg: KeyAlg,
        /// Keep it unprotected: anyone with the file can sign
        #[arg(long)]
        no_passphrase: bool,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Every key
    List {
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// One key: its public part
    Show {
        /// Name, file with a public key, or hex digits
        key: String,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Write out a key: its public part, or with --private all of it
    Export {
        /// Name
        name: String,
        /// How the public key is written
        #[arg(
            long,
            value_enum,
            default_value_t,
            value_name = "FORM",
            conflicts_with = "private"
        )]
        form: KeyForm,
        /// The private key as well, as PKCS#8 PEM
        #[arg(long)]
        private: bool,
        /// Without the passphrase: anyone with the file can sign
        #[arg(long, requires = "private")]
        no_passphrase: bool,
        /// Where to [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Take in a key: PKCS#8, SEC 1 or SPKI, as PEM or DER
    Import {
        /// Its name here
        name: String,
        /// File with a private key, or with a public one whose private part stays elsewhere
        file: PathBuf,
        /// Keep it unprotected: anyone with the file can sign
        #[arg(long)]
        no_passphrase: bool,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Make a new key and the next root, in which it takes the place of an old one
    Rotate {
        /// Old key
        name: String,
        /// Name of the new key [default: NAME-2, then NAME-3 …]
        #[arg(long, value_name = "NAME")]
        new_name: Option<String>,
        /// Keep the new key unprotected: anyone with the file can sign
        #[arg(long)]
        no_passphrase: bool,
        #[command(flatten)]
        next: NextFile,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Make the next root, in which a key counts for nothing any more
    Revoke {
        /// Name, file with a public key, or hex digits
        key: String,
        /// The key, instead of typing it
        #[arg(long, value_name = "KEY")]
        confirm: Option<String>,
        #[command(flatten)]
        next: NextFile,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Roots: which keys count, and for what
    #[command(subcommand)]
    Root(RootCommand),
}

/// From which root to which.
#[derive(Clone, Debug, Default, Args)]
pub struct NextFile {
    /// The root that is in force [default: the newest in the key folder]
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Where to [default: root-N.cose beside it]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Do not sign it with the keys that are here
    #[arg(long)]
    pub no_sign: bool,
}

#[derive(Debug, Subcommand)]
pub enum RootCommand {
    /// Make root 1
    Init {
        /// Key that may sign the next root: name, file or hex digits; several times
        #[arg(long = "root", value_name = "KEY", required = true)]
        root: Vec<String>,
        /// How many of them must sign
        #[arg(long, value_name = "N", default_value_t = 1)]
        root_threshold: u8,
        /// Key that may sign releases; several times
        #[arg(long = "release", value_name = "KEY", required = true)]
        release: Vec<String>,
        /// How many of them must sign
        #[arg(long, value_name = "N", default_value_t = 1)]
        release_threshold: u8,
        /// Key that answers devices; @server asks the server for its own
        #[arg(long = "online", value_name = "KEY", required = true)]
        online: Vec<String>,
        /// Only for this product [default: all]
        #[arg(long, value_name = "P")]
        product: Option<String>,
        /// When parties with a clock stop using it: 2030-12-31
        #[arg(long, value_name = "DATE", value_parser = parse_time)]
        expires: Option<u64>,
        /// Where to [default: root-1.cose in the key folder]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Do not sign it with the keys that are here
        #[arg(long)]
        no_sign: bool,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// What a root says, and who has signed it
    Show {
        /// Root [default: the newest in the key folder]
        file: Option<PathBuf>,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Add signatures to a root, in place
    Sign {
        /// Root
        file: PathBuf,
        #[command(flatten)]
        signers: SignerArgs,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Make the root that follows one
    Next {
        #[command(flatten)]
        change: RootChange,
        #[command(flatten)]
        next: NextFile,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Check a chain of roots, the first one first
    Verify {
        /// Roots
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Hand a root to the server
    Publish {
        /// Root
        file: PathBuf,
    },
}

/// What the next root has different.
#[derive(Clone, Debug, Default, Args)]
pub struct RootChange {
    /// One more root key
    #[arg(long, value_name = "KEY")]
    pub add_root: Vec<String>,
    /// A root key less
    #[arg(long, value_name = "KEY")]
    pub remove_root: Vec<String>,
    /// How many root keys must sign
    #[arg(long, value_name = "N")]
    pub root_threshold: Option<u8>,
    /// One more release key
    #[arg(long, value_name = "KEY")]
    pub add_release: Vec<String>,
    /// A release key less
    #[arg(long, value_name = "KEY")]
    pub remove_release: Vec<String>,
    /// How many release keys must sign
    #[arg(long, value_name = "N")]
    pub release_threshold: Option<u8>,
    /// One more online key; @server asks the server for its own
    #[arg(long, value_name = "KEY")]
    pub add_online: Vec<String>,
    /// An online key less
    #[arg(long, value_name = "KEY")]
    pub remove_online: Vec<String>,
    /// When parties with a clock stop using it: 2030-12-31
    #[arg(long, value_name = "DATE", value_parser = parse_time)]
    pub expires: Option<u64>,
}

/// Who signs.
#[derive(Clone, Debug, Default, Args)]
pub struct SignerArgs {
    /// Key of the folder; several times
    #[arg(long = "key", value_name = "NAME")]
    pub key: Vec<String>,
    /// Command that signs: the message on its standard input, the signature (DER, or 64 bytes)
    /// on its standard output
    #[arg(long, value_name = "CMD", requires = "public")]
    pub signer_command: Option<String>,
    /// Its public key: name, file or hex digits
    #[arg(long, value_name = "KEY", requires = "signer_command")]
    pub public: Option<String>,
    #[cfg(feature = "pkcs11")]
    #[command(flatten)]
    pub token: TokenArgs,
}

impl SignerArgs {
    /// Whether a token signs.
    pub fn has_token(&self) -> bool {
        #[cfg(feature = "pkcs11")]
        return self.token.pkcs11_module.is_some();
        #[cfg(not(feature = "pkcs11"))]
        false
    }
}

/// A key on a PKCS#11 token.
#[cfg(feature = "pkcs11")]
#[derive(Clone, Debug, Default, Args)]
pub struct TokenArgs {
    /// PKCS#11 library of the token
    #[arg(long, value_name = "FILE", requires = "pkcs11_key")]
    pub pkcs11_module: Option<PathBuf>,
    /// Label of the P-256 key on it
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    pub pkcs11_key: Option<String>,
    /// File with the PIN in its first line
    #[arg(long, value_name = "FILE", requires = "pkcs11_module")]
    pub pkcs11_pin_file: Option<PathBuf>,
}

/// `fota release sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// Image (.bin), or a bundle to add a signature to; left out: as for upload
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub signers: SignerArgs,
    #[command(flatten)]
    pub release: ReleaseFields,
    /// Leave room for the signatures of further keys
    #[arg(long)]
    pub cosign: bool,
    /// Where to [default: beside the image, .fota]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write over an existing file
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub folder: KeyFolder,
}

/// What a release says besides what is in the image.
#[derive(Clone, Debug, Default, Args)]
pub struct ReleaseFields {
    /// Its place in the order of releases [default: of version 1.2.3, 1002003]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub sequence: Option<u32>,
    /// Security epoch: a device never goes back below it
    #[arg(long, value_name = "E", default_value_t = 0)]
    pub epoch: u32,
    /// Product [default: the project name in the image]
    #[arg(long, value_name = "P")]
    pub product: Option<String>,
    /// Version, where the image has none of its own
    #[arg(long, value_name = "V")]
    pub version: Option<String>,
    /// Revisions of the board that it runs on, e.g. 1..3 [default: all]
    #[arg(long, value_name = "LOW..HIGH", value_parser = parse_revisions)]
    pub hardware: Option<(u16, u16)>,
    /// When it is no longer to be offered: 2030-12-31
    #[arg(long, value_name = "DATE", value_parser = parse_time)]
    pub expires: Option<u64>,
    /// How long it has to confirm itself on a device
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub self_test_deadline: Option<u16>,
    /// Starts that may end by losing power before a further one counts as a crash
    #[arg(long, value_name = "N")]
    pub trial_attempts: Option<u8>,
    /// Until when it is supported: 2030-12-31
    #[arg(long, value_name = "DATE", value_parser = parse_time)]
    pub support_until: Option<u64>,
    /// Where to read about it
    #[arg(long, value_name = "URL")]
    pub advisory: Option<String>,
}

/// Algorithm of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KeyAlg {
    /// ECDSA on P-256 with SHA-256; every device can do it
    #[default]
    P256,
    /// Ed25519
    Ed25519,
}

/// How a public key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KeyForm {
    /// SPKI as PEM
    #[default]
    Pem,
    /// SPKI as DER
    Der,
    /// The raw key in hex digits
    Hex,
}

fn parse_revisions(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is no range of revisions: write 1..3, or 2 for 2..2");
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
    let (low, high) = (number(low)?, number(high)?);
    (low <= high).then_some((low, high)).ok_or_else(wrong)
}

fn parse_seconds(text: &str) -> Result<u16, String> {
    let seconds = parse_duration(text)?.as_secs();
    let fits = u16::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    fits.ok_or_else(|| format!("{text:?} is {seconds} seconds; 1 to 65535 are possible"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_and_deadlines_are_bounded() {
        assert_eq!(parse_revisions("1..3"), Ok((1, 3)));
        assert_eq!(parse_revisions("2"), Ok((2, 2)));
        for bad in ["", "3..1", "..", "1..", "70000", "1...3"] {
            assert!(parse_revisions(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_seconds("5m"), Ok(300));
        assert!(parse_seconds("0").is_err() && parse_seconds("1d").is_err());
    }
}
