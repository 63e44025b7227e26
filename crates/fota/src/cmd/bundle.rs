//! `fota release sign|show|verify` of bundles: no server is asked.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use fota_image::app::Chip;
use fota_proto::{
    Sha256,
    signed::{Envelope, Form, Release, RoleName, Root, bundle::MAGIC},
};
use serde_json::{Value, json};

use crate::{
    args::{KeyFolder, SignArgs},
    cmd::image,
    context::Context,
    failure::{Failure, Result},
    firmware::{self, Firmware},
    keys::{self, Keys, Passphrases, Private, alg_name},
    output::{Mark, Output},
    signing::{self, dev},
    text::{self, Grouped},
};

/// Whether this names a bundle in a file, rather than a release on a server.
pub fn is_named(path: &Path) -> bool {
    let mut head = [0; MAGIC.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    path.extension().is_some_and(|it| it == "fota") || (read.is_ok() && head == MAGIC)
}

/// A signed release taken apart, with what it is signed by.
pub struct Signed<'a> {
    pub envelope: Envelope<'a>,
    pub release: Release<'a>,
}

impl<'a> Signed<'a> {
    /// Reads it; no signature is checked.
    pub fn parse(object: &'a [u8]) -> Result<Self> {
        let envelope = Envelope::parse(object).map_err(signing::invalid)?;
        let release = Release::parse(envelope.payload).map_err(signing::invalid)?;
        Ok(Self { envelope, release })
    }

    /// What it says, for people; names of keys come from the folder.
    pub fn facts(&self, keys: Option<&Keys>) -> Vec<(&'static str, String)> {
        let release = &self.release;
        let or = |value: Option<String>, none: &str| value.unwrap_or_else(|| none.to_owned());
        let days = |time: Option<u64>| time.map(text::day);
        let seconds = release.self_test_deadline_s;
        vec![
            ("product", text::plain(release.product)),
            ("version", text::plain(release.version)),
            ("sequence", release.sequence.to_string()),
            ("epoch", release.epoch.to_string()),
            ("chip", chip(release.chip)),
            (
                "hardware",
                or(release.hardware.map(|(a, b)| format!("{a} to {b}")), "all"),
            ),
            ("size", format!("{} bytes", Grouped(release.bytes.into()))),
            ("sha256", release.image.to_string()),
            ("elf sha256", release.elf.to_string()),
            ("index", format!("{} pages", release.pages.len() / 16)),
            ("patches", release.deltas.len().to_string()),
            ("expires", or(days(release.expires), "never")),
            (
                "self-test",
                or(
                    seconds.map(|it| format!("within {it} s")),
                    "as the rollout says",
                ),
            ),
            (
                "attempts",
                or(release.trial_attempts.map(|it| it.to_string()), "-"),
            ),
            (
                "supported",
                or(
                    days(release.support_until).map(|it| format!("until {it}")),
                    "-",
                ),
            ),
            ("advisory", or(release.advisory.map(text::plain), "-")),
            ("signed by", self.signers(keys).join(", ")),
        ]
    }

    fn signers(&self, keys: Option<&Keys>) -> Vec<String> {
        let name = |id| keys.map_or_else(|| format!("{id}"), |keys| keys.name_of(id));
        let each = self.envelope.signatures.iter();
        each.map(|it| format!("{} {}", alg_name(it.alg), name(it.kid)))
            .collect()
    }

    /// What it says, for programs.
    pub fn document(&self, file: &Path) -> Value {
        let release = &self.release;
        let signatures = self.envelope.signatures.iter();
        let signatures: Vec<Value> = signatures
            .map(|it| json!({"key": it.kid.to_string(), "alg": alg_name(it.alg)}))
            .collect();
        json!({
            "file": file.display().to_string(),
            "product": release.product,
            "version": release.version,
            "sequence": release.sequence,
            "epoch": release.epoch,
            "chip_id": release.chip,
            "hardware": release.hardware,
            "bytes": release.bytes,
            "sha256": release.image,
            "elf_sha256": release.elf,
            "deltas": release.deltas.len(),
            "expires": release.expires,
            "self_test_deadline_s": release.self_test_deadline_s,
            "trial_attempts": release.trial_attempts,
            "support_until": release.support_until,
            "advisory": release.advisory,
            "signatures": signatures,
        })
    }
}

fn chip(id: u16) -> String {
    let found = Chip::from_id(id);
    found.map_or_else(|| format!("chip {id:#06x}"), |chip| chip.name().to_owned())
}

/// `fota release sign`
pub async fn sign(context: &Context, args: &SignArgs) -> Result {
    let out = &context.out;
    let path = firmware::find(&context.config, args.file.as_deref())?;
    let firmware = Firmware::load(&path)?;
    let image = firmware.accepted()?;
    out.note(
        Mark::Good,
        &format!("image    {}", image::summary(&firmware, image)),
    );
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| path.with_extension("fota"));
    let adds = firmware.release.is_some();
    if output.exists() && !args.force && !(adds && output == path) {
        let message = format!("{} exists", output.display());
        return Err(
            Failure::refused("exists", message).hint("add --force, or name another -o FILE")
        );
    }
    let keys = Keys::open(args.folder.keys.as_deref())?;
    let passphrases = Passphrases::new(out, args.folder.passphrase_file.as_deref());
    let mut signers = args.signers.clone();
    let elsewhere = signers.signer_command.is_some() || signers.has_token();
    if signers.key.is_empty() && !elsewhere {
        signers.key.push(only_key(&keys)?);
    }
    let object = match &firmware.release {
        Some(release) => {
            refuse_short_form(release)?;
            let signers = signing::signers(&keys, &passphrases, &signers).await?;
            signing::add_signatures(release, &signers)?
        }
        None => {
            // Before a passphrase is asked for: what cannot be signed is told first.
            let payload = signing::release::payload(&firmware, &args.release)?;
            let signers = signing::signers(&keys, &passphrases, &signers).await?;
            signing::sign(&payload, &signers, args.cosign)?
        }
    };
    let signed = Signed::parse(&object)?;
    require_same(&signed.release, &firmware)?;
    let bundle = signing::release::bundle(&object, firmware.image_bytes());
    write(&output, &bundle)?;
    let by = signed.signers(Some(&keys)).join(", ");
    let (shown, sequence) = (output.display(), signed.release.sequence);
    out.verdict(
        Mark::Good,
        &format!("{shown}: sequence {sequence}, signed by {by}"),
    );
    out.document("fota.bundle/1", &signed.document(&output));
    out.say(&format!("next: fota upload {shown}"));
    Ok(())
}

/// The key to sign with where none is named: the only private one that is here.
fn only_key(keys: &Keys) -> Result<String> {
    let mut entries = keys.list()?;
    entries.retain(|entry| entry.private != Private::Elsewhere);
    // The development key is meant only where there is no other.
    if entries.iter().any(|entry| entry.name != dev::NAME) {
        entries.retain(|entry| entry.name != dev::NAME);
    }
    match entries.as_slice() {
        [one] => Ok(one.name.clone()),
        [] => Err(Failure::not_found(format!(
            "there is no private key in {}",
            keys.dir().display()
        ))
        .hint("make one with `fota key generate NAME`, or add --signer-command CMD --public FILE")),
        many => {
            let names: Vec<&str> = many.iter().map(|entry| entry.name.as_str()).collect();
            Err(Failure::usage("several keys could sign")
                .hint(format!("add --key NAME, one of {}", names.join(", "))))
        }
    }
}

fn refuse_short_form(release: &[u8]) -> Result {
    let envelope = Envelope::parse(release).map_err(signing::invalid)?;
    match envelope.form {
        Form::Sign => Ok(()),
        Form::Sign1 => Err(Failure::refused(
            "one_signature",
            "this bundle was signed in the form that holds one signature",
        )
        .hint("sign the image again with --cosign, then add the other signatures")),
    }
}

/// Whether the release is of the image beside it.
pub fn require_same(release: &Release<'_>, firmware: &Firmware) -> Result {
    let bytes = firmware.image_bytes();
    let same_length = release.bytes as usize == bytes.len();
    let (pages, _) = fota_proto::signed::index::build(bytes);
    let same = same_length && release.image == firmware.sha256 && release.pages == &pages[..];
    let image = firmware.accepted()?;
    let elf = image.desc.as_ref().map(|desc| Sha256(desc.app_elf_sha256));
    match same && elf == Some(release.elf) && image.header.chip_id == release.chip {
        true => Ok(()),
        false => Err(Failure::refused(
            "bundle_invalid",
            format!(
                "{}: the image is not the one that was signed",
                firmware.path.display()
            ),
        )
        .hint("make the bundle again with `fota release sign`")),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result {
    let beside = path.with_extension("part");
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        keys::io(path, &error)
    })
}

fn load(path: &Path) -> Result<(Firmware, bytes::Bytes)> {
    let firmware = Firmware::load(path)?;
    match firmware.release.clone() {
        Some(release) => Ok((firmware, release)),
        None => Err(Failure::refused(
            "unsigned",
            format!("{} is no bundle: nothing in it is signed", path.display()),
        )
        .hint(format!(
            "`fota release sign {}` makes one of an image",
            path.display()
        ))),
    }
}

/// `fota release show FILE`
pub fn show(out: &Output, path: &Path, folder: &KeyFolder) -> Result {
    let keys = Keys::open(folder.keys.as_deref())?;
    let (firmware, release) = load(path)?;
    let signed = Signed::parse(&release)?;
    require_same(&signed.release, &firmware)?;
    let mut facts = vec![("bundle", path.display().to_string())];
    facts.extend(signed.facts(Some(&keys)));
    out.answer(&text::facts(&facts));
    out.document("fota.bundle/1", &signed.document(path));
    out.say("signatures are not checked here: `fota release verify` does");
    Ok(())
}

/// `fota release verify FILE`
pub fn verify(out: &Output, path: &Path, root: Option<PathBuf>, folder: &KeyFolder) -> Result {
    let keys = Keys::open(folder.keys.as_deref())?;
    let root_path = root.or_else(|| keys.newest_root()).ok_or_else(|| {
        Failure::usage("no root was named, and none is in the key folder").hint("add --root FILE")
    })?;
    let root = keys::read(&root_path)?;
    let envelope = Envelope::parse(&root).map_err(signing::invalid)?;
    // The operator trusts this file; that it is whole is still checked.
    let root = Root::parse(envelope.payload).map_err(signing::invalid)?;
    root.require(RoleName::Root, &envelope)
        .map_err(signing::invalid)?;
    let (firmware, object) = load(path)?;
    firmware.accepted()?;
    let release = root.release(&object).map_err(|error| {
        Failure::refused("not_trusted", format!("{}: {error}", path.display())).hint(format!(
            "root {} is {}; `fota release show {}` names the keys that signed",
            root.version,
            root_path.display(),
            path.display()
        ))
    })?;
    require_same(&release, &firmware)?;
    refuse_other_product(&root, &release)?;
    let (version, sequence) = (text::plain(release.version), release.sequence);
    let line = format!(
        "{}: {} {version} (sequence {sequence}) is signed by the release keys of root {}",
        path.display(),
        text::plain(release.product),
        root.version
    );
    out.verdict(Mark::Good, &line);
    let mut document = Signed::parse(&object)?.document(path);
    document["root_version"] = root.version.into();
    out.document("fota.bundle/1", &document);
    Ok(())
}

fn refuse_other_product(root: &Root<'_>, release: &Release<'_>) -> Result {
    match root.product {
        Some(product) if product != release.product => {
            let (product, other) = (text::plain(product), text::plain(release.product));
            let message = format!("the root is for {product}, the release for {other}");
            Err(Failure::refused("wrong_product", message))
        }
        _ => Ok(()),
    }
}
