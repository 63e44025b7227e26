//! Patches over lost links and reboots: what is fetched again, what is erased, what is kept.

mod common;

use std::sync::LazyLock;

use common::{patched::*, *};
use fota_delta::Profile;
use fota_proto::{
    checkin::PatchProfile,
    limits::{CHUNK_BYTES, PATCH_REFETCHED_BYTES_MAX},
    signed::index,
};
use fota_sim::{bench::ByteCut, flash::SECTOR_BYTES, scripted::Artifact};
use proptest::prelude::*;

const SHORT_BYTES: usize = 24 * 1024;
/// What a kept patch may lose: the page that was not full, the one that may be torn, and what had
/// arrived.
const KEPT_EXTRA_BYTES: u64 = 2 * 256 + LOST_BYTES;

fn cut(downloaded_bytes: u64, reboots: bool) -> ByteCut {
    ByteCut {
        downloaded_bytes,
        reboots,
    }
}

/// A release whose patch is short.
fn small() -> (Patched, Artifact) {
    static MADE: LazyLock<(Patched, Artifact)> = LazyLock::new(|| {
        let device = Patched::new(SHORT_BYTES, SLOT_BYTES, Some(PatchProfile::Small));
        let new = version("2.0.0", SHORT_BYTES);
        let new = new.patched(Some(device.old.bytes()), Profile::Small);
        (device, new)
    });
    MADE.clone()
}

/// A release with 60,000 bytes more: its patch is too large to be fetched again.
fn large() -> (Patched, Artifact) {
    static MADE: LazyLock<(Patched, Artifact)> = LazyLock::new(|| {
        let device = Patched::new(100_000, SLOT_BYTES, Some(PatchProfile::Small));
        let new = version("2.0.0", 160_000);
        let new = new.patched(Some(device.old.bytes()), Profile::Small);
        assert!(patch_bytes(&new) > u64::from(PATCH_REFETCHED_BYTES_MAX));
        (device, new)
    });
    MADE.clone()
}

#[test]
fn a_link_that_is_lost_at_any_byte_costs_none_of_them_twice() {
    let (device, new) = small();
    for at in 0..undisturbed(&new) {
        let mut device = device.clone();
        device.bench.byte_cuts = vec![cut(at, false)];
        assert_eq!(device.update(&new), undisturbed(&new), "lost after {at}");
        assert_eq!(device.bench.patch_ends, []);
    }
}

#[test]
fn a_reboot_at_any_byte_costs_at_most_the_patch_and_the_index_again() {
    let (device, new) = small();
    let mut worst = 0;
    for at in 0..undisturbed(&new) {
        let mut device = device.clone();
        device.bench.byte_cuts = vec![cut(at, true)];
        let extra = device.update(&new).saturating_sub(undisturbed(&new));
        // What had arrived.
        assert!(extra <= at, "reboot after {at}: {extra} more");
        worst = worst.max(extra);
    }
    let most = undisturbed(&new);
    println!(
        "a patch of {}: at most {worst} bytes more, {most} allowed",
        patch_bytes(&new)
    );
    assert!(worst <= most);
}

#[test]
fn a_reboot_in_a_large_patch_costs_little_more_than_the_index() {
    let (device, new) = large();
    assert_eq!(device.clone().update(&new), undisturbed(&new));
    let mut worst = 0;
    for at in (0..undisturbed(&new)).step_by(4_001) {
        let mut device = device.clone();
        device.bench.byte_cuts = vec![cut(at, true)];
        let extra = device.update(&new).saturating_sub(undisturbed(&new));
        assert!(
            extra <= index_bytes(&new) + KEPT_EXTRA_BYTES,
            "reboot after {at}: {extra} more"
        );
        assert_eq!(device.bench.patch_ends, []);
        worst = worst.max(extra);
    }
    println!(
        "a patch of {}: at most {worst} bytes more",
        patch_bytes(&new)
    );
}

#[test]
fn many_reboots_in_a_large_patch_add_up() {
    let (mut device, new) = large();
    let step = undisturbed(&new) / 12;
    let cuts = (1..12).map(|n| cut(n * step, n % 3 != 0));
    device.bench.byte_cuts = cuts.collect();
    let reboots = device.bench.byte_cuts.iter().filter(|cut| cut.reboots);
    let most = reboots.count() as u64 * (index_bytes(&new) + KEPT_EXTRA_BYTES);
    let extra = device.update(&new) - undisturbed(&new);
    assert!(extra <= most, "{extra} more, at most {most}");
}

#[test]
fn pages_in_the_middle_of_a_large_patch_and_reboots_around_them() {
    // The fourth page is wanted before most of the patch.
    let device = Patched::new(1_540_000, 0x1E_0000, Some(PatchProfile::Default));
    let new = version("2.0.0", 1_590_000).patched(Some(device.old.bytes()), Profile::Default);
    assert_eq!(index::pages(new.bytes().len() as u32), 4);
    for at in [None, Some(7_000), Some(20_000), Some(45_000)] {
        let mut device = device.clone();
        device.bench.byte_cuts.extend(at.map(|at| cut(at, true)));
        let extra = device.update(&new) - undisturbed(&new);
        let most = match at {
            None => LOST_BYTES, // dropped where the page comes first
            Some(_) => index_bytes(&new) + KEPT_EXTRA_BYTES + 2 * LOST_BYTES,
        };
        println!("reboot after {at:?}: {extra} bytes more");
        assert!(extra <= most, "reboot after {at:?}: {extra} more");
        assert_eq!(device.bench.patch_ends, []);
    }
}

/// What was proven before a power loss is not erased because a patch is tried again.
#[test]
fn reboots_after_a_bad_patch_cost_no_more_than_the_patch_and_two_chunks() {
    let (device, new) = large();
    let mut bad = new.patch.as_ref().unwrap().bytes.to_vec();
    bad[202] ^= 1;
    let new = new.offering(bad);
    let undisturbed = device.clone().update(&new);
    for at in [1_049, 17_119, 60_000, 120_000] {
        let mut device = device.clone();
        device.bench.byte_cuts = vec![cut(at, true), cut(at + 4_000, true)];
        let extra = device.update(&new) - undisturbed;
        let each = patch_bytes(&new) + index_bytes(&new) + 2 * u64::from(CHUNK_BYTES) + LOST_BYTES;
        assert!(extra <= 2 * each, "reboots after {at}: {extra} more");
    }
}

#[test]
fn a_reboot_late_in_the_artifact_costs_at_most_the_patch_and_two_chunks() {
    let (mut device, new) = small();
    let mut bad = new.patch.as_ref().unwrap().bytes.to_vec();
    let place = bad.len() / 2;
    bad[place] ^= 0xFF;
    let new = new.offering(bad);
    let whole = device.clone().update(&new);
    // All but the last bytes of the artifact are there.
    device.bench.byte_cuts = vec![cut(whole - 100, true)];
    let took = device.update(&new);
    let most = undisturbed(&new) + 2 * u64::from(CHUNK_BYTES) + index_bytes(&new) + LOST_BYTES;
    assert!(
        took - whole <= most,
        "{} more, at most {most}",
        took - whole
    );
}

#[test]
fn what_lies_behind_the_image_is_recognised_or_written_over() {
    let (device, new) = large();
    let behind = SLOTS[1] + 160_000_u32.next_multiple_of(CHUNK_BYTES);
    let room = SLOTS[1] + SLOT_BYTES - behind;
    let name = new.patch.as_ref().unwrap().patch.sha256.0;
    for (named, byte) in [
        (false, 0xA5),
        (false, 0),
        (true, 0xA5),
        (true, 0),
        (true, 0xFF),
    ] {
        let mut device = device.clone();
        let mut left_over = vec![byte; room as usize];
        if named {
            left_over[..32].copy_from_slice(&name);
        }
        device.bench.flash.load(behind, &left_over).unwrap();
        let took = device.update(&new);
        let most = undisturbed(&new) + artifact_from(&new, 0);
        assert!(took <= most, "{named} {byte:#x}: {took}");
        if !named {
            assert_eq!(took, undisturbed(&new));
        }
    }
}

/// Erases in the target slot in one update.
fn erases(device: &Patched) -> u32 {
    let sectors = SLOTS[1] / CHUNK_BYTES..(SLOTS[1] + SLOT_BYTES) / CHUNK_BYTES;
    sectors
        .map(|at| device.bench.flash.erases(at as usize))
        .sum()
}

#[test]
fn a_patch_erases_no_more_than_the_image_does_and_what_is_kept_of_it() {
    for (device, new) in [small(), large()] {
        let dirty = |mut device: Patched| {
            let old = vec![0xA5; SLOT_BYTES as usize];
            device.bench.flash.load(SLOTS[1], &old).unwrap();
            device
        };
        let mut whole = dirty(device.clone());
        whole.bench.patches = None;
        whole.update(&new);
        let mut patched = dirty(device);
        patched.update(&new);
        let kept = match patch_bytes(&new) > u64::from(PATCH_REFETCHED_BYTES_MAX) {
            true => (patch_bytes(&new) + 32).div_ceil(SECTOR_BYTES as u64) as u32,
            false => 0,
        };
        let (image, found) = (erases(&whole), erases(&patched));
        println!("{image} sectors for the image, {kept} for the patch, {found} erased");
        assert_eq!(image as usize, new.bytes().len().div_ceil(SECTOR_BYTES));
        assert!(found <= image + kept, "{found}");
    }
}

#[test]
fn sectors_that_hold_the_right_bytes_are_not_erased() {
    // A slot that held this very image, but for its head, which was destroyed, and one byte: what
    // is before that byte stays.
    for (at, erased) in [(1_000, 6), (9_000, 4), (SHORT_BYTES - 9, 1)] {
        let (mut device, new) = small();
        let mut there = new.bytes().to_vec();
        there[..16].fill(0xFF);
        there[at] ^= 1;
        device.bench.flash.load(SLOTS[1], &there).unwrap();
        // After a power loss it is not believed.
        device.bench.reset = fota_proto::checkin::ResetReason::Software;
        device.update(&new);
        assert_eq!(erases(&device), erased, "{at}");
    }
    // With its head it could be booted: that goes first, and its sector with it.
    let (mut device, new) = small();
    let mut there = new.bytes().to_vec();
    there[SHORT_BYTES - 9] ^= 1;
    device.bench.flash.load(SLOTS[1], &there).unwrap();
    device.update(&new);
    assert_eq!(erases(&device), 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A header that fits or does not, and any payload.
    #[test]
    fn a_hostile_patch_does_no_harm(
        is_small in any::<bool>(),
        new_bytes in prop_oneof![Just(SHORT_BYTES as u32), any::<u32>()],
        old_bytes in prop_oneof![Just(SHORT_BYTES as u32), 0..0x100_0000_u32],
        claimed in 0..0x100_0000_u32,
        payload in proptest::collection::vec(any::<u8>(), 0..3_000),
    ) {
        let (mut device, new) = small();
        let mut patch = vec![b'f', b'd', 1, is_small.into()];
        for mut length in [new_bytes, old_bytes, claimed] {
            while length >= 0x80 {
                patch.push(length as u8 | 0x80);
                length >>= 7;
            }
            patch.push(length as u8);
        }
        patch.extend(new.sha256.0);
        patch.extend([7; 32]);
        patch.extend(payload);
        let new = new.offering(patch);
        let took = device.update(&new);
        let most = undisturbed(&new) + artifact_from(&new, 0);
        prop_assert!(took <= most, "{took}, at most {most}");
        prop_assert_eq!(device.bench.patch_ends.len(), 1);
    }

    /// Whatever happens to the patch, to the old image, to the link and to the power: in the end
    /// the right image runs, and it cost no more than each of these may.
    #[test]
    fn the_right_image_runs_in_the_end(
        is_large in any::<bool>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..3),
        rots in proptest::collection::vec(300_u32..20_000, 0..2),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..4),
    ) {
        let (mut device, new) = if is_large { large() } else { small() };
        let mut patch = new.patch.as_ref().unwrap().bytes.to_vec();
        for (place, flip) in flips {
            let place = place.index(patch.len());
            patch[place] ^= flip;
        }
        let new = new.offering(patch);
        device.bench.rots = rots.iter().map(|at| SLOTS[0] + at).collect();
        let total = undisturbed(&new) as usize;
        let mut places: Vec<_> = cuts.iter().map(|(at, _)| at.index(total) as u64).collect();
        places.sort_unstable();
        let reboots = cuts.iter().map(|(_, reboots)| *reboots);
        device.bench.byte_cuts = places.into_iter().zip(reboots).map(|(at, reboots)| cut(at, reboots)).collect();
        // A flipped old image no longer boots after a reboot: then it stays as it is.
        if device.bench.byte_cuts.iter().any(|cut| cut.reboots) {
            device.bench.rots.clear();
        }
        let again = undisturbed(&new).min(u64::from(PATCH_REFETCHED_BYTES_MAX)) + index_bytes(&new);
        let each = again + u64::from(CHUNK_BYTES) + KEPT_EXTRA_BYTES;
        let most = undisturbed(&new) + artifact_from(&new, 0) + cuts.len() as u64 * each;
        let took = device.update(&new);
        prop_assert!(took <= most, "{took}, at most {most}");
    }
}
