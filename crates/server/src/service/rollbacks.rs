//! Ordering devices back.

use fota_proto::{
    limits::REASON_BYTES_MAX,
    manager::{Excluded, RollbackRequest},
};

use super::{
    commit_by, population,
    rollouts::{find_release, find_target},
};
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{By, Record},
    domain::{
        kind::Selection,
        model::{Device, NewEvent, Plan, Protocol, Release, RollbackOrder, RollbackState},
        trust::below_epoch,
    },
    store::{StoreError, Tx},
};

/// The seed's word for "there is nothing to go back to", and ours.
pub const NO_TARGET: &str = "no_rollback_target";

/// What it would go back to is of a security epoch that the device has left behind for good.
pub const BELOW_EPOCH: &str = "below_security_epoch";

/// What a request for a rollback has brought about.
pub struct Ordered {
    pub orders: Vec<RollbackOrder>,
    pub excluded: Vec<Excluded>,
}

/// Orders each device that the request names to leave what it runs; `all` and groups fan out to
/// one order per device.
pub async fn order(
    state: &AppState,
    request: &RollbackRequest,
    by: &By,
) -> Result<Ordered, Refusal> {
    check_reason(&request.reason)?;
    let mut tx = state.store.write().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let only = match &request.release {
        Some(name) => Some(find_release(&mut tx, name).await?),
        None => None,
    };
    let target = find_target(&mut tx, &request.to).await?;
    let mut ordered = Ordered {
        orders: Vec::new(),
        excluded: Vec::new(),
    };
    let mut events = Vec::new();
    let by_hand = Because {
        reason: request.reason.clone(),
        actor: "operator",
        rollout: None,
    };
    let named = Selection::new(&plan, &target, None);
    for id in population::ids(&mut tx, &named).await? {
        let reason = match tx.device(&id).await? {
            None => Err("unknown_device"),
            Some(device) if !runs_only(&device, only.as_ref()) => Err("runs_another_release"),
            Some(device) => {
                let now = state.now_ms();
                order_one(&mut tx, &plan, &device, &by_hand, now).await?
            }
        };
        match reason {
            Ok(one) => {
                events.extend(one.event);
                ordered.orders.push(one.order);
            }
            Err(reason) => ordered.excluded.push(Excluded {
                device: id,
                reason: reason.to_owned(),
            }),
        }
    }
    let (orders, excluded) = (ordered.orders.len(), ordered.excluded.len());
    let detail = format!("{orders} devices, {excluded} left out: {}", request.reason);
    let record = Record::new("rollback.requested", target.shown(), detail);
    commit_by(state, tx, by, record, &events, true).await?;
    Ok(ordered)
}

/// The reason goes to the device, whose protocol has room for so much.
fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.trim().is_empty() {
        let detail = "reason is empty: say why, it is shown in the device's history";
        return Err(Refusal::field("reason", detail));
    }
    if reason.len() > REASON_BYTES_MAX {
        let detail = format!(
            "reason has {} bytes; at most {REASON_BYTES_MAX} are taken",
            reason.len()
        );
        return Err(Refusal::field("reason", detail));
    }
    Ok(())
}

fn runs_only(device: &Device, only: Option<&Release>) -> bool {
    only.is_none_or(|release| device.running().is(release))
}

/// An order and, where it is new, the event that tells of it.
pub struct One {
    pub order: RollbackOrder,
    pub event: Option<NewEvent>,
}

/// Why a device is ordered back, and who does it.
pub struct Because {
    pub reason: String,
    pub actor: &'static str,
    /// The rollout that breached a gate.
    pub rollout: Option<i64>,
}

/// Orders one device back; an order that stands already is given again.
pub async fn order_one(
    tx: &mut Tx,
    plan: &Plan,
    device: &Device,
    because: &Because,
    now: i64,
) -> Result<Result<One, &'static str>, StoreError> {
    if let Some(order) = tx.standing_rollback(&device.id).await? {
        return Ok(Ok(One { order, event: None }));
    }
    // A seed device has no digest, and it may not have said its version yet: it may be asked.
    let is_unknown = device.elf.is_none() && device.version.is_none();
    if is_unknown && device.protocol == Protocol::Native {
        return Ok(Err("running_image_unknown"));
    }
    if !device.rollback_available() {
        return Ok(Err(NO_TARGET));
    }
    if let Some((epoch, floor)) = below_epoch(device, plan) {
        tracing::debug!(
            device = device.id,
            epoch,
            floor,
            "the device would not go back so far"
        );
        return Ok(Err(BELOW_EPOCH));
    }
    let release = plan.running(device.running()).map(|release| release.id);
    let new = RollbackOrder {
        id: 0,
        device: device.id.clone(),
        leave_elf: device.elf,
        leave_version: device.version.clone(),
        release,
        reason: because.reason.clone(),
        state: RollbackState::Standing,
        code: None,
        requested_at: now,
        ended_at: None,
        rollout: because.rollout,
    };
    let order = tx.insert_rollback(&new).await?;
    let leaves = device.version.as_deref().unwrap_or("what it runs");
    let event = NewEvent {
        kind: "rollback.requested".to_owned(),
        device: Some(device.id.clone()),
        rollout: because.rollout,
        release,
        actor: because.actor,
        text: format!("leave {leaves}: {}", because.reason),
        ..NewEvent::default()
    };
    Ok(Ok(One {
        order,
        event: Some(event),
    }))
}
