//! Patches: what is to be made, by whom it was asked, and who makes it.

mod make;
mod worker;

use std::collections::BTreeMap;

use axum::http::StatusCode;
use fota_proto::{Sha256, checkin::PatchProfile, manager};

pub use make::{Encode, encode};
pub use worker::{Deltas, run, take_up};

use super::{commit, commit_by, population, rollouts::find_release};
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{By, Record},
    domain::{
        delta::{PER_RELEASE_MAX, SOURCES_AT_START_MAX, State, Wanted, profile_name, state_name},
        kind::Selection,
        model::{Plan, Release, Rollout},
    },
    store::{StoreError, StoredDelta, Tx},
};

/// Asks for the patches that devices of a rollout are likely to want, beside its start, which is
/// not to wait for a look at the whole fleet: out of what most of them run, and the compressed
/// image for those that run what nobody uploaded.
pub fn look_ahead(state: &AppState, rollout: &Rollout, release: &Release) {
    if state.config.delta_workers == 0 || release.signed.is_none() {
        return;
    }
    let (state, rollout, release) = (state.clone(), rollout.clone(), release.id);
    tokio::spawn(async move {
        if let Err(error) = queue_for_rollout(&state, &rollout, release).await {
            // Each device that comes asks for its own.
            tracing::warn!(rollout = rollout.id, %error, "patches were not asked for ahead");
        }
    });
}

async fn queue_for_rollout(
    state: &AppState,
    rollout: &Rollout,
    release: i64,
) -> Result<(), StoreError> {
    let sources = rollout_sources(state, rollout, release).await?;
    let now = state.now_ms();
    let mut tx = state.store.write().await?;
    for (from, profile) in sources {
        let wanted = Wanted {
            release,
            from,
            profile,
        };
        if tx.count_deltas(release).await? < PER_RELEASE_MAX as u64 {
            tx.queue_delta(wanted, now).await?;
        }
    }
    commit(state, tx, &[], true).await?;
    state.deltas.wake();
    Ok(())
}

/// What devices of the rollout run, those of most devices first.
async fn rollout_sources(
    state: &AppState,
    rollout: &Rollout,
    release: i64,
) -> Result<Vec<(Option<i64>, PatchProfile)>, StoreError> {
    let mut tx = state.store.read().await?;
    let running = running(state, &mut tx, rollout).await?;
    let mut sources = Vec::new();
    for (elf, profile) in running {
        let source = match tx.release_by_elf(elf).await? {
            Some(from) if from.id == release => continue,
            from => (from.map(|from| from.id), profile),
        };
        if !sources.contains(&source) {
            sources.push(source);
        }
        if sources.len() == SOURCES_AT_START_MAX {
            break;
        }
    }
    Ok(sources)
}

/// What the rollout's devices run that take patches and trust a root, that of most devices first.
async fn running(
    state: &AppState,
    tx: &mut Tx,
    rollout: &Rollout,
) -> Result<Vec<(Sha256, PatchProfile)>, StoreError> {
    let plan = state.fleet.plan(tx).await?;
    let mut counts = BTreeMap::<(Sha256, PatchProfile), u64>::new();
    population::parts(tx, &Selection::of(&plan, rollout), |part| {
        let device = &part.kind().device;
        if let (Some(elf), Some(profile), true) =
            (device.elf, device.patches, device.trust.needs_signature())
        {
            *counts.entry((elf, profile)).or_default() += part.devices();
        }
    })
    .await?;
    let mut sources: Vec<_> = counts.into_iter().collect();
    sources.sort_by_key(|(_, devices)| std::cmp::Reverse(*devices));
    Ok(sources.into_iter().map(|(source, _)| source).collect())
}

/// Asks for patches because an operator said so; those that failed are tried again.
pub async fn build(
    state: &AppState,
    request: &manager::DeltaRequest,
    by: &By,
) -> Result<Vec<manager::Delta>, Refusal> {
    if state.config.delta_workers == 0 {
        let detail = "this server makes no patches: start it with --delta-workers 1 or more";
        return Err(Refusal::conflict("deltas_off", detail));
    }
    let mut tx = state.store.write().await?;
    let release = find_release(&mut tx, &request.release).await?;
    if release.signed.is_none() {
        let detail = format!(
            "release {} is not signed, and a patch is only offered where the signed index proves \
             what comes out of it: sign it, then upload the bundle",
            release.version
        );
        return Err(Refusal::conflict("unsigned", detail).of("release"));
    }
    let sources = sources(&mut tx, request, &release).await?;
    let profile = profile(request.profile);
    let now = state.now_ms();
    let mut built = Vec::new();
    for from in sources {
        let wanted = Wanted {
            release: release.id,
            from,
            profile,
        };
        built.push(ask_for(&mut tx, wanted, now).await?);
    }
    let plan = state.fleet.plan(&mut tx).await?;
    let shown = built.iter().map(|delta| view(&plan, delta)).collect();
    let detail = format!(
        "release:{} {}: {} patches, {}",
        release.id,
        release.version,
        built.len(),
        profile_name(profile)
    );
    let object = format!("release:{}", release.id);
    let record = Record::new("delta.built", object, detail);
    commit_by(state, tx, by, record, &[], true).await?;
    state.deltas.wake();
    Ok(shown)
}

async fn ask_for(tx: &mut Tx, wanted: Wanted, now: i64) -> Result<StoredDelta, Refusal> {
    let known = tx.find_delta(wanted).await?;
    match &known {
        Some(known) if known.delta.state == State::Failed => {
            tx.queue_delta_again(known.delta.id, now).await?;
        }
        Some(_) => {}
        None => {
            let have = tx.count_deltas(wanted.release).await?;
            if have >= PER_RELEASE_MAX as u64 {
                let detail = format!(
                    "the release has {have} patches; at most {PER_RELEASE_MAX} are kept: devices \
                     on other versions get the compressed image"
                );
                return Err(Refusal::conflict("deltas_full", detail).of("from"));
            }
            tx.queue_delta(wanted, now).await?;
        }
    }
    let stored = tx.find_delta(wanted).await?;
    stored.ok_or_else(|| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Refusal::new(
            status,
            "bug",
            "a patch was asked for and is not there: please report it",
        )
    })
}

/// The releases that the request names as what is run; none of them is the compressed image.
async fn sources(
    tx: &mut Tx,
    request: &manager::DeltaRequest,
    release: &Release,
) -> Result<Vec<Option<i64>>, Refusal> {
    if request.from.len() > PER_RELEASE_MAX {
        let have = request.from.len();
        let detail = format!("from names {have} releases; at most {PER_RELEASE_MAX} are taken");
        return Err(Refusal::field("from", detail));
    }
    let mut sources = Vec::new();
    if request.all_running {
        let mut running = tx.running_on().await?;
        running.sort_by_key(|(_, devices)| std::cmp::Reverse(*devices));
        running.truncate(PER_RELEASE_MAX);
        for (id, _) in running {
            let runs = tx.release(id).await?;
            let same =
                |runs: &Release| runs.project == release.project && runs.chip == release.chip;
            if runs.is_some_and(|runs| runs.id != release.id && same(&runs)) {
                sources.push(Some(id));
            }
        }
    }
    for name in &request.from {
        let from = find_release(tx, name)
            .await
            .map_err(|refusal| refusal.of("from"))?;
        if from.id == release.id {
            let detail = format!("from names {}, which is the release itself", from.version);
            return Err(Refusal::field("from", detail));
        }
        if from.elf.is_none() {
            let detail = format!(
                "release {} is no image, so no device says it runs it",
                from.version
            );
            return Err(Refusal::field("from", detail));
        }
        sources.push(Some(from.id));
    }
    if request.from.is_empty() && !request.all_running {
        sources.push(None);
    }
    sources.sort_unstable();
    sources.dedup();
    Ok(sources)
}

/// A patch in the words of the manager API.
pub fn view(plan: &Plan, stored: &StoredDelta) -> manager::Delta {
    let delta = &stored.delta;
    let version = |id: i64| {
        let release = plan.releases.get(&id);
        release.map_or_else(
            || format!("release {id}"),
            |release| release.version.clone(),
        )
    };
    let patch = match delta.state {
        State::Ready(patch) => Some(patch),
        _ => None,
    };
    manager::Delta {
        id: delta.id,
        release: delta.release,
        version: version(delta.release),
        from: delta.from,
        from_version: delta.from.map(version),
        profile: match delta.profile {
            PatchProfile::Small => manager::DeltaProfile::Small,
            PatchProfile::Default => manager::DeltaProfile::Default,
        },
        state: state_name(delta.state).to_owned(),
        sha256: patch.map(|patch| patch.sha256),
        bytes: patch.map(|patch| patch.bytes.into()),
        image_bytes: plan
            .releases
            .get(&delta.release)
            .map_or(0, |release| release.bytes),
        made_in_ms: stored.made_in_ms,
        detail: stored.detail.clone(),
        queued_at: delta.queued_at,
        offered: stored.offered,
        succeeded: stored.succeeded,
        spared_bytes: stored.spared_bytes,
    }
}

fn profile(wanted: manager::DeltaProfile) -> PatchProfile {
    match wanted {
        manager::DeltaProfile::Small => PatchProfile::Small,
        manager::DeltaProfile::Default => PatchProfile::Default,
    }
}
