//! What a decision about one device depends on, read in the transaction that decides.

use crate::{
    AppState,
    domain::{
        model::{OrderId, Plan, Rollout, Standing},
        rules::Budget,
        step::{Facts, is_followed, join_groups},
    },
    store::{StoreError, Tx},
};

/// Reads the facts about a device; `outcome` is the order whose outcome it reports.
pub async fn facts(
    state: &AppState,
    tx: &mut Tx,
    plan: &Plan,
    id: &str,
    outcome: Option<u64>,
) -> Result<Facts, StoreError> {
    let named = match outcome.map(OrderId::of) {
        Some(OrderId::Install(attempt)) => tx.attempt(attempt).await?,
        _ => None,
    };
    let mut facts = Facts {
        device: tx.device(id).await?,
        groups: tx.groups_of(id).await?,
        tags: tx.tags(id).await?,
        attempts: tx.standing_attempts(id).await?,
        // An order number of another device names nothing here.
        named: named.filter(|attempt| attempt.device == id),
        pin: tx.pin(id).await?,
        rollback: tx.standing_rollback(id).await?,
        blocked: tx.blocked(id).await?.into_iter().collect(),
        next_attempt: tx.next_attempt_id().await?,
        poll_s: state.config.poll_s,
        makes_deltas: state.config.delta_workers > 0,
        ..Facts::default()
    };
    read_loads(state, tx, plan, &mut facts, id).await?;
    Ok(facts)
}

/// What others do in the rollouts that may start the device, and the budgets that it would be
/// charged to. Most plans ask for nothing, and then nothing is read.
async fn read_loads(
    state: &AppState,
    tx: &mut Tx,
    plan: &Plan,
    facts: &mut Facts,
    id: &str,
) -> Result<(), StoreError> {
    let starting: Vec<&Rollout> = plan
        .rollouts
        .iter()
        .filter(|rollout| rollout.standing == Standing::Active && may_start(rollout, facts))
        .collect();
    if starting.is_empty() {
        return Ok(());
    }
    let now = state.now_ms();
    for rollout in starting {
        if !rollout.plan.is_empty() {
            facts.loads.insert(rollout.id, tx.load(rollout, now).await?);
        }
        if let Some(bytes_per_s) = rollout.plan.limits.bytes_per_s {
            let name = format!("rollout r-{}", rollout.id);
            let of = Some(rollout.id);
            facts.budgets.push(budget(tx, name, bytes_per_s, of).await?);
        }
    }
    if let Some(bytes_per_s) = state.config.bandwidth_budget {
        let name = "the server".to_owned();
        facts
            .budgets
            .push(budget(tx, name, bytes_per_s, None).await?);
    }
    read_group_budgets(tx, plan, facts, id).await
}

/// Whether the rollout might make the device an offer now that its limits count for.
fn may_start(rollout: &Rollout, facts: &Facts) -> bool {
    let mut attempts = facts.attempts.iter();
    match attempts.find(|attempt| attempt.rollout == rollout.id) {
        None => true,
        Some(attempt) if attempt.state.is_end() => is_followed(rollout, attempt),
        Some(attempt) => attempt.stalled,
    }
}

async fn read_group_budgets(
    tx: &mut Tx,
    plan: &Plan,
    facts: &mut Facts,
    id: &str,
) -> Result<(), StoreError> {
    let limited = plan.groups.iter().filter(|rule| rule.bytes_per_s.is_some());
    let limited: Vec<_> = limited.collect();
    if limited.is_empty() {
        return Ok(());
    }
    // Which groups that are a filter it is in follows from what it said last; what it says now is
    // not known here, and one offer late is soon enough for a budget.
    let mut known = Facts {
        groups: facts.groups.clone(),
        tags: facts.tags.clone(),
        ..Facts::default()
    };
    if let Some(device) = tx.device(id).await? {
        join_groups(&mut known, plan, &device);
    }
    for rule in limited {
        if let Some(bytes_per_s) = rule.bytes_per_s
            && known.groups.contains(&rule.name)
        {
            let name = format!("group {}", rule.name);
            facts
                .budgets
                .push(budget(tx, name, bytes_per_s, None).await?);
        }
    }
    Ok(())
}

async fn budget(
    tx: &mut Tx,
    name: String,
    bytes_per_s: u64,
    rollout: Option<i64>,
) -> Result<Budget, StoreError> {
    Ok(Budget {
        free_at: tx.moment(&name).await?,
        name,
        bytes_per_s,
        rollout,
    })
}
