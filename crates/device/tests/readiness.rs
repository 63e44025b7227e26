//! Download now, install when it is time: windows, conditions and consent.

mod common;

use common::{bench, exchange, firmware, order_install, updater};
use fota_device::{Consent, Next, ProveError, Readiness, Told, Updater};
use fota_proto::{
    checkin::{Attribute, CheckIn, Conditions, Metric, Phase, Waits},
    limits::CHECK_IN_BYTES_MAX,
};
use fota_sim::{firmware::Behaviour, flash::SimFlash, scripted::ScriptedServer};

/// Downloads all of the image; what is next then.
fn downloaded(updater: &mut Updater<&mut SimFlash>, server: &ScriptedServer, image: &[u8]) -> Next {
    let mut next = exchange(updater, server, |_| ()).0;
    while !matches!(next, Next::Download(_)) {
        next = exchange(updater, server, |_| ()).0;
    }
    updater.receive(image).unwrap();
    updater.next()
}

/// A device with 2.0.0 in its slot, complete, under an order that asks for `conditions`.
fn complete(
    conditions: Option<Conditions>,
    hold: bool,
    test: impl FnOnce(&mut Updater<&mut SimFlash>, &mut ScriptedServer, Next),
) {
    let mut bench = bench(true);
    let artifact = firmware("2.0.0", Behaviour::Works);
    order_install(&mut bench, 7, &artifact);
    let mut server = bench.server.clone();
    (server.hold, server.conditions) = (hold, conditions);
    let mut updater = updater(&mut bench);
    let next = downloaded(&mut updater, &server, artifact.bytes());
    test(&mut updater, &mut server, next);
}

#[test]
fn an_image_that_is_held_is_complete_and_installed_when_the_window_opens() {
    complete(None, true, |updater, server, next| {
        // It says that all is here, and why it waits.
        assert_eq!(next, Next::CheckIn);
        let (next, said) = exchange(updater, server, |request| {
            (
                request.waits,
                request.progress.map(|progress| progress.phase),
            )
        });
        assert_eq!(said, (Some(Waits::Window), Some(Phase::Downloaded)));
        assert!(matches!(next, Next::Wait { .. }), "{next:?}");
        // Not even by force.
        assert!(matches!(updater.prove(), Err(ProveError::NotNow)));
        server.hold = false;
        assert_eq!(exchange(updater, server, |_| ()).0, Next::Prove);
        let _ = updater.prove().expect("proven").activate().expect("active");
    });
}

#[test]
fn conditions_are_judged_by_the_device_itself() {
    let asked = Conditions {
        battery_min: Some(40),
        rssi_min: Some(-75),
        idle: Some(true),
        consent: Some(true),
    };
    complete(Some(asked), false, |updater, server, _| {
        let mut ready = Readiness {
            battery_percent: Some(39),
            rssi_dbm: Some(-76),
            is_busy: true,
            consent: Consent::Unasked,
        };
        let told = |updater: &mut Updater<&mut SimFlash>, ready: Readiness| {
            updater.set_readiness(ready);
            let (next, said) = exchange(updater, server, |request| request.waits);
            let waits = matches!(next, Next::Wait { .. });
            assert_eq!(waits, said != Some(Waits::Nothing), "{next:?}");
            said.unwrap()
        };
        assert_eq!(told(updater, ready), Waits::Battery);
        ready.battery_percent = Some(40);
        assert_eq!(told(updater, ready), Waits::Signal);
        ready.rssi_dbm = Some(-75);
        assert_eq!(told(updater, ready), Waits::Busy);
        ready.is_busy = false;
        assert_eq!(told(updater, ready), Waits::Consent);
        ready.consent = Consent::Postponed;
        assert_eq!(told(updater, ready), Waits::Postponed);
        ready.consent = Consent::Given;
        // The user need not wait for the next check-in.
        updater.set_readiness(ready);
        assert_eq!(updater.next(), Next::Prove);
        assert_eq!(told(updater, ready), Waits::Nothing);
        assert!(updater.prove().is_ok());
    });
}

#[test]
fn a_device_that_has_no_battery_waits_for_none() {
    let asked = Conditions {
        battery_min: Some(100),
        rssi_min: Some(-1),
        idle: Some(true),
        consent: Some(false),
    };
    complete(Some(asked), false, |_, _, next| {
        assert_eq!(next, Next::Prove);
    });
}

#[test]
fn what_the_application_tells_goes_along_within_the_limits() {
    let mut bench = bench(true);
    let mut updater = updater(&mut bench);
    let long = "x".repeat(80);
    let attribute = |name, value| Attribute { name, value };
    let attributes = [
        attribute("tz", "Europe/Berlin"),
        attribute("note", &long),
        attribute("site", "north"),
    ];
    let metrics = [("heap", 81_000), ("errors", 3), ("a name that is long", 1)];
    let metrics = metrics.map(|(name, value)| Metric { name, value });
    let told = Told {
        attributes: &attributes,
        metrics: &metrics,
    };
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in_with(1, 1, &told, &mut buffer);
    let request: CheckIn = minicbor::decode(request).unwrap();
    let names = request
        .attributes
        .unwrap()
        .iter()
        .map(|told| told.name)
        .collect::<Vec<_>>();
    assert_eq!(names, ["tz", "site"]);
    let values = request
        .metrics
        .unwrap()
        .iter()
        .map(|metric| metric.value)
        .collect::<Vec<_>>();
    assert_eq!(values, [81_000, 3]);
    assert_eq!(request.waits, Some(Waits::Nothing));
}
