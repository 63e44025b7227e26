//! The part of the database that all check-ins share, and its generation number.

use super::{StoreError, Tx};
use crate::domain::model::Plan;

impl Tx {
    /// The number that changes with every change of the plan.
    pub async fn generation(&mut self) -> Result<i64, StoreError> {
        let stored = self
            .one("SELECT value FROM generation", [], |row| row.int())
            .await?;
        stored.ok_or_else(|| StoreError::stored("a generation", &"no row"))
    }

    /// Tells every node that releases, rollouts, groups, blocks or orders have changed.
    pub async fn bump_generation(&mut self) -> Result<(), StoreError> {
        self.run("UPDATE generation SET value = value + 1", [])
            .await
            .map(drop)
    }

    /// All releases, and the rollouts that may offer, newest first.
    pub async fn plan(&mut self) -> Result<Plan, StoreError> {
        let releases = self.releases().await?;
        Ok(Plan {
            generation: self.generation().await?,
            releases: releases
                .into_iter()
                .map(|release| (release.id, release))
                .collect(),
            rollouts: self.standing_rollouts().await?,
        })
    }
}
