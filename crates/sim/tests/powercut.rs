//! The power fails at every flash operation of a life: see `fota_sim::powercut`.
#![allow(clippy::disallowed_methods)] // how long it takes is printed, and decides nothing

use std::time::Instant;

use fota_proto::limits::PATCH_REFETCHED_BYTES_MAX;
use fota_sim::powercut::{Mode, Phase, Plan, Row, cut_everywhere, life, random, walk};

const SMALL_BYTES: usize = 24 * 1024;
/// Makes a patch that is too large to be fetched again.
const NEW_BYTES: usize = 34 * 1024;
/// Random stories for each bootloader in which a patch is kept.
const KEPT_WALKS: u64 = 10;

fn run(phase: Phase) -> Vec<Row> {
    let rows = phase.modes().iter().map(|&mode| {
        let start = Instant::now();
        let row = Plan::SHORT.run(phase, mode);
        let row = row.unwrap_or_else(|found| panic!("{}: {found}", phase.name()));
        let seconds = start.elapsed().as_secs_f32();
        println!("{}, {}: {row:?}, {seconds:.1} s", phase.name(), mode.name());
        assert!(row.executed > 0);
        assert_eq!(row.planned, row.executed);
        row
    });
    rows.collect()
}

fn covers_all(rows: &[Row]) {
    for row in rows {
        assert_eq!(row.places, row.places_total, "{row:?}");
    }
}

#[test]
fn a_power_cut_anywhere_in_a_life_is_survived() {
    covers_all(&run(Phase::Life));
}

#[test]
fn a_power_cut_in_a_block_erase_is_survived() {
    covers_all(&run(Phase::BlockErase));
}

#[test]
fn any_two_power_cuts_in_an_update_are_survived() {
    covers_all(&run(Phase::Pairs));
}

#[test]
fn any_three_power_cuts_in_otadata_are_survived() {
    run(Phase::OtadataTriples);
}

#[test]
fn what_the_network_does_to_a_download_is_survived() {
    run(Phase::Network);
}

#[test]
fn ten_power_cuts_in_a_life_are_survived() {
    covers_all(&run(Phase::Walks));
}

#[test]
fn a_power_cut_anywhere_in_an_update_by_a_patch_is_survived() {
    for mode in Mode::ALL {
        let before = life::patch(SMALL_BYTES, 0, mode.rollback());
        let figures = cut_everywhere(before, mode).unwrap_or_else(|broken| panic!("{broken}"));
        println!("{}: {figures:?}", mode.name());
        assert_eq!(figures.ops, figures.ops_total);
        let most = u64::from(PATCH_REFETCHED_BYTES_MAX) + SMALL_BYTES as u64 / 4096 * 16;
        assert!(figures.extra.bytes <= most, "{figures:?}");
    }
}

/// Each sector of the image and of the patch twice over: too many operations to cut each in every
/// way, so these are random.
#[test]
fn power_cuts_while_a_patch_is_kept_are_survived() {
    let mut cuts = 0;
    for mode in Mode::ALL {
        let before = life::patch(SMALL_BYTES, NEW_BYTES, mode.rollback());
        for seed in 0..KEPT_WALKS {
            let walked = walk(&before, mode, &random(seed, 4, 500, mode));
            cuts += walked.unwrap_or_else(|broken| panic!("{broken}")).executed;
        }
    }
    println!("a patch that is kept: {cuts} cuts");
    assert!(cuts > 40);
}
