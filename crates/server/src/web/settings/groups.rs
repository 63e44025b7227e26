//! Groups: their devices, their rules and budgets.

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use fota_proto::manager::{GroupDevices, GroupRequest, GroupRule};

use super::unknown;
use crate::{
    AppState,
    api::{
        extract::{Json as JsonBody, Segment, Segments},
        groups,
    },
    auth::By,
    web::{confirm::go, fault::Fault, form::Form},
};

/// `POST /settings/groups`: makes one, or adds devices to one.
pub async fn add(State(state): State<AppState>, by: By, form: Form) -> Result<Response, Fault> {
    let name = form.text("name").to_owned();
    let devices = form.text("devices").split([' ', ',', '\n', '\r', '\t']);
    let add: Vec<_> = devices
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect();
    let exists = state.store.read().await?.group_exists(&name).await?;
    if !exists || add.is_empty() {
        let request = GroupRequest { name: name.clone() };
        let to = State(state.clone());
        let (_, Json(_)) = groups::create(to, by.clone(), JsonBody(request)).await?;
    }
    if !add.is_empty() {
        let body = JsonBody(GroupDevices { add });
        let Json(_) = groups::add_devices(State(state), by, Segment(name), body).await?;
    }
    Ok(go("/settings#groups"))
}

/// `POST /settings/groups/{name}/{action}`: `rule`, `take` a device out, or `remove`.
pub async fn change(
    State(state): State<AppState>,
    by: By,
    Path((name, action)): Path<(String, String)>,
    form: Form,
) -> Result<Response, Fault> {
    let to = State(state);
    match action.as_str() {
        "rule" => {
            let rule = JsonBody(GroupRule {
                filter: form.maybe("filter"),
                bytes_per_s: form.number("bytes_per_s")?,
            });
            let Json(_) = groups::set_rule(to, by, Segment(name), rule).await?;
        }
        "take" => {
            let which = Segments(name, form.text("device").to_owned());
            groups::remove_device(to, by, which).await?;
        }
        "remove" => {
            groups::remove(to, by, Segment(name)).await?;
        }
        action => return Err(unknown("group", action)),
    }
    Ok(go("/settings#groups"))
}
