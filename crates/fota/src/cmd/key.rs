//! `fota key …`: the operator's keys, in a folder; no server is asked.

use std::path::Path;

use fota_proto::signed::Alg;
use serde_json::{Value, json};

use crate::{
    args::{KeyAlg, KeyCommand, KeyFolder, KeyForm, NextFile},
    cmd::root,
    context::Context,
    credentials,
    failure::{Failure, Result},
    keys::{self, Entry, KeyFile, Keys, Passphrases, Private, Public, alg_name},
    output::{Mark, Output, to_stdout},
    signing::{dev, root::Draft},
    text,
};

pub async fn run(context: &Context, command: KeyCommand) -> Result {
    let out = &context.out;
    match command {
        KeyCommand::Generate {
            name,
            alg,
            no_passphrase,
            folder,
        } => generate(out, &name, alg, no_passphrase, &folder).await,
        KeyCommand::List { folder } => list(out, &open(&folder)?),
        KeyCommand::Show { key, folder } => show(out, &open(&folder)?, &key),
        KeyCommand::Export {
            name,
            form,
            private,
            no_passphrase,
            output,
            folder,
        } => {
            let (keys, output) = (open(&folder)?, output.as_deref());
            match private {
                false => export(&keys, &name, form, output),
                true => export_private(out, &keys, &folder, &name, no_passphrase, output).await,
            }
        }
        KeyCommand::Import {
            name,
            file,
            no_passphrase,
            folder,
        } => import(out, &name, &file, no_passphrase, &folder).await,
        KeyCommand::Rotate {
            name,
            new_name,
            no_passphrase,
            next,
            folder,
        } => rotate(out, &name, new_name, no_passphrase, &next, &folder).await,
        KeyCommand::Revoke {
            key,
            confirm,
            next,
            folder,
        } => revoke(out, &key, confirm, &next, &folder).await,
        KeyCommand::Root(command) => root::run(context, command).await,
    }
}

fn open(folder: &KeyFolder) -> Result<Keys> {
    Keys::open(folder.keys.as_deref())
}

async fn generate(
    out: &Output,
    name: &str,
    alg: KeyAlg,
    no_passphrase: bool,
    folder: &KeyFolder,
) -> Result {
    let keys = open(folder)?;
    let entry = make(out, &keys, name, alg, no_passphrase, folder).await?;
    told(out, &keys, &entry, "made")
}

async fn make(
    out: &Output,
    keys: &Keys,
    name: &str,
    alg: KeyAlg,
    no_passphrase: bool,
    folder: &KeyFolder,
) -> Result<Entry> {
    refuse_reserved(name)?;
    keys.refuse_existing(name)?;
    let passphrase = match no_passphrase {
        true => None,
        false => {
            let passphrases = Passphrases::new(out, folder.passphrase_file.as_deref());
            Some(passphrases.new_one(&format!("key {name}")).await?)
        }
    };
    let alg = match alg {
        KeyAlg::P256 => Alg::Esp256,
        KeyAlg::Ed25519 => Alg::Ed25519,
    };
    let secret = keys::generate(alg)?;
    let passphrase = passphrase.as_ref().map(|passphrase| passphrase.as_str());
    let entry = keys.add(name, &secret, passphrase)?;
    warn_if_open(out, &entry);
    Ok(entry)
}

/// `fota upload` makes a key of this name, and takes any for it.
fn refuse_reserved(name: &str) -> Result {
    match name == dev::NAME {
        false => Ok(()),
        true => Err(
            Failure::usage(format!("{name} is the name of the development key"))
                .hint("take another name"),
        ),
    }
}

fn warn_if_open(out: &Output, entry: &Entry) {
    if entry.private == Private::Open {
        let name = &entry.name;
        out.warn(&format!(
            "key {name} is unprotected: anyone with its file can sign with it"
        ));
    }
}

fn told(out: &Output, keys: &Keys, entry: &Entry, verb: &str) -> Result {
    let (name, alg, id) = (
        &entry.name,
        alg_name(entry.public.key().alg()),
        entry.public.id(),
    );
    let dir = keys.dir().display();
    out.verdict(
        Mark::Good,
        &format!("key {name} ({alg}, id {id}) is {verb} in {dir}"),
    );
    out.document("fota.key/1", &document(entry));
    Ok(())
}

fn document(entry: &Entry) -> Value {
    json!({
        "name": entry.name,
        "id": entry.public.id().to_string(),
        "alg": alg_name(entry.public.key().alg()),
        "private": entry.private.word(),
        "public_key": entry.public.to_hex(),
    })
}

fn list(out: &Output, keys: &Keys) -> Result {
    let entries = keys.list()?;
    let row = |entry: &Entry| {
        vec![
            entry.name.clone(),
            alg_name(entry.public.key().alg()).to_owned(),
            entry.public.id().to_string(),
            entry.private.word().to_owned(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    out.answer(&text::table(&["NAME", "ALG", "ID", "PRIVATE KEY"], &rows));
    let documents: Vec<_> = entries.iter().map(document).collect();
    out.document("fota.keys/1", &documents);
    if entries.is_empty() {
        let dir = keys.dir().display();
        out.say(&format!(
            "no keys in {dir}: `fota key generate NAME` makes one"
        ));
    }
    Ok(())
}

fn show(out: &Output, keys: &Keys, reference: &str) -> Result {
    let public = keys.public(reference)?;
    let entry = keys
        .list()?
        .into_iter()
        .find(|entry| entry.public == public);
    let entry = entry.unwrap_or_else(|| Entry {
        name: "-".to_owned(),
        private: Private::Elsewhere,
        public,
    });
    out.answer(&text::facts(&[
        ("key", entry.name.clone()),
        ("id", entry.public.id().to_string()),
        ("algorithm", alg_name(entry.public.key().alg()).to_owned()),
        ("private key", entry.private.word().to_owned()),
        ("public key", entry.public.to_hex()),
    ]));
    out.answer(&format!("\n{}", entry.public.to_pem()));
    out.document("fota.key/1", &document(&entry));
    Ok(())
}

fn export(keys: &Keys, name: &str, form: KeyForm, output: Option<&Path>) -> Result {
    let public = keys.public(name)?;
    let bytes = match form {
        KeyForm::Pem => public.to_pem().into_bytes(),
        KeyForm::Der => public.to_spki(),
        KeyForm::Hex => format!("{}\n", public.to_hex()).into_bytes(),
    };
    match (output, form) {
        (Some(path), _) => std::fs::write(path, bytes).map_err(|error| keys::io(path, &error)),
        (None, KeyForm::Der) => Err(Failure::usage("DER is not text").hint("add -o FILE")),
        (None, _) => {
            to_stdout(&String::from_utf8_lossy(&bytes));
            Ok(())
        }
    }
}

async fn export_private(
    out: &Output,
    keys: &Keys,
    folder: &KeyFolder,
    name: &str,
    no_passphrase: bool,
    output: Option<&Path>,
) -> Result {
    let (entry, file) = (keys.entry(name)?, keys.file(name)?);
    // A locked key leaves as locked as it lies there.
    let pem = match (file, no_passphrase) {
        (KeyFile::Open(secret), _) => secret.to_pem(),
        (file @ KeyFile::Locked(_), true) => {
            let passphrases = Passphrases::new(out, folder.passphrase_file.as_deref());
            let passphrase = passphrases.of(&format!("key {name}")).await?;
            let secret = file.unlock(&passphrase);
            secret
                .map_err(|error| Failure::refused("passphrase", format!("key {name}: {error}")))?
                .to_pem()
        }
        (KeyFile::Locked(_), false) => keys.pem(name)?,
    };
    if no_passphrase || entry.private == Private::Open {
        out.warn("what is written is unprotected: anyone who sees it can sign");
    }
    let Some(path) = output else {
        to_stdout(&pem);
        return Ok(());
    };
    if path.exists() {
        let message = format!("{} exists", path.display());
        return Err(Failure::refused("exists", message).hint("name another -o FILE"));
    }
    credentials::write_private(path, pem.as_bytes()).map_err(|error| keys::io(path, &error))
}

async fn import(
    out: &Output,
    name: &str,
    file: &Path,
    no_passphrase: bool,
    folder: &KeyFolder,
) -> Result {
    let keys = open(folder)?;
    refuse_reserved(name)?;
    keys.refuse_existing(name)?;
    let bytes = zeroize::Zeroizing::new(keys::read(file)?);
    if let Ok(public) = Public::read(&bytes) {
        let entry = keys.add_public(name, &public)?;
        return told(out, &keys, &entry, "taken in (its public part)");
    }
    let shown = file.display();
    let wrong = |error| Failure::refused("key_invalid", format!("{shown}: {error}"));
    let found = KeyFile::read(&bytes).map_err(wrong)?;
    let passphrases = Passphrases::new(out, folder.passphrase_file.as_deref());
    let passphrase = match (found.is_locked(), no_passphrase) {
        (true, _) => Some(passphrases.of(&shown.to_string()).await?),
        (false, true) => None,
        (false, false) => Some(passphrases.new_one(&format!("key {name}")).await?),
    };
    let passphrase = passphrase.as_ref().map(|passphrase| passphrase.as_str());
    let secret = found
        .unlock(passphrase.unwrap_or_default())
        .map_err(wrong)?;
    let entry = keys.add(name, &secret, passphrase.filter(|_| !no_passphrase))?;
    warn_if_open(out, &entry);
    told(out, &keys, &entry, "taken in")
}

async fn rotate(
    out: &Output,
    name: &str,
    new_name: Option<String>,
    no_passphrase: bool,
    next: &NextFile,
    folder: &KeyFolder,
) -> Result {
    let keys = open(folder)?;
    let old = keys.entry(name)?;
    let from = root::from(&keys, next)?;
    let trusted = root::trusted(&from.bytes)?;
    let mut draft = Draft::after(&trusted)?;
    // Before a key is made for nothing.
    if draft.replace(&old.public, None).is_empty() {
        let message = format!("key {name} has no role in root {}", trusted.version);
        return Err(Failure::not_found(message));
    }
    let alg = match old.public.key().alg() {
        Alg::Esp256 => KeyAlg::P256,
        Alg::Ed25519 => KeyAlg::Ed25519,
    };
    let new_name = new_name.unwrap_or_else(|| free_name(&keys, name));
    let output = root::output(&from.path, next, draft.version());
    root::refuse_existing(&output)?;
    let new = make(out, &keys, &new_name, alg, no_passphrase, folder).await?;
    let mut draft = Draft::after(&trusted)?;
    let roles = draft.replace(&old.public, Some(&new.public));
    let roles: Vec<String> = roles.iter().map(|role| role.to_string()).collect();
    let line = format!(
        "key {new_name} takes the place of {name} as {} key",
        roles.join(" and ")
    );
    out.note(Mark::Good, &line);
    root::finish(
        out,
        &keys,
        folder,
        &draft,
        Some(&from),
        output,
        next.no_sign,
    )
    .await
}

/// `lab` → `lab-2`, `lab-2` → `lab-3`.
fn free_name(keys: &Keys, name: &str) -> String {
    let split = name.rsplit_once('-');
    let numbered = split.and_then(|(stem, number)| Some((stem, number.parse::<u32>().ok()?)));
    let (stem, number) = numbered.unwrap_or((name, 1));
    let mut names = (number.saturating_add(1)..).map(|number| format!("{stem}-{number}"));
    let free = names.find(|name| keys.refuse_existing(name).is_ok());
    free.unwrap_or_else(|| format!("{name}-new"))
}

async fn revoke(
    out: &Output,
    reference: &str,
    confirm: Option<String>,
    next: &NextFile,
    folder: &KeyFolder,
) -> Result {
    let keys = open(folder)?;
    let public = keys.public(reference)?;
    let from = root::from(&keys, next)?;
    let trusted = root::trusted(&from.bytes)?;
    let mut draft = Draft::after(&trusted)?;
    let roles = draft.replace(&public, None);
    if roles.is_empty() {
        let message = format!("key {reference} has no role in root {}", trusted.version);
        return Err(Failure::not_found(message));
    }
    draft.unsigned().map_err(|failure| {
        let message = format!("without key {reference}: {failure}");
        Failure { message, ..failure }
            .hint("`fota key rotate` puts another in its place; `fota key root next` does both")
    })?;
    let output = root::output(&from.path, next, draft.version());
    root::refuse_existing(&output)?;
    agree(out, reference, confirm).await?;
    root::finish(
        out,
        &keys,
        folder,
        &draft,
        Some(&from),
        output,
        next.no_sign,
    )
    .await
}

/// Somebody who takes a key out of force types its name.
async fn agree(out: &Output, reference: &str, confirm: Option<String>) -> Result {
    let typed = match confirm {
        Some(typed) => Some(typed),
        None => {
            let question = format!(
                "  Releases and roots signed by {reference} alone will no longer count.\n  \
                 Type its name to go on: "
            );
            out.ask(&question, &format!("--confirm {reference}"))
                .await?
        }
    };
    match typed.as_deref() == Some(reference) {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "that is not {reference:?}: nothing was changed"
        ))),
    }
}
