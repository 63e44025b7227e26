//! What the failures of a rollout have in common, in the words of the manager API.

use std::collections::BTreeMap;

use fota_proto::notify::{Cluster, RolloutClusters, StateCount};

use crate::{
    domain::{
        clusters::{self, GROUPS_MAX, Group},
        fit::chip_name,
    },
    store::{StoreError, Tx},
};

/// One more than are looked at, so that it shows where there are more.
const LIMIT: i64 = GROUPS_MAX as i64 + 1;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Looks at the attempts of a rollout as they stand.
pub async fn of_rollout(tx: &mut Tx, rollout: i64) -> Result<RolloutClusters, StoreError> {
    let groups = tx.failure_groups(rollout, LIMIT).await?;
    Ok(RolloutClusters {
        rollout: Some(rollout),
        ..found(groups)
    })
}

/// Looks at the attempts of all rollouts that ended in the last days.
pub async fn of_days(tx: &mut Tx, days: u32, now: i64) -> Result<RolloutClusters, StoreError> {
    let since = now - i64::from(days) * DAY_MS;
    let groups = tx.failure_groups_since(since, LIMIT).await?;
    Ok(RolloutClusters {
        days: Some(days),
        ..found(groups)
    })
}

fn found(mut groups: Vec<Group>) -> RolloutClusters {
    let partial = groups.len() > GROUPS_MAX;
    groups.truncate(GROUPS_MAX);
    let mut states: BTreeMap<String, u64> = BTreeMap::new();
    for group in &groups {
        if let Some(state) = group.failure.as_ref().and_then(|way| way.state.clone()) {
            *states.entry(state).or_default() += group.devices;
        }
    }
    let mut states: Vec<StateCount> = states
        .into_iter()
        .map(|(state, devices)| StateCount { state, devices })
        .collect();
    states.sort_by_key(|count| std::cmp::Reverse(count.devices));
    RolloutClusters {
        rollout: None,
        days: None,
        devices: groups.iter().map(|group| group.devices).sum(),
        failed: states.iter().map(|count| count.devices).sum(),
        states,
        clusters: clusters::clusters(&groups).iter().map(view).collect(),
        partial,
    }
}

fn view(cluster: &clusters::Cluster) -> Cluster {
    let counts = cluster.counts;
    Cluster {
        text: cluster.text(),
        chip: cluster.kind.chip.map(chip_name),
        chip_revision: cluster.kind.revision,
        from_version: cluster.kind.from_version.clone(),
        signal: cluster.kind.signal.map(|signal| signal.name().to_owned()),
        state: cluster.way.state.clone(),
        reset: cluster.way.reset.clone(),
        failed: counts.failed,
        devices: counts.devices,
        elsewhere_failed: counts.elsewhere_failed,
        elsewhere_devices: counts.elsewhere_devices,
        score: cluster.score,
    }
}
