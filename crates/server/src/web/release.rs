//! One release: what its image says of itself, who vouches for it, the patches that make it, and
//! how it differs from another one.

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use fota_image::app::{Image, check_bytes};
use fota_proto::{
    Sha256,
    limits::NOTES_BYTES_MAX,
    manager::{Delta, DeltaProfile, DeltaRequest, ReasonBody, Release, SignedRelease},
};

use super::{
    chrome::{Ask, Chrome, screen},
    confirm::{self, Effect, Field, Question, go},
    fault::Fault,
    form::Form,
    pieces::{Badge, Cli, grouped, shell},
    releases::{ROWS, Row, trust},
    time::iso,
};
use crate::{
    AppState,
    api::{
        deltas::{self, DeltasQuery},
        extract::{Json as JsonBody, JsonOrNothing, Query, Segment},
        page::PageQuery,
        problem::Refusal,
        releases,
    },
    auth::By,
    service::signed,
};

#[derive(Template)]
#[template(path = "release.html")]
struct Screen {
    chrome: Chrome,
    row: Row,
    /// Why it cannot be started, where it cannot.
    refused: Option<String>,
    facts: Vec<(&'static str, String)>,
    signing: Vec<(&'static str, String)>,
    deltas: Vec<DeltaRow>,
    /// What patches may be asked for from; empty where none may.
    sources: Vec<(i64, String)>,
    others: Vec<Row>,
    compared: Option<Compared>,
    show: Cli,
    fetch: Cli,
    patches: Cli,
}

/// A patch that makes the release.
struct DeltaRow {
    from: String,
    memory: &'static str,
    state: Badge,
    bytes: String,
    share: String,
    made_in: String,
    offered: u64,
    succeeded: u64,
    spared: String,
    detail: String,
}

/// Another release beside this one.
struct Compared {
    id: i64,
    version: String,
    rows: Vec<(&'static str, String, String, bool)>,
}

/// `GET /releases/{id}`; `?with=7` puts another one beside it.
pub async fn show(
    State(state): State<AppState>,
    ask: Ask,
    Path(id): Path<String>,
) -> Result<Response, Fault> {
    let to = || State(state.clone());
    let Json(release) = releases::show(to(), Segment(id)).await?;
    let query = PageQuery {
        after: None,
        limit: Some(ROWS),
    };
    let Json(page) = releases::list(to(), Query(query)).await?;
    let query = DeltasQuery {
        release: Some(release.id.to_string()),
        ..DeltasQuery::default()
    };
    let Json(made) = deltas::list(to(), Query(query)).await?;
    let now = state.now_ms();
    let is_other = |one: &Release| one.id != release.id && one.project == release.project;
    let others: Vec<Release> = page.items.into_iter().filter(is_other).collect();
    let compared = match ask.maybe("with") {
        Some(with) => Some(
            beside(
                &state,
                &release,
                releases::show(to(), Segment(with)).await?.0,
            )
            .await?,
        ),
        None => None,
    };
    let may_patch = release.signed.is_some() && state.config.delta_workers > 0 && !release.yanked;
    let sources = others
        .iter()
        .filter(|one| may_patch && one.chip == release.chip);
    let number = release.id;
    screen(&Screen {
        chrome: Chrome::new(&state, &ask, "/releases", release.version.clone()).live("all"),
        refused: refused(&state, number).await?,
        // Only whole pages show them: an image is not read again at each event.
        facts: match ask.is_part() {
            true => Vec::new(),
            false => facts(&state, &release).await?,
        },
        signing: release.signed.as_ref().map(signing).unwrap_or_default(),
        deltas: made.items.iter().map(DeltaRow::new).collect(),
        sources: sources.map(|one| (one.id, one.version.clone())).collect(),
        others: others.into_iter().map(|one| Row::new(one, now)).collect(),
        compared,
        row: Row::new(release, now),
        show: Cli::new(format!("fota release show {number}")),
        fetch: Cli::new(format!("fota release download {number}")),
        patches: Cli::new(format!(
            "fota release delta build {number} --from all-running"
        )),
    })
}

/// Why a rollout of it would be refused because nobody has signed it.
async fn refused(state: &AppState, id: i64) -> Result<Option<String>, Fault> {
    let mut tx = state.store.read().await?;
    let Some(release) = tx.release(id).await? else {
        return Ok(None);
    };
    let may = signed::check_may_start(state, &mut tx, &release).await;
    Ok(may.err().map(|refusal| refusal.detail().to_owned()))
}

impl DeltaRow {
    fn new(delta: &Delta) -> Self {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        let share = |bytes: u64| bytes as f64 * 100.0 / delta.image_bytes.max(1) as f64;
        Self {
            from: delta
                .from_version
                .clone()
                .unwrap_or_else(|| "nothing (compressed)".to_owned()),
            memory: match delta.profile {
                DeltaProfile::Small => "16 KB",
                DeltaProfile::Default => "32 KB",
            },
            state: match delta.state.as_str() {
                "queued" => Badge::new("clock", "waits its turn", "wait"),
                "making" => Badge::new("half", "is made", "busy"),
                "ready" => Badge::new("tick", "ready", "ok"),
                "useless" => Badge::new("dash", "hardly shorter", "idle"),
                _ => Badge::new("cross", "failed", "bad"),
            },
            bytes: or_dash(delta.bytes.map(grouped)),
            share: or_dash(delta.bytes.map(|bytes| format!("{:.1} %", share(bytes)))),
            made_in: or_dash(
                delta
                    .made_in_ms
                    .map(|ms| format!("{:.1} s", ms as f64 / 1000.0)),
            ),
            offered: delta.offered,
            succeeded: delta.succeeded,
            spared: grouped(u64::try_from(delta.spared_bytes).unwrap_or(0)),
            detail: delta.detail.clone().unwrap_or_default(),
        }
    }
}

/// Fact by fact; the other's image and trust may be quite different.
async fn beside(state: &AppState, this: &Release, other: Release) -> Result<Compared, Fault> {
    let word = |release: &Release| trust(release).word;
    let mut rows = vec![("Trust", word(this), word(&other))];
    let pairs = facts(state, this)
        .await?
        .into_iter()
        .zip(facts(state, &other).await?);
    rows.extend(pairs.map(|((name, one), (_, two))| (name, one, two)));
    let runs = |release: &Release| format!("{} devices", release.running_on);
    rows.push(("Runs on", runs(this), runs(&other)));
    let rows = rows.into_iter();
    Ok(Compared {
        id: other.id,
        version: other.version,
        rows: rows
            .map(|(name, one, two)| (name, one.clone(), two.clone(), one != two))
            .collect(),
    })
}

/// `POST /releases/{id}/deltas`: asks for a patch.
pub async fn build_delta(
    State(state): State<AppState>,
    by: By,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Fault> {
    let from = form.text("from");
    let request = DeltaRequest {
        release: id.clone(),
        from: match from {
            "" | "running" => Vec::new(),
            from => vec![from.to_owned()],
        },
        all_running: from == "running",
        profile: match form.text("profile") {
            "small" => DeltaProfile::Small,
            _ => DeltaProfile::Default,
        },
    };
    let (_, Json(_)) = deltas::build(State(state), by, JsonBody(request)).await?;
    Ok(go(&format!("/releases/{id}#deltas")))
}

/// What the image says of itself.
async fn facts(state: &AppState, release: &Release) -> Result<Vec<(&'static str, String)>, Fault> {
    let image = image(state, release).await?;
    let desc = image.as_ref().and_then(|image| image.desc.as_ref());
    let hash = image.as_ref().and_then(|image| image.sha256_appended);
    let revision = |revision: u16| format!("{}.{}", revision / 100, revision % 100);
    let unknown = || "not said".to_owned();
    Ok(vec![
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
        (
            "Validation hash",
            hash.map_or_else(
                || "none appended".to_owned(),
                |hash| Sha256(hash).to_string(),
            ),
        ),
        (
            "Compiled",
            desc.map_or_else(unknown, |desc| format!("{} {}", desc.date, desc.time)),
        ),
    ])
}

/// The image itself; none where it is no image, as in a lab.
async fn image(state: &AppState, release: &Release) -> Result<Option<Image>, Fault> {
    let blob = state
        .blobs
        .find(release.sha256)
        .await
        .map_err(Refusal::from)?;
    let Some(blob) = blob else {
        return Ok(None);
    };
    let reading = tokio::task::spawn_blocking(move || check_bytes(&blob.bytes).ok());
    Ok(reading.await.ok().flatten())
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
