//! Whether a release can run on a device at all.

use fota_proto::SkipReason;

use super::model::{Device, Protocol, Release, Slot};

/// Whether, and if not why not, the release may be installed on the device.
pub fn fits(
    device: &Device,
    release: &Release,
    allow_product_change: bool,
) -> Result<(), (SkipReason, String)> {
    let skip = |reason, detail: String| Err((reason, detail));
    if release.lab && device.protocol == Protocol::Native {
        let detail = "the file is no image: it was taken in under --lab".to_owned();
        return skip(SkipReason::IncompatibleChip, detail);
    }
    if let (Some(of), Some(on)) = (release.chip, device.chip)
        && of != on
    {
        let (of, on) = (chip_name(of), chip_name(on));
        let detail = format!(
            "release {} is for {of}, the device is {on}",
            release.version
        );
        return skip(SkipReason::IncompatibleChip, detail);
    }
    if let Some(revision) = device.chip_revision
        && !allows_revision(release, revision)
    {
        let detail = format!(
            "release {} does not run on revision {revision}",
            release.version
        );
        return skip(SkipReason::IncompatibleChip, detail);
    }
    let project = device.project.as_deref().unwrap_or("");
    if !allow_product_change && !project.is_empty() && project != release.project {
        let detail = format!(
            "release is {:?}, the device runs {project:?}",
            release.project
        );
        return skip(SkipReason::IncompatibleProduct, detail);
    }
    match room(device) {
        Some(bytes) if release.bytes > u64::from(bytes) => skip(
            SkipReason::NoSpace,
            format!("image is {} bytes; the slot holds {bytes}", release.bytes),
        ),
        _ => Ok(()),
    }
}

/// A chip's name, or its number where it is new to us.
pub fn chip_name(id: u16) -> String {
    let known = fota_image::app::Chip::from_id(id);
    known.map_or_else(|| format!("chip {id}"), |chip| chip.name().to_owned())
}

fn allows_revision(release: &Release, revision: u16) -> bool {
    let max = release.chip_revision_max.unwrap_or(u16::MAX);
    (release.chip_revision_min..=max).contains(&revision)
}

/// Size of the largest slot that an update could use.
pub(super) fn room(device: &Device) -> Option<u32> {
    /// Slot number of the factory partition, which updates never write.
    const FACTORY: u8 = 255;
    let usable = |slot: &&Slot| slot.slot != FACTORY && Some(slot.slot) != device.slot;
    device
        .slots
        .iter()
        .filter(usable)
        .map(|slot| slot.bytes)
        .max()
}
