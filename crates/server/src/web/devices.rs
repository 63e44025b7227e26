//! The list of devices: filtered, sorted, in pages.

use askama::Template;
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use fota_proto::manager::{Device, Presence};

use super::{
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    heard::Heard,
    misread::Misread,
    pieces::{Badge, Cli, When, shell},
    words,
};
use crate::{
    AppState,
    api::{
        devices::{check_state, filter_of},
        problem::Refusal,
    },
    domain::{
        filter::Filter,
        fit::chip_name,
        model::{self, Plan},
        presence::seen_between,
    },
    service::{population::listed, view as facts},
    store::{ListFilter, Sort, StoreError, Tx},
};

/// Rows of a page: what a person reads without a scroll of minutes.
const ROWS: i64 = 50;
/// Versions to choose from in the filter.
const VERSIONS_MAX: i64 = 100;
/// Rows of an export that are read at once, and in all.
const EXPORT_BATCH: i64 = 500;
const EXPORT_MAX: usize = 100_000;

/// States to choose from, with the words for them.
const STATES: [(&str, &str); 14] = [
    ("waiting", "waiting"),
    ("offered", "offered"),
    ("downloading", "downloading"),
    ("downloaded", "downloaded"),
    ("installing", "installing"),
    ("trial", "on trial"),
    ("succeeded", "succeeded"),
    ("failed", "failed"),
    ("rolled_back", "rolled back"),
    ("skipped", "skipped"),
    ("timed_out", "timed out"),
    ("aborted", "aborted"),
    ("superseded", "superseded"),
    ("rolled_back:operator", "rolled back by an operator"),
];
const PRESENCES: [(&str, Presence); 3] = [
    ("online", Presence::Online),
    ("late", Presence::Late),
    ("offline", Presence::Offline),
];

#[derive(Template)]
#[template(path = "devices.html")]
struct Devices {
    chrome: Chrome,
    text: String,
    filter: String,
    misread: Option<Misread>,
    has_signal: bool,
    filters: Vec<Choice>,
    sorts: Vec<SortLink>,
    rows: Vec<Row>,
    total: u64,
    is_filtered: bool,
    next: Option<String>,
    is_first: bool,
    first: String,
    csv: String,
    cli: Cli,
    simulate: Cli,
}

/// A filter with its choices.
struct Choice {
    id: &'static str,
    name: &'static str,
    options: Vec<Chosen>,
}

struct Chosen {
    value: String,
    name: String,
    is_chosen: bool,
}

struct SortLink {
    name: &'static str,
    href: String,
    is_here: bool,
}

pub struct Row {
    pub id: String,
    pub groups: Vec<String>,
    pub unidentified: bool,
    pub chip: String,
    pub running: String,
    pub running_note: &'static str,
    pub target: Option<String>,
    pub state: Option<Badge>,
    pub percent: Option<u8>,
    /// Rollout of the attempt, 0 where there is none: a bar of another one starts anew.
    pub rollout: i64,
    pub note: Option<String>,
    pub presence: Badge,
    pub seen: When,
    pub tags: Vec<Tag>,
    /// `held`, or the version that it is pinned to.
    pub pin: Option<String>,
    /// dBm, where its application tells.
    pub signal: Option<i32>,
    pub heard: Heard,
}

/// What an operator said of a device, and the address of all of whom that holds.
pub struct Tag {
    pub text: String,
    pub href: String,
}

impl Tag {
    fn new(name: &str, value: &str) -> Self {
        let value_text = value.replace('\\', r"\\").replace('"', "\\\"");
        let filter = format!("tag.{name} == \"{value_text}\"");
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("filter", &filter)
            .finish();
        Self {
            text: format!("{name}={value}"),
            href: format!("/devices?{query}"),
        }
    }
}

impl Row {
    pub fn new(device: &Device, now_ms: i64) -> Self {
        let attempt = device.attempt.as_ref();
        let running = device.version.as_deref().filter(|text| !text.is_empty());
        let warning = device.warning.as_deref().unwrap_or("");
        Self {
            id: device.id.clone(),
            groups: device.groups.clone(),
            unidentified: warning.starts_with(words::UNIDENTIFIED),
            chip: device.chip.clone().unwrap_or_default(),
            running: running.unwrap_or("unknown").into(),
            running_note: words::running_note(device),
            target: attempt.and_then(|attempt| words::target(attempt, running)),
            state: words::state(device),
            percent: attempt.and_then(words::percent),
            rollout: attempt.map_or(0, |attempt| attempt.rollout),
            note: words::note(device),
            presence: words::presence(device.presence),
            seen: When::new(device.last_seen, now_ms),
            tags: device
                .tags
                .iter()
                .map(|(name, value)| Tag::new(name, value))
                .collect(),
            pin: device.pin.as_ref().map(words::pin),
            signal: signal(device),
            heard: Heard::new(&device.heard, device.first_seen, now_ms),
        }
    }
}

/// The metric that tells of the signal, by whatever prefix: `rssi`, `wifi_rssi`.
fn signal(device: &Device) -> Option<i32> {
    let mut metrics = device.metrics.iter();
    let found = metrics.find(|(name, _)| name.to_lowercase().ends_with("rssi"));
    found.map(|(_, dbm)| *dbm)
}

/// What was asked for, and the same again as an address.
struct Asked {
    filter: ListFilter,
    /// What the language of filters asks for besides.
    meant: Option<Filter>,
    /// The filters as parameters, without the page.
    address: Vec<(&'static str, String)>,
}

const FILTERS: [&str; 8] = [
    "q", "filter", "state", "presence", "version", "group", "chip", "sort",
];

impl Asked {
    fn read(state: &AppState, ask: &Ask, chips: &[u16]) -> Result<Self, Refusal> {
        let word = ask.text("state");
        if !word.is_empty() {
            check_state(word)?;
        }
        let presence = PRESENCES
            .iter()
            .find(|(name, _)| *name == ask.text("presence"));
        let chip = chips
            .iter()
            .find(|chip| chip_name(**chip) == ask.text("chip"));
        let now = state.now_ms();
        let filter = ListFilter {
            text: ask.text("q").chars().take(64).collect(),
            group: ask.text("group").to_owned(),
            state: word.to_owned(),
            version: ask.text("version").to_owned(),
            chip: chip.copied(),
            seen: presence.map(|(_, presence)| seen_between(*presence, now, state.config.poll_s)),
            sort: match ask.text("sort") {
                "seen" => Sort::Seen,
                "away" => Sort::Away,
                _ => Sort::Id,
            },
            after: after(ask.text("after")),
            limit: ROWS,
        };
        let meant = ask.text("filter").parse().ok();
        let given = FILTERS.iter().filter(|name| !ask.text(name).is_empty());
        let address = given
            .map(|name| (*name, ask.text(name).to_owned()))
            .collect();
        Ok(Self {
            filter,
            meant,
            address,
        })
    }

    /// The address of the same list with other parameters.
    fn with(&self, path: &str, changed: &[(&str, &str)]) -> String {
        let kept = self.address.iter();
        let kept = kept.filter(|(name, _)| !changed.iter().any(|(other, _)| other == name));
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in kept {
            query.append_pair(name, value);
        }
        for (name, value) in changed.iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        let query = query.finish();
        if query.is_empty() {
            return path.to_owned();
        }
        format!("{path}?{query}")
    }

    /// Whether any filter narrows the list.
    fn is_filtered(&self) -> bool {
        self.address.iter().any(|(name, _)| *name != "sort")
    }

    /// The command that lists the same, as far as commands go.
    fn cli(&self) -> Cli {
        let mut text = "fota device list".to_owned();
        for (name, value) in &self.address {
            if matches!(*name, "group" | "state" | "filter") {
                text.push_str(&format!(" --{name} {}", shell(value)));
            }
        }
        Cli::new(text)
    }
}

/// `TIME,ID` of the last device of the page before.
fn after(text: &str) -> Option<(i64, String)> {
    let (seen, id) = text.split_once(',')?;
    Some((seen.parse().ok()?, id.to_owned()))
}

/// `GET /devices`.
pub async fn list(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    // So that what was last heard counts in filters and order.
    state.fleet.flush(&state.store).await?;
    let mut tx = state.store.read().await?;
    let chips = tx.known_chips().await?;
    let asked = Asked::read(&state, &ask, &chips)?;
    let plan = state.fleet.plan(&mut tx).await?;
    let (found, total) = found(&mut tx, &plan, &asked).await?;
    let now = state.now_ms();
    let mut rows = Vec::new();
    for device in &found {
        rows.push(Row::new(
            &facts::device(&state, &mut tx, &plan, device).await?,
            now,
        ));
    }
    let last = found.last().filter(|_| found.len() as i64 == ROWS);
    let next = last.map(|device| {
        let after = format!("{},{}", device.last_seen, device.id);
        asked.with("/devices", &[("after", &after)])
    });
    let versions = tx.running_versions(VERSIONS_MAX).await?;
    let filters = filters(&ask, &versions, &tx.groups().await?, &chips);
    let is_filtered = asked.is_filtered();
    screen(&Devices {
        chrome: Chrome::new(&state, &ask, "/devices", "Devices").live("all"),
        text: ask.text("q").to_owned(),
        misread: Misread::of(ask.text("filter")),
        filter: ask.text("filter").to_owned(),
        has_signal: rows.iter().any(|row| row.signal.is_some()),
        filters,
        sorts: sorts(&asked),
        rows,
        total,
        is_filtered,
        next,
        is_first: asked.filter.after.is_none(),
        first: asked.with("/devices", &[]),
        csv: asked.with("/devices.csv", &[]),
        cli: asked.cli(),
        simulate: Cli::new(format!("fota sim --devices 3 --server {}", ask.origin)),
    })
}

/// A page of devices, and how many there are on all pages.
async fn found(
    tx: &mut Tx,
    plan: &Plan,
    asked: &Asked,
) -> Result<(Vec<model::Device>, u64), StoreError> {
    let Some(meant) = &asked.meant else {
        let found = tx.list_devices(&asked.filter).await?;
        return Ok((found, tx.count_listed(&asked.filter).await?));
    };
    // The database does not speak the language of filters: the page is cut out of the short rows of
    // all that the others let through.
    let ids = listed(tx, plan, meant).await?;
    let mut meant = Vec::new();
    tx.each_listed(&asked.filter, |one| {
        if ids.contains(&one.1) {
            meant.push(one);
        }
    })
    .await?;
    let total = meant.len() as u64;
    let sort = asked.filter.sort;
    if let Some(after) = &asked.filter.after {
        meant.retain(|one| sort.compare(one, after).is_gt());
    }
    meant.sort_unstable_by(|one, other| sort.compare(one, other));
    let mut found = Vec::new();
    for (_, id) in meant.iter().take(ROWS as usize) {
        found.extend(tx.device(id).await?);
    }
    Ok((found, total))
}

fn sorts(asked: &Asked) -> Vec<SortLink> {
    let here = asked.filter.sort;
    let link = |name, word, sort| SortLink {
        name,
        href: asked.with("/devices", &[("sort", word)]),
        is_here: here == sort,
    };
    vec![
        link("by id", "", Sort::Id),
        link("seen last", "seen", Sort::Seen),
        link("away longest", "away", Sort::Away),
    ]
}

fn filters(ask: &Ask, versions: &[String], groups: &[String], chips: &[u16]) -> Vec<Choice> {
    let choice = |id, name, options: Vec<(String, String)>| Choice {
        id,
        name,
        options: options
            .into_iter()
            .map(|(value, name)| Chosen {
                is_chosen: value == ask.text(id),
                value,
                name,
            })
            .collect(),
    };
    let same = |text: &String| (text.clone(), text.clone());
    let pair = |(value, name): &(&str, &str)| ((*value).to_owned(), (*name).to_owned());
    let presence = |(word, _): &(&str, _)| ((*word).to_owned(), (*word).to_owned());
    let chip = |chip: &u16| (chip_name(*chip), chip_name(*chip));
    vec![
        choice("state", "State", STATES.iter().map(pair).collect()),
        choice("presence", "Seen", PRESENCES.iter().map(presence).collect()),
        choice("version", "Runs", versions.iter().map(same).collect()),
        choice("group", "Group", groups.iter().map(same).collect()),
        choice("chip", "Chip", chips.iter().map(chip).collect()),
    ]
}

/// `GET /devices.csv`: the same list, all pages, for a spreadsheet.
pub async fn export(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    state.fleet.flush(&state.store).await?;
    let mut tx = state.store.read().await?;
    let chips = tx.known_chips().await?;
    if !ask.text("filter").is_empty() {
        filter_of(ask.text("filter"))?;
    }
    let Asked {
        mut filter, meant, ..
    } = Asked::read(&state, &ask, &chips)?;
    filter.limit = EXPORT_BATCH;
    filter.after = None;
    let plan = state.fleet.plan(&mut tx).await?;
    let ids = match &meant {
        Some(meant) => Some(listed(&mut tx, &plan, meant).await?),
        None => None,
    };
    let mut csv = "id,groups,tags,chip,running,target,state,presence,last_seen\r\n".to_owned();
    let mut rows = 0;
    loop {
        let found = tx.list_devices(&filter).await?;
        for device in &found {
            if !ids.as_ref().is_none_or(|ids| ids.contains(&device.id)) {
                continue;
            }
            let shown = facts::device(&state, &mut tx, &plan, device).await?;
            line(&mut csv, &Row::new(&shown, state.now_ms()));
        }
        rows += found.len();
        let Some(last) = found.last().filter(|_| rows < EXPORT_MAX) else {
            break;
        };
        filter.after = Some((last.last_seen, last.id.clone()));
    }
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=devices.csv",
        ),
    ];
    Ok((headers, csv).into_response())
}

fn line(csv: &mut String, row: &Row) {
    let state = row.state.as_ref().map_or("", |badge| &badge.word);
    let tags: Vec<_> = row.tags.iter().map(|tag| tag.text.as_str()).collect();
    let cells = [
        &row.id,
        &row.groups.join(" "),
        &tags.join(" "),
        &row.chip,
        &row.running,
        row.target.as_deref().unwrap_or(""),
        state,
        &row.presence.word,
        &row.seen.iso,
    ];
    let cells: Vec<_> = cells.iter().map(|cell| cell_of(cell)).collect();
    csv.push_str(&cells.join(","));
    csv.push_str("\r\n");
}

/// A cell in quotes. What a spreadsheet would take for a formula is a text there: a device may say
/// that its version is `=cmd()`.
fn cell_of(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let guard = if is_formula { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_never_a_formula() {
        assert_eq!(cell_of("1.0.5"), "\"1.0.5\"");
        assert_eq!(cell_of("=1+1"), "\"'=1+1\"");
        assert_eq!(cell_of("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn the_place_of_a_page_is_a_time_and_an_id() {
        assert_eq!(after("12,a,b"), Some((12, "a,b".to_owned())));
        assert_eq!(after("x"), None);
    }
}
