//! The whole update on a simulated chip, with a bootloader that rolls back and one that does not.

mod common;

use common::{
    IMAGE_BYTES, SLOTS, bench, entry, exchange, firmware, order_install, order_leave, runs,
    updated, updater,
};
use fota_device::{Next, ProveError, ReceiveError};
use fota_image::otadata::State;
use fota_proto::checkin::{Phase, ResetReason, Running};
use fota_sim::{
    bench::Ended,
    firmware::Behaviour,
    flash::{OpKind, SimFlash},
    scripted::{Ask, ScriptedServer},
};

#[test]
fn a_good_image_is_installed_and_confirmed() {
    for rollback in [false, true] {
        let mut bench = bench(rollback);
        order_install(&mut bench, 7, &firmware("2.0.0", Behaviour::Works));
        bench.run(2).unwrap();
        assert_eq!(runs(&bench), "2.0.0");
        assert_eq!(bench.outcomes, []);
        assert_eq!(bench.downloaded_bytes, IMAGE_BYTES as u64);
        // It stays, however often the power fails from now on.
        for _ in 0..10 {
            bench.reset = ResetReason::PowerOn;
            assert_eq!(bench.start(), Ok(Ended::Settled));
            assert_eq!(runs(&bench), "2.0.0");
        }
        assert_eq!(bench.flash.violations(), 0);
    }
}

#[test]
fn updates_alternate_between_the_slots() {
    for rollback in [false, true] {
        let mut bench = updated(rollback);
        for round in 3..9 {
            let version = format!("{round}.0.0");
            let artifact = firmware(&version, Behaviour::Works);
            order_install(&mut bench, round, &artifact);
            bench.run(2).unwrap();
            assert_eq!(runs(&bench), version);
        }
        assert_eq!(bench.downloaded_bytes, 7 * IMAGE_BYTES as u64);
        assert_eq!(bench.flash.violations(), 0);
    }
}

#[test]
fn the_other_slot_is_installed_again_without_a_download() {
    let mut bench = updated(false);
    let before = bench.downloaded_bytes;
    order_install(&mut bench, 9, &firmware("1.0.0", Behaviour::Works));
    bench.run(2).unwrap();
    assert_eq!(runs(&bench), "1.0.0");
    assert_eq!(bench.downloaded_bytes, before);
}

/// What is erased between a request and its answer is not erased again.
#[test]
fn erasing_ahead_leaves_nothing_to_erase_for_the_first_bytes() {
    let mut bench = updated(false);
    let artifact = firmware("3.0.0", Behaviour::Works);
    let server = ScriptedServer::new(4, Ask::Install(artifact.clone()));
    bench.flash.start_log();
    let erases = |flash: &SimFlash| {
        let log = flash.log().iter();
        log.filter(|op| op.offset >= SLOTS[0] && op.kind != OpKind::Program)
            .count()
    };
    let mut updater = updater(&mut bench);
    assert_eq!(updater.erase_ahead(), Err(ReceiveError::NotDownloading));
    exchange(&mut updater, &server, |_| ());
    assert_eq!(erases(updater.flash()), 0);
    updater.erase_ahead().unwrap();
    let ahead = erases(updater.flash());
    assert!(ahead > 0);
    updater.erase_ahead().unwrap();
    updater.receive(&artifact.bytes()[..4096]).unwrap();
    assert_eq!(erases(updater.flash()), ahead);
}

#[test]
fn the_standing_order_does_not_disturb_a_download() {
    let mut bench = bench(false);
    let artifact = firmware("2.0.0", Behaviour::Works);
    let server = ScriptedServer::new(4, Ask::Install(artifact.clone()));
    let mut updater = updater(&mut bench);
    assert!(
        matches!(exchange(&mut updater, &server, |_| ()).0, Next::Download(part) if part.from == 0)
    );
    for (index, bytes) in artifact.bytes().chunks(777).enumerate() {
        updater.receive(bytes).unwrap();
        let at = (index * 777 + bytes.len()) as u32;
        if index % 20 == 0 {
            let (next, progress) = exchange(&mut updater, &server, |request| request.progress);
            assert!(
                matches!(next, Next::Download(part) if part.from == at),
                "{next:?}"
            );
            let progress = progress.unwrap();
            assert_eq!(
                (progress.order, progress.phase, progress.bytes),
                (4, Phase::Downloading, at)
            );
        }
    }
    let (next, progress) = exchange(&mut updater, &server, |request| request.progress);
    assert_eq!(
        (next, progress.unwrap().phase),
        (Next::Prove, Phase::Downloaded)
    );
    let _ = updater.prove().unwrap().activate().unwrap();
    // Too late for anything else.
    let cancel = ScriptedServer::new(4, Ask::Cancel);
    let (next, progress) = exchange(&mut updater, &cancel, |request| request.progress);
    assert!(matches!(next, Next::Reset(_)));
    assert_eq!(progress.unwrap().phase, Phase::Installing);
}

#[test]
fn another_order_replaces_a_download() {
    let mut bench = bench(false);
    let first = ScriptedServer::new(4, Ask::Install(firmware("2.0.0", Behaviour::Works)));
    let third = firmware("3.0.0", Behaviour::Works);
    let mut updater = updater(&mut bench);
    exchange(&mut updater, &first, |_| ());
    let Ask::Install(second) = &first.ask else {
        unreachable!()
    };
    updater.receive(&second.bytes()[..50_000]).unwrap();
    let server = ScriptedServer::new(5, Ask::Install(third.clone()));
    // What is in the slot may be a prefix, so the server is asked; it is not.
    assert_eq!(exchange(&mut updater, &server, |_| ()).0, Next::CheckIn);
    let (next, held) = exchange(&mut updater, &server, |request| request.held.len());
    assert!(matches!(next, Next::Download(part) if part.from == 0 && part.blob == third.sha256));
    assert!(held > 0);
    updater.receive(third.bytes()).unwrap();
    let _ = updater.prove().unwrap().activate().unwrap();
    assert_eq!(runs(&bench), "3.0.0");
}

#[test]
fn a_withdrawn_order_leaves_nothing_bootable() {
    for ask in [Ask::Cancel, Ask::Nothing] {
        let mut bench = bench(false);
        let artifact = firmware("2.0.0", Behaviour::Works);
        let server = ScriptedServer::new(4, Ask::Install(artifact.clone()));
        let mut updater = updater(&mut bench);
        exchange(&mut updater, &server, |_| ());
        updater.receive(artifact.bytes()).unwrap();
        drop(updater.prove().unwrap());
        let withdrawn = ScriptedServer::new(4, ask);
        assert!(matches!(
            exchange(&mut updater, &withdrawn, |_| ()).0,
            Next::Wait { .. }
        ));
        assert_eq!(updater.receive(&[0]), Err(ReceiveError::NotDownloading));
        assert_eq!(updater.prove().unwrap_err(), ProveError::NotComplete);
        assert_eq!(runs(&bench), "1.0.0");
        let head = bench.flash.bytes(SLOTS[1]..SLOTS[1] + 16).unwrap();
        assert_eq!(head, [0; 16], "the proven image is not bootable any more");
    }
}

#[test]
fn nothing_is_installed_while_the_running_image_is_on_trial() {
    let mut bench = bench(false);
    order_install(&mut bench, 1, &firmware("2.0.0", Behaviour::Works));
    assert_eq!(bench.start(), Ok(Ended::Reset));
    let other = ScriptedServer::new(2, Ask::Install(firmware("3.0.0", Behaviour::Works)));
    let ops = bench.flash.ops();
    let mut updater = updater(&mut bench);
    assert!(updater.is_on_trial());
    assert_eq!(updater.deadline_s(), Some(300));
    let (next, seen) = exchange(&mut updater, &other, |request| {
        (
            request.confirmed,
            request
                .progress
                .map(|progress| (progress.order, progress.phase)),
        )
    });
    assert!(matches!(next, Next::Wait { seconds: 30 }));
    assert_eq!(seen, (Running::Trial, Some((1, Phase::Trial))));
    updater.confirm().unwrap();
    assert!(!updater.is_on_trial());
    assert!(matches!(
        exchange(&mut updater, &other, |_| ()).0,
        Next::Download(_)
    ));
    assert!(bench.flash.ops() > ops);
}

#[test]
fn confirm_is_one_bit_without_rollback_and_valid_with_it() {
    for (rollback, state, ops) in [(false, State::New, 1), (true, State::Valid, 4)] {
        let mut bench = bench(rollback);
        order_install(&mut bench, 1, &firmware("2.0.0", Behaviour::Works));
        assert_eq!(bench.start(), Ok(Ended::Reset));
        let mut updater = updater(&mut bench);
        let before = updater.flash().ops();
        updater.confirm().unwrap();
        assert_eq!(updater.flash().ops() - before, ops);
        assert_eq!(entry(&bench.flash, 1).state, state);
    }
}

#[test]
fn a_finished_rollback_order_stands_without_effect() {
    let mut bench = updated(true);
    order_leave(&mut bench, 2, firmware("9.9.9", Behaviour::Works).elf);
    bench.run(1).unwrap();
    assert_eq!(runs(&bench), "2.0.0");
}
