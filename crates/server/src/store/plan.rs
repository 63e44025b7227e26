//! The part of the database that all check-ins share, and its generation number.

use std::sync::Arc;

use fota_proto::Sha256;

use super::{StoreError, Tx};
use crate::domain::{log::Tree, model::Plan};

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

    /// All releases, and the rollouts that may offer, newest first. `log` is what is known of the
    /// release log; only what is behind it is read.
    pub async fn plan(&mut self, log: &Arc<Tree>) -> Result<Plan, StoreError> {
        let releases = self.releases().await?;
        let news = self.log_digests_from(log.size()).await?;
        Ok(Plan {
            generation: self.generation().await?,
            releases: releases
                .into_iter()
                .map(|release| (release.id, release))
                .collect(),
            rollouts: self.standing_rollouts().await?,
            root: self.newest_root().await?.map(|root| root.version),
            log: grown(log, news),
            deltas: self.planned_deltas().await?,
            groups: self.group_rules().await?,
        })
    }
}

fn grown(log: &Arc<Tree>, news: Vec<Sha256>) -> Arc<Tree> {
    if news.is_empty() {
        return Arc::clone(log);
    }
    let mut tree = Tree::clone(log);
    news.into_iter().for_each(|entry| tree.push(entry));
    Arc::new(tree)
}
