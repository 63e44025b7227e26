//! Starting a rollout: what, to whom, how carefully, and the whole of it in one English sentence.
//!
//! All entries are parameters of the address, so the back button keeps them, and a script only has
//! to fetch the same address to show the preview while one types.

use std::collections::BTreeMap;

use askama::Template;
use axum::{Json, extract::State, response::Response};
use fota_proto::manager::{Preview, Release, RolloutPlan, RolloutRequest};

use super::{
    chrome::{Ask, Chrome, screen},
    confirm::go,
    fault::Fault,
    form::Form,
    misread::Misread,
    pieces::{Cli, Clock, shell},
    words,
};
use crate::{
    AppState,
    api::{
        extract::{Json as JsonBody, Query},
        page::PageQuery,
        problem::Refusal,
        releases, rollouts,
    },
    auth::{By, secret},
    domain::{
        plan,
        window::{Gate, Schedule, Zone},
    },
    service::credentials::no_random,
};

mod entries;
mod plan_file;

use entries::{Entries, Kind, SECTIONS};

/// Releases to choose from.
const RELEASES_MAX: u32 = 100;
/// Devices left out that are named, for each reason.
const EXAMPLES: usize = 5;
/// From so many devices on, their number has to be typed.
const TYPED_FROM: u64 = 51;

#[derive(Template)]
#[template(path = "start.html")]
struct Start {
    chrome: Chrome,
    releases: Vec<Choice>,
    groups: Vec<Choice>,
    all: bool,
    devices: String,
    filter: String,
    sections: Vec<Shown>,
    review: Option<Review>,
    misread: Option<Misread>,
    /// What is wrong with the entries.
    refused: Option<String>,
}

struct Choice {
    value: String,
    name: String,
    is_chosen: bool,
}

/// Inputs that belong together, with what was entered.
struct Shown {
    title: &'static str,
    is_open: bool,
    inputs: Vec<Field>,
}

struct Field {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    kind: Kind,
    value: String,
}

/// What starting it would do.
struct Review {
    sentence: String,
    preview: Preview,
    excluded: Vec<LeftOut>,
    openings: Vec<Opening>,
    fields: Vec<(String, String)>,
    key: String,
    must_type: bool,
    file: Option<String>,
    cli: Cli,
}

/// Devices that the targets name and that would not get it, for one reason.
struct LeftOut {
    reason: String,
    count: usize,
    examples: String,
}

/// When something begins that may not happen now.
struct Opening {
    verb: &'static str,
    /// None: not within the next year.
    at: Option<Clock>,
}

/// `GET /rollouts/new`.
pub async fn form(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let entries = Entries::read(ask.pairs());
    let query = PageQuery {
        after: None,
        limit: Some(RELEASES_MAX),
    };
    let Json(page) = releases::list(State(state.clone()), Query(query)).await?;
    let offered: Vec<_> = page.items.into_iter().filter(|one| !one.yanked).collect();
    let groups = state.store.read().await?.groups().await?;
    let misread = Misread::of(&entries.text("filter"));
    let reviewed = match misread {
        Some(_) => Ok(None),
        None => review(&state, &entries).await,
    };
    let (review, refused) = match reviewed {
        Ok(review) => (review, None),
        Err(refusal) => (None, Some(refusal.detail().replace("plan.", ""))),
    };
    screen(&Start {
        chrome: Chrome::new(&state, &ask, "/rollouts", "New rollout"),
        releases: offered.iter().map(|one| choice(one, &entries)).collect(),
        groups: groups
            .into_iter()
            .map(|name| Choice {
                is_chosen: entries.all("group").any(|given| given == name),
                value: name.clone(),
                name,
            })
            .collect(),
        all: entries.has("all"),
        devices: entries.text("devices"),
        filter: entries.text("filter"),
        sections: sections(&entries),
        review,
        misread,
        refused,
    })
}

fn choice(release: &Release, entries: &Entries) -> Choice {
    let chip = release.chip.as_deref().unwrap_or("no chip");
    let signed = match &release.signed {
        Some(signed) if signed.trusted => "signed",
        Some(_) => "signed by keys that no longer count",
        None => "not signed",
    };
    let given = entries.text("release");
    Choice {
        value: release.id.to_string(),
        name: format!(
            "{} · {} · {chip} · {signed}",
            release.version, release.project
        ),
        is_chosen: given == release.id.to_string() || given == release.version,
    }
}

/// The first section is what every rollout should have; the others are open where they say
/// something.
fn sections(entries: &Entries) -> Vec<Shown> {
    let shown = SECTIONS.iter().enumerate().map(|(number, section)| Shown {
        title: section.title,
        is_open: number == 0 || section.inputs.iter().any(|input| entries.has(input.name)),
        inputs: section
            .inputs
            .iter()
            .map(|input| Field {
                name: input.name,
                label: input.label,
                hint: input.hint,
                kind: input.kind,
                value: entries.text(input.name),
            })
            .collect(),
    });
    shown.collect()
}

/// None while the entries name no release or no targets yet.
async fn review(state: &AppState, entries: &Entries) -> Result<Option<Review>, Refusal> {
    if !entries.has("release") || entries.to().is_empty() {
        return Ok(None);
    }
    let request = entries.request(None)?;
    let body = JsonBody(request.clone());
    let Json(preview) = rollouts::preview(State(state.clone()), body).await?;
    let file = plan_file::plan_file(&request);
    Ok(Some(Review {
        sentence: preview.sentence.clone(),
        excluded: left_out(&preview),
        openings: openings(request.plan.as_ref(), state.now_ms()),
        fields: entries.pairs().to_vec(),
        key: key()?,
        must_type: preview.matched >= TYPED_FROM,
        cli: match file {
            Some(_) => Cli::new("fota rollout plan -f plan.toml"),
            None => cli(&request),
        },
        file,
        preview,
    }))
}

fn left_out(preview: &Preview) -> Vec<LeftOut> {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in &preview.excluded {
        by_reason.entry(&one.reason).or_default().push(&one.device);
    }
    let left_out = by_reason.into_iter().map(|(reason, devices)| {
        let mut examples = devices[..devices.len().min(EXAMPLES)].join(", ");
        if devices.len() > EXAMPLES {
            examples.push_str(" …");
        }
        LeftOut {
            reason: words::words(reason),
            count: devices.len(),
            examples,
        }
    });
    left_out.collect()
}

/// What is closed now, and when it opens where devices tell no zone of their own.
fn openings(plan: Option<&RolloutPlan>, now: i64) -> Vec<Opening> {
    let Some(plan) = plan.and_then(|given| plan::RolloutPlan::check(given).ok()) else {
        return Vec::new();
    };
    let download = opening("download", &plan.download, &plan.zone, now);
    let install = plan.install.as_ref();
    let install = install.and_then(|schedule| opening("install", schedule, &plan.zone, now));
    download.into_iter().chain(install).collect()
}

fn opening(verb: &'static str, schedule: &Schedule, zone: &Zone, now: i64) -> Option<Opening> {
    let Gate::Closed { opens_at } = schedule.gate(now, zone) else {
        return None;
    };
    Some(Opening {
        verb,
        at: opens_at.map(|at| Clock::new(at, zone)),
    })
}

fn key() -> Result<String, Refusal> {
    secret::random_hex().map_err(no_random)
}

fn cli(request: &RolloutRequest) -> Cli {
    let to: Vec<_> = request.to.iter().map(|target| shell(target)).collect();
    let release = shell(&request.release);
    let mut text = format!("fota rollout start {release} --to {}", to.join(" "));
    if let Some(max) = request.failures_max {
        text.push_str(&format!(" --max-failures {max}"));
    }
    if request.rollback_on_failure {
        text.push_str(" --rollback-on-failure");
    }
    if let Some(seconds) = request.trial_deadline_s {
        text.push_str(&format!(" --trial-deadline {seconds}s"));
    }
    if request.allow_product_change {
        text.push_str(" --allow-product-change");
    }
    Cli::new(text)
}

/// `POST /rollouts`.
pub async fn start(State(state): State<AppState>, by: By, form: Form) -> Result<Response, Fault> {
    let entries = Entries::read(form.pairs());
    let request = entries.request(form.maybe("key"))?;
    must_have_typed(&state, &request, form.text("typed")).await?;
    let (_, Json(rollout)) = rollouts::start(State(state), by, JsonBody(request)).await?;
    Ok(go(&format!("/rollouts/r-{}", rollout.id)))
}

async fn must_have_typed(
    state: &AppState,
    request: &RolloutRequest,
    typed: &str,
) -> Result<(), Refusal> {
    let body = JsonBody(request.clone());
    let Json(preview) = rollouts::preview(State(state.clone()), body).await?;
    if preview.matched < TYPED_FROM || typed == preview.matched.to_string() {
        return Ok(());
    }
    let detail = format!(
        "this reaches {} devices: go back and type that number to start it",
        preview.matched
    );
    Err(Refusal::field("typed", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_window_tells_when_it_opens_in_the_fleets_zone() {
        let given = serde_json::json!({
            "schedule": {"zone": "Europe/Berlin", "download": ["22:00-06:00"]},
        });
        let given: RolloutPlan = serde_json::from_value(given).expect("a plan");
        // 2026-11-23 12:33 UTC, and at night.
        let closed = openings(Some(&given), 1_795_437_206_908);
        let at = closed.first().and_then(|opening| opening.at.as_ref());
        let at = at.expect("it opens");
        assert_eq!(at.fleet, "2026-11-23 22:00 Europe/Berlin");
        assert_eq!(at.iso, "2026-11-23T21:00:00Z");
        assert!(openings(Some(&given), at.at_ms).is_empty());
    }
}
