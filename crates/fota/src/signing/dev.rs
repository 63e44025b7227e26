//! The development key: made at first use, so that a newcomer needs to know of no keys, and
//! unprotected, so that nobody may go on using it.

use std::path::PathBuf;

use anyhow::Context;
use fota_client::Client;
use fota_proto::signed::Alg;

use super::{release, root::Draft};
use crate::{
    args::ReleaseFields,
    credentials,
    failure::{Failure, Result},
    firmware::Firmware,
    keys::{self, Keys, Public, Secret},
    output::Output,
};

/// Name of the development key.
pub const NAME: &str = "dev";

/// The development key of this machine, where there is one.
pub fn find(keys: &Keys) -> Result<Option<Secret>> {
    match keys.file(NAME) {
        Ok(file) => file.unlock("").map(Some).map_err(|error| {
            Failure::refused("key_invalid", format!("key {NAME}: {error}"))
                .hint("the development key has no passphrase; a key of yours needs another name")
        }),
        Err(failure) if failure.exit == crate::failure::Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The development key, made at first use with a warning that is hard to overlook.
pub fn key(out: &Output, keys: &Keys) -> Result<Secret> {
    if let Some(secret) = find(keys)? {
        return Ok(secret);
    }
    let secret = keys::generate(Alg::Esp256)?;
    keys.add(NAME, &secret, None)?;
    let folder = keys.dir().display();
    out.warn(&format!(
        "made a DEVELOPMENT KEY, {folder}/{NAME}.pem. It is unprotected: anyone with this file \
         can sign for your devices.\n         Before devices leave your desk make real keys: \
         `fota key generate NAME`, then `fota key root init --help`."
    ));
    Ok(secret)
}

/// Root 1 of the development key, which has every role but that of the server.
pub fn root(dev: &Secret, online: &Public) -> Result<Vec<u8>> {
    let draft = Draft::first(
        [vec![dev.public()], vec![dev.public()], vec![online.clone()]],
        [1, 1],
    );
    let unsigned = draft.unsigned()?;
    super::add_signatures(&unsigned, &[dev.signer()])
}

/// The server trusts the development key from now on; gives its root, for the devices.
pub async fn publish_root(client: &Client, dev: &Secret) -> anyhow::Result<Vec<u8>> {
    let online = client.signing().await?.online_key;
    let online = online.as_deref().and_then(Public::from_hex);
    let root = root(dev, &online.context("the server names no online key")?)?;
    client.add_root(root.clone().into()).await?;
    Ok(root)
}

/// The image and its release, signed by the development key, in one file.
pub fn bundle(dev: &Secret, firmware: &Firmware) -> anyhow::Result<Vec<u8>> {
    let payload = release::payload(firmware, &ReleaseFields::default())?;
    let signed = super::sign(&payload, &[dev.signer()], false)?;
    Ok(release::bundle(&signed, firmware.image_bytes()))
}

/// Keeps that root, so that firmware can be built with it. One for each server: the server's key
/// is in its name.
pub fn keep_root(keys: &Keys, online: &Public, root: &[u8]) -> Result<PathBuf> {
    let path = keys.dir().join(format!("dev-root-{}.cose", online.id()));
    let written = credentials::write_private(&path, root);
    written.map_err(|error| keys::io(&path, &error))?;
    Ok(path)
}
