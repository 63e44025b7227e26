//! Releases: what is there, who signed it, who runs it, and a place to drop a new one.

use askama::Template;
use axum::{Json, extract::State, response::Response};
use fota_proto::{
    limits::IMAGE_BYTES_MAX,
    manager::{Release, ReleaseUpload},
};

use super::{
    chrome::{Ask, Chrome, screen},
    confirm::go,
    fault::Fault,
    form::UploadForm,
    pieces::{Badge, Cli, When, grouped},
};
use crate::{
    AppState,
    api::{extract::Query, page::PageQuery, releases},
    auth::By,
    service::releases::{Upload, take_in},
};

pub const ROWS: u32 = 50;

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

/// A release in a list.
pub struct Row {
    pub release: Release,
    pub bytes: String,
    pub chip: String,
    pub trust: Badge,
    pub at: When,
}

impl Row {
    pub fn new(release: Release, now: i64) -> Self {
        Self {
            bytes: grouped(release.bytes),
            chip: release.chip.clone().unwrap_or_else(|| "no chip".into()),
            trust: trust(&release),
            at: When::new(release.uploaded_at, now),
            release,
        }
    }
}

/// Who vouches for it, in a word.
pub fn trust(release: &Release) -> Badge {
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

/// `POST /releases`: an upload by a browser without JavaScript.
pub async fn upload(
    State(state): State<AppState>,
    by: By,
    form: UploadForm,
) -> Result<Response, Fault> {
    let wanted = ReleaseUpload {
        version: form.maybe("version"),
        allow_version_mismatch: form.maybe("allow_version_mismatch").is_some(),
        notes: form.maybe("notes"),
    };
    let upload = Upload {
        bytes: form.file,
        wanted,
        seed_chunk_bytes: None,
        lab: state.config.lab,
    };
    let (release, _) = take_in(&state, upload, &by).await?;
    drop(form.turn);
    Ok(go(&format!("/releases/{}", release.id)))
}
