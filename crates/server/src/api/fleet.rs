use std::collections::BTreeMap;

use axum::{Json, extract::State};
use fota_proto::manager::{FleetSummary, Presence, ServerInfo, VersionCount};

use super::problem::Refusal;
use crate::{AppState, domain::presence::seen_between};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What this server is and how it was started.
#[utoipa::path(get, path = "/api/v1/server", tag = "fleet", responses((status = 200, body = ServerInfo)))]
pub async fn server(State(state): State<AppState>) -> Result<Json<ServerInfo>, Refusal> {
    let plan = state.fleet.newest_plan(&state.store).await?;
    Ok(Json(ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database: state.store.engine().to_owned(),
        legacy_open: state.config.legacy_open,
        lab: state.config.lab,
        poll_s: state.config.poll_s,
        online_key: state.online_key.public_hex(),
        root_version: plan.root.unwrap_or(0),
    }))
}

/// The fleet in one screen.
#[utoipa::path(get, path = "/api/v1/fleet/summary", tag = "fleet",
    responses((status = 200, body = FleetSummary)))]
pub async fn summary(State(state): State<AppState>) -> Result<Json<FleetSummary>, Refusal> {
    // So that what was last heard counts.
    state.fleet.flush(&state.store).await?;
    let now = state.now_ms();
    let after = |presence| seen_between(presence, now, state.config.poll_s).0;
    let mut tx = state.store.read().await?;
    let cohorts = tx
        .cohorts(after(Presence::Online), after(Presence::Late))
        .await?;
    let mut summary = FleetSummary::default();
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    tx.each_kind(|number, kind, _| {
        let cohort = cohorts.get(&number).copied().unwrap_or_default();
        summary.total += cohort.devices;
        summary.online += cohort.online;
        summary.late += cohort.late;
        let version = kind.device.version.unwrap_or_else(|| "unknown".to_owned());
        *versions.entry(version).or_default() += cohort.devices;
    })
    .await?;
    summary.offline = summary.total - summary.online - summary.late;
    (summary.updating, summary.failed_24h) = tx.fleet_attempts(now - DAY_MS).await?;
    summary.spared_bytes = tx.fleet_spared().await?;
    let versions = versions.into_iter();
    summary.versions = versions
        .map(|(version, devices)| VersionCount { version, devices })
        .collect();
    summary
        .versions
        .sort_by_key(|count| std::cmp::Reverse(count.devices));
    Ok(Json(summary))
}
