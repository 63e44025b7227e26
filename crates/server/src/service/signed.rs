//! Signed releases on their way in: what the release keys say must be what the image is.

use axum::http::StatusCode;
use bytes::Bytes;
use fota_proto::{
    Sha256, manager,
    signed::{Envelope, Release as SignedRelease, Root, SignedError, index},
};

use crate::{
    AppState,
    api::problem::Refusal,
    blobs,
    domain::{
        model::{Release, Signed},
        trust::is_over,
    },
    store::{StoreError, Tx},
};

use super::roots;

/// The newest root's bytes, which a bundle is verified with.
pub async fn newest_root(state: &AppState) -> Result<Bytes, Refusal> {
    let stored = state.store.read().await?.newest_root().await?;
    let stored = stored.ok_or_else(|| {
        let detail = "this server has no root, so it cannot tell whose signature counts: add one \
                      with POST /api/v1/roots";
        Refusal::conflict("root_missing", detail).of("body")
    })?;
    roots::read(state, &stored).await
}

/// A signed release that keys of this root have signed, for now.
pub fn verify<'r>(
    root_bytes: &[u8],
    bytes: &'r [u8],
    now: i64,
) -> Result<SignedRelease<'r>, Refusal> {
    let root = Root::first(root_bytes).map_err(roots::damaged)?;
    let over = |what: &str, expires: Option<u64>| match expires {
        Some(expires) if is_over(expires, now) => {
            let detail = format!("the {what} expired at Unix time {expires}: sign a newer one");
            Err(Refusal::conflict("expired", detail).of("body"))
        }
        _ => Ok(()),
    };
    over("root", root.expires)?;
    let release = root
        .release(bytes)
        .map_err(|error| untrusted(&root, error))?;
    over("signed release", release.expires)?;
    match root.product {
        Some(product) if product != release.product => {
            let what = "product";
            Err(differs(
                what,
                &format!("{:?}", release.product),
                &format!("{product:?} in the root"),
            ))
        }
        _ => Ok(release),
    }
}

fn untrusted(root: &Root, error: SignedError) -> Refusal {
    let detail = format!(
        "the release is not one that root {} trusts: {error}: sign it with a release key of that \
         root",
        root.version
    );
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "signature_invalid",
        detail,
    )
    .of("body")
}

fn differs(what: &str, signed: &str, found: &str) -> Refusal {
    let detail = format!(
        "the signed release says {what} {signed}, not {found}: upload the image that was signed, \
         or sign this one"
    );
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "bundle_mismatch", detail).of("body")
}

/// Compares what was signed with what the image is; gives what to store of it, and the artifact.
pub fn agree(
    envelope: &[u8],
    signed: &SignedRelease,
    release: &Release,
    image: &[u8],
) -> Result<(Signed, Bytes), Refusal> {
    let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
    let hash = |digest: Sha256| digest.to_string();
    let (pages, artifact) = index::build(image);
    let elf = release.elf.map_or("none".to_owned(), hash);
    let chip = release
        .chip
        .map_or("none".to_owned(), |chip| chip.to_string());
    let rows = [
        ("product", text(&signed.product), text(&release.project)),
        ("chip id", signed.chip.to_string(), chip),
        ("version", text(&signed.version), text(&release.version)),
        (
            "length",
            signed.bytes.to_string(),
            release.bytes.to_string(),
        ),
        ("SHA-256", hash(signed.image), hash(release.sha256)),
        ("ELF digest", hash(signed.elf), elf),
    ];
    if let Some((what, said, found)) = rows.iter().find(|(_, said, found)| said != found) {
        return Err(differs(what, said, found));
    }
    if signed.pages != pages {
        return Err(differs("an index", "of other bytes", "that of this image"));
    }
    let artifact = Bytes::from(artifact);
    let signed_by = Envelope::parse(envelope).map_err(|_| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Refusal::new(status, "signature_invalid", "the signed release is damaged").of("body")
    })?;
    let signed = Signed {
        digest: blobs::digest(envelope),
        artifact: blobs::digest(&artifact),
        sequence: signed.sequence,
        epoch: signed.epoch,
        expires: signed.expires,
        support_until: signed.support_until,
        advisory: signed.advisory.map(str::to_owned),
        self_test_deadline_s: signed.self_test_deadline_s,
        signed_by: signed_by
            .signatures
            .iter()
            .map(|s| s.kid.to_string())
            .collect(),
        trusted: true,
    };
    Ok((signed, artifact))
}

/// Refuses an image that is not signed where it must be. A device that trusts a root is offered no
/// unsigned one, whatever is taken in.
pub async fn check_policy(state: &AppState, tx: &mut Tx, new: &Release) -> Result<(), Refusal> {
    let Some(why) = why_unsigned_is_refused(state, tx, new).await? else {
        return Ok(());
    };
    let detail = format!(
        "the image is not signed, and {why}: upload the bundle that `fota release sign` makes, or \
         allow unsigned releases of product {:?} with `fota product signing`",
        new.project
    );
    Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "unsigned", detail).of("body"))
}

/// Refuses to start what came in unsigned before signatures were required here.
pub async fn check_may_start(
    state: &AppState,
    tx: &mut Tx,
    release: &Release,
) -> Result<(), Refusal> {
    let Some(why) = why_unsigned_is_refused(state, tx, release).await? else {
        return Ok(());
    };
    let detail = format!(
        "release {} is not signed, and {why}: sign it with `fota release sign` and upload the \
         bundle, or allow unsigned releases of product {:?} with `fota product signing`",
        release.version, release.project
    );
    Err(Refusal::conflict("unsigned", detail).of("release"))
}

async fn why_unsigned_is_refused(
    state: &AppState,
    tx: &mut Tx,
    new: &Release,
) -> Result<Option<String>, StoreError> {
    // The seed's tools and devices know no signatures; `--legacy-open` opens the door for them, and
    // `--lab` for files that nobody could sign.
    let by_seed = state.config.legacy_open && new.seed_chunk_bytes.is_some();
    let is_let_in = new.signed.is_some() || by_seed || new.lab;
    if is_let_in || tx.allows_unsigned(&new.project).await? {
        return Ok(None);
    }
    Ok(match tx.newest_root().await? {
        Some(root) => Some(format!("this server has root {}", root.version)),
        None if state.config.allow_unsigned => None,
        None => Some("this server was started without --allow-unsigned".to_owned()),
    })
}

/// Refuses a sequence that another release of the product and chip has.
pub async fn check_sequence(tx: &mut Tx, new: &Release, own: Option<i64>) -> Result<(), Refusal> {
    let Some(signed) = &new.signed else {
        return Ok(());
    };
    let found = tx
        .release_by_sequence(&new.project, new.chip, signed.sequence)
        .await?;
    match found.filter(|other| Some(other.id) != own) {
        None => Ok(()),
        Some(other) => {
            let detail = format!(
                "sequence {} is that of release {} ({}) already, and devices go by it: sign this \
                 one with a higher sequence",
                signed.sequence, other.id, other.version
            );
            Err(Refusal::conflict("sequence_exists", detail).of("body"))
        }
    }
}

/// What the release keys said, in the words of the manager API.
pub fn view(signed: &Signed) -> manager::SignedRelease {
    manager::SignedRelease {
        digest: signed.digest,
        artifact: signed.artifact,
        sequence: signed.sequence,
        epoch: signed.epoch,
        expires: signed.expires,
        support_until: signed.support_until,
        advisory: signed.advisory.clone(),
        self_test_deadline_s: signed.self_test_deadline_s,
        signed_by: signed.signed_by.clone(),
        trusted: signed.trusted,
    }
}
