//! `/api/v1/devices/{id}/tags`: what operators say of a device, for filters.

use axum::{Json, extract::State};
use fota_proto::manager::{DeviceTags, Problem, TagsRequest};

use super::{
    extract::{Json as JsonBody, Segment},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::{By, Record},
    domain::model::NewEvent,
    service::{commit_by, rollouts::device_id},
};

/// Tags of one device: a filter of more is a list of devices.
const TAGS_MAX: usize = 32;
/// Longest name of a tag, bytes.
const NAME_BYTES_MAX: usize = 32;
/// Longest value of a tag, bytes.
const VALUE_BYTES_MAX: usize = 64;

/// Sets and takes away tags of a device; it need not have been seen yet.
#[utoipa::path(post, path = "/api/v1/devices/{id}/tags", tag = "devices",
    params(("id" = String, Path, description = "Device id")), request_body = TagsRequest,
    responses((status = 200, body = DeviceTags), (status = 400, body = Problem)))]
pub async fn change(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
    JsonBody(body): JsonBody<TagsRequest>,
) -> Result<Json<DeviceTags>, Refusal> {
    let id = device_id("id", &id)?;
    for (name, value) in &body.set {
        check_name("set", name)?;
        check_value(name, value)?;
    }
    for name in &body.remove {
        check_name("remove", name)?;
    }
    let mut tx = state.store.write().await?;
    for name in &body.remove {
        tx.remove_tag(id.as_str(), name).await?;
    }
    for (name, value) in &body.set {
        tx.put_tag(id.as_str(), name, value).await?;
    }
    let tags = tx.tags(id.as_str()).await?;
    if tags.len() > TAGS_MAX {
        let detail = format!(
            "{id} would have {} tags; at most {TAGS_MAX} are kept",
            tags.len()
        );
        return Err(Refusal::field("set", detail));
    }
    let set = body
        .set
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let removed = body.remove.iter().map(|name| format!("-{name}"));
    let text = set.chain(removed).collect::<Vec<_>>().join(" ");
    let event = NewEvent {
        kind: "device.tagged".to_owned(),
        device: Some(id.to_string()),
        actor: "operator",
        text: text.clone(),
        ..NewEvent::default()
    };
    let record = Record::new("device.tagged", format!("device:{id}"), text);
    commit_by(&state, tx, &by, record, &[event], true).await?;
    Ok(Json(DeviceTags {
        device: id.to_string(),
        tags,
    }))
}

fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    let detail =
        format!("{shown:?} is no name of a tag: give 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 _ - .");
    Err(Refusal::field(field, detail))
}

fn check_value(name: &str, value: &str) -> Result<(), Refusal> {
    let fits = !value.is_empty() && value.len() <= VALUE_BYTES_MAX;
    if fits && !value.chars().any(char::is_control) {
        return Ok(());
    }
    let detail = format!(
        "tag {name} has a value of {} bytes: give 1 to {VALUE_BYTES_MAX}, without control \
         characters",
        value.len()
    );
    Err(Refusal::field("set", detail))
}
