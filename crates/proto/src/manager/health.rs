//! How the devices of a rollout are, by source.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Percent;

/// How the updated devices of a rollout are, against those it has brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Updated devices that are judged.
    pub updated: u64,
    /// Of these, unwell from any source.
    pub updated_unwell: u64,
    /// Devices watched without the release.
    pub others: u64,
    /// Of these, unwell.
    pub others_unwell: u64,
    /// By what they are unwell: `failed`, `crashed`, `silent`, and the bounds of the plan.
    pub sources: Vec<HealthSource>,
    /// The share that counts as normal: the upper end of what the others allow, in percent.
    #[schema(value_type = f64)]
    pub normal: Percent,
    /// What the test says.
    pub verdict: HealthVerdict,
}

/// Devices unwell from one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthSource {
    /// The source.
    pub name: String,
    /// Updated devices.
    pub updated: u64,
    /// Others.
    pub others: u64,
}

/// What the sequential test says of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthVerdict {
    /// It is not worse by the tolerance.
    Go,
    /// It is worse.
    Stop,
    /// Not known yet.
    More,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            updated,
            updated_unwell,
            others,
            others_unwell,
            ..
        } = self;
        write!(
            f,
            "{updated_unwell} of {updated} updated are unwell, {others_unwell} of {others} others; \
             up to {} is normal; ",
            self.normal
        )?;
        f.write_str(match self.verdict {
            HealthVerdict::Go => "proven: no worse",
            HealthVerdict::Stop => "worse: stop",
            HealthVerdict::More => "not decided yet",
        })?;
        for (index, source) in self.sources.iter().enumerate() {
            let before = if index == 0 {
                " (updated / others: "
            } else {
                ", "
            };
            let (name, updated, others) = (&source.name, source.updated, source.others);
            write!(f, "{before}{name} {updated} / {others}")?;
        }
        if !self.sources.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}
