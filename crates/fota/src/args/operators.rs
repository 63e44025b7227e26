//! Who may do what, and who did what.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use fota_proto::operators::Role;
use fota_server::domain::audit::Head;

use crate::text::parse_duration;

#[derive(Debug, Default, Args)]
pub struct LoginArgs {
    /// Log in as this user; asks for the password
    #[arg(long, value_name = "NAME", conflicts_with = "token_stdin")]
    pub user: Option<String>,
    /// Read the password from stdin
    #[arg(long, requires = "user")]
    pub password_stdin: bool,
    /// Store a token that is read from stdin
    #[arg(long)]
    pub token_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Every user
    List,
    /// Make a user; asks for a password
    Create {
        /// Name
        name: String,
        /// viewer, operator, releaser or admin
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// Read the password from stdin
        #[arg(long)]
        password_stdin: bool,
    },
    /// Set a password; all sessions of the user end
    Passwd {
        /// User
        name: String,
        /// Read it from stdin: the new one, or for your own two lines, the current and the new one
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a user another role
    Role {
        /// User
        name: String,
        /// viewer, operator, releaser or admin
        role: Role,
    },
    /// Remove a user with all sessions and tokens
    Rm {
        /// User
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Your tokens; for an admin those of everybody
    List,
    /// Make a token; it is printed this once
    Create {
        /// Name
        #[arg(long, value_name = "N")]
        name: String,
        /// Most that it may do: viewer, operator, releaser or admin
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// How long it is good for, such as 90d [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        expires: Option<Duration>,
    },
    /// Make a token useless
    Revoke {
        /// Name or number
        // Not called `token`: that is the global option.
        #[arg(value_name = "TOKEN")]
        which: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// The newest entries
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// The whole log, one JSON object per line
    Export {
        /// Where to [default: stdout]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write over an existing file
        #[arg(long)]
        force: bool,
    },
    /// Whether the log is as it was written; names the entry that is not
    Verify {
        /// An export [default: the log of the server]
        file: Option<PathBuf>,
        /// What an earlier run printed: finds also a cut end and a log made anew
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<Head>,
    },
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where to; nobody else may read it, for it holds the keys and tokens of the server
    pub file: PathBuf,
    /// Write over an existing file
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `fota backup` wrote
    pub file: PathBuf,
    /// Folder of the new server: must be empty, or not there
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// An empty PostgreSQL database instead of the built-in one, whichever the old server had
    #[arg(long, value_name = "postgres://…")]
    pub db: Option<String>,
}
