//! What is signed for an image: the release, its index, and the bundle around both.

use fota_image::app::Image;
use fota_proto::{
    Sha256,
    limits::VERSION_BYTES_MAX,
    signed::{Release, bundle::Bundle, index, sign},
};

use super::invalid;
use crate::{
    args::ReleaseFields,
    failure::{Failure, Result},
    firmware::Firmware,
    text,
};

/// One more than the highest minor version or patch that a sequence is made of.
const PART: u32 = 1000;

/// The payload of the release of an image.
pub fn payload(firmware: &Firmware, fields: &ReleaseFields) -> Result<Vec<u8>> {
    let image = firmware.accepted()?;
    let (product, version) = (product(image, fields)?, version(image, fields)?);
    let sequence = match fields.sequence {
        Some(sequence) => sequence,
        None => sequence_of(&version).ok_or_else(|| no_sequence(&version))?,
    };
    let bytes = firmware.image_bytes();
    let (pages, _) = index::build(bytes);
    let length = u32::try_from(bytes.len()).map_err(|_| Failure::error("image is too long"))?;
    let mut release = Release::new(
        &product,
        image.header.chip_id,
        &version,
        [sequence, fields.epoch],
        length,
        [firmware.sha256, elf(image)?],
        &pages,
    )
    .map_err(invalid)?;
    release.hardware = fields.hardware;
    release.expires = fields.expires;
    release.self_test_deadline_s = fields.self_test_deadline;
    release.trial_attempts = fields.trial_attempts;
    release.support_until = fields.support_until;
    release.advisory = fields.advisory.as_deref();
    release.check().map_err(invalid)?;
    sign::encode(&release).map_err(|error| Failure::refused("release", error.to_string()))
}

/// The whole bundle.
pub fn bundle(release: &[u8], image: &[u8]) -> Vec<u8> {
    let head = Bundle { release, image }.head();
    [&head, image].concat()
}

/// A place in the order of releases, made of a version `1.2.3`, `1.2` or `1`, with or without a
/// `v`: 1,000,000 × major + 1,000 × minor + patch. None where that would not be a number of its
/// own: minor or patch above 999, or anything behind them (`1.2.3-rc1`, `1.2.3-4-gabcdef`).
pub fn sequence_of(version: &str) -> Option<u32> {
    let digits = version.strip_prefix('v').unwrap_or(version);
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse::<u32>().ok()).flatten()
    };
    let parts: Vec<u32> = digits.split('.').map(number).collect::<Option<_>>()?;
    let (major, minor, patch) = match parts[..] {
        [major] => (major, 0, 0),
        [major, minor] => (major, minor, 0),
        [major, minor, patch] => (major, minor, patch),
        _ => return None,
    };
    let fits = minor < PART && patch < PART;
    let sequence = major
        .checked_mul(PART * PART)?
        .checked_add(minor * PART + patch);
    sequence.filter(|sequence| fits && *sequence > 0)
}

fn no_sequence(version: &str) -> Failure {
    let version = text::plain(version);
    let message = format!("version {version} says no place in the order of releases");
    Failure::refused("no_sequence", message).hint(
        "add --sequence N, higher than that of any earlier release; a version such as 1.2.3, \
         with numbers up to 999 behind the first, has one of its own",
    )
}

fn product(image: &Image, fields: &ReleaseFields) -> Result<String> {
    if let Some(product) = &fields.product {
        return Ok(product.clone());
    }
    let said = image.desc.as_ref().map(|desc| desc.project_name);
    let said = said.filter(|name| !name.as_str().is_empty());
    let said = said
        .ok_or_else(|| Failure::usage("the image names no product").hint("add --product NAME"))?;
    Ok(said.as_str().to_owned())
}

fn version(image: &Image, fields: &ReleaseFields) -> Result<String> {
    let own = image.desc.as_ref().and_then(|desc| desc.own_version());
    match (&fields.version, own) {
        (None, Some(own)) => Ok(own.to_owned()),
        (Some(given), own) if own.is_none_or(|own| own == given) => {
            let bytes = given.len();
            match (1..=VERSION_BYTES_MAX).contains(&bytes) {
                true => Ok(given.clone()),
                false => Err(Failure::usage(format!(
                    "--version has {bytes} bytes; 1 to {VERSION_BYTES_MAX} are possible"
                ))),
            }
        }
        (Some(given), own) => {
            let own = text::plain(own.unwrap_or_default());
            let message = format!("--version says {given}, the image says {own}");
            Err(Failure::refused("version_mismatch", message)
                .hint("set the version in the build: devices report the image's own"))
        }
        (None, None) => Err(Failure::usage(
            "the image names no version of its own (Arduino and MicroPython builds do not)",
        )
        .hint("add --version V")),
    }
}

fn elf(image: &Image) -> Result<Sha256> {
    let elf = image.desc.as_ref().map(|desc| desc.app_elf_sha256);
    let elf = elf.filter(|elf| *elf != [0; 32]).ok_or_else(|| {
        Failure::refused(
            "image_invalid",
            "the image does not name its ELF file, so nobody could tell whether a device runs it",
        )
        .hint("build it with ESP-IDF 3.3 or newer")
    })?;
    Ok(Sha256(elf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_version_has_a_place_of_its_own() {
        let cases = [
            ("1", 1_000_000),
            ("1.2", 1_002_000),
            ("1.0.6", 1_000_006),
            ("v2.13.999", 2_013_999),
            ("0.0.1", 1),
            ("4294.967.295", 4_294_967_295),
        ];
        for (version, sequence) in cases {
            assert_eq!(sequence_of(version), Some(sequence), "{version}");
        }
        for bad in [
            "",
            "v",
            "0",
            "0.0.0",
            "1.0.1000",
            "1.1000.0",
            "4294.967.296",
            "4295",
            "1.0.6-rc1",
            "1.0.6+7",
            "1.0.6-3-gabcdef0-dirty",
            "1.2.3.4",
            "1..3",
            "+1.0.0",
            "a1b2c3d",
        ] {
            assert_eq!(sequence_of(bad), None, "{bad}");
        }
    }
}
