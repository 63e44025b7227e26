//! What is done to several devices at once: into a group, held, let go, a release blocked.

use axum::{
    extract::{Path, State},
    response::Response,
};
use fota_proto::{
    limits::{NOTES_BYTES_MAX, TARGETS_MAX},
    manager::{GroupDevices, PinRequest},
};

use super::{
    chrome::Ask,
    confirm::{self, Field, Question, go},
    fault::Fault,
    form::Form,
    pieces::shell,
};
use crate::{
    AppState,
    api::{
        devices,
        extract::{Json as JsonBody, Segment},
        groups, pins,
        problem::Refusal,
    },
    auth::By,
};

/// Devices that are named in the question; the others are counted.
const NAMED_MAX: usize = 8;

/// `GET /bulk/{action}?to=A&to=B`: the question.
pub async fn ask(
    State(state): State<AppState>,
    asked: Ask,
    Path(action): Path<String>,
) -> Result<Response, Fault> {
    let to = targets(asked.pairs())?;
    let mut fields: Vec<Field> = to.iter().cloned().map(Field::Target).collect();
    fields.extend(choice(&state, &action).await?);
    let (title, lead, verb) = wording(&action)?;
    let question = Question {
        here: "/devices",
        title: format!("{title}: {} devices", to.len()),
        lead: format!("{}. {lead}", named(&to)),
        effects: Vec::new(),
        fields,
        verb,
        tone: "busy",
        back: "/devices".to_owned(),
        cli: cli(&action, &to),
    };
    confirm::ask(&state, &asked, question)
}

/// What has to be chosen or said beside the devices.
async fn choice(state: &AppState, action: &str) -> Result<Option<Field>, Refusal> {
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let offered = plan.releases.values().rev();
    let offered = offered.filter(|release| !release.yanked);
    Ok(match action {
        "group" => Some(Field::Choice {
            name: "group",
            label: "Group",
            options: tx.groups().await?,
        }),
        "block" => Some(Field::Choice {
            name: "release",
            label: "Release",
            options: offered.map(|release| release.version.clone()).collect(),
        }),
        "hold" => Some(Field::Reason {
            needed: false,
            bytes_max: NOTES_BYTES_MAX,
        }),
        _ => None,
    })
}

/// The deed, what it means, and the word on the button.
fn wording(action: &str) -> Result<(&'static str, &'static str, &'static str), Refusal> {
    Ok(match action {
        "group" => (
            "Put into a group",
            "They stay in the groups that they are in.",
            "Put them there",
        ),
        "hold" => (
            "Hold updates",
            "They take no release until they are let go. What they install right now they finish.",
            "Hold",
        ),
        "release" => (
            "Let go",
            "They take releases again as rollouts bring them.",
            "Let go",
        ),
        "block" => (
            "Block a release",
            "It is not offered to them until it is unblocked on each.",
            "Block",
        ),
        _ => return Err(unknown(action)),
    })
}

fn targets(pairs: &[(String, String)]) -> Result<Vec<String>, Refusal> {
    let named = pairs.iter().filter(|(name, _)| name == "to");
    let to: Vec<String> = named.map(|(_, id)| id.trim().to_owned()).collect();
    match to.len() {
        0 => Err(Refusal::field(
            "to",
            "no device is selected: tick some in the list",
        )),
        1..=TARGETS_MAX => Ok(to),
        many => {
            let detail =
                format!("to names {many} devices; at most {TARGETS_MAX} are taken at once");
            Err(Refusal::field("to", detail))
        }
    }
}

fn named(to: &[String]) -> String {
    let mut shown = to[..to.len().min(NAMED_MAX)].join(", ");
    if let Some(more @ 1..) = to.len().checked_sub(NAMED_MAX) {
        shown.push_str(&format!(" and {more} more"));
    }
    shown
}

fn cli(action: &str, to: &[String]) -> String {
    let devices: Vec<_> = to.iter().map(|id| shell(id)).collect();
    let each = |rest: &str| {
        format!(
            "for d in {}; do fota device {rest}; done",
            devices.join(" ")
        )
    };
    match action {
        "group" => format!("fota group add GROUP {}", devices.join(" ")),
        "hold" => each("pin $d"),
        "release" => each("unpin $d"),
        _ => each("block $d VERSION"),
    }
}

/// `POST /bulk/{action}`: the deed, by the functions of the API that do it to one device. Those
/// before one that is refused are done.
pub async fn act(
    State(state): State<AppState>,
    by: By,
    Path(action): Path<String>,
    form: Form,
) -> Result<Response, Fault> {
    let to = targets(form.pairs())?;
    if action == "group" {
        let body = GroupDevices { add: to };
        let group = Segment(form.text("group").to_owned());
        drop(groups::add_devices(State(state), by, group, JsonBody(body)).await?);
        return Ok(go("/devices"));
    }
    for id in to {
        let (state, by, id) = (State(state.clone()), by.clone(), Segment(id));
        let done = match action.as_str() {
            "hold" => {
                let body = PinRequest {
                    release: None,
                    reason: form.text("reason").to_owned(),
                };
                pins::pin(state, by, id, JsonBody(body)).await
            }
            "release" => pins::unpin(state, by, id).await,
            "block" => {
                let body = devices::Block {
                    release: form.text("release").to_owned(),
                };
                devices::block(state, by, id, JsonBody(body)).await
            }
            _ => Err(unknown(&action)),
        };
        match done {
            // Whoever was not held is let go already.
            Err(refusal) if refusal.code() == "not_pinned" => {}
            done => drop(done?),
        }
    }
    Ok(go("/devices"))
}

fn unknown(action: &str) -> Refusal {
    let shown: String = action.chars().take(40).collect();
    Refusal::not_found(format!("action {shown:?} of several devices"))
}
