//! `fota image inspect|check|diff`: what a file says about itself and whether a chip would boot it.
//! Nothing is asked of a server.

use fota_image::{
    app::{Image, Signature},
    secure_boot::{self, Scheme, SectorError, VerifyError},
};
use fota_proto::Sha256;
use serde_json::{Value, json};

use crate::{
    args::ImageCommand,
    cmd::bundle::Signed,
    failure::{Failure, Result},
    firmware::Firmware,
    output::{Mark, Output},
    text::{self, Grouped},
};

pub fn run(out: &Output, command: ImageCommand) -> Result {
    match command {
        ImageCommand::Inspect { file } => inspect(out, &Firmware::load(&file)?),
        ImageCommand::Diff { old, new } => super::delta::diff(out, &old, &new),
        ImageCommand::Check {
            file,
            secure_boot_key_digest,
        } => check(out, &Firmware::load(&file)?, &secure_boot_key_digest),
    }
}

fn inspect(out: &Output, firmware: &Firmware) -> Result {
    let image = firmware.accepted()?;
    out.answer(&text::facts(&facts(firmware, image)));
    if let Some(release) = &firmware.release {
        let signed = Signed::parse(release)?;
        out.answer(&format!("\n{}", text::facts(&signed.facts(None))));
    }
    out.document("fota.image/1", &document(firmware, image));
    Ok(())
}

fn check(out: &Output, firmware: &Firmware, keys: &[Sha256]) -> Result {
    let image = firmware.accepted()?;
    if !keys.is_empty() {
        require_key(firmware, image, keys)?;
    }
    let path = firmware.path.display();
    out.verdict(Mark::Good, &format!("{path}: {}", summary(firmware, image)));
    out.document("fota.image/1", &document(firmware, image));
    Ok(())
}

/// One line: `acme-sensor 1.0.6 · esp32c3 · 1,065,968 B · sha256 8daac459…`
pub fn summary(firmware: &Firmware, image: &Image) -> String {
    let chip = chip(image);
    let name = match &image.desc {
        Some(desc) => {
            let (project, version) = (desc.project_name, desc.version);
            format!(
                "{} {}",
                text::plain(project.as_str()),
                text::plain(version.as_str())
            )
        }
        None => "no app description".to_owned(),
    };
    let (bytes, sha256) = (
        Grouped(firmware.image_bytes().len() as u64),
        firmware.sha256.short(),
    );
    let signed = match &firmware.release {
        Some(_) => " · signed bundle",
        None => "",
    };
    format!("{name} · {chip} · {bytes} B · sha256 {sha256}…{signed}")
}

fn chip(image: &Image) -> String {
    let id = image.header.chip_id;
    image
        .header
        .chip
        .map_or_else(|| format!("chip {id:#06x}"), |chip| chip.name().to_owned())
}

fn revisions(image: &Image) -> String {
    let full = |revision: u16| format!("v{}.{}", revision / 100, revision % 100);
    let (min, max) = (image.header.min_rev_full, image.header.max_rev_full);
    match max {
        0 | u16::MAX => format!("{} and later", full(min)),
        max => format!("{} to {}", full(min), full(max)),
    }
}

/// One block of a secure boot v2 signature sector, judged.
struct BootSignature {
    scheme: Scheme,
    key: Sha256,
    verdict: std::result::Result<(), VerifyError>,
}

/// The blocks of an image with a secure boot v2 sector; none where it has no such sector.
fn signatures(
    firmware: &Firmware,
    image: &Image,
) -> std::result::Result<Vec<BootSignature>, SectorError> {
    let is_v2 = image.signature == Some(Signature::SecureBootV2);
    let parts = secure_boot::split(&firmware.bytes, image.image_bytes).filter(|_| is_v2);
    let Some((signed, sector)) = parts else {
        return Ok(Vec::new());
    };
    let judged = |block: &secure_boot::Block| BootSignature {
        scheme: block.scheme(),
        key: Sha256(block.key_digest()),
        verdict: block.verify(signed),
    };
    Ok(secure_boot::parse(sector)?.iter().map(judged).collect())
}

/// Refuses an image that none of `keys` has signed.
fn require_key(firmware: &Firmware, image: &Image, keys: &[Sha256]) -> Result {
    let path = firmware.path.display();
    let refused = |why: String| {
        let message = format!("{path}: {why}");
        Err(Failure::refused("secure_boot_signature", message))
    };
    let all = match signatures(firmware, image) {
        Ok(all) => all,
        Err(error) => return refused(error.to_string()),
    };
    let is_good = |it: &BootSignature| it.verdict.is_ok() && keys.contains(&it.key);
    if all.iter().any(is_good) {
        return Ok(());
    }
    let wanted: Vec<String> = keys.iter().map(ToString::to_string).collect();
    let wanted = wanted.join(" or ");
    match all.is_empty() {
        true => refused(format!(
            "no secure boot v2 signature; one by {wanted} is wanted: sign it with `espsecure \
             sign-data --version 2`"
        )),
        false => {
            let found: Vec<String> = all.iter().map(told).collect();
            refused(format!(
                "signed by {}; wanted is {wanted}",
                found.join(", ")
            ))
        }
    }
}

/// `RSA-3072, key 12ab…, valid`
fn told(signed: &BootSignature) -> String {
    let verdict = match signed.verdict {
        Ok(()) => "valid".to_owned(),
        Err(error) => format!("NOT valid: {error}"),
    };
    format!("{}, key {}, {verdict}", signed.scheme, signed.key)
}

fn signature_facts(firmware: &Firmware, image: &Image) -> Vec<(&'static str, String)> {
    let text = match image.signature {
        None => "none".to_owned(),
        Some(Signature::SecureBootV1) => "secure boot v1 (not checked here)".to_owned(),
        Some(Signature::SecureBootV2) => match signatures(firmware, image) {
            Err(error) => format!("secure boot v2, unreadable: {error}"),
            Ok(all) => return all.iter().map(|it| ("signature", told(it))).collect(),
        },
    };
    vec![("signature", text)]
}

fn facts(firmware: &Firmware, image: &Image) -> Vec<(&'static str, String)> {
    let desc = image.desc.as_ref();
    let of = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let bytes = firmware.image_bytes().len() as u64;
    let hash = if image.sha256_appended.is_some() {
        "appended, valid"
    } else {
        "not appended"
    };
    let mut facts = vec![
        ("file", firmware.path.display().to_string()),
        (
            "project",
            of(desc.map(|desc| text::plain(desc.project_name.as_str()))),
        ),
        (
            "version",
            of(desc.map(|desc| text::plain(desc.version.as_str()))),
        ),
        ("chip", chip(image)),
        ("revisions", revisions(image)),
        (
            "size",
            format!(
                "{} bytes ({} of image)",
                Grouped(bytes),
                Grouped(image.image_bytes.into())
            ),
        ),
        (
            "chunks",
            format!("{} of 16 KiB", bytes.div_ceil(text::CHUNK_BYTES)),
        ),
        ("sha256", firmware.sha256.to_string()),
        (
            "elf sha256",
            of(desc.map(|desc| Sha256(desc.app_elf_sha256).to_string())),
        ),
        ("image hash", hash.to_owned()),
        ("checksum", format!("{:#04x}, valid", image.checksum)),
        (
            "idf",
            of(desc.map(|desc| text::plain(desc.idf_ver.as_str()))),
        ),
        (
            "built",
            of(desc.map(|desc| {
                text::plain(&format!("{} {}", desc.date.as_str(), desc.time.as_str()))
            })),
        ),
        (
            "secure version",
            of(desc.map(|desc| desc.secure_version.to_string())),
        ),
        ("entry", format!("{:#010x}", image.header.entry)),
        ("segments", image.segments.len().to_string()),
    ];
    facts.extend(signature_facts(firmware, image));
    facts
}

fn document(firmware: &Firmware, image: &Image) -> Value {
    let desc = image.desc.as_ref();
    let segments: Vec<Value> = image
        .segments
        .iter()
        .map(|it| json!({"address": it.load_addr, "bytes": it.len, "offset": it.file_offset}))
        .collect();
    let signatures = signatures(firmware, image).unwrap_or_default();
    let signatures: Vec<Value> = signatures
        .iter()
        .map(|it| {
            let reason = it.verdict.err().map(|error| error.to_string());
            json!({"scheme": it.scheme.to_string(), "key_digest": it.key,
                   "valid": reason.is_none(), "reason": reason})
        })
        .collect();
    json!({
        "file": firmware.path.display().to_string(),
        "bytes": firmware.image_bytes().len(),
        "bundle": firmware.release.is_some(),
        "image_bytes": image.image_bytes,
        "sha256": firmware.sha256,
        "chip": image.header.chip.map(|chip| chip.name()),
        "chip_id": image.header.chip_id,
        "chip_revision_min": image.header.min_rev_full,
        "chip_revision_max": image.header.max_rev_full,
        "project": desc.map(|desc| desc.project_name.as_str().to_owned()),
        "version": desc.map(|desc| desc.version.as_str().to_owned()),
        "elf_sha256": desc.map(|desc| Sha256(desc.app_elf_sha256)),
        "idf_version": desc.map(|desc| desc.idf_ver.as_str().to_owned()),
        "secure_version": desc.map(|desc| desc.secure_version),
        "hash_appended": image.sha256_appended.is_some(),
        "entry": image.header.entry,
        "segments": segments,
        "trailing_bytes": image.trailing_bytes,
        "signed": image.signature.is_some(),
        "signatures": signatures,
    })
}
