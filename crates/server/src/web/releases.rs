//! Releases: what is there, who signed it, who runs it, and a place to drop a new one.

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use fota_proto::{
    limits::{IMAGE_BYTES_MAX, NOTES_BYTES_MAX},
    manager::{ReasonBody, Release, SignedRelease},
};

use super::{
    chrome::{Ask, Chrome, screen},
    confirm::{self, Effect, Field, Question, go},
    fault::Fault,
    form::Form,
    pieces::{Badge, Cli, When, grouped, shell},
    time::iso,
};
use crate::{
    AppState,
    api::{
        extract::{JsonOrNothing, Query, Segment},
        page::PageQuery,
        releases,
    },
    auth::By,
};

const ROWS: u32 = 50;

#[derive(Template)]
#[template(path = "releases.html")]
struct Releases {
    chrome: Chrome,
    rows: Vec<Row>,
    next: Option<String>,
    bytes_max: u64,
    mib_max: u64,
    upload: Cli,
    list: Cli,
}

struct Row {
    release: Release,
    bytes: String,
    chip: String,
    trust: Badge,
    at: When,
}

impl Row {
    fn new(release: Release, now: i64) -> Self {
        Self {
            bytes: grouped(release.bytes),
            chip: release.chip.clone().unwrap_or_else(|| "no chip".into()),
            trust: trust(&release),
            at: When::new(release.uploaded_at, now),
            release,
        }
    }
}

fn trust(release: &Release) -> Badge {
    match &release.signed {
        _ if release.yanked => Badge::new("cross", "withdrawn", "bad"),
        Some(signed) if signed.trusted => Badge::new("tick", "signed", "ok"),
        Some(_) => Badge::new("warn", "signed by keys that no longer count", "warn"),
        None if release.lab => Badge::new("warn", "no image: lab only", "warn"),
        None => Badge::new("warn", "not signed", "warn"),
    }
}

/// `GET /releases`.
pub async fn list(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let query = PageQuery {
        after: ask.maybe("after"),
        limit: Some(ROWS),
    };
    let Json(page) = releases::list(State(state.clone()), Query(query)).await?;
    let now = state.now_ms();
    screen(&Releases {
        chrome: Chrome::new(&state, &ask, "/releases", "Releases").live("all"),
        rows: page
            .items
            .into_iter()
            .map(|one| Row::new(one, now))
            .collect(),
        next: page.next.map(|next| format!("/releases?after={next}")),
        bytes_max: IMAGE_BYTES_MAX,
        mib_max: IMAGE_BYTES_MAX / 1024 / 1024,
        upload: Cli::new("fota upload firmware.bin"),
        list: Cli::new("fota release list"),
    })
}

#[derive(Template)]
#[template(path = "release.html")]
struct Screen {
    chrome: Chrome,
    row: Row,
    facts: Vec<(&'static str, String)>,
    signing: Vec<(&'static str, String)>,
    others: Vec<Row>,
    show: Cli,
    fetch: Cli,
}

/// `GET /releases/{id}`.
pub async fn show(
    State(state): State<AppState>,
    ask: Ask,
    Path(id): Path<String>,
) -> Result<Response, Fault> {
    let Json(release) = releases::show(State(state.clone()), Segment(id)).await?;
    let query = PageQuery {
        after: None,
        limit: Some(ROWS),
    };
    let Json(page) = releases::list(State(state.clone()), Query(query)).await?;
    let now = state.now_ms();
    let others = page.items.into_iter();
    let others = others.filter(|one| one.id != release.id && one.project == release.project);
    let number = release.id;
    screen(&Screen {
        chrome: Chrome::new(&state, &ask, "/releases", release.version.clone()).live("all"),
        facts: facts(&release),
        signing: release.signed.as_ref().map(signing).unwrap_or_default(),
        others: others.map(|one| Row::new(one, now)).collect(),
        row: Row::new(release, now),
        show: Cli::new(format!("fota release show {number}")),
        fetch: Cli::new(format!("fota release download {number}")),
    })
}

/// What the image says of itself.
fn facts(release: &Release) -> Vec<(&'static str, String)> {
    let revision = |revision: u16| format!("{}.{}", revision / 100, revision % 100);
    let unknown = || "not said".to_owned();
    vec![
        ("Product", release.project.clone()),
        ("Version", release.version.clone()),
        ("Chip", release.chip.clone().unwrap_or_else(unknown)),
        (
            "Chip revisions",
            format!(
                "{} to {}",
                revision(release.chip_revision_min),
                release
                    .chip_revision_max
                    .map_or_else(|| "any".into(), revision)
            ),
        ),
        (
            "ESP-IDF",
            release.idf_version.clone().unwrap_or_else(unknown),
        ),
        ("Secure version", release.secure_version.to_string()),
        ("Size", format!("{} bytes", grouped(release.bytes))),
        ("Image SHA-256", release.sha256.to_string()),
        (
            "ELF SHA-256",
            release
                .elf_sha256
                .map_or_else(unknown, |elf| elf.to_string()),
        ),
    ]
}

fn signing(signed: &SignedRelease) -> Vec<(&'static str, String)> {
    let day = |seconds: u64| iso(i64::try_from(seconds * 1000).unwrap_or(i64::MAX));
    let mut facts = vec![
        ("Signed by", signed.signed_by.join(", ")),
        (
            "Counts",
            match signed.trusted {
                true => "yes: by the newest root".into(),
                false => "no: the newest root no longer counts these keys".into(),
            },
        ),
        ("Sequence", signed.sequence.to_string()),
        ("Security epoch", signed.epoch.to_string()),
        ("Envelope", signed.digest.to_string()),
        (
            "Expires",
            signed.expires.map_or_else(|| "never".into(), day),
        ),
    ];
    facts.extend(signed.support_until.map(|at| ("Supported until", day(at))));
    facts.extend(signed.advisory.clone().map(|text| ("Advisory", text)));
    facts.extend(
        signed
            .self_test_deadline_s
            .map(|seconds| ("Self-test deadline", format!("{seconds} s"))),
    );
    facts
}

/// `GET /releases/{id}/yank`: the question.
pub async fn ask_yank(
    State(state): State<AppState>,
    asked: Ask,
    Path(id): Path<String>,
) -> Result<Response, Fault> {
    let Json(release) = releases::show(State(state.clone()), Segment(id)).await?;
    let question = Question {
        here: "/releases",
        title: format!("Withdraw {}", release.version),
        lead: format!(
            "{} is never offered again, by any rollout. A withdrawal cannot be taken back; devices \
             that run it keep it until they are ordered back.",
            release.version
        ),
        effects: vec![Effect {
            who: format!("{} that run it", release.running_on),
            what: "stay on it",
        }],
        fields: vec![Field::Reason {
            needed: false,
            bytes_max: NOTES_BYTES_MAX,
        }],
        verb: "Withdraw",
        tone: "bad",
        back: format!("/releases/{}", release.id),
        cli: format!("fota release yank {} --reason {}", release.id, shell("…")),
    };
    confirm::ask(&state, &asked, question)
}

/// `POST /releases/{id}/yank`.
pub async fn yank(
    State(state): State<AppState>,
    by: By,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Fault> {
    let body = JsonOrNothing(ReasonBody {
        reason: form.text("reason").to_owned(),
    });
    let Json(release) = releases::yank(State(state), by, Segment(id), body).await?;
    Ok(go(&format!("/releases/{}", release.id)))
}
