use axum::{Json, extract::State, http::StatusCode};
use fota_proto::{
    DeviceId,
    limits::TARGETS_MAX,
    manager::{Group, GroupDevices, GroupRequest, GroupRule, Page, Problem},
};

use super::{
    extract::{Json as JsonBody, Query, Segment, Segments},
    page::{PageQuery, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::{By, Record},
    domain::{
        filter::FilterError,
        model::{self, NewEvent},
    },
    service::{commit_by, rollouts::device_id, view},
    store::Tx,
};

/// Groups by name.
#[utoipa::path(get, path = "/api/v1/groups", tag = "groups", params(PageQuery),
    responses((status = 200, body = Page<Group>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Group>>, Refusal> {
    let limit = limit(query.limit)?;
    let after = query.after.unwrap_or_default();
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let groups = view::groups(&mut tx, &plan, None).await?;
    let behind = groups.into_iter().filter(|group| group.name > after);
    let items = behind.take(limit as usize).collect();
    Ok(Json(page(items, limit, |group: &Group| group.name.clone())))
}

/// Makes an empty group.
#[utoipa::path(post, path = "/api/v1/groups", tag = "groups", request_body = GroupRequest,
    responses((status = 201, body = Group), (status = 409, body = Problem)))]
pub async fn create(
    State(state): State<AppState>,
    by: By,
    JsonBody(body): JsonBody<GroupRequest>,
) -> Result<(StatusCode, Json<Group>), Refusal> {
    let name = device_id("name", &body.name)?;
    let mut tx = state.store.write().await?;
    if !tx.insert_group(name.as_str(), state.now_ms()).await? {
        let detail = format!("group {name} exists already: add devices to it");
        return Err(Refusal::conflict("group_exists", detail).of("name"));
    }
    record(&state, tx, &by, &name, ("group.created", name.to_string())).await?;
    let group = Group {
        name: name.to_string(),
        devices: Vec::new(),
        filter: None,
        bytes_per_s: None,
    };
    Ok((StatusCode::CREATED, Json(group)))
}

/// Adds devices; they need not have been seen yet.
#[utoipa::path(post, path = "/api/v1/groups/{name}/devices", tag = "groups",
    params(("name" = String, Path, description = "Group")), request_body = GroupDevices,
    responses((status = 200, body = Group), (status = 404, body = Problem)))]
pub async fn add_devices(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
    JsonBody(body): JsonBody<GroupDevices>,
) -> Result<Json<Group>, Refusal> {
    let name = device_id("name", &name)?;
    if body.add.len() > TARGETS_MAX {
        let detail = format!(
            "add names {} devices; at most {TARGETS_MAX} are taken at once",
            body.add.len()
        );
        return Err(Refusal::field("add", detail));
    }
    let devices: Result<Vec<_>, _> = body.add.iter().map(|id| device_id("add", id)).collect();
    let devices = devices?;
    let mut tx = state.store.write().await?;
    require(tx.group_exists(name.as_str()).await?, name.as_str())?;
    for device in &devices {
        tx.add_to_group(name.as_str(), device.as_str()).await?;
    }
    let text = format!("{name}: {} devices added", devices.len());
    record(&state, tx, &by, &name, ("group.changed", text)).await?;
    shown(&state, name.as_str()).await
}

async fn shown(state: &AppState, name: &str) -> Result<Json<Group>, Refusal> {
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let groups = view::groups(&mut tx, &plan, Some(name)).await?;
    let found = groups.into_iter().next();
    found
        .map(Json)
        .ok_or_else(|| Refusal::not_found(format!("group {name:?}")).of("name"))
}

/// Says what the group is besides its list of devices: a filter, a budget of bytes. What is left
/// out is taken away.
#[utoipa::path(post, path = "/api/v1/groups/{name}/rule", tag = "groups",
    params(("name" = String, Path, description = "Group")), request_body = GroupRule,
    responses((status = 200, body = Group), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn set_rule(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
    JsonBody(body): JsonBody<GroupRule>,
) -> Result<Json<Group>, Refusal> {
    let name = device_id("name", &name)?;
    if body.bytes_per_s == Some(0) {
        let detail = "bytes_per_s is 0, which would start nothing: leave it out";
        return Err(Refusal::field("bytes_per_s", detail));
    }
    let filter = body.filter.as_deref().map(str::parse).transpose();
    let filter =
        filter.map_err(|error: FilterError| Refusal::field("filter", error.to_string()))?;
    let mut tx = state.store.write().await?;
    require(tx.group_exists(name.as_str()).await?, name.as_str())?;
    let rule = model::GroupRule {
        name: name.to_string(),
        filter,
        bytes_per_s: body.bytes_per_s,
    };
    tx.set_group_rule(&rule).await?;
    let filter = body.filter.as_deref().unwrap_or("no filter");
    let text = match body.bytes_per_s {
        Some(bytes) => format!("{name}: {filter}, {bytes} bytes a second"),
        None => format!("{name}: {filter}"),
    };
    record(&state, tx, &by, &name, ("group.changed", text)).await?;
    shown(&state, name.as_str()).await
}

/// Removes a group; its devices stay. Refused while a rollout is aimed at it.
#[utoipa::path(delete, path = "/api/v1/groups/{name}", tag = "groups",
    params(("name" = String, Path, description = "Group")),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn remove(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
) -> Result<StatusCode, Refusal> {
    let name = device_id("name", &name)?;
    let mut tx = state.store.write().await?;
    let rollouts = tx.standing_rollouts().await?;
    let aimed = rollouts
        .iter()
        .find(|rollout| rollout.target.groups.contains(name.as_str()));
    if let Some(rollout) = aimed {
        let detail = format!(
            "rollout r-{} is aimed at group {name}: abort it first",
            rollout.id
        );
        return Err(Refusal::conflict("group_in_use", detail).of("name"));
    }
    require(tx.delete_group(name.as_str()).await?, name.as_str())?;
    record(&state, tx, &by, &name, ("group.removed", name.to_string())).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a device out of a group.
#[utoipa::path(delete, path = "/api/v1/groups/{name}/devices/{id}", tag = "groups",
    params(("name" = String, Path, description = "Group"), ("id" = String, Path, description = "Device")),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn remove_device(
    State(state): State<AppState>,
    by: By,
    Segments(name, device): Segments,
) -> Result<StatusCode, Refusal> {
    let name = device_id("name", &name)?;
    let device = device_id("id", &device)?;
    let mut tx = state.store.write().await?;
    require(tx.group_exists(name.as_str()).await?, name.as_str())?;
    if !tx.remove_from_group(name.as_str(), device.as_str()).await? {
        return Err(Refusal::not_found(format!("device {device} in group {name}")).of("id"));
    }
    let text = format!("{name}: {device} removed");
    record(&state, tx, &by, &name, ("group.changed", text)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn require(exists: bool, name: &str) -> Result<(), Refusal> {
    if exists {
        return Ok(());
    }
    Err(Refusal::not_found(format!("group {name:?}")).of("name"))
}

/// Stores the change with its event and its audit entry.
async fn record(
    state: &AppState,
    tx: Tx,
    by: &By,
    name: &DeviceId,
    (kind, text): (&'static str, String),
) -> Result<(), Refusal> {
    let record = Record::new(kind, format!("group:{name}"), text.clone());
    let event = NewEvent {
        kind: kind.to_owned(),
        actor: "operator",
        text,
        ..NewEvent::default()
    };
    commit_by(state, tx, by, record, &[event], true).await?;
    Ok(())
}
