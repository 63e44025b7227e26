//! Ways back: a crash, a failed self-test, a missed deadline, an operator.

mod common;

use common::{
    OTADATA, SLOTS, bench, boot_info, entry, exchange, firmware, order_install, order_leave, runs,
    updated, updater,
};
use fota_device::{Next, Started, TRIAL_POWER_LOSS_MAX, TrialError, Trust, Updater};
use fota_image::otadata::State;
use fota_proto::{
    FailureCode,
    checkin::{End, ResetReason, Running, SlotState},
};
use fota_sim::{
    bench::{Bench, Ended, SeenOutcome},
    firmware::Behaviour,
};

/// A device whose next start is the first of a trial of order 1.
fn activated(rollback: bool, behaviour: Behaviour) -> Bench {
    let mut bench = bench(rollback);
    order_install(&mut bench, 1, &firmware("2.0.0", behaviour));
    assert_eq!(bench.start(), Ok(Ended::Reset));
    bench
}

/// A start that gets as far as [`Updater::start`] and then dies.
fn start_and_die(bench: &mut Bench, why: ResetReason) -> Ended {
    bench.flash.unprotect_all();
    let boot = bench.bootloader.boot(&mut bench.flash).unwrap();
    let info = bench.boot_info(&boot);
    let ended = match Updater::start(&mut bench.flash, info, Trust::Anybody).unwrap() {
        Started::Run(_) => Ended::PowerLost,
        Started::Reset(_) => Ended::Reset,
    };
    bench.reset = match ended {
        Ended::Reset => ResetReason::Software,
        _ => why,
    };
    ended
}

fn rolled_back(end: End, code: FailureCode, reset: Option<ResetReason>) -> SeenOutcome {
    SeenOutcome {
        order: 1,
        end,
        code,
        reset,
    }
}

#[test]
fn a_crash_on_trial_goes_back_and_is_reported_once() {
    for rollback in [false, true] {
        let mut bench = activated(rollback, Behaviour::Works);
        assert_eq!(
            start_and_die(&mut bench, ResetReason::Panic),
            Ended::PowerLost
        );
        if !rollback {
            // The bootloader does not know; the second start does.
            assert_eq!(start_and_die(&mut bench, ResetReason::Panic), Ended::Reset);
        }
        let panic = Some(ResetReason::Panic);
        let outcome = rolled_back(End::RolledBackBoot, FailureCode::CrashLoop, panic);
        for _ in 0..3 {
            assert_eq!(
                bench.start(),
                Ok(Ended::Settled),
                "the order is not tried again"
            );
            assert_eq!(runs(&bench), "1.0.0");
            assert_eq!(entry(&bench.flash, 1).state, State::Aborted);
            assert_eq!(bench.outcomes, [outcome]);
            bench.reset = ResetReason::PowerOn;
        }
    }
}

#[test]
fn an_outcome_is_repeated_until_it_is_acknowledged() {
    let mut bench = activated(false, Behaviour::FailsSelfTest);
    assert_eq!(bench.start(), Ok(Ended::Reset));
    let server = bench.server.clone();
    for _ in 0..3 {
        let mut updater = updater(&mut bench);
        let mut buffer = [0; 1024];
        for _ in 0..3 {
            let request = updater.check_in(1, 1, &mut buffer);
            let request: fota_proto::checkin::CheckIn = minicbor::decode(request).unwrap();
            let outcome = request.outcome.unwrap();
            assert_eq!((outcome.order, outcome.end), (1, End::RolledBackHealth));
            assert_eq!(outcome.code, FailureCode::HealthCheck.number());
        }
    }
    let mut updater = updater(&mut bench);
    exchange(&mut updater, &server, |_| ());
    let outcome = |request: &fota_proto::checkin::CheckIn| request.outcome.is_some();
    assert!(!exchange(&mut updater, &server, outcome).1);
    assert!(!exchange(&mut common::updater(&mut bench), &server, outcome).1);
}

#[test]
fn an_image_that_never_confirms_goes_back_at_its_deadline() {
    for rollback in [false, true] {
        for behaviour in [Behaviour::NeverConfirms, Behaviour::NeverConnects] {
            let mut bench = activated(rollback, behaviour);
            bench.run(2).unwrap();
            assert_eq!(runs(&bench), "1.0.0");
            assert_eq!(entry(&bench.flash, 1).state, State::Invalid);
            let code = FailureCode::NotConfirmed;
            assert_eq!(
                bench.outcomes,
                [rolled_back(End::RolledBackHealth, code, None)]
            );
        }
    }
}

#[test]
fn the_deadline_counts_from_each_start_and_survives_them() {
    let mut bench = activated(false, Behaviour::Works);
    let mut updater = updater(&mut bench);
    assert_eq!(updater.deadline_s(), Some(300));
    assert_eq!(updater.tick(299), Ok(None));
    bench.reset = ResetReason::PowerOn;
    let mut updater = common::updater(&mut bench);
    assert_eq!(updater.deadline_s(), Some(300));
    assert!(matches!(updater.tick(300), Ok(Some(_))));
    assert_eq!(runs(&bench), "1.0.0");
}

#[test]
fn a_power_loss_on_trial_is_no_crash_but_not_for_ever() {
    for rollback in [false, true] {
        let mut bench = activated(rollback, Behaviour::NeverConfirms);
        for _ in 0..TRIAL_POWER_LOSS_MAX {
            // With rollback the bootloader goes back at once, and the standing order brings the
            // image again, without a download.
            start_and_die(&mut bench, ResetReason::PowerOn);
            if rollback {
                assert_eq!(runs(&bench), "1.0.0");
                assert_eq!(bench.start(), Ok(Ended::Reset));
                assert_eq!(bench.outcomes, []);
            }
            assert_eq!(runs(&bench), "2.0.0");
            bench.reset = ResetReason::PowerOn;
        }
        assert_eq!(bench.downloaded_bytes, common::IMAGE_BYTES as u64);
        start_and_die(&mut bench, ResetReason::PowerOn);
        if !rollback {
            assert_eq!(
                start_and_die(&mut bench, ResetReason::BrownOut),
                Ended::Reset
            );
        }
        assert_eq!(bench.start(), Ok(Ended::Settled));
        assert_eq!(runs(&bench), "1.0.0");
        let power = Some(ResetReason::PowerOn);
        let code = FailureCode::CrashLoop;
        assert_eq!(
            bench.outcomes,
            [rolled_back(End::RolledBackBoot, code, power)]
        );
    }
}

#[test]
fn a_crash_after_a_power_loss_is_a_crash() {
    let mut bench = activated(false, Behaviour::Works);
    start_and_die(&mut bench, ResetReason::PowerOn);
    start_and_die(&mut bench, ResetReason::Watchdog);
    assert_eq!(start_and_die(&mut bench, ResetReason::Panic), Ended::Reset);
    assert_eq!(runs(&bench), "1.0.0");
}

#[test]
fn an_operator_can_go_back_without_a_download() {
    for rollback in [false, true] {
        let mut bench = updated(rollback);
        let downloaded = bench.downloaded_bytes;
        let leave = firmware("2.0.0", Behaviour::Works).elf;
        order_leave(&mut bench, 5, leave);
        bench.run(2).unwrap();
        assert_eq!(runs(&bench), "1.0.0");
        assert_eq!(bench.downloaded_bytes, downloaded);
        assert_eq!(bench.outcomes, []);
        // It stays there, and the image that was left is not a way back.
        let server = bench.server.clone();
        let mut updater = updater(&mut bench);
        let seen = exchange(&mut updater, &server, |request| {
            let state = request.slots[1].state;
            (request.confirmed, request.rollback_slot, state)
        });
        assert_eq!(seen.1, (Running::Confirmed, None, SlotState::Rejected));
        let leave = firmware("1.0.0", Behaviour::Works).elf;
        order_leave(&mut bench, 6, leave);
        bench.run(1).unwrap();
        assert_eq!(runs(&bench), "1.0.0");
        let refused = SeenOutcome {
            order: 6,
            end: End::Refused,
            code: FailureCode::NoRollbackTarget,
            reset: None,
        };
        assert_eq!(bench.outcomes, [refused]);
    }
}

#[test]
fn a_rollback_without_a_valid_target_changes_nothing() {
    for damage in [None, Some(70_000), Some(0), Some(140_000)] {
        let mut bench = match damage {
            Some(_) => updated(false),
            None => bench(false),
        };
        if let Some(at) = damage {
            bench.flash.load(SLOTS[0] + at, &[0; 8]).unwrap();
        }
        let version = runs(&bench);
        order_leave(&mut bench, 5, firmware(&version, Behaviour::Works).elf);
        let before = bench.flash.ops();
        bench.run(1).unwrap();
        assert_eq!(bench.flash.ops(), before);
        assert_eq!(runs(&bench), version);
        assert_eq!(bench.outcomes.len(), 1);
        assert_eq!(bench.outcomes[0].code, FailureCode::NoRollbackTarget);
        assert_eq!(bench.outcomes[0].end, End::Refused);
    }
}

#[test]
fn a_failed_image_stays_where_nothing_else_would_boot() {
    for rollback in [false, true] {
        let mut bench = activated(rollback, Behaviour::Works);
        bench.flash.load(SLOTS[0] + 70_000, &[0; 8]).unwrap();
        let mut updater = updater(&mut bench);
        let error = updater.reject(FailureCode::HealthCheck).unwrap_err();
        assert_eq!(error, TrialError::NoRollbackTarget);
        assert_eq!(updater.tick(301), Err(TrialError::NoRollbackTarget));
        if !rollback {
            bench.reset = ResetReason::Panic;
            let mut updater = common::updater(&mut bench);
            assert!(updater.is_on_trial());
            updater.confirm().unwrap();
        }
        assert_eq!(runs(&bench), "2.0.0");
    }
}

#[test]
fn a_confirmed_image_cannot_be_rejected() {
    let mut bench = updated(false);
    let error = updater(&mut bench)
        .reject(FailureCode::HealthCheck)
        .unwrap_err();
    assert_eq!(error, TrialError::NotOnTrial);
}

#[test]
fn an_image_that_the_bootloader_refused_is_reported() {
    for rollback in [false, true] {
        let mut bench = activated(rollback, Behaviour::Works);
        bench.flash.load(SLOTS[1] + 70_000, &[0; 8]).unwrap();
        bench.run(1).unwrap();
        assert_eq!(runs(&bench), "1.0.0");
        let software = Some(ResetReason::Software);
        let code = FailureCode::ImageInvalid;
        assert_eq!(bench.outcomes, [rolled_back(End::Failed, code, software)]);
        bench.run(1).unwrap();
        assert_eq!(bench.outcomes.len(), 1);
    }
}

/// A reset at the moment when the rollback bootloader has aborted the image, seen by the old one.
#[test]
fn the_old_image_reports_what_the_bootloader_did() {
    let mut bench = activated(true, Behaviour::Works);
    start_and_die(&mut bench, ResetReason::Watchdog);
    bench.bootloader.boot(&mut bench.flash).unwrap();
    let info = boot_info(SLOTS[0], ResetReason::Watchdog);
    let Ok(Started::Run(mut updater)) = Updater::start(&mut bench.flash, info, Trust::Anybody)
    else {
        panic!("the old image runs");
    };
    let server = bench.server.clone();
    let (next, reset) = exchange(&mut updater, &server, |request| {
        request.outcome.as_ref().and_then(|outcome| outcome.reset)
    });
    assert_eq!(reset, Some(ResetReason::Watchdog));
    assert!(matches!(next, Next::Wait { .. }));
    let label = bench.flash.bytes(OTADATA[1] + 20..OTADATA[1] + 24).unwrap();
    assert_eq!(label[3], 0, "reported");
}
