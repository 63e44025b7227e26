//! Taking in firmware: everything that the chip would refuse is refused here.

use axum::http::StatusCode;
use bytes::Bytes;
use fota_image::{
    Grouped,
    app::{Image, check_bytes},
};
use fota_proto::{
    Sha256,
    limits::{HEAD_BYTES, IMAGE_BYTES_MAX, NOTES_BYTES_MAX, VERSION_BYTES_MAX},
    manager::ReleaseUpload,
    signed::bundle::Bundle,
};

use super::{commit_by, secure_boot, signed};
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{By, Record},
    blobs,
    domain::{
        fit::chip_name,
        model::{NewEvent, Release, Signed},
    },
    store::Tx,
};

/// A file that somebody uploads.
pub struct Upload {
    pub bytes: Bytes,
    pub wanted: ReleaseUpload,
    /// Chunk size that the uploader named through the seed's API.
    pub seed_chunk_bytes: Option<u32>,
    /// Take the file although it is no image: `--lab`.
    pub lab: bool,
}

/// An upload that was found good.
struct Judged {
    release: Release,
    image: Bytes,
    /// Of a bundle: the signed release and the artifact.
    signed: Option<[Bytes; 2]>,
}

/// Checks and stores an image or a bundle; false where the same is there already. When this
/// returns, the release survives a power cut.
pub async fn take_in(
    state: &AppState,
    upload: Upload,
    by: &By,
) -> Result<(Release, bool), Refusal> {
    let now = state.now_ms();
    let root = match Bundle::looks_like(&upload.bytes) {
        true => Some(signed::newest_root(state).await?),
        false => None,
    };
    let checking = tokio::task::spawn_blocking(move || match root {
        Some(root) => judge_bundle(&upload, &root, now),
        None => judge(&upload, now),
    });
    let judged = checking.await.map_err(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Refusal::new(
            status,
            "bug",
            "the check of the image ended early: please report it",
        )
    })??;
    let new = &judged.release;
    secure_boot::require(state, new, &judged.image).await?;
    let known = find_known(state, &mut state.store.read().await?, new).await?;
    if let Some(Known::Same(same)) = known {
        return Ok((same, false));
    }
    // The bytes first: a row without its bytes could be offered.
    put(state, &judged).await?;
    let mut tx = state.store.write().await?;
    match find_known(state, &mut tx, new).await? {
        Some(Known::Same(same)) => Ok((same, false)),
        Some(Known::Unsigned(same)) => {
            let release = sign(state, tx, same, new, by).await?;
            Ok((release, false))
        }
        None => {
            let release = insert(state, tx, new, by).await?;
            Ok((release, true))
        }
    }
}

/// A stored release with the same bytes.
enum Known {
    /// And the same signature, or the upload brings none.
    Same(Release),
    /// The upload brings a signature that it does not have.
    Unsigned(Release),
}

async fn find_known(
    state: &AppState,
    tx: &mut Tx,
    new: &Release,
) -> Result<Option<Known>, Refusal> {
    let Some(same) = find_same(tx, new).await? else {
        signed::check_policy(state, tx, new).await?;
        signed::check_sequence(tx, new, None).await?;
        return Ok(None);
    };
    let (Some(brings), has) = (&new.signed, &same.signed) else {
        return Ok(Some(Known::Same(same)));
    };
    if has.as_ref().is_some_and(|has| has.digest == brings.digest) {
        return Ok(Some(Known::Same(same)));
    }
    if same.version != new.version {
        let detail = format!(
            "these bytes are release {} already, as version {}, not {}: sign it under that version",
            same.id, same.version, new.version
        );
        return Err(Refusal::conflict("version_exists", detail).of("version"));
    }
    if let Some(has) = has
        && (has.sequence, has.epoch) != (brings.sequence, brings.epoch)
    {
        let detail = format!(
            "release {} has sequence {} and epoch {}, this one says {} and {}: they never change",
            same.id, has.sequence, has.epoch, brings.sequence, brings.epoch
        );
        return Err(Refusal::conflict("sequence_exists", detail).of("body"));
    }
    signed::check_sequence(tx, new, Some(same.id)).await?;
    Ok(Some(Known::Unsigned(same)))
}

async fn put(state: &AppState, judged: &Judged) -> Result<(), Refusal> {
    let Judged {
        release,
        image,
        signed,
    } = judged;
    state.blobs.put(release.sha256, image.clone()).await?;
    if let (Some([envelope, artifact]), Some(said)) = (signed, &release.signed) {
        state.blobs.put(said.digest, envelope.clone()).await?;
        state.blobs.put(said.artifact, artifact.clone()).await?;
    }
    Ok(())
}

async fn insert(state: &AppState, mut tx: Tx, new: &Release, by: &By) -> Result<Release, Refusal> {
    let release = tx.insert_release(new).await?;
    let entry = release.signed.as_ref().map(|signed| signed.digest);
    let entry = entry.unwrap_or(release.sha256);
    tx.append_log(entry, release.id, state.now_ms()).await?;
    let size = Grouped(release.bytes);
    let signature = release
        .signed
        .as_ref()
        .map_or(String::new(), signature_text);
    let event = NewEvent {
        kind: "release.uploaded".to_owned(),
        release: Some(release.id),
        actor: "operator",
        text: format!(
            "{} {}: {size} bytes{signature}",
            release.project, release.version
        ),
        ..NewEvent::default()
    };
    let detail = format!("{}; SHA-256 {}", event.text, release.sha256);
    let record = Record::new("release.uploaded", object(release.id), detail);
    commit_by(state, tx, by, record, &[event], true).await?;
    Ok(release)
}

/// Adds a signature to a release that is there.
async fn sign(
    state: &AppState,
    mut tx: Tx,
    same: Release,
    new: &Release,
    by: &By,
) -> Result<Release, Refusal> {
    let signed = new
        .signed
        .clone()
        .expect("the caller found that it brings one");
    tx.sign_release(same.id, &signed).await?;
    tx.append_log(signed.digest, same.id, state.now_ms())
        .await?;
    let event = NewEvent {
        kind: "release.signed".to_owned(),
        release: Some(same.id),
        actor: "operator",
        text: format!(
            "{} {}{}",
            same.project,
            same.version,
            signature_text(&signed)
        ),
        ..NewEvent::default()
    };
    let detail = format!("{}; release {}", event.text, signed.digest);
    let record = Record::new("release.signed", object(same.id), detail);
    commit_by(state, tx, by, record, &[event], true).await?;
    Ok(Release {
        signed: Some(signed),
        ..same
    })
}

fn signature_text(signed: &Signed) -> String {
    let (sequence, keys) = (signed.sequence, signed.signed_by.join(", "));
    format!(", sequence {sequence}, signed by {keys}")
}

fn object(id: i64) -> String {
    format!("release:{id}")
}

/// The release that holds the same bytes; refuses bytes that contradict a release.
async fn find_same(tx: &mut Tx, new: &Release) -> Result<Option<Release>, Refusal> {
    if let Some(same) = tx.release_by_sha(new.sha256).await? {
        if new.elf.is_some() || same.version == new.version {
            return Ok(Some(same));
        }
        // A file that is no image says nothing of itself: its version is only what it was called.
        let detail = format!(
            "these bytes are release {} already, as version {}: one file has one version",
            same.id, same.version
        );
        return Err(Refusal::conflict("bytes_exist", detail).of("version"));
    }
    for other in tx.releases_by_version(&new.version).await? {
        if other.project == new.project && other.chip == new.chip {
            let chip = other.chip.map_or("any chip".to_owned(), chip_name);
            let detail = format!(
                "release {} is version {} of {:?} for {chip} already, with other bytes \
                 (SHA-256 {}…): a version never changes, build this one under a new version",
                other.id,
                other.version,
                other.project,
                other.sha256.short()
            );
            return Err(Refusal::conflict("version_exists", detail).of("version"));
        }
    }
    let Some(elf) = new.elf else {
        return Ok(None);
    };
    if let Some(other) = tx.release_by_elf(elf).await? {
        let detail = format!(
            "release {} ({}) was made from the same ELF file, so a device could not tell which \
             of the two it runs: build it again",
            other.id, other.version
        );
        return Err(Refusal::conflict("elf_exists", detail).of("body"));
    }
    Ok(None)
}

/// A bundle: the image must be right in itself, and what the release keys signed.
fn judge_bundle(upload: &Upload, root: &[u8], now: i64) -> Result<Judged, Refusal> {
    let bundle = Bundle::parse(&upload.bytes).ok_or_else(|| {
        let detail = "the bundle is cut short, or its signed release is longer than 1,024 bytes: \
                      make it again";
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "bundle_invalid", detail).of("body")
    })?;
    let said = signed::verify(root, bundle.release, now)?;
    let wanted = &upload.wanted;
    let inner = Upload {
        bytes: upload.bytes.slice_ref(bundle.image),
        wanted: ReleaseUpload {
            // An image that names no version of its own has the one that was signed.
            version: Some(wanted.version.as_deref().unwrap_or(said.version).to_owned()),
            allow_version_mismatch: false,
            notes: wanted.notes.clone(),
        },
        seed_chunk_bytes: upload.seed_chunk_bytes,
        lab: false,
    };
    let judged = judge(&inner, now)?;
    let (stored, artifact) = signed::agree(bundle.release, &said, &judged.release, bundle.image)?;
    Ok(Judged {
        release: Release {
            signed: Some(stored),
            ..judged.release
        },
        signed: Some([upload.bytes.slice_ref(bundle.release), artifact]),
        ..judged
    })
}

fn judge(upload: &Upload, now: i64) -> Result<Judged, Refusal> {
    let release = judge_image(upload, now)?;
    let image = upload.bytes.clone();
    Ok(Judged {
        release,
        image,
        signed: None,
    })
}

fn judge_image(upload: &Upload, now: i64) -> Result<Release, Refusal> {
    check_texts(&upload.wanted)?;
    let bytes = upload.bytes.len() as u64;
    if bytes > IMAGE_BYTES_MAX {
        let (bytes, max) = (Grouped(bytes), Grouped(IMAGE_BYTES_MAX));
        let detail = format!("image is {bytes} bytes; at most {max} can be mapped by the chip");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail).of("body"));
    }
    let refused = match check_bytes(&upload.bytes) {
        Ok(image) => match from_image(upload, &image, now) {
            Ok(release) => return Ok(release),
            Err(refusal) => refusal,
        },
        Err(error) => image_invalid(error.to_string()),
    };
    if !upload.lab || refused.code() != "image_invalid" {
        return Err(refused);
    }
    tracing::warn!(
        why = refused.detail(),
        "--lab: taking in a file that no chip would boot"
    );
    from_lab(upload, now)
}

fn image_invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "image_invalid", detail).of("body")
}

fn check_texts(wanted: &ReleaseUpload) -> Result<(), Refusal> {
    if let Some(version) = &wanted.version {
        let plain = !version.chars().any(char::is_control);
        if version.trim().is_empty() || version.len() > VERSION_BYTES_MAX || !plain {
            let detail = format!(
                "version has {} bytes: give 1 to {VERSION_BYTES_MAX} without control characters",
                version.len()
            );
            return Err(Refusal::field("version", detail));
        }
    }
    let notes_bytes = wanted.notes.as_ref().map_or(0, String::len);
    if notes_bytes > NOTES_BYTES_MAX {
        let detail = format!("notes have {notes_bytes} bytes; at most {NOTES_BYTES_MAX} are taken");
        return Err(Refusal::field("notes", detail));
    }
    Ok(())
}

fn from_image(upload: &Upload, image: &Image, now: i64) -> Result<Release, Refusal> {
    let desc = image.desc.as_ref().ok_or_else(|| {
        image_invalid(
            "image has no app description, so nobody could tell whether a device runs it: \
             build it with ESP-IDF 3.3 or newer",
        )
    })?;
    if desc.app_elf_sha256 == [0; 32] {
        return Err(image_invalid(
            "image does not name its ELF file (app_elf_sha256 is zero), so nobody could tell \
             whether a device runs it: make it with esptool's --elf-sha256-offset 0xb0",
        ));
    }
    let version = match (&upload.wanted.version, desc.own_version()) {
        (Some(wanted), said) if said.is_none_or(|said| said == wanted) => wanted,
        (Some(wanted), _) if upload.wanted.allow_version_mismatch => wanted,
        (Some(wanted), said) => {
            let detail = format!(
                "the image says version {:?}, not {wanted:?}: upload the right file, or \
                 allow the mismatch",
                said.unwrap_or_default()
            );
            return Err(Refusal::conflict("version_mismatch", detail).of("version"));
        }
        (None, Some(said)) => said,
        (None, None) => {
            let detail = "version is missing: the image names none of its own (Arduino and \
                          MicroPython builds do not), so give it one";
            return Err(Refusal::field("version", detail));
        }
    };
    let max = image.header.max_rev_full;
    Ok(Release {
        project: desc.project_name.as_str().to_owned(),
        chip: Some(image.header.chip_id),
        elf: Some(Sha256(desc.app_elf_sha256)),
        idf_version: Some(desc.idf_ver.as_str().to_owned()).filter(|text| !text.is_empty()),
        secure_version: desc.secure_version,
        chip_revision_min: image.header.min_rev_full,
        chip_revision_max: (!matches!(max, 0 | u16::MAX)).then_some(max),
        ..bare(upload, version, now)
    })
}

/// A file that is no image: only devices of the seed's API are offered it.
fn from_lab(upload: &Upload, now: i64) -> Result<Release, Refusal> {
    let version = upload.wanted.version.as_deref().ok_or_else(|| {
        let detail = "version is missing: a file that is no image says none itself";
        Refusal::field("version", detail)
    })?;
    Ok(Release {
        lab: true,
        ..bare(upload, version, now)
    })
}

fn bare(upload: &Upload, version: &str, now: i64) -> Release {
    let mut head = [0; HEAD_BYTES];
    let front = upload.bytes.len().min(HEAD_BYTES);
    head[..front].copy_from_slice(&upload.bytes[..front]);
    Release {
        id: 0,
        version: version.to_owned(),
        project: String::new(),
        chip: None,
        bytes: upload.bytes.len() as u64,
        sha256: blobs::digest(&upload.bytes),
        head,
        elf: None,
        idf_version: None,
        secure_version: 0,
        chip_revision_min: 0,
        chip_revision_max: None,
        notes: upload.wanted.notes.clone().unwrap_or_default(),
        lab: false,
        yanked: false,
        seed_chunk_bytes: upload.seed_chunk_bytes,
        uploaded_at: now,
        signed: None,
    }
}

/// Withdraws a release: it is never offered again. Devices that run it go on.
pub async fn yank(state: &AppState, id: i64, reason: &str, by: &By) -> Result<Release, Refusal> {
    if reason.len() > NOTES_BYTES_MAX {
        let detail = format!(
            "reason has {} bytes; at most {NOTES_BYTES_MAX} are taken",
            reason.len()
        );
        return Err(Refusal::field("reason", detail));
    }
    let mut tx = state.store.write().await?;
    let found = tx.release(id).await?;
    let release = found.ok_or_else(|| Refusal::not_found(format!("release {id}")).of("id"))?;
    if release.yanked {
        return Ok(release);
    }
    tx.yank_release(id).await?;
    let reason = if reason.is_empty() {
        "no reason given"
    } else {
        reason
    };
    let event = NewEvent {
        kind: "release.yanked".to_owned(),
        release: Some(id),
        actor: "operator",
        text: format!("{}: {reason}", release.version),
        ..NewEvent::default()
    };
    let record = Record::new("release.yanked", object(id), event.text.clone());
    commit_by(state, tx, by, record, &[event], true).await?;
    Ok(Release {
        yanked: true,
        ..release
    })
}
