//! Starting a rollout: what, to whom, how carefully, and the whole of it in one English sentence.
//!
//! All entries are parameters of the address, so the back button keeps them, and a script only has
//! to fetch the same address to show the preview while one types.

use std::collections::BTreeMap;

use askama::Template;
use axum::{Json, extract::State, response::Response};
use fota_proto::manager::{Preview, Release, RolloutRequest};

use super::{
    chrome::{Ask, Chrome, screen},
    confirm::go,
    fault::Fault,
    form::Form,
    pieces::{Cli, shell},
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
    service::credentials::no_random,
};

/// Releases to choose from.
const RELEASES_MAX: u32 = 100;
/// Devices left out that are named, for each reason.
const EXAMPLES: usize = 5;
/// From so many devices on, their number has to be typed.
const TYPED_FROM: u64 = 51;
/// As the server takes it where nothing is said.
const TRIAL_S: u32 = 300;

#[derive(Template)]
#[template(path = "start.html")]
struct Start {
    chrome: Chrome,
    releases: Vec<Choice>,
    groups: Vec<Choice>,
    entries: Entries,
    review: Option<Review>,
    /// What is wrong with the entries.
    refused: Option<String>,
}

struct Choice {
    value: String,
    name: String,
    is_chosen: bool,
}

/// What was entered.
#[derive(Clone, Debug, Default)]
struct Entries {
    release: String,
    all: bool,
    groups: Vec<String>,
    devices: String,
    failures_max: String,
    rollback_on_failure: bool,
    trial_s: String,
    allow_product_change: bool,
}

impl Entries {
    fn read(pairs: &[(String, String)]) -> Self {
        let mut entries = Self::default();
        for (name, value) in pairs {
            let value = value.trim().to_owned();
            match name.as_str() {
                "release" => entries.release = value,
                "all" => entries.all = true,
                "group" => entries.groups.push(value),
                "devices" => entries.devices = value,
                "failures_max" => entries.failures_max = value,
                "rollback_on_failure" => entries.rollback_on_failure = true,
                "trial_s" => entries.trial_s = value,
                "allow_product_change" => entries.allow_product_change = true,
                _ => {}
            }
        }
        entries
    }

    fn to(&self) -> Vec<String> {
        let all = self.all.then(|| "all".to_owned());
        let groups = self.groups.iter().map(|name| format!("group:{name}"));
        let devices = self.devices.split([' ', ',', '\n', '\r', '\t']);
        let devices = devices.filter(|id| !id.is_empty()).map(str::to_owned);
        all.into_iter().chain(groups).chain(devices).collect()
    }

    fn request(&self, key: Option<String>) -> Result<RolloutRequest, Refusal> {
        Ok(RolloutRequest {
            release: self.release.clone(),
            to: self.to(),
            // As the command does: ordering back needs a limit that is breached.
            failures_max: number("failures_max", &self.failures_max)?
                .or(self.rollback_on_failure.then_some(1)),
            rollback_on_failure: self.rollback_on_failure,
            trial_deadline_s: number("trial_s", &self.trial_s)?,
            allow_product_change: self.allow_product_change,
            idempotency_key: key,
            plan: None,
        })
    }

    /// As fields of the form that starts it.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("release", self.release.clone()),
            ("devices", self.devices.clone()),
            ("failures_max", self.failures_max.clone()),
            ("trial_s", self.trial_s.clone()),
        ];
        let flags = [
            ("all", self.all),
            ("rollback_on_failure", self.rollback_on_failure),
            ("allow_product_change", self.allow_product_change),
        ];
        fields.extend(
            flags
                .into_iter()
                .filter(|(_, is)| *is)
                .map(|(name, _)| (name, "1".into())),
        );
        fields.extend(self.groups.iter().map(|group| ("group", group.clone())));
        fields
    }
}

fn number(field: &str, text: &str) -> Result<Option<u32>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let shown: String = text.chars().take(20).collect();
    let refused = |_| Refusal::field(field, format!("{shown:?} is no number: give digits only"));
    text.parse().map(Some).map_err(refused)
}

/// What starting it would do.
struct Review {
    sentence: String,
    preview: Preview,
    excluded: Vec<LeftOut>,
    fields: Vec<(&'static str, String)>,
    key: String,
    must_type: bool,
    cli: Cli,
}

/// Devices that the targets name and that would not get it, for one reason.
struct LeftOut {
    reason: String,
    count: usize,
    examples: String,
}

/// `GET /rollouts/new`.
pub async fn form(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let mut entries = Entries::read(ask.pairs());
    // `?to=` as other screens link here.
    for target in ask.all("to") {
        match target.strip_prefix("group:") {
            Some(group) => entries.groups.push(group.to_owned()),
            None if target == "all" => entries.all = true,
            None => entries.devices = format!("{} {target}", entries.devices).trim().to_owned(),
        }
    }
    let query = PageQuery {
        after: None,
        limit: Some(RELEASES_MAX),
    };
    let Json(page) = releases::list(State(state.clone()), Query(query)).await?;
    let offered: Vec<_> = page.items.into_iter().filter(|one| !one.yanked).collect();
    let groups = state.store.read().await?.groups().await?;
    let (review, refused) = match review(&state, &entries, &offered).await {
        Ok(review) => (review, None),
        Err(refusal) => (None, Some(refusal.detail().to_owned())),
    };
    screen(&Start {
        chrome: Chrome::new(&state, &ask, "/rollouts", "New rollout"),
        releases: offered.iter().map(|one| choice(one, &entries)).collect(),
        groups: groups
            .into_iter()
            .map(|name| Choice {
                is_chosen: entries.groups.contains(&name),
                value: name.clone(),
                name,
            })
            .collect(),
        entries,
        review,
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
    Choice {
        value: release.id.to_string(),
        name: format!(
            "{} · {} · {chip} · {signed}",
            release.version, release.project
        ),
        is_chosen: entries.release == release.id.to_string() || entries.release == release.version,
    }
}

/// None while the entries name no release or no targets yet.
async fn review(
    state: &AppState,
    entries: &Entries,
    releases: &[Release],
) -> Result<Option<Review>, Refusal> {
    if entries.release.is_empty() || entries.to().is_empty() {
        return Ok(None);
    }
    let request = entries.request(None)?;
    let body = JsonBody(request.clone());
    let Json(preview) = rollouts::preview(State(state.clone()), body).await?;
    let named =
        |one: &&Release| one.id.to_string() == entries.release || one.version == entries.release;
    let version = releases.iter().find(named);
    let version = version.map_or(entries.release.as_str(), |one| &one.version);
    Ok(Some(Review {
        sentence: sentence(version, &request, &preview),
        excluded: left_out(&preview),
        fields: entries.fields(),
        key: key()?,
        must_type: preview.matched >= TYPED_FROM,
        cli: cli(&request),
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

fn key() -> Result<String, Refusal> {
    secret::random_hex().map_err(no_random)
}

/// The whole plan in English; every entry changes it.
fn sentence(version: &str, request: &RolloutRequest, preview: &Preview) -> String {
    let devices = |count: u64| match count {
        1 => "1 device".to_owned(),
        count => format!("{count} devices"),
    };
    if preview.matched == 0 {
        let to = request.to.join(", ");
        let count = preview.excluded.len();
        return format!(
            "Brings {version} to nobody: {to} names {count} devices, and none would take it."
        );
    }
    let mut text = format!(
        "Brings {version} to {} ({}), all at once as they check in: {} online now",
        devices(preview.matched),
        request.to.join(", "),
        preview.online
    );
    match preview.matched - preview.online.min(preview.matched) {
        0 => text.push('.'),
        away => text.push_str(&format!(", {away} when they come back.")),
    }
    let trial = request.trial_deadline_s.unwrap_or(TRIAL_S);
    text.push_str(&format!(
        " Each new image has {trial} s to confirm itself, or the device goes back."
    ));
    text.push_str(&match (request.failures_max, request.rollback_on_failure) {
        (None, _) => " It goes on whatever fails.".to_owned(),
        (Some(max), false) => format!(" It pauses when {max} have failed or gone back."),
        (Some(max), true) => {
            format!(" It pauses when {max} have failed or gone back, and orders the rest back.")
        }
    });
    if request.allow_product_change {
        text.push_str(" Devices of another product take it too.");
    }
    if !preview.excluded.is_empty() {
        let left_out = devices(preview.excluded.len() as u64);
        text.push_str(&format!(" {left_out} left out."));
    }
    text
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

    fn of(pairs: &[(&str, &str)]) -> Entries {
        let owned = pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Entries::read(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn the_sentence_changes_with_every_entry() {
        let preview = Preview {
            matched: 3,
            online: 2,
            excluded: Vec::new(),
            reasons: Vec::new(),
            sentence: String::new(),
        };
        let said = |pairs: &[(&str, &str)]| {
            let request = of(pairs).request(None).expect("a request");
            sentence("1.0.6", &request, &preview)
        };
        let plain = said(&[("release", "1"), ("all", "1")]);
        assert_eq!(
            plain,
            "Brings 1.0.6 to 3 devices (all), all at once as they check in: 2 online now, 1 when \
             they come back. Each new image has 300 s to confirm itself, or the device goes back. \
             It goes on whatever fails."
        );
        let mut seen = vec![plain];
        for more in [
            ("group", "hall"),
            ("devices", "a b"),
            ("failures_max", "2"),
            ("rollback_on_failure", "1"),
            ("trial_s", "60"),
            ("allow_product_change", "1"),
        ] {
            let text = said(&[("release", "1"), ("all", "1"), more]);
            assert!(!seen.contains(&text), "{more:?}");
            seen.push(text);
        }
    }

    #[test]
    fn what_was_entered_comes_back_as_it_was() {
        let entries = of(&[
            ("release", "7"),
            ("group", "a"),
            ("group", "b"),
            ("devices", "x, y"),
            ("trial_s", "60"),
        ]);
        assert_eq!(entries.to(), ["group:a", "group:b", "x", "y"]);
        let fields = entries.fields();
        let again: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(of(&again).to(), entries.to());
    }
}
