//! `fota rollout …` on the command line.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::text::parse_duration;

/// How a rollout goes about failures.
#[derive(Clone, Debug, Default, Args)]
pub struct RolloutOptions {
    /// Pause when N devices, or more than P% of them, have failed or gone back
    #[arg(long, value_name = "N|P%")]
    pub max_failures: Option<MaxFailures>,
    /// When it pauses so, order the devices that have the release back; without --max-failures
    /// the first failure pauses
    #[arg(long)]
    pub rollback_on_failure: bool,
    /// How long a new image has to confirm itself on the device [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub trial_deadline: Option<Duration>,
    /// Install although a device's project differs from the release's
    #[arg(long)]
    pub allow_product_change: bool,
}

#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Bring a release that is on the server to devices
    Start {
        /// Version or number
        release: String,
        /// Targets: all, group:NAME or device ids
        #[arg(long, value_name = "TARGET", num_args = 1.., required = true, value_delimiter = ',')]
        to: Vec<String>,
        #[command(flatten)]
        options: RolloutOptions,
    },
    /// Bring a release to devices as a file says: waves, gates, limits, windows
    Plan(RolloutPlanArgs),
    /// Every rollout
    List,
    /// One rollout and its devices
    Show {
        /// Rollout, e.g. r-42
        rollout: RolloutId,
    },
    /// Follow a rollout to its end
    Watch {
        /// Rollout [default: the newest]
        rollout: Option<RolloutId>,
        /// How long
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Offer it to nobody else; attempts under way go on
    Pause(RolloutReason),
    /// Offer it again
    Resume(RolloutReason),
    /// Go on to the next wave, whatever its gates say
    Promote(RolloutReason),
    /// Let it begin, where its plan asks for a second person; not your own
    Approve(RolloutReason),
    /// End it for good
    Abort(RolloutReason),
    /// Give devices that failed a new attempt
    Retry {
        /// Rollout, e.g. r-42
        rollout: RolloutId,
    },
    /// What stands out among the failures: code, chip, version before, signal, reset reason
    Clusters {
        /// Rollout, e.g. r-42; without it all of the last days
        rollout: Option<RolloutId>,
        /// So many days
        #[arg(long, value_name = "N", default_value_t = 7, conflicts_with = "rollout",
            value_parser = clap::value_parser!(u32).range(1..=365))]
        days: u32,
    },
}

#[derive(Debug, Args)]
pub struct RolloutReason {
    /// Rollout, e.g. r-42
    pub rollout: RolloutId,
    /// Why
    #[arg(long, value_name = "R", default_value = "")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct RolloutPlanArgs {
    /// File with the plan (TOML), see docs/rollouts.md
    #[arg(short, long, value_name = "FILE", required_unless_present = "example")]
    pub file: Option<std::path::PathBuf>,
    /// Say what it would do and when it would end, and start nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print a plan with every setting explained
    #[arg(long, conflicts_with_all = ["file", "dry_run"])]
    pub example: bool,
}

/// Number of a rollout, written `42` or `r-42`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolloutId(pub i64);

impl std::str::FromStr for RolloutId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("r-").unwrap_or(text);
        let id = digits.parse().ok().filter(|id| *id > 0);
        id.map(Self)
            .ok_or_else(|| format!("{text:?} is no rollout: write r-42 or 42"))
    }
}

/// A limit of failures, as a number of devices or a share of those that a rollout reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxFailures {
    Devices(u32),
    Percent(u32),
}

impl std::str::FromStr for MaxFailures {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no limit: write a number from 1, or 1% to 99%");
        let (number, in_percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let number: u32 = number.trim().parse().map_err(|_| wrong())?;
        match (number, in_percent) {
            (0, _) => Err(wrong()),
            (number, false) => Ok(Self::Devices(number)),
            (1..=99, true) => Ok(Self::Percent(number)),
            (_, true) => Err(wrong()),
        }
    }
}

impl MaxFailures {
    /// How many failures pause a rollout to `devices`: of a share, the first number above it.
    pub fn of(self, devices: u64) -> u32 {
        match self {
            Self::Devices(number) => number,
            Self::Percent(percent) => {
                let share = devices.saturating_mul(u64::from(percent)) / 100;
                u32::try_from(share + 1).unwrap_or(u32::MAX)
            }
        }
    }
}

impl std::fmt::Display for MaxFailures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Devices(number) => write!(f, "{number}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_failures_pauses_above_it() {
        let cases = [("10%", 4, 1), ("10%", 11, 2), ("50%", 4, 3), ("3", 100, 3)];
        for (text, devices, pauses_at) in cases {
            let limit: MaxFailures = text.parse().expect("valid");
            assert_eq!(limit.of(devices), pauses_at, "{text} of {devices}");
            assert_eq!(limit.to_string(), text);
        }
        for bad in ["", "0", "0%", "100%", "-1", "many"] {
            assert!(bad.parse::<MaxFailures>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rollout_is_named_with_or_without_its_letter() {
        assert_eq!("r-42".parse(), Ok(RolloutId(42)));
        assert_eq!("42".parse(), Ok(RolloutId(42)));
        assert!("r-0".parse::<RolloutId>().is_err());
        assert!("newest".parse::<RolloutId>().is_err());
    }
}
