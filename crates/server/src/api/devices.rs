use std::collections::BTreeSet;

use axum::{Json, extract::State};
use fota_proto::{
    DeviceId,
    manager::{Device, Event, Page, Problem, Why},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    extract::{Json as JsonBody, Query, Segment},
    page::{LIMIT_MAX, PageQuery, after, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::{By, Record},
    domain::{
        filter::{Filter, FilterError},
        model::{self, NewEvent},
    },
    service::{
        self, commit_by,
        population::listed,
        rollouts::{device_id, find_release},
        view,
    },
    store::{DeviceFilter, EventFilter, StoreError, Tx},
};

/// Which devices to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeviceQuery {
    /// Only members of this group.
    pub group: Option<String>,
    /// Only devices whose newest attempt is in this state, e.g. `failed` or `failed:no_space`.
    pub state: Option<String>,
    /// Only devices of which this holds, e.g. `chip == esp32 and has tag.site`.
    pub filter: Option<String>,
    /// `next` of the page before.
    pub after: Option<String>,
    /// Rows, 1 to 1,000; 100 if absent.
    pub limit: Option<u32>,
}

/// Devices by id.
#[utoipa::path(get, path = "/api/v1/devices", tag = "devices", params(DeviceQuery),
    responses((status = 200, body = Page<Device>), (status = 400, body = Problem)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<DeviceQuery>,
) -> Result<Json<Page<Device>>, Refusal> {
    let limit = limit(query.limit)?;
    if let Some(group) = &query.group {
        device_id("group", group)?;
    }
    if let Some(word) = &query.state {
        check_state(word)?;
    }
    if let Some(after) = &query.after {
        device_id("after", after)?;
    }
    let meant = query.filter.as_deref().map(filter_of).transpose()?;
    state.fleet.flush(&state.store).await?;
    let filter = DeviceFilter {
        group: query.group,
        state: query.state,
        after: query.after.unwrap_or_default(),
        limit,
    };
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let ids = match meant {
        Some(meant) => Some(listed(&mut tx, &plan, &meant).await?),
        None => None,
    };
    let found = match ids {
        None => tx.devices(&filter).await?,
        Some(ids) => page_of(&mut tx, filter, &ids).await?,
    };
    let mut items = Vec::new();
    for device in found {
        items.push(view::device(&state, &mut tx, &plan, &device).await?);
    }
    Ok(Json(page(items, limit, |device: &Device| {
        device.id.clone()
    })))
}

/// A page of those of these devices that the rest of the filter lets through: the database does not
/// speak the language of filters, so it is asked for more until the page is full.
async fn page_of(
    tx: &mut Tx,
    filter: DeviceFilter,
    ids: &BTreeSet<String>,
) -> Result<Vec<model::Device>, StoreError> {
    let wanted = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    let mut more = DeviceFilter {
        limit: i64::from(LIMIT_MAX),
        ..filter
    };
    let mut found = Vec::new();
    while found.len() < wanted.min(ids.len()) {
        let page = tx.devices(&more).await?;
        let Some(last) = page.last() else {
            break;
        };
        more.after.clone_from(&last.id);
        found.extend(page.into_iter().filter(|device| ids.contains(&device.id)));
    }
    found.truncate(wanted);
    Ok(found)
}

/// A filter in a request.
pub fn filter_of(text: &str) -> Result<Filter, Refusal> {
    let refused = |error: FilterError| Refusal::field("filter", error.to_string());
    text.parse().map_err(refused)
}

/// A state, or the word before its colon.
pub fn check_state(text: &str) -> Result<(), Refusal> {
    let is_kind = matches!(text, "failed" | "rolled_back" | "skipped");
    if is_kind || text.parse::<fota_proto::AttemptState>().is_ok() {
        return Ok(());
    }
    let shown: String = text.chars().take(40).collect();
    let detail = format!(
        "state is {shown:?}: give a state of an attempt such as downloading, failed, or \
         failed:no_space"
    );
    Err(Refusal::field("state", detail))
}

/// One device.
#[utoipa::path(get, path = "/api/v1/devices/{id}", tag = "devices",
    params(("id" = String, Path, description = "Device id")),
    responses((status = 200, body = Device), (status = 404, body = Problem)))]
pub async fn show(
    State(state): State<AppState>,
    Segment(id): Segment,
) -> Result<Json<Device>, Refusal> {
    let id = device_id("id", &id)?;
    state.fleet.flush(&state.store).await?;
    read(&state, id.as_str()).await.map(Json)
}

pub(super) async fn read(state: &AppState, id: &str) -> Result<Device, Refusal> {
    let mut tx = state.store.read().await?;
    let found = tx.device(id).await?;
    let device = found.ok_or_else(|| Refusal::not_found(format!("device {id:?}")).of("id"))?;
    let plan = state.fleet.plan(&mut tx).await?;
    Ok(view::device(state, &mut tx, &plan, &device).await?)
}

/// Why a device gets, or does not get, an order now: every rule, and which one holds it.
#[utoipa::path(get, path = "/api/v1/devices/{id}/why", tag = "devices",
    params(("id" = String, Path, description = "Device id")),
    responses((status = 200, body = Why), (status = 404, body = Problem)))]
pub async fn why(
    State(state): State<AppState>,
    Segment(id): Segment,
) -> Result<Json<Why>, Refusal> {
    let id = device_id("id", &id)?;
    service::why::why(&state, id.as_str()).await.map(Json)
}

/// The history of a device, oldest first.
#[utoipa::path(get, path = "/api/v1/devices/{id}/events", tag = "devices",
    params(("id" = String, Path, description = "Device id"), PageQuery),
    responses((status = 200, body = Page<Event>), (status = 404, body = Problem)))]
pub async fn events(
    State(state): State<AppState>,
    Segment(id): Segment,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Event>>, Refusal> {
    let id = device_id("id", &id)?;
    let limit = limit(query.limit)?;
    let filter = EventFilter {
        device: Some(id.to_string()),
        rollout: None,
        after: after(query.after.as_deref())?.unwrap_or(0),
        limit,
    };
    let mut tx = state.store.read().await?;
    expect_known(&mut tx, &id).await?;
    let items = tx.events(&filter).await?;
    Ok(Json(page(items, limit, |event: &Event| {
        event.id.to_string()
    })))
}

/// Body of the unblock call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Unblock {
    /// Release: its id, or its version where only one release has it.
    pub release: String,
}

/// Body of the block call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Release: its id, or its version where only one release has it.
    pub release: String,
}

/// Never offers a release to a device, until it is unblocked there.
#[utoipa::path(post, path = "/api/v1/devices/{id}/block", tag = "devices",
    params(("id" = String, Path, description = "Device id")), request_body = Block,
    responses((status = 200, body = Device), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn block(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
    JsonBody(body): JsonBody<Block>,
) -> Result<Json<Device>, Refusal> {
    let id = device_id("id", &id)?;
    let mut tx = state.store.write().await?;
    expect_known(&mut tx, &id).await?;
    let release = find_release(&mut tx, &body.release).await?;
    let now = state.now_ms();
    tx.block(id.as_str(), release.id, "operator", now).await?;
    let text = format!("{} is not offered here", release.version);
    done(
        &state,
        tx,
        &by,
        &id,
        ("device.blocked", Some(release.id), text),
    )
    .await
}

/// Lets a release be offered to a device again on which it was rolled back.
#[utoipa::path(post, path = "/api/v1/devices/{id}/unblock", tag = "devices",
    params(("id" = String, Path, description = "Device id")), request_body = Unblock,
    responses((status = 200, body = Device), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn unblock(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
    JsonBody(body): JsonBody<Unblock>,
) -> Result<Json<Device>, Refusal> {
    let id = device_id("id", &id)?;
    let mut tx = state.store.write().await?;
    expect_known(&mut tx, &id).await?;
    let release = find_release(&mut tx, &body.release).await?;
    if !tx.unblock(id.as_str(), release.id).await? {
        let detail = format!("release {} is not blocked on {id}", release.version);
        return Err(Refusal::conflict("not_blocked", detail).of("release"));
    }
    let text = format!("{} may be offered again", release.version);
    done(
        &state,
        tx,
        &by,
        &id,
        ("device.unblocked", Some(release.id), text),
    )
    .await
}

/// Refuses what is asked of a device that nobody has seen.
pub(super) async fn expect_known(tx: &mut Tx, id: &DeviceId) -> Result<(), Refusal> {
    match tx.device(id.as_str()).await? {
        Some(_) => Ok(()),
        None => Err(Refusal::not_found(format!("device {id}")).of("id")),
    }
}

/// Commits a deed at one device, which may be about one release, and shows the device after it.
pub(super) async fn done(
    state: &AppState,
    tx: Tx,
    by: &By,
    id: &DeviceId,
    (kind, release, text): (&'static str, Option<i64>, String),
) -> Result<Json<Device>, Refusal> {
    let detail = match release {
        Some(release) => format!("release:{release} {text}"),
        None => text.clone(),
    };
    let event = NewEvent {
        kind: kind.to_owned(),
        device: Some(id.to_string()),
        release,
        actor: "operator",
        text,
        ..NewEvent::default()
    };
    let record = Record::new(kind, format!("device:{id}"), detail);
    commit_by(state, tx, by, record, &[event], true).await?;
    read(state, id.as_str()).await.map(Json)
}
