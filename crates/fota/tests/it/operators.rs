//! `fota login`, `whoami`, `user`, `token`, `audit`, without a terminal.

use std::os::unix::fs::PermissionsExt;

use fota_sim::firmware::Behaviour;

use crate::{
    harness::{Place, Server},
    menu::Terminal,
};

const PASSWORD: &str = "correct horse battery\n";

fn make_user(server: &Server, name: &str, role: &str) {
    let args = ["user", "create", name, "--role", role, "--password-stdin"];
    server.fota_fed(&args, PASSWORD).exits(0).says(name);
}

#[test]
fn a_user_logs_in_sees_who_they_are_and_logs_out() {
    let server = Server::start();
    make_user(&server, "anna", "operator");
    let elsewhere = Place::new();
    let fota = |args: &[&str]| {
        let mut all = vec!["--server", server.url.as_str()];
        all.extend(args);
        elsewhere.run(&all)
    };
    fota(&["whoami"]).exits(4).complains("fota login");
    let login = [
        "--server",
        &server.url,
        "login",
        "--user",
        "anna",
        "--password-stdin",
    ];
    elsewhere
        .run_fed(&login, "wrong wrong wrong\n")
        .exits(4)
        .complains("no user has this name with this password");
    elsewhere
        .run_fed(&login, PASSWORD)
        .exits(0)
        .says("user:anna (operator");
    let path = elsewhere.path().join("config/fota/credentials.toml");
    let kept = std::fs::metadata(&path).expect("kept");
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(text.contains("fota_s_") && !text.contains("correct horse"));
    let who = fota(&["whoami", "--json"]).exits(0).json();
    assert_eq!(who["actor"], "user:anna");
    assert_eq!(who["role"], "operator");
    fota(&["group", "create", "hall"]).exits(0);
    fota(&["user", "list"]).exits(4).complains("the role admin");
    let stolen = text.split('"').find(|part| part.starts_with("fota_s_"));
    let stolen = stolen.expect("a session").to_owned();
    fota(&["logout"]).exits(0);
    fota(&["whoami"]).exits(4);
    let again = ["--server", &server.url, "--token", &stolen, "whoami"];
    elsewhere.run(&again).exits(4);
}

#[test]
fn at_a_terminal_the_password_is_asked_for_and_not_shown() {
    let server = Server::start();
    let password = PASSWORD.trim();
    // The question is shown a moment before the terminal stops showing what is typed.
    let types = |terminal: &mut Terminal, question: &str, secret: &str| {
        terminal.sees(question);
        std::thread::sleep(std::time::Duration::from_secs(1));
        terminal.types(&format!("{secret}\n"));
    };
    let mut terminal = Terminal::start(&server, &["user", "create", "anna", "--role", "viewer"]);
    types(&mut terminal, "New password", password);
    types(&mut terminal, "The same again", password);
    terminal.sees("user anna has the role viewer");
    terminal.exits(0);
    assert!(!terminal.shown().contains(password));
    let mut terminal = Terminal::start(&server, &["login"]);
    terminal.answers("User (nothing: log in with a token)", "anna");
    types(&mut terminal, "Password: ", password);
    terminal.sees("user:anna");
    terminal.exits(0);
    assert!(!terminal.shown().contains(password));
    let mut terminal = Terminal::start(&server, &["login"]);
    terminal.answers("User (nothing: log in with a token)", "");
    types(&mut terminal, "Token", &server.token());
    terminal.sees("operator-token");
    terminal.exits(0);
    assert!(!terminal.shown().contains(&server.token()));
}

#[test]
fn users_are_listed_changed_and_removed() {
    let server = Server::start();
    make_user(&server, "anna", "viewer");
    server.fota(&["user", "list"]).exits(0).says("anna");
    server
        .fota(&["user", "role", "anna", "releaser"])
        .exits(0)
        .says("releaser");
    let passwd = ["user", "passwd", "anna", "--password-stdin"];
    server.fota_fed(&passwd, "short\n").exits(2).complains("12");
    server
        .fota_fed(&passwd, "another good password\n")
        .exits(0)
        .says("all sessions have ended");
    let create = ["user", "create", "bert", "--role", "viewer"];
    server.fota(&create).exits(2).complains("--password-stdin");
    server
        .fota(&["user", "rm", "anna"])
        .exits(2)
        .complains("--yes");
    server.fota(&["user", "rm", "anna", "--yes"]).exits(0);
    server.fota(&["user", "rm", "anna", "--yes"]).exits(6);
    server
        .fota(&["user", "role", "anna", "root"])
        .exits(2)
        .complains("viewer, operator, releaser or admin");
}

#[test]
fn a_token_is_made_used_listed_and_revoked() {
    let server = Server::start();
    let create = ["token", "create", "--name", "ci", "--role", "viewer"];
    let made = server.fota(&[&create[..], &["--expires", "90d"]].concat());
    let made = made.exits(0).complains("shown this once");
    let token = made.out.trim().to_owned();
    assert!(token.starts_with("fota_t_") && !token.contains(char::is_whitespace));
    server.fota(&create).exits(7).complains("exists already");
    let elsewhere = Place::new();
    let fota = |args: &[&str]| {
        let mut all = vec!["--server", server.url.as_str(), "--token", token.as_str()];
        all.extend(args);
        elsewhere.run(&all)
    };
    fota(&["status"]).exits(0);
    fota(&["whoami"]).exits(0).says("token:ci (viewer, until ");
    fota(&["group", "create", "hall"])
        .exits(4)
        .complains("this needs the role operator; token:ci has the role viewer");
    let list = server.fota(&["token", "list"]).exits(0).says("ci");
    assert!(list.out.contains(&token[..15]) && !list.out.contains(&token));
    server
        .fota(&["token", "revoke", "ci"])
        .exits(2)
        .complains("--yes");
    server.fota(&["token", "revoke", "ci", "--yes"]).exits(0);
    server.fota(&["token", "revoke", "ci", "--yes"]).exits(6);
    fota(&["status"]).exits(4);
}

#[test]
fn the_audit_log_is_shown_exported_and_verified() {
    let server = Server::start();
    for name in ["a", "b", "c", "d"] {
        server.fota(&["group", "create", name]).exits(0);
    }
    server
        .fota(&["audit", "list", "--limit", "2"])
        .exits(0)
        .says("operator-token  group.created  group:d");
    let whole = server.fota(&["audit", "verify", "--json"]).exits(0).json();
    let head = whole["head"].as_str().expect("a head").to_owned();
    assert_eq!(whole["entries"], 4);
    server
        .fota(&["audit", "export", "-o", "audit.ndjson"])
        .exits(0);
    server
        .fota(&["audit", "export", "-o", "audit.ndjson"])
        .exits(7)
        .complains("--force");
    let verify = |head: Option<&str>, expected: i32| {
        let mut args = vec!["audit", "verify", "audit.ndjson"];
        args.extend(head.iter().flat_map(|head| ["--head", head]));
        // Offline: no server is asked.
        server.place.run(&args).exits(expected)
    };
    verify(None, 0).says("the audit log is whole: 5 entries");
    verify(Some(&head), 0).says("still holds entry 4");
    server.fota(&["audit", "verify", "--head", &head]).exits(0);
    let path = server.place.path().join("audit.ndjson");
    let text = std::fs::read_to_string(&path).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let damaged = [
        (
            text.replacen("group:b", "group:x", 1),
            "entry 2 was changed",
        ),
        (
            lines[..1]
                .iter()
                .chain(&lines[2..])
                .map(|line| format!("{line}\n"))
                .collect(),
            "entry 2 is not in its place",
        ),
        (
            [lines[0], lines[2], lines[1], lines[3]].join("\n"),
            "entry 2 is not in its place",
        ),
        (lines[..3].join("\n"), "the end was cut off"),
        (
            format!("{}\nnothing\n", lines[0]),
            "line 2 is no audit entry",
        ),
    ];
    for (text, why) in damaged {
        std::fs::write(&path, text).expect("written");
        verify(Some(&head), 7).complains(why);
    }
    verify(Some("4"), 2).complains("SEQ:HASH");
}

#[test]
fn a_webhook_is_added_disabled_enabled_and_deleted() {
    let server = Server::start();
    let add = ["webhook", "add", "ops", "http://127.0.0.1:1/hook"];
    let key = server.fota(&add).exits(0).out;
    assert!(key.starts_with("whsec_") && key.trim().len() == 50, "{key}");
    server.fota(&add).exits(7).complains("ops exists already");
    let metadata = ["webhook", "add", "x", "http://169.254.169.254/"];
    server.fota(&metadata).complains("metadata");
    let test = ["webhook", "test", "ops"];
    server.fota(&test).exits(1).complains("refused");
    let tries = ["webhook", "deliveries", "ops"];
    server.fota(&tries).exits(0).says("webhook.test");
    let off = ["webhook", "disable", "ops", "--reason", "moving"];
    server.fota(&off).exits(0).says("disabled: moving");
    let on = ["webhook", "enable", "ops", "--skip-missed"];
    server.fota(&on).exits(0).says("works");
    let list = server.fota(&["webhook", "list"]).exits(0);
    assert!(list.out.contains("attempt.failed") && !list.out.contains("whsec_"));
    server.fota(&["webhook", "delete", "ops", "--yes"]).exits(0);
    server.fota(&["webhook", "test", "ops"]).exits(6);
}

/// AC8.5 by commands alone: what a server was, another one is.
#[test]
fn a_backup_restores_into_an_empty_server() {
    let mut server = Server::start();
    make_user(&server, "anna", "operator");
    server.fota(&["group", "create", "hall"]).exits(0);
    let firmware = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &firmware]).exits(0);
    let token = server.token();
    server
        .fota(&["backup", "fota.tar"])
        .exits(0)
        .complains("keep it as you keep them");
    server
        .fota(&["backup", "fota.tar"])
        .exits(7)
        .complains("exists");
    let file = server.place.path().join("fota.tar");
    let mode = std::fs::metadata(&file)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let left = std::fs::read_dir(server.place.path()).expect("read");
    let left = left.filter(|it| {
        it.as_ref()
            .expect("read")
            .file_name()
            .to_string_lossy()
            .starts_with(".fota-backup")
    });
    assert_eq!(left.count(), 0, "nothing lies about");
    let before = |server: &Server| {
        let releases = server.fota(&["release", "list", "--json"]).exits(0).json();
        let users = server.fota(&["user", "list", "--json"]).exits(0).json();
        (releases, users)
    };
    let was = before(&server);
    server.kill();
    let restore = ["restore", "fota.tar", "--data", "fota-data"];
    server.fota(&restore).exits(7).complains("is not empty");
    std::fs::rename(
        server.place.path().join("fota-data"),
        server.place.path().join("old"),
    )
    .expect("moved");
    server
        .fota(&restore)
        .exits(0)
        .complains("fota serve --data fota-data");
    server.restart();
    assert_eq!(server.token(), token);
    assert_eq!(before(&server), was);
    server.fota(&["audit", "verify"]).exits(0).says("is whole");
}

/// A backup that is cut off, by the death of either side, never gets the name of one.
#[test]
fn a_backup_that_is_cut_off_is_no_file_under_its_name() {
    use std::io::{Read, Write};
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let args = ["--server", &url, "--token", "t", "backup", "fota.tar"];
    let begun = || {
        let (mut peer, _) = listener.accept().expect("asked");
        let mut asked = [0; 4096];
        let _ = peer.read(&mut asked).expect("read");
        let head =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nfota-backup.json\r\n";
        peer.write_all(head.as_bytes()).expect("sent");
        peer
    };
    let mut killed = place.command(&args).spawn().expect("starts");
    let peer = begun();
    let beside = || {
        let found = std::fs::read_dir(place.path()).expect("read");
        let mut names = found.map(|it| it.expect("read").file_name());
        names.any(|name| name.to_string_lossy().starts_with(".fota-backup-"))
    };
    while !beside() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    killed.kill().expect("it runs");
    killed.wait().expect("ends");
    drop(peer);
    assert!(!place.path().join("fota.tar").exists());
    let mut left_alone = place.command(&args).spawn().expect("starts");
    drop(begun());
    assert!(!left_alone.wait().expect("ends").success());
    assert!(!place.path().join("fota.tar").exists());
}
