//! Rollouts by plan, through the program: from a file to the end, and through kill -9.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fota_proto::{
    Sha256,
    checkin::{Phase, Running},
};
use fota_sim::firmware::Behaviour;
use serde_json::Value;

use crate::harness::{Acts, Devices, PATIENCE, Place, Puppet, Ran, Server};

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
    let keep = [
        "state",
        "reason",
        "counts",
        "wave",
        "approved_by",
        "plan",
        "rollback",
    ];
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
    let image = std::fs::read(server.place.path().join(&name)).expect("written");
    let image = fota_image::app::check_bytes(&image).expect("valid");
    let elf = Sha256(image.desc.expect("described").app_elf_sha256);
    server.fota(&["upload", &name]).exits(0);
    let first = Puppet::start(&server, "R1");
    let second = Puppet::start(&server, "R2");
    server.until_seen(2);
    plan(
        &server,
        "release = \"1.0.6\"\nto = [\"all\"]\nfailures_max = 1\nallow_product_change = true\n\
         rollback_on_failure = true\n[canary]\nnames = [\"R1\"]\n[limits]\nparallel = 1\n",
    );
    let attempt = |state: &'static str| {
        move |server: &Server| server.device("R1")["attempt"]["state"] == state
    };
    server.until("the canary is offered it", attempt("offered"));
    server.until("the wave is counted", |server| {
        show(server, "r-1")["wave"]["devices"] == 1
    });
    through(&mut server, "offered to the canary");
    let phase = |phase| Acts {
        phase: Some(phase),
        ..Acts::default()
    };
    first.acts(phase(Phase::Downloading));
    server.until("it downloads", attempt("downloading"));
    through(&mut server, "downloading");
    first.acts(phase(Phase::Installing));
    server.until("it installs", attempt("installing"));
    through(&mut server, "installing");
    let runs = |confirmed| Acts {
        runs: Some((elf, confirmed)),
        ..Acts::default()
    };
    first.acts(runs(Running::Trial));
    server.until("it is on trial", attempt("trial"));
    through(&mut server, "trial");
    first.acts(runs(Running::Confirmed));
    server.until(
        "the second wave begins, and its device is offered it",
        |server| {
            let shown = show(server, "r-1");
            shown["wave"]["number"] == 2 && shown["counts"]["updating"] == 1
        },
    );
    through(&mut server, "the wave went on");
    breaks_off(&mut server, &first, &second);
}

/// What was counted before a kill is counted after it.
fn through(server: &mut Server, phase: &str) {
    let before = counts(server);
    server.kill();
    server.restart();
    assert_eq!(counts(server), before, "{phase}");
}

/// The second device fails, the first goes back, and the rollout is resumed and aborted.
fn breaks_off(server: &mut Server, first: &Puppet, second: &Puppet) {
    second.fail();
    server.until("it breaches, and the canary is ordered back", |server| {
        let shown = show(server, "r-1");
        shown["state"] == "paused" && shown["rollback"]["standing"] == 1
    });
    through(server, "breached");
    first.acts(Acts::default());
    server.until("the canary is seen on its earlier image", |server| {
        show(server, "r-1")["rollback"]["proven"] == 1
    });
    through(server, "went back");
    second.acts(Acts::default());
    server.fota(&["rollout", "resume", "r-1"]).exits(0);
    through(server, "resumed");
    server.fota(&["rollout", "abort", "r-1", "--yes"]).exits(0);
    through(server, "aborted");
}

/// What was typed and what was answered, in its order.
struct Transcript<'s> {
    server: &'s Server,
    text: String,
}

impl Transcript<'_> {
    fn types(&mut self, args: &[&str]) -> Ran {
        let ran = self.server.fota(args).exits(0);
        let typed = args.join(" ");
        self.text += &format!("$ fota {typed}\n{}{}\n", ran.err, ran.out);
        ran
    }

    /// Every line is there, in this order.
    fn reads(&self, lines: &[&str]) {
        let mut rest = self.text.as_str();
        for line in lines {
            let at = rest.find(line);
            let at = at.unwrap_or_else(|| panic!("no {line:?} in what follows:\n{}", self.text));
            rest = &rest[at + line.len()..];
        }
    }
}

/// What stands in the transcript of the story, in this order.
const THE_STORY: [&str; 18] = [
    "$ fota upload app-2.0.0.bin",
    "$ fota rollout plan -f 2.0.0.toml --yes",
    "Bring 2.0.0 to all: first 5 %, then 25 %, then all",
    "fail or have errs > 10 more often than the others",
    "sends the updated devices back to their earlier image",
    "r-1 brings 2.0.0 to 1000 devices",
    "$ fota rollout show r-1",
    "the updated devices fail more often than",
    "errs > 10), without the release 0 of",
    "1 of 3 (5 %)",
    "proven on their earlier image, 0 not seen there yet, 0 refused",
    "$ fota release yank 2.0.0",
    "$ fota upload app-2.0.1.bin",
    "Bring 2.0.1 to all",
    "$ fota rollout show r-2",
    "complete",
    "3 of 3 (all)",
    "1000 ",
];

#[test]
fn a_bad_release_to_1000_devices_from_the_first_command_to_the_last() {
    let server = Server::start_with(&["--poll", "4"]);
    let _devices = Devices::many(&server, 1000);
    server.until_seen(1000);
    let mut transcript = Transcript {
        server: &server,
        text: String::new(),
    };
    let bad = server.place.small_firmware("2.0.0", Behaviour::MakesErrors);
    let good = server.place.small_firmware("2.0.1", Behaviour::Works);
    let plan = |release: &str| {
        let head = format!("release = \"{release}\"\nto = [\"all\"]\nrollback_on_failure = true\n");
        let waves = "[[waves]]\npercent = 5\n[[waves]]\npercent = 25\n[[waves]]\npercent = 100\n";
        let gates = "[gates]\nsoak = \"3s\"\n[gates.sequential]\nunwell = [\"errs > 10\"]\n";
        let name = format!("{release}.toml");
        server
            .place
            .write(&name, format!("{head}{waves}{gates}").as_bytes());
        name
    };
    transcript.types(&["upload", &bad]);
    transcript.types(&["rollout", "plan", "-f", &plan("2.0.0"), "--yes"]);
    let state = |rollout, state: &'static str| {
        move |server: &Server| show(server, rollout)["state"] == state
    };
    server.until("it stops by itself", state("r-1", "paused"));
    let stopped = show(&server, "r-1");
    assert_eq!(stopped["wave"]["number"], 1, "{}", stopped["wave"]);
    let started = stopped["wave"]["started"].as_u64().expect("a number");
    assert!(started <= 80, "{started} of 1,000 were updated");
    server.until("whoever was updated is back", |server| {
        let back = &show(server, "r-1")["rollback"];
        back["standing"] == 0 && back["proven"].as_u64() > Some(0)
    });
    transcript.types(&["rollout", "show", "r-1"]);
    let versions = |server: &Server, version: &str| {
        let list = server.fota(&["status", "--json"]).exits(0).json();
        let items = list["items"].as_array().expect("items").clone();
        items
            .iter()
            .filter(|item| item["version"] == version)
            .count()
    };
    assert_eq!(versions(&server, "2.0.0"), 0, "nobody runs it any more");
    transcript.types(&[
        "release",
        "yank",
        "2.0.0",
        "--reason",
        "it makes errors",
        "--yes",
    ]);
    transcript.types(&["upload", &good]);
    transcript.types(&["rollout", "plan", "-f", &plan("2.0.1"), "--yes"]);
    server.until_within(3 * PATIENCE, "everybody has it", state("r-2", "complete"));
    transcript.types(&["rollout", "show", "r-2"]);
    assert_eq!(versions(&server, "2.0.1"), 1000);
    transcript.reads(&THE_STORY);
    println!("{}", transcript.text);
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
