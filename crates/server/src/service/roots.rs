//! Roots of trust: which keys may sign releases and answers.

use axum::http::StatusCode;
use bytes::Bytes;
use fota_proto::{
    manager,
    signed::{Alg, RoleName, Root, SignedError},
};

use super::commit_by;
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{By, Record},
    blobs,
    domain::{
        hex,
        model::{NewEvent, Release, Signed},
        trust::is_over,
    },
    store::{StoreError, StoredRoot, Tx},
};

const ROLES: [RoleName; 3] = [RoleName::Root, RoleName::Release, RoleName::Online];

/// Takes in a root: the first one as it is, a later one only where the newest leads to it. False
/// where it is there already.
pub async fn add(
    state: &AppState,
    bytes: Bytes,
    by: &By,
) -> Result<(manager::Root, bool), Refusal> {
    let digest = blobs::digest(&bytes);
    let now = state.now_ms();
    let mut tx = state.store.write().await?;
    let newest = tx.newest_root().await?;
    let root = match &newest {
        None => Root::first(&bytes).map_err(refused)?,
        Some(stored) => {
            if let Some(known) = same(&mut tx, &bytes).await? {
                return Ok((known, false));
            }
            let trusted = read(state, stored).await?;
            let trusted = Root::first(&trusted).map_err(damaged)?;
            trusted.succeed(&bytes).map_err(refused)?
        }
    };
    check(state, &root, now)?;
    // The bytes first: a row without its bytes could be asked for.
    state.blobs.put(digest, bytes.clone()).await?;
    let stored = StoredRoot {
        version: root.version,
        digest,
        added_at: now,
    };
    tx.insert_root(&stored).await?;
    let lost = judge_releases(state, &mut tx, &root).await?;
    let event = NewEvent {
        kind: "root.added".to_owned(),
        actor: "operator",
        text: added(&root, lost),
        ..NewEvent::default()
    };
    let detail = format!("{}; SHA-256 {digest}", event.text);
    let record = Record::new("root.added", format!("root:{}", root.version), detail);
    commit_by(state, tx, by, record, &[event], true).await?;
    Ok((view(&stored, &root), true))
}

/// The stored root with these bytes.
async fn same(tx: &mut Tx, bytes: &[u8]) -> Result<Option<manager::Root>, Refusal> {
    // Bytes that are no root at all are refused by whoever asks.
    let Ok(root) = Root::first(bytes) else {
        return Ok(None);
    };
    let stored = tx.root(root.version).await?;
    let same = stored.filter(|stored| stored.digest == blobs::digest(bytes));
    Ok(same.map(|stored| view(&stored, &root)))
}

fn check(state: &AppState, root: &Root, now: i64) -> Result<(), Refusal> {
    let online = state.online_key.public();
    if !root.keys_of(RoleName::Online).any(|key| *key == online) {
        let named: Vec<String> = root
            .keys_of(RoleName::Online)
            .map(|key| key.id().to_string())
            .collect();
        let detail = format!(
            "root {} names {} for the online role, this server's key is {}: devices would not \
             take its answers; make a root with the online_key of GET /api/v1/server",
            root.version,
            named.join(", "),
            online.id()
        );
        return Err(Refusal::conflict("online_key_unknown", detail).of("body"));
    }
    if let Some(expires) = root.expires
        && is_over(expires, now)
    {
        let detail = format!(
            "root {} expired at Unix time {expires}: sign one with a later time",
            root.version
        );
        return Err(Refusal::conflict("root_expired", detail).of("body"));
    }
    Ok(())
}

/// Notes which signed releases the new root still vouches for; gives the number that it does not.
async fn judge_releases(state: &AppState, tx: &mut Tx, root: &Root<'_>) -> Result<usize, Refusal> {
    let mut lost = 0;
    for release in tx.releases().await? {
        let Some(signed) = &release.signed else {
            continue;
        };
        let trusted = vouches(state, root, &release, signed).await?;
        lost += usize::from(!trusted);
        if trusted != signed.trusted {
            let signed = Signed {
                trusted,
                ..signed.clone()
            };
            tx.sign_release(release.id, &signed).await?;
        }
    }
    Ok(lost)
}

async fn vouches(
    state: &AppState,
    root: &Root<'_>,
    release: &Release,
    signed: &Signed,
) -> Result<bool, Refusal> {
    let Some(blob) = state.blobs.find(signed.digest).await? else {
        tracing::error!(
            release = release.id,
            "the signed release is not in the artifact store"
        );
        return Ok(false);
    };
    let is_for = root
        .product
        .is_none_or(|product| product == release.project);
    Ok(is_for && root.release(&blob.bytes).is_ok())
}

fn added(root: &Root, lost: usize) -> String {
    let ids: Vec<String> = root
        .keys_of(RoleName::Release)
        .map(|key| key.id().to_string())
        .collect();
    let version = root.version;
    let keys = ids.join(", ");
    match lost {
        0 => format!("root {version}: release keys {keys}"),
        _ => format!(
            "root {version}: release keys {keys}; {lost} signed releases no longer count: sign \
             those that are still to be offered again"
        ),
    }
}

fn refused(error: SignedError) -> Refusal {
    match error {
        SignedError::RootVersion { trusted, .. } => {
            let detail = format!("{error}: upload root {} next", trusted.saturating_add(1));
            Refusal::conflict("root_out_of_order", detail).of("body")
        }
        _ => {
            let detail = format!("body is no root that this server trusts: {error}");
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Refusal::new(status, "root_invalid", detail).of("body")
        }
    }
}

/// A stored root that does not verify any more: it did when it was taken.
pub fn damaged(error: SignedError) -> Refusal {
    tracing::error!(%error, "a stored root is damaged");
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let detail = "the stored root is damaged: see the server's log, restore a backup";
    Refusal::new(status, "root_damaged", detail)
}

/// The bytes of a stored root.
pub async fn read(state: &AppState, stored: &StoredRoot) -> Result<Bytes, Refusal> {
    let found = state.blobs.find(stored.digest).await?;
    let blob = found.ok_or_else(|| {
        tracing::error!(
            version = stored.version,
            "a root is not in the artifact store"
        );
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let detail = format!(
            "root {} is not in the artifact store: restore a backup",
            stored.version
        );
        Refusal::new(status, "root_damaged", detail)
    })?;
    Ok(blob.bytes)
}

/// A root in the words of the manager API.
pub fn view(stored: &StoredRoot, root: &Root) -> manager::Root {
    let threshold = |role| root.role(role).threshold;
    manager::Root {
        version: stored.version,
        digest: stored.digest,
        keys: (0..root.keys.len()).map(|index| key(root, index)).collect(),
        thresholds: manager::Thresholds {
            root: threshold(RoleName::Root),
            release: threshold(RoleName::Release),
            online: threshold(RoleName::Online),
        },
        expires: root.expires,
        product: root.product.map(str::to_owned),
        added_at: stored.added_at,
    }
}

fn key(root: &Root, index: usize) -> manager::RootKey {
    let key = &root.keys[index];
    let has = |role: &RoleName| {
        let mut keys = root.role(*role).keys.iter();
        keys.any(|of| usize::from(*of) == index)
    };
    manager::RootKey {
        id: key.id().to_string(),
        algorithm: match key.alg() {
            Alg::Esp256 => "esp256".to_owned(),
            Alg::Ed25519 => "ed25519".to_owned(),
        },
        public: hex::encode(key.bytes()),
        roles: ROLES
            .iter()
            .filter(|role| has(role))
            .map(RoleName::to_string)
            .collect(),
    }
}

/// Says at start that devices will not take this server's answers, where that is so.
pub async fn warn_of_unknown_key(state: &AppState) -> Result<(), StoreError> {
    let Some(stored) = state.store.read().await?.newest_root().await? else {
        return Ok(());
    };
    let online = state.online_key.public();
    let bytes = read(state, &stored).await;
    let names = bytes.is_ok_and(|bytes| {
        Root::first(&bytes)
            .is_ok_and(|root| root.keys_of(RoleName::Online).any(|key| *key == online))
    });
    if !names {
        tracing::error!(
            version = stored.version,
            key = %online.id(),
            "the newest root does not name this server's online key: devices will not take its \
             answers; restore the key, or add a root that names it"
        );
    }
    Ok(())
}
