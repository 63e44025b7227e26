//! Rollouts by plan, through the program: from a file to the end, and through kill -9.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fota_sim::firmware::Behaviour;
use serde_json::Value;

use crate::harness::{Devices, Place, Refuser, Server};

fn show(server: &Server, rollout: &str) -> Value {
    server
        .fota(&["rollout", "show", rollout, "--json"])
        .exits(0)
        .json()
}

fn plan(server: &Server, text: &str) {
    server.place.write("plan.toml", text.as_bytes());
    server
        .fota(&["rollout", "plan", "-f", "plan.toml", "--yes"])
        .exits(0);
}

#[test]
fn a_plan_from_a_file_is_played_through_started_and_drives_itself() {
    let server = Server::start();
    let _devices = Devices::start(&server, 8);
    server.until_seen(8);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    let text = "release = \"1.0.6\"\nto = [\"all\"]\nfailures_max = 1\n\
         [canary]\ndevices = 2\n[gates]\nsoak = \"1s\"\n";
    server.place.write("plan.toml", text.as_bytes());
    server
        .fota(&["rollout", "plan", "-f", "plan.toml", "--dry-run"])
        .exits(0)
        .says("2 devices")
        .says("WAVE");
    let started = server
        .fota(&["rollout", "plan", "-f", "plan.toml", "--yes"])
        .exits(0);
    let said = "Bring 1.0.6 to all: first 2 devices, then all, each once 90 % of those that \
         started before are proven healthy for 1s; it pauses after 1 failure";
    started.complains(said);
    server
        .fota(&["device", "why", "ESP32-001"])
        .exits(0)
        .says("r-1 1.0.6");
    server.until("everybody has it", |server| {
        show(server, "r-1")["counts"]["succeeded"] == 8
    });
    let events = server.fota(&["event", "list", "--rollout", "r-1"]).exits(0);
    events.says("wave 2 of 2 begins: 2 of 2 devices are healthy");
}

/// What must be the same after a restart.
fn counts(server: &Server) -> Value {
    let mut shown = show(server, "r-1");
    let keep = ["state", "reason", "counts", "wave", "approved_by", "plan"];
    let fields = shown.as_object_mut().expect("an object");
    fields.retain(|name, _| keep.contains(&name.as_str()));
    // What a wave waits for changes as time goes by.
    if let Some(wave) = fields.get_mut("wave").and_then(Value::as_object_mut) {
        wave.remove("waits_for");
        wave.remove("until");
    }
    shown
}

#[test]
fn kill_9_in_every_phase_of_a_rollout_leaves_the_same_counts() {
    let mut server = Server::start();
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    let first = Refuser::start(&server, "R1");
    let _second = Refuser::start(&server, "R2");
    server.until_seen(2);
    plan(
        &server,
        "release = \"1.0.6\"\nto = [\"all\"]\nfailures_max = 1\nallow_product_change = true\n\
         [canary]\nnames = [\"R1\"]\n[limits]\nparallel = 1\n",
    );
    let through = |server: &mut Server, phase: &str| {
        let before = counts(server);
        server.kill();
        server.restart();
        assert_eq!(counts(server), before, "{phase}");
    };
    let updating =
        |server: &Server, devices: u64| show(server, "r-1")["counts"]["updating"] == devices;
    server.until("the canary is offered it", |server| updating(server, 1));
    server.until("the wave is counted", |server| {
        show(server, "r-1")["wave"]["devices"] == 1
    });
    through(&mut server, "offered to the canary");
    first.fail();
    server.until("it breaches", |server| {
        show(server, "r-1")["state"] == "paused"
    });
    through(&mut server, "breached");
    server.fota(&["rollout", "resume", "r-1"]).exits(0);
    through(&mut server, "resumed");
    server.fota(&["rollout", "promote", "r-1"]).exits(0);
    server.until("the second is offered it", |server| updating(server, 1));
    through(&mut server, "second wave");
    server.fota(&["rollout", "abort", "r-1", "--yes"]).exits(0);
    through(&mut server, "aborted");
}

/// Two worlds of one seed, as told by the program.
fn world(place: &Place, arguments: &[&str]) -> String {
    let mut all = vec!["sim", "fleet", "--plan", "plan.toml"];
    all.extend(arguments);
    place.run(&all).exits(0).out
}

const IN_THREE_WAVES: &str = "release = \"2.0.0\"\nto = [\"all\"]\nrollback_on_failure = true\n\
     [[waves]]\npercent = 5\n[[waves]]\npercent = 25\n[[waves]]\npercent = 100\n\
     [gates]\nsoak = \"30m\"\nfailure_percent = 10\nfailure_sample = 10\n";

#[test]
fn a_bad_release_to_1000_devices_is_stopped_sent_back_and_the_fixed_one_goes_through() {
    let place = Place::new();
    place.write("plan.toml", IN_THREE_WAVES.as_bytes());
    let told = world(
        &place,
        &["--devices", "1000", "--bad", "500", "--seed", "3"],
    );
    let after = |before: &str, line: &str| {
        let at = told
            .find(before)
            .unwrap_or_else(|| panic!("{before}: {told}"));
        assert!(told[at..].contains(line), "{line} after {before}: {told}");
    };
    // Stopped in the first wave, of 5 %.
    after("wave 1 reaches 5 %", "paused:");
    let first = &told[..told.find("paused:").expect("it paused")];
    assert!(!first.contains("wave 2"), "{told}");
    after("paused:", "were sent back and seen on 1.0.0");
    after("were sent back", "2.0.0 is withdrawn, 2.0.1 is uploaded");
    after("2.0.1 is uploaded", "wave 3 reaches");
    after("wave 3 reaches", "complete");
    assert!(
        told.ends_with("all of it went as the plan says\n"),
        "{told}"
    );
}

#[test]
fn the_same_seed_is_the_same_world_and_another_is_not() {
    let place = Place::new();
    place.write("plan.toml", IN_THREE_WAVES.as_bytes());
    let line = |seed: &str| {
        let told = world(&place, &["--devices", "60", "--days", "6", "--seed", seed]);
        let line = told.lines().find(|line| line.starts_with("world"));
        line.expect("a digest").to_owned()
    };
    assert_eq!(line("1"), line("1"));
    assert_ne!(line("1"), line("2"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_in_a_world_leaves_nothing_behind() {
    let place = Place::new();
    let tmp = place.path().join("tmp");
    std::fs::create_dir(&tmp).expect("made");
    let left = || std::fs::read_dir(&tmp).expect("read").count();
    let mut command = place.command(&["sim", "fleet", "--devices", "5000"]);
    command.env("TMPDIR", &tmp).stdout(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let start = Instant::now();
    while left() == 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "it never began");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.expect("kill is there").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(left(), 0);
}
