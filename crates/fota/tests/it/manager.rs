//! The everyday verbs against a real server and devices that really boot what they are sent.

use fota_sim::firmware::{Behaviour, Spec};
use serde_json::Value;

use crate::harness::{Devices, Puppet, Server, image};

fn results(out: &str) -> Vec<Value> {
    out.lines()
        .map(|line| serde_json::from_str(line).expect("NDJSON"))
        .collect()
}

#[test]
fn an_upload_shows_what_the_server_took() {
    let server = Server::start();
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    let ran = server
        .fota(&["upload", &name, "--version", "1.0.6", "--notes", "it's new"])
        .exits(0);
    let ran = ran
        .says("131,072 bytes")
        .says("8 of 16 KiB")
        .says("esp32")
        .says("it's new");
    assert!(ran.err.contains("✔ image"), "{}", ran.err);
    let again = server.fota(&["upload", &name, "--json"]).exits(0).json();
    assert_eq!(again["schema"], "fota.release/1");
    let list = server.fota(&["release", "list", "--json"]).exits(0).json();
    assert_eq!(
        list["items"].as_array().map(Vec::len),
        Some(1),
        "the same bytes are one release"
    );
    server
        .fota(&["release", "download", "1.0.6", "-o", "back.bin"])
        .exits(0);
    let back = std::fs::read(server.place.path().join("back.bin")).expect("there");
    assert_eq!(back, image("1.0.6", Behaviour::Works));
    server
        .fota(&["release", "download", "1.0.6", "-o", "back.bin"])
        .exits(7);
    server.fota(&["release", "show", "9.9.9"]).exits(6);
}

#[test]
fn a_wrong_token_is_exit_4_and_says_where_to_find_the_right_one() {
    let server = Server::start();
    server
        .fota(&["--token", "wrong", "status"])
        .exits(4)
        .complains("fota login");
    let token = server.token();
    let elsewhere = crate::harness::Place::new();
    elsewhere.run(&["--server", &server.url, "status"]).exits(4);
    elsewhere
        .run(&["--server", &server.url, "--token", &token, "login"])
        .exits(0);
    elsewhere.run(&["--server", &server.url, "status"]).exits(0);
    elsewhere.run(&["--server", &server.url, "logout"]).exits(0);
    elsewhere.run(&["--server", &server.url, "status"]).exits(4);
}

#[test]
fn an_update_exits_0_when_the_devices_report_the_new_image_confirmed() {
    let server = Server::start();
    let _devices = Devices::start(&server, 3);
    server.until_seen(3);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    let ran = server
        .fota(&["update", &name, "--to", "all", "--yes", "--timeout", "60s"])
        .exits(0);
    let ran = ran.says("3 devices run 1.0.6, confirmed");
    for word in [
        "✔ image",
        "✔ targets  3 match",
        "✔ rollout  r-1",
        "ESP32-001  succeeded",
    ] {
        assert!(ran.err.contains(word), "no {word:?} in\n{}", ran.err);
    }
    server
        .fota(&["verify", "ESP32-002", "--expect", "1.0.6"])
        .exits(0)
        .says("runs 1.0.6 (confirmed, elf ");
    let again = server
        .fota(&["update", &name, "--to", "all", "--yes"])
        .exits(0);
    again.says("had 1.0.6 already");
    let status = server.fota(&["status"]).exits(0);
    let heading = status.out.lines().next().expect("a heading");
    let columns: Vec<&str> = heading.split_whitespace().collect();
    assert_eq!(
        columns,
        [
            "DEVICE", "GROUP", "CHIP", "RUNNING", "TARGET", "STATE", "SEEN"
        ]
    );
    assert_eq!(status.out.matches("1.0.6").count(), 3, "{}", status.out);
}

#[test]
fn an_update_that_crashes_exits_3_with_the_old_image_running() {
    let server = Server::start();
    let _devices = Devices::start(&server, 1);
    server.until_seen(1);
    let name = server.place.firmware("1.0.6", Behaviour::CrashesAtBoot);
    let args = [
        "update",
        &name,
        "--to",
        "all",
        "--yes",
        "--json",
        "--rollback-on-failure",
    ];
    let ran = server.fota(&args).exits(3);
    let lines = results(&ran.out);
    let result = lines.last().expect("a result");
    assert_eq!(result["schema"], "fota.result/1");
    assert_eq!(
        (&result["state"], &result["rolled_back"]),
        (&"rolled_back".into(), &1.into())
    );
    let events = lines
        .iter()
        .filter(|line| line["schema"] == "fota.event/1")
        .count();
    assert!(events > 0, "events are streamed: {}", ran.out);
    assert_eq!(server.device("ESP32-001")["version"], "1.0.5");
    let verify = server
        .fota(&["verify", "ESP32-001", "--expect", "1.0.6"])
        .exits(3);
    verify
        .says("runs 1.0.5 (confirmed, elf ")
        .says("expected 1.0.6 – last update: rolled_back:boot");
}

#[test]
fn a_version_text_that_lies_is_not_believed() {
    let server = Server::start();
    let liar = Behaviour::LiesAboutVersion {
        claims: "1.0.6".to_owned(),
    };
    let liar = Spec::new("1.0.5").behaviour(liar).image_bytes(128 * 1024);
    let _devices = Devices::start_at(&server.url, 1, liar);
    server.until_seen(1);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    let ran = server
        .fota(&["verify", "ESP32-001", "--expect", "1.0.6", "--timeout", "0"])
        .exits(3);
    ran.says("the version text is not true");
}

#[test]
fn a_device_that_does_not_come_is_waited_for_until_the_timeout() {
    let server = Server::start();
    let _devices = Devices::start(&server, 1);
    server.until_seen(1);
    server.fota(&["group", "create", "lab"]).exits(0);
    server
        .fota(&["group", "add", "lab", "ESP32-001", "ESP32-900"])
        .exits(0);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    let args = [
        "update",
        &name,
        "--to",
        "group:lab",
        "--yes",
        "--timeout",
        "8s",
    ];
    let ran = server
        .fota(&args)
        .exits(5)
        .complains("fota rollout watch r-1");
    ran.says("1 succeeded · 1 waiting");
    server
        .fota(&["rollout", "show", "r-1"])
        .exits(0)
        .says("1 succeeded · 1 waiting");
}

#[test]
fn a_rollback_is_done_when_the_device_is_seen_on_the_other_image() {
    let server = Server::start();
    let _devices = Devices::start(&server, 2);
    server.until_seen(2);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    let args = ["rollback", "ESP32-001", "--reason", "x", "--yes"];
    let ran = server.fota(&args).exits(7);
    assert!(ran.err.contains("no_rollback_target"), "{}", ran.err);
    server
        .fota(&["update", &name, "--to", "all", "--yes"])
        .exits(0);
    let ran = server.fota(&args).exits(0);
    ran.says("ESP32-001 runs 1.0.5");
    assert_eq!(server.device("ESP32-002")["version"], "1.0.6");
    // The fleet wants its name.
    let fleet = ["rollback", "all", "--release", "1.0.6", "--reason", "x"];
    server.fota(&fleet).exits(2).complains("--confirm all");
    let ran = server
        .command(&fleet)
        .args(["--confirm", "all"])
        .output()
        .expect("runs");
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(server.device("ESP32-002")["version"], "1.0.5");
    let ran = server
        .fota(&["update", "1.0.6", "--to", "ESP32-001", "--yes"])
        .exits(7);
    ran.complains("blocked");
}

#[test]
fn a_rollout_is_started_watched_and_steered() {
    let server = Server::start();
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    server
        .fota(&["rollout", "start", "1.0.6", "--to", "all", "--yes"])
        .exits(6);
    let _devices = Devices::start(&server, 1);
    server.until_seen(1);
    server
        .fota(&["rollout", "start", "1.0.6", "--to", "ESP32-001"])
        .exits(2)
        .complains("--yes");
    server
        .fota(&["rollout", "start", "1.0.6", "--to", "ESP32-001", "--yes"])
        .exits(0)
        .says("r-1");
    server
        .fota(&["rollout", "watch", "--timeout", "60s"])
        .exits(0)
        .says("confirmed");
    server.fota(&["rollout", "list"]).exits(0).says("r-1");
    server.fota(&["rollout", "show", "r-99"]).exits(6);
    let events = server.fota(&["device", "events", "ESP32-001"]).exits(0);
    events.says("attempt.succeeded");
    server
        .fota(&["event", "list", "--limit", "1", "--json"])
        .exits(0);
    server.fota(&["doctor"]).exits(0).says("1 known, 1 online");
    server
        .fota(&["release", "yank", "1.0.6", "--yes"])
        .exits(0)
        .says("never offered");
}

#[test]
fn the_server_refuses_a_file_with_the_words_of_the_check() {
    let server = Server::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let short = image("1.0.6", Behaviour::Works)[..10_240].to_vec();
    server.place.write("short.bin", &short);
    let local = server.fota(&["image", "check", "short.bin"]).exits(7).err;
    let client = fota_client::Client::new(&server.url, Some(server.token())).expect("a URL");
    let refused = runtime.block_on(client.upload(short.into(), &Default::default(), |_| {}));
    let refused = refused.expect_err("refused").to_string();
    assert!(local.contains(&refused), "here: {local}\nthere: {refused}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_exits_130_and_the_work_goes_on() {
    let server = Server::start();
    let devices = Devices::start(&server, 1);
    server.until_seen(1);
    drop(devices);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    let mut command = server.command(&["update", &name, "--to", "all", "--yes"]);
    command.stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("starts");
    server.until("the rollout runs", |server| {
        let list = server.fota(&["rollout", "list", "--json"]).exits(0).json();
        list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 1)
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.expect("kill runs").success());
    let output = child.wait_with_output().expect("ends");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(
        err.contains("the work goes on") && err.contains("fota rollout watch r-1"),
        "{err}"
    );
    let _devices = Devices::start(&server, 1);
    server
        .fota(&["rollout", "watch", "r-1", "--timeout", "60s"])
        .exits(0);
}

#[test]
fn a_file_behind_the_targets_is_told() {
    let server = Server::start();
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    let ran = server.fota(&["update", "--to", "all", &name]).exits(2);
    ran.complains("put the file in front");
}

#[test]
fn a_server_that_restarts_in_the_middle_does_not_end_the_watching() {
    let mut server = Server::start();
    let devices = Devices::start(&server, 1);
    server.until_seen(1);
    drop(devices);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    server
        .fota(&["rollout", "start", "1.0.6", "--to", "all", "--yes"])
        .exits(0);
    let mut command = server.command(&["rollout", "watch", "r-1", "--timeout", "60s"]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let watch = command.spawn().expect("starts");
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.kill();
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.restart();
    let _devices = Devices::start(&server, 1);
    let output = watch.wait_with_output().expect("ends");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(
        err.contains("connection lost") && err.contains("connected again"),
        "{err}"
    );
}

#[test]
fn a_failure_brings_back_the_devices_that_had_succeeded() {
    let server = Server::start();
    let _devices = Devices::start(&server, 2);
    let refuser = Puppet::start(&server, "ESP32-900");
    server.until_seen(3);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    let mut command = server.command(&["update", &name, "--to", "all", "--yes"]);
    command.args(["--max-failures", "10%", "--rollback-on-failure"]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let update = command.spawn().expect("starts");
    server.until("two devices run it", |server| {
        let confirmed = |id: &str| {
            let device = server.device(id);
            device["version"] == "1.0.6" && device["confirmed"] == true
        };
        confirmed("ESP32-001") && confirmed("ESP32-002")
    });
    refuser.fail();
    let output = update.wait_with_output().expect("ends");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(3), "{err}");
    for words in [
        "✖ ESP32-900 failed:hash_mismatch",
        "‼ paused",
        "rolling back 2 updated devices",
        "✔ rollback 2/2 on 1.0.5, release 1.0.6 blocked there",
    ] {
        assert!(err.contains(words), "no {words:?} in\n{err}");
    }
    assert!(out.contains("✖ rolled back"), "{out}");
    for id in ["ESP32-001", "ESP32-002"] {
        assert_eq!(server.device(id)["version"], "1.0.5");
    }
    // Looking again tells the same.
    let again = server
        .fota(&["rollout", "watch", "r-1", "--json"])
        .exits(3)
        .json();
    assert_eq!(
        (&again["state"], &again["rolled_back"]),
        (&"rolled_back".into(), &2.into())
    );
}
