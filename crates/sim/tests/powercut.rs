//! The power fails at every flash operation of an update: see `fota_sim::powercut`.
#![allow(clippy::disallowed_methods)] // how long it takes is printed, and decides nothing

use std::time::Instant;

use fota_delta::Profile;
use fota_proto::{
    FailureCode,
    checkin::PatchProfile,
    limits::{CHUNK_BYTES, PATCH_REFETCHED_BYTES_MAX},
    signed::index,
};
use fota_sim::{
    bench::{ARRIVING_BYTES, Bench},
    firmware::{Behaviour, Spec, image},
    powercut::{Figures, Story},
    scripted::{Artifact, Ask, ScriptedServer},
    signing::Maker,
};

const SMALL_BYTES: usize = 24 * 1024;
/// Long enough for a 64 KiB block erase with sectors behind it.
const BLOCK_BYTES: usize = 72 * 1024 + 16;
/// Makes a patch that is too large to be fetched again.
const NEW_BYTES: usize = 34 * 1024;
/// Random stories for each bootloader in which a patch is kept.
const KEPT_WALKS: u64 = 10;
/// Random stories for each bootloader.
const WALKS: u64 = 1000;
/// No more than power losses that a trial may take: beyond them it is given up, as it should be.
const CUTS_PER_WALK: u32 = fota_device::TRIAL_POWER_LOSS_MAX as u32;

fn firmware(version: &str, image_bytes: usize, behaviour: Behaviour) -> Artifact {
    let spec = Spec::new(version).image_bytes(image_bytes);
    let seed = version.bytes().map(u64::from).sum();
    Artifact::new(image(&spec.seed(seed).behaviour(behaviour)).unwrap())
}

/// A device that was updated once, so that each slot holds an image and an entry names it.
fn device(image_bytes: usize, rollback: bool) -> (Bench, Vec<Artifact>) {
    let first = firmware("1.0.0", image_bytes, Behaviour::Works);
    let second = firmware("2.0.0", image_bytes, Behaviour::Works);
    let mut bench = Bench::new(first.bytes(), 0x2_0000, rollback).unwrap();
    bench.server = ScriptedServer::new(1, Ask::Install(second.clone()));
    bench.run(3).unwrap();
    (bench, vec![first, second])
}

fn install(image_bytes: usize, rollback: bool, behaviour: Behaviour) -> Story {
    let (mut before, mut authentic) = device(image_bytes, rollback);
    let works = behaviour == Behaviour::Works;
    let third = firmware("3.0.0", image_bytes, behaviour);
    before.server = ScriptedServer::new(2, Ask::Install(third.clone()));
    let second = authentic[1].elf;
    let elf = third.elf;
    authentic.push(third);
    Story {
        before,
        authentic,
        on_trial: Some(elf),
        ends_with: if works { elf } else { second },
        reported: (!works).then_some(FailureCode::HealthCheck),
        trusts: None,
    }
}

/// The first update of a device as it comes from the factory: blank otadata, blank slot.
fn first_install(rollback: bool) -> Story {
    let first = firmware("1.0.0", SMALL_BYTES, Behaviour::Works);
    let second = firmware("2.0.0", SMALL_BYTES, Behaviour::Works);
    let mut before = Bench::new(first.bytes(), 0x2_0000, rollback).unwrap();
    before.server = ScriptedServer::new(2, Ask::Install(second.clone()));
    Story {
        before,
        on_trial: Some(second.elf),
        ends_with: second.elf,
        authentic: vec![first, second],
        reported: None,
        trusts: None,
    }
}

fn leave(rollback: bool) -> Story {
    let (mut before, authentic) = device(SMALL_BYTES, rollback);
    before.server = ScriptedServer::new(3, Ask::Leave(authentic[1].elf));
    Story {
        before,
        on_trial: None,
        ends_with: authentic[0].elf,
        authentic,
        reported: None,
        trusts: None,
    }
}

/// A device that trusts a root learns the next one, takes a signed release of a higher security
/// epoch, and confirms it.
fn signed_install(rollback: bool) -> Story {
    let maker = Maker::new(1);
    let first = firmware("1.0.0", SMALL_BYTES, Behaviour::Works);
    let mut before = Bench::new(first.bytes(), 0x2_0000, rollback).unwrap();
    before.root = Some(maker.roots()[0].clone().into());
    let second = firmware("2.0.0", SMALL_BYTES, Behaviour::Works);
    let second = second.signed(&maker, 2, 1).unwrap();
    before.server = ScriptedServer::new(1, Ask::Install(second.clone())).signing(&maker);
    before.run(4).unwrap();
    let maker = maker.rotated(2);
    let third = firmware("3.0.0", SMALL_BYTES, Behaviour::Works);
    let third = third.signed(&maker, 3, 2).unwrap();
    before.server = ScriptedServer::new(2, Ask::Install(third.clone())).signing(&maker);
    Story {
        before,
        on_trial: Some(third.elf),
        ends_with: third.elf,
        authentic: vec![first, second, third],
        reported: None,
        trusts: Some([(1, 1), (2, 2)]),
    }
}

/// A device that trusts a root and applies patches is updated by one. `kept` bytes of the new image
/// are new, so that the patch is kept behind it where these are many.
fn patched_install(rollback: bool, kept: usize) -> Story {
    let maker = Maker::new(1);
    let version = |number: &str, bytes: usize| {
        // The same noise in both, as a real release has most of the code of the one before.
        let spec = Spec::new(number).image_bytes(bytes).seed(1);
        Artifact::new(image(&spec).unwrap())
    };
    let first = version("1.0.0", SMALL_BYTES);
    let mut before = Bench::new(first.bytes(), 0x2_0000, rollback).unwrap();
    before.root = Some(maker.roots()[0].clone().into());
    before.patches = Some(PatchProfile::Small);
    let second = version("2.0.0", SMALL_BYTES).signed(&maker, 2, 1).unwrap();
    before.server = ScriptedServer::new(1, Ask::Install(second.clone())).signing(&maker);
    before.run(4).unwrap();
    let third = version("3.0.0", SMALL_BYTES + kept).signed(&maker, 3, 1);
    let third = third.unwrap().patched(Some(second.bytes()), Profile::Small);
    before.server = ScriptedServer::new(2, Ask::Install(third.clone())).signing(&maker);
    before.downloaded_bytes = 0;
    Story {
        before,
        on_trial: Some(third.elf),
        ends_with: third.elf,
        authentic: vec![first, second, third],
        reported: None,
        trusts: Some([(1, 1), (1, 1)]),
    }
}

/// What a cut may cost in an update by a patch.
fn extra_bytes_max(story: &Story) -> u64 {
    let third = story.authentic.last().unwrap();
    let (image_bytes, patch) = (third.bytes().len() as u32, third.patch.as_ref().unwrap());
    let index_bytes = index::artifact_bytes(image_bytes) - image_bytes;
    let patch_bytes = patch.patch.bytes;
    let mut undisturbed = story.before.clone();
    undisturbed.run(4).unwrap();
    let downloaded = undisturbed.downloaded_bytes;
    assert_eq!(downloaded, u64::from(index_bytes + patch_bytes));
    // A kept patch loses the page that was not full, the one that may be torn, and what arrived.
    let again = match patch_bytes > PATCH_REFETCHED_BYTES_MAX {
        true => 2 * 256 + ARRIVING_BYTES as u32,
        false => patch_bytes,
    };
    let most = u64::from(again + index_bytes);
    println!("patch of {patch_bytes}, index {index_bytes}: at most {most} extra bytes for a cut");
    most
}

fn cut_everywhere(name: &str, story: &Story) {
    let figures = figures(name, story);
    // A signed download also asks for the page again that proves what is behind the cut.
    let page = story.trusts.map_or(0, |_| index::PAGE_BYTES as u64);
    let most = u64::from(CHUNK_BYTES) + ARRIVING_BYTES as u64 + page;
    assert!(figures.extra_bytes_max <= most, "{name}: {figures:?}");
}

fn figures(name: &str, story: &Story) -> Figures {
    let start = Instant::now();
    let figures = story
        .cut_everywhere()
        .unwrap_or_else(|broken| panic!("{name}: {broken}"));
    let Figures {
        ops,
        planned,
        executed,
        starts_max,
        extra_bytes_max,
        repeated,
    } = figures;
    println!(
        "{name}: {ops} flash operations, {planned} cuts planned, {executed} executed, at most \
         {starts_max} more starts and {extra_bytes_max} extra bytes, {repeated} updates \
         activated again, {:.1} s",
        start.elapsed().as_secs_f32()
    );
    assert_eq!(planned, executed, "{name}");
    assert!(ops > 0, "{name}");
    figures
}

#[test]
fn a_power_cut_anywhere_in_an_update_is_survived() {
    for rollback in [false, true] {
        let name = format!("update of 24 KiB, rollback {rollback}");
        let story = install(SMALL_BYTES, rollback, Behaviour::Works);
        cut_everywhere(&name, &story);
    }
}

#[test]
fn a_power_cut_takes_away_no_root_and_no_epoch() {
    for rollback in [false, true] {
        let name = format!("new root and signed update of 24 KiB, rollback {rollback}");
        cut_everywhere(&name, &signed_install(rollback));
    }
}

#[test]
fn a_power_cut_anywhere_in_an_update_by_a_patch_is_survived() {
    for rollback in [false, true] {
        let name = format!("update of 24 KiB by a patch, rollback {rollback}");
        let story = patched_install(rollback, 0);
        let figures = figures(&name, &story);
        assert!(
            figures.extra_bytes_max <= extra_bytes_max(&story),
            "{figures:?}"
        );
    }
}

/// Each sector of the image and of the patch twice over: too many operations to cut each in every
/// way, so these are random.
#[test]
fn power_cuts_while_a_patch_is_kept_are_survived() {
    let (mut cuts, mut extra) = (0, 0);
    for rollback in [false, true] {
        let story = patched_install(rollback, NEW_BYTES);
        let most = extra_bytes_max(&story);
        for seed in 0..KEPT_WALKS {
            let figures = story.walk(seed, CUTS_PER_WALK).unwrap_or_else(|broken| {
                panic!("story.walk({seed}, {CUTS_PER_WALK}), rollback {rollback}: {broken}")
            });
            cuts += figures.executed;
            extra = extra.max(figures.extra_bytes_max);
            let most = figures.executed * most;
            assert!(figures.extra_bytes_max <= most, "seed {seed}: {figures:?}");
        }
    }
    println!("a patch that is kept: {cuts} cuts, at most {extra} extra bytes in a walk");
}

#[test]
fn a_power_cut_in_a_block_erase_is_survived() {
    let story = install(BLOCK_BYTES, true, Behaviour::Works);
    cut_everywhere("update of 72 KiB, rollback true", &story);
}

#[test]
fn a_power_cut_anywhere_in_the_first_update_is_survived() {
    for rollback in [false, true] {
        let name = format!("first update, rollback {rollback}");
        cut_everywhere(&name, &first_install(rollback));
    }
}

#[test]
fn a_power_cut_anywhere_in_a_failed_update_is_survived() {
    for rollback in [false, true] {
        let name = format!("update that fails its self-test, rollback {rollback}");
        let story = install(SMALL_BYTES, rollback, Behaviour::FailsSelfTest);
        cut_everywhere(&name, &story);
    }
}

#[test]
fn a_power_cut_anywhere_in_a_rollback_is_survived() {
    for rollback in [false, true] {
        let name = format!("operator's rollback, rollback {rollback}");
        cut_everywhere(&name, &leave(rollback));
    }
}

#[test]
fn several_power_cuts_in_one_update_are_survived() {
    let start = Instant::now();
    let (mut cuts, mut extra) = (0, 0);
    for rollback in [false, true] {
        let story = install(SMALL_BYTES, rollback, Behaviour::Works);
        for seed in 0..WALKS {
            let figures = story.walk(seed, CUTS_PER_WALK).unwrap_or_else(|broken| {
                panic!("story.walk({seed}, {CUTS_PER_WALK}), rollback {rollback}: {broken}")
            });
            cuts += figures.executed;
            extra = extra.max(figures.extra_bytes_max);
            let most = figures.executed * (u64::from(CHUNK_BYTES) + ARRIVING_BYTES as u64);
            assert!(figures.extra_bytes_max <= most, "seed {seed}: {figures:?}");
        }
    }
    println!(
        "{} walks: {cuts} cuts, at most {extra} extra bytes, {:.1} s",
        2 * WALKS,
        start.elapsed().as_secs_f32()
    );
}
