//! otadata in any state: the device boots as before and can still update itself.

mod common;

use common::{
    IMAGE_BYTES, OTADATA, SLOTS, bench, boot_info, entry, firmware, order_install, put_entry, runs,
    spec, updated,
};
use fota_device::{StartError, Started, Trust, Updater};
use fota_image::otadata::{Entry, State};
use fota_proto::checkin::ResetReason;
use fota_sim::{
    bench::Bench,
    firmware::{Behaviour, image},
    scripted::Artifact,
};

/// Thousands of updates in a minute.
const SMALL_BYTES: usize = 9_008;

/// A device with a valid image in each slot, running the one in `ota_1`.
fn base(rollback: bool) -> Bench {
    let small = |version| {
        let spec = spec(version, Behaviour::Works).image_bytes(SMALL_BYTES);
        Artifact::new(image(&spec).unwrap())
    };
    let mut bench = Bench::new(small("1.0.0").bytes(), 0x1_0000, rollback).unwrap();
    order_install(&mut bench, 1, &small("2.0.0"));
    bench.run(3).unwrap();
    bench
}

/// Confirms that whatever otadata holds, an update works and a further one too.
fn still_updates(mut bench: Bench, what: &str) {
    for (order, version) in [(11, "3.0.0"), (12, "4.0.0")] {
        let spec = spec(version, Behaviour::Works).image_bytes(SMALL_BYTES);
        order_install(&mut bench, order, &Artifact::new(image(&spec).unwrap()));
        // A trial of another tool may have to be confirmed or given up first.
        bench
            .run(5)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(runs(&bench), version, "{what}");
    }
    assert_eq!(bench.flash.violations(), 0, "{what}");
}

fn entries() -> Vec<(String, Entry)> {
    let states = [
        State::New,
        State::PendingVerify,
        State::Valid,
        State::Invalid,
        State::Aborted,
        State::Undefined,
        State::Other(7),
        State::Other(0xff00),
    ];
    let mut all = vec![("erased".to_string(), Entry::EMPTY)];
    for seq in [0, 1, 2, 3, 4, u32::MAX - 2, u32::MAX - 1, u32::MAX] {
        for state in states {
            let entry = Entry::new(seq, state);
            all.push((format!("{seq}:{state:?}"), entry));
        }
    }
    let bad_crc = Entry {
        crc: 1,
        ..Entry::new(9, State::Valid)
    };
    all.push(("bad crc".to_string(), bad_crc));
    let zeros = Entry::parse(&[0; 32]);
    all.push(("zeros".to_string(), zeros));
    let marked = Entry {
        label: *b"FOT1aaaaaaaabbbbcccc",
        ..Entry::new(3, State::New)
    };
    all.push(("a strange mark".to_string(), marked));
    let marked = Entry {
        label: *b"FOT1aaaaaaaabbbb\0\0\0\0",
        ..Entry::new(2, State::Aborted)
    };
    all.push(("a strange verdict".to_string(), marked));
    all
}

/// Every pair of entries, over a device with a valid image in each slot.
#[test]
fn every_otadata_can_be_updated() {
    let all = entries();
    for rollback in [false, true] {
        let base = base(rollback);
        for (index, (left_name, left)) in all.iter().enumerate() {
            // All lefts, all rights, each in the company of a third of the others.
            for (right_name, right) in all.iter().skip(index % 3).step_by(3) {
                let mut bench = base.clone();
                put_entry(&mut bench.flash, 0, left);
                put_entry(&mut bench.flash, 1, right);
                still_updates(
                    bench,
                    &format!("rollback {rollback}, {left_name} | {right_name}"),
                );
            }
        }
    }
}

#[test]
fn what_runs_is_trusted_and_not_what_otadata_names() {
    // otadata names ota_1, whose image is gone: the bootloader fell back to ota_0.
    let mut bench = updated(false);
    bench.flash.load(SLOTS[1] + 70_000, &[0; 8]).unwrap();
    assert_eq!(runs(&bench), "1.0.0");
    still_updates(bench, "fallback");
}

#[test]
fn the_fallback_is_the_running_image_before_a_slot_changes() {
    // Both entries name the slot that is overwritten next.
    let mut bench = bench(false);
    put_entry(&mut bench.flash, 0, &Entry::new(2, State::Valid));
    put_entry(&mut bench.flash, 1, &Entry::new(4, State::Valid));
    assert_eq!(runs(&bench), "1.0.0");
    order_install(&mut bench, 1, &firmware("2.0.0", Behaviour::CrashesAtBoot));
    bench.start().unwrap();
    let running = [entry(&bench.flash, 0), entry(&bench.flash, 1)];
    let of_running = |entry: &&Entry| entry.usable() && entry.seq % 2 == 1;
    assert_eq!(running.iter().filter(of_running).count(), 1, "{running:?}");
}

/// esp-bootloader-esp-idf reads both entries or none: one that is damaged ends all updates.
#[test]
fn one_damaged_entry_does_not_end_updates() {
    for rollback in [false, true] {
        for (index, at) in (0..2).flat_map(|index| (0..32).map(move |at| (index, at))) {
            let mut bench = base(rollback);
            let place = OTADATA[index] + at;
            let byte = bench.flash.bytes(place..place + 1).unwrap()[0];
            bench.flash.load(place, &[byte ^ 0x5A]).unwrap();
            still_updates(
                bench,
                &format!("rollback {rollback}, byte {at} of entry {index}"),
            );
        }
    }
}

/// Others take the entry with the highest number for what runs, though its image was given up: the
/// next update would erase the running slot.
#[test]
fn an_entry_that_was_given_up_is_not_what_runs() {
    for (rollback, state) in [
        (false, State::Invalid),
        (true, State::Invalid),
        (true, State::Aborted),
    ] {
        let mut bench = base(rollback);
        put_entry(&mut bench.flash, 0, &Entry::new(1, State::Valid));
        put_entry(&mut bench.flash, 1, &Entry::new(2, state));
        assert_eq!(runs(&bench), "1.0.0");
        still_updates(bench, &format!("rollback {rollback}, {state:?}"));
    }
}

/// Others change the number of an entry and leave its state: an image in the place of one that was
/// given up never boots.
#[test]
fn a_new_entry_does_not_inherit_the_state_of_the_old_one() {
    for state in [State::Invalid, State::Aborted] {
        let mut bench = updated(false);
        put_entry(&mut bench.flash, 0, &Entry::new(1, state));
        order_install(&mut bench, 5, &firmware("3.0.0", Behaviour::Works));
        bench.start().unwrap();
        assert_eq!(entry(&bench.flash, 0).state, State::New);
        assert_eq!(runs(&bench), "3.0.0");
    }
}

/// A torn CRC may read as right to the bootloader and as wrong to the app. Others then find no image
/// that runs, and refuse everything; here the entry is written again, and the trial goes on.
#[test]
fn an_entry_that_reads_as_damaged_once_its_image_runs_is_written_again() {
    for rollback in [false, true] {
        let mut bench = bench(rollback);
        order_install(&mut bench, 1, &firmware("2.0.0", Behaviour::FailsSelfTest));
        bench.start().unwrap();
        bench.rots = vec![OTADATA[1] + 28];
        bench.run(3).unwrap();
        // It was on trial, or it would not have gone back.
        assert_eq!(runs(&bench), "1.0.0", "rollback {rollback}");

        let mut bench = updated(rollback);
        bench.rots = vec![OTADATA[1] + 28];
        let leave = firmware("2.0.0", Behaviour::Works).elf;
        common::order_leave(&mut bench, 2, leave);
        bench.run(3).unwrap();
        assert_eq!(runs(&bench), "1.0.0", "rollback {rollback}");
    }
}

#[test]
fn a_factory_app_updates_and_is_the_way_back() {
    use fota_image::partition::TableBuilder;
    for rollback in [false, true] {
        let factory = firmware("1.0.0", Behaviour::Works);
        let mut bench = Bench::new(factory.bytes(), common::SLOT_BYTES, rollback).unwrap();
        let table = TableBuilder::factory_two_ota().build().unwrap();
        bench.flash.load(0x8000, &table).unwrap();
        order_install(&mut bench, 1, &firmware("2.0.0", Behaviour::Works));
        bench.run(2).unwrap();
        assert_eq!(runs(&bench), "2.0.0");
        let leave = firmware("2.0.0", Behaviour::Works).elf;
        common::order_leave(&mut bench, 2, leave);
        bench.run(2).unwrap();
        assert_eq!(runs(&bench), "1.0.0");
        order_install(&mut bench, 3, &firmware("3.0.0", Behaviour::FailsSelfTest));
        bench.run(3).unwrap();
        assert_eq!(runs(&bench), "1.0.0");
        assert_eq!(bench.outcomes.len(), 1);
        assert_eq!(bench.flash.violations(), 0);
        assert!(bench.downloaded_bytes >= 2 * IMAGE_BYTES as u64);
    }
}

#[test]
fn code_that_runs_from_no_partition_cannot_update() {
    let mut bench = bench(false);
    let info = boot_info(0x9000, ResetReason::PowerOn);
    let error = Updater::start(&mut bench.flash, info, Trust::Anybody)
        .err()
        .unwrap();
    assert_eq!(error, StartError::NotAnApp { offset: 0x9000 });
}

#[test]
fn a_damaged_partition_table_is_an_error_and_nothing_is_written() {
    let mut bench = bench(false);
    bench.flash.load(0x8000 + 40, &[0; 4]).unwrap();
    let ops = bench.flash.ops();
    let info = boot_info(SLOTS[0], ResetReason::PowerOn);
    let error = Updater::start(&mut bench.flash, info, Trust::Anybody)
        .err()
        .unwrap();
    assert!(matches!(error, StartError::Layout(_)), "{error}");
    assert_eq!(bench.flash.ops(), ops);
}

#[test]
fn a_start_of_a_confirmed_image_writes_nothing() {
    for rollback in [false, true] {
        let mut bench = updated(rollback);
        let ops = bench.flash.ops();
        let info = boot_info(SLOTS[1], ResetReason::Panic);
        assert!(matches!(
            Updater::start(&mut bench.flash, info, Trust::Anybody),
            Ok(Started::Run(_))
        ));
        assert_eq!(bench.flash.ops(), ops);
    }
}
