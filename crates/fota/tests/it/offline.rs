//! What needs no server: arguments, settings, files, and the manners of a command-line program.

use fota_sim::firmware::Behaviour;

use crate::harness::{Place, image};

#[test]
fn wrong_arguments_are_exit_2_and_say_what_is_wrong() {
    let place = Place::new();
    let cases: [&[&str]; 8] = [
        &["--bogus"],
        &["bogus"],
        &["update", "app.bin"],
        &["update", "app.bin", "--to", "all", "--timeout", "soon"],
        &["update", "app.bin", "--to", "all", "--max-failures", "0"],
        &["rollout", "show", "newest"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--poll", "0"],
    ];
    for args in cases {
        let ran = place.run(args).exits(2).complains("error: ");
        assert_eq!(ran.out, "", "{args:?}");
    }
    let ran = place.run(&["--json", "--bogus"]).exits(2);
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!(
        (error["error"]["exit"].as_u64(), ran.out.as_str()),
        (Some(2), "")
    );
}

#[test]
fn help_and_version_are_answers() {
    let place = Place::new();
    place.run(&["--help"]).exits(0).says("Exit codes:");
    place.run(&["--version"]).exits(0).says("fota 0");
    place.run(&["completions", "bash"]).exits(0).says("_fota");
}

#[test]
fn nobody_is_asked_without_a_terminal() {
    let place = Place::new();
    place.run(&[]).exits(2).complains("no command was given");
    place
        .run(&["menu"])
        .exits(2)
        .complains("fota menu --script FILE");
    let refusal = "refusing to prompt: standard input is not a terminal";
    let ran = place.run(&["rollback", "ESP32-001"]).exits(2);
    assert_eq!(
        ran.err,
        format!("error: {refusal}\nhint: add --yes and --reason TEXT\n")
    );
    let ran = place
        .run(&["rollback", "all", "--yes"])
        .exits(2)
        .complains(refusal);
    ran.complains("--confirm all");
    place.run(&["login"]).exits(2).complains("--token-stdin");
}

#[test]
fn no_server_is_exit_8() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    place
        .run(&["--server", &url, "status"])
        .exits(8)
        .complains("fota serve");
    let ran = place.run(&["--server", &url, "--json", "status"]).exits(8);
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!(error["error"]["code"], "unreachable");
    place.run(&["--server", "nonsense", "status"]).exits(2);
}

#[test]
fn settings_come_from_flags_then_environment_then_files() {
    let place = Place::new();
    place.write("fota.toml", b"server = 'http://project'\n");
    place.write(
        "config/fota/config.toml",
        b"server = 'http://user'\nfirmware = 'x.bin'\n",
    );
    let origin = |args: &[&str]| place.run(args).exits(0).out;
    let shown = origin(&["config", "show", "--origin"]);
    assert!(
        shown.contains("http://project") && shown.contains("fota.toml"),
        "{shown}"
    );
    let mut command = place.command(&["config", "show", "--origin"]);
    let out = command
        .env("FOTA_SERVER", "http://env")
        .output()
        .expect("runs")
        .stdout;
    assert!(String::from_utf8_lossy(&out).contains("http://env  (FOTA_SERVER)"));
    let shown = origin(&["--server", "http://flag", "config", "show", "--origin"]);
    assert!(shown.contains("http://flag  (--server)"), "{shown}");
    place.write("fota.toml", b"sever = 'http://typo'\n");
    place.run(&["config", "show"]).exits(2).complains("sever");
}

#[test]
fn a_token_is_never_shown_and_never_taken_from_an_open_file() {
    let place = Place::new();
    let shown = place
        .run(&["--token", "hunter2", "config", "show", "--origin"])
        .exits(0);
    assert!(!shown.out.contains("hunter2") && shown.out.contains("set  (--token)"));
    let file = place.write(
        "config/fota/credentials.toml",
        b"'http://127.0.0.1:8080' = 'hunter2'\n",
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("set");
        place
            .run(&["config", "show"])
            .exits(4)
            .complains("can be read by others");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
    }
    place
        .run(&["config", "show", "--origin"])
        .exits(0)
        .says("credentials.toml");
}

#[test]
fn an_image_is_inspected_without_a_server() {
    let place = Place::new();
    let name = place.firmware("1.0.6", Behaviour::Works);
    place
        .run(&["image", "check", &name])
        .exits(0)
        .says("acme 1.0.6 · esp32 · 131,072 B");
    let ran = place
        .run(&["image", "inspect", &name])
        .exits(0)
        .says("sha256");
    assert_eq!(ran.err, "");
    let json = place
        .run(&["image", "inspect", &name, "--json"])
        .exits(0)
        .json();
    assert_eq!(
        (&json["schema"], &json["version"]),
        (&"fota.image/1".into(), &"1.0.6".into())
    );
}

#[test]
fn a_file_that_no_chip_would_boot_is_refused_with_the_reason() {
    let place = Place::new();
    let good = image("1.0.6", Behaviour::Works);
    let mut flipped = good.clone();
    flipped[50_000] ^= 1;
    let cases: [(&str, &[u8], &str); 5] = [
        (
            "short.bin",
            &good[..10_240],
            "truncated ESP image: 10,240 of",
        ),
        (
            "elf.bin",
            b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            "ELF file",
        ),
        ("empty.bin", b"", "empty file"),
        ("text.bin", b"<html>not found</html>", "text"),
        ("flipped.bin", &flipped, "damaged image"),
    ];
    for (name, bytes, reason) in cases {
        place.write(name, bytes);
        place
            .run(&["image", "check", name])
            .exits(7)
            .complains(reason);
        // Upload says the same before it looks for a server.
        place
            .run(&["--server", "http://127.0.0.1:9", "upload", name])
            .exits(7)
            .complains(reason);
    }
    place.run(&["image", "check", "nothing.bin"]).exits(6);
}

#[test]
fn an_unexpected_version_is_refused() {
    let place = Place::new();
    let name = place.firmware("1.0.6", Behaviour::Works);
    let ran = place.run(&["upload", &name, "--version", "1.0.7"]).exits(7);
    ran.complains("--version says 1.0.7, the image says 1.0.6");
}

#[test]
fn colour_is_a_matter_of_the_terminal_and_of_the_environment() {
    let place = Place::new();
    let name = place.firmware("1.0.6", Behaviour::Works);
    let check = |env: &[(&str, &str)], flags: &[&str]| {
        let mut command = place.command(&["image", "check", &name]);
        command.args(flags).envs(env.iter().copied());
        let out = command.output().expect("runs").stdout;
        out.contains(&0x1b)
    };
    assert!(!check(&[], &[]), "no colour in a pipe");
    assert!(check(&[("CLICOLOR_FORCE", "1")], &[]));
    assert!(!check(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], &[]));
    assert!(check(&[("NO_COLOR", "1")], &["--color", "always"]));
    assert!(!check(&[("CLICOLOR_FORCE", "1")], &["--color", "never"]));
}

#[test]
fn a_patch_leads_from_one_image_to_the_next_and_nowhere_else() {
    let place = Place::new();
    let old = place.firmware("1.0.5", Behaviour::Works);
    let new = place.firmware("1.0.6", Behaviour::Works);
    let encode = ["delta", "encode", &old, &new, "up.patch"];
    place.run(&encode).exits(0).says("% of it");
    place.run(&encode).exits(7).complains("add --force");
    let decode = ["delta", "decode", &old, "up.patch", "made.bin"];
    place.run(&decode).exits(0).says("as the patch says");
    let made = std::fs::read(place.path().join("made.bin")).expect("it is there");
    assert_eq!(made, image("1.0.6", Behaviour::Works));
    let wrong = ["delta", "decode", &new, "up.patch", "wrong.bin"];
    place
        .run(&wrong)
        .exits(7)
        .complains("it needs an old image of");
    assert!(!place.path().join("wrong.bin").exists());
    place
        .run(&["delta", "decode", &old, &new, "x"])
        .exits(7)
        .complains("not a fota patch");
    place
        .run(&["delta", "encode", "none.bin", &new, "x"])
        .exits(6);
    let told = place.run(&["--json", "delta", "explain", &old, "up.patch"]);
    assert_eq!(told.exits(0).json()["new_bytes"], made.len());
    let told = place.run(&["image", "diff", &old, &new]).exits(0);
    told.says("same in place").says("costs bytes");
    let full = [
        "delta",
        "encode",
        "-",
        &new,
        "full.patch",
        "--profile",
        "small",
    ];
    place.run(&full).exits(0);
    place
        .run(&["delta", "decode", "-", "full.patch", "full.bin"])
        .exits(0);
}
