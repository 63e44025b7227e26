//! `fota log`: a server that shows different releases to different parties is caught.

use fota_client::DeviceClient;
use fota_proto::{
    checkin::{self, Answer, CheckIn},
    limits::CHECK_IN_BYTES_MAX,
    list::List,
    log::LogHead,
    signed::{
        Alg, Form, PublicKey, Role, Root,
        sign::{P256Key, Signer, encode, sign},
    },
};
use fota_sim::firmware::Behaviour;
use sqlx::{Connection, Executor};

use crate::harness::{self, Place, Server};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

fn with_releases(versions: &[&str]) -> Server {
    let server = Server::start_with(&["--allow-unsigned"]);
    for version in versions {
        let name = server.place.firmware(version, Behaviour::Works);
        server.fota(&["upload", &name]).exits(0);
    }
    server
}

/// Changes the database behind the server's back.
fn tamper(server: &Server, sql: &'static str) {
    let path = server.place.path().join("fota-data/fota.db");
    block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut connection = sqlx::SqliteConnection::connect_with(&options)
            .await
            .expect("opens");
        connection.execute(sql).await.expect("runs");
        connection.close().await.expect("closes");
    });
}

/// The head that a device is shown, and reports from then on.
fn shown_to(server: &Server, id: &str, reports: Option<LogHead>) -> LogHead {
    let message = CheckIn {
        log: reports,
        ..harness::check_in(id, None)
    };
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let bytes = checkin::encode(&message, &mut buffer).expect("fits");
    let client = DeviceClient::new(&server.url, None).expect("a URL");
    let answer = block_on(client.check_in(bytes)).expect("an answer");
    let answer: Answer = minicbor::decode(&answer).expect("an answer");
    answer.log.expect("a head")
}

const FORK: &str = "UPDATE release_log SET sha256 = \
     'abababababababababababababababababababababababababababababababab' WHERE entry = 1";
/// The same, and the release with it, so that the two agree.
const FORK_ALL: &str = "UPDATE release SET sha256 = \
     'abababababababababababababababababababababababababababababababab' WHERE id = 2";

#[test]
fn a_forked_log_is_caught_by_log_verify() {
    let mut server = with_releases(&["1.0.4", "1.0.5", "1.0.6"]);
    let head = shown_to(&server, "ESP32-001", None);
    assert_eq!(head.size, 3);
    shown_to(&server, "ESP32-001", Some(head));
    server
        .fota(&["log", "verify"])
        .exits(0)
        .says("one log")
        .says("compared 2");
    server.fota(&["log", "verify"]).exits(0).says("compared 3");
    let heads = server.place.path().join("config/fota/log-heads.json");
    assert!(heads.exists(), "the head is remembered");
    let shown = server.fota(&["log", "show"]).exits(0);
    assert!(
        shown.err.contains(&format!("head 3:{}", head.root)),
        "{}",
        shown.err
    );

    // The server swaps a release for another one and starts again: it is consistent in itself.
    server.kill();
    tamper(&server, FORK);
    tamper(&server, FORK_ALL);
    server.restart();
    let caught = server.fota(&["log", "verify"]).exits(7);
    let caught = caught
        .complains("different logs")
        .complains("the last run here");
    let caught = caught.complains("device ESP32-001");
    assert!(!caught.err.contains("own head"), "{}", caught.err);
    let device = server.device("ESP32-001");
    assert_eq!(device["log"]["root"], head.root.to_string());
    // Somebody with nothing but the head that a device printed.
    let other = Place::new();
    let token = server.token();
    let known = format!("3:{}", head.root);
    let ask = |args: &[&str]| {
        let mut all = vec!["--server", &server.url, "--token", &token, "log", "verify"];
        all.extend(args);
        other.run(&all)
    };
    ask(&["--head", &known]).exits(7).complains("--head");
    ask(&["--head", "x"]).exits(2).complains("SIZE:ROOT");
    // Whoever was told of the fork only, and whoever saw nothing, learn it from the device.
    ask(&["--state", "empty.json"])
        .exits(7)
        .complains("device ESP32-001");
    assert!(
        !other.path().join("empty.json").exists(),
        "a forked head is not remembered"
    );
    let says = shown_to(&server, "ESP32-001", Some(head));
    assert_ne!(says, head);
    let warning = server.device("ESP32-001")["warning"].to_string();
    assert!(warning.contains("fota log verify"), "{warning}");
}

#[test]
fn a_log_that_was_cut_or_changed_under_a_running_server_is_caught() {
    let mut server = with_releases(&["1.0.4", "1.0.5"]);
    server
        .fota(&["log", "verify", "--state", "heads.json"])
        .exits(0);
    // While it runs, its head is still that of the true entries.
    tamper(&server, FORK);
    let caught = server.fota(&["log", "verify"]).exits(7);
    caught
        .complains("the server's own head")
        .complains("is not in the log");
    server.kill();
    tamper(&server, "DELETE FROM release_log WHERE entry = 1");
    server.restart();
    let caught = server
        .fota(&["log", "verify", "--state", "heads.json"])
        .exits(7);
    caught
        .complains("here there are 1")
        .complains("release 2 (1.0.5) is not in the log");
}

#[test]
fn with_a_root_only_a_head_that_its_online_key_signed_counts() {
    let server = with_releases(&[]);
    let client = fota_client::Client::new(&server.url, Some(server.token())).expect("a URL");
    let info = block_on(client.server()).expect("answers");
    let online: Vec<u8> = (0..65)
        .map(|i| u8::from_str_radix(&info.online_key[2 * i..][..2], 16).expect("hex"))
        .collect();
    let online = PublicKey::new(Alg::Esp256, &online).expect("65 bytes");
    let (own, other) = (
        P256Key::new(&[1; 32]).expect("a key"),
        P256Key::new(&[2; 32]).expect("a key"),
    );
    let bytes = root(&own, online);
    block_on(client.add_root(bytes.clone().into())).expect("taken");
    server.place.write("root.cose", &bytes);
    server
        .place
        .write("other.cose", &root(&own, other.public()));
    server.fota(&["log", "verify"]).exits(0);
    server
        .fota(&["log", "verify", "--root", "root.cose"])
        .exits(0);
    let refused = server
        .fota(&["log", "verify", "--root", "other.cose"])
        .exits(7);
    refused.complains("not proven");
    // Unsigned images are refused from now on, unless the product is let off.
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server
        .fota(&["upload", &name])
        .exits(7)
        .complains("not signed");
    server
        .fota(&["product", "signing", "acme"])
        .exits(0)
        .says("signed releases only");
    server
        .fota(&["product", "signing", "acme", "--allow-unsigned"])
        .exits(0);
    server.fota(&["upload", &name]).exits(0);
    server
        .fota(&["product", "signing", "acme", "--require"])
        .exits(0);
    server.fota(&["log", "verify"]).exits(0);
}

fn root(own: &P256Key, online: PublicKey<'_>) -> Vec<u8> {
    let role = |key: u8| {
        let mut keys = List::new();
        keys.push(key).expect("fits");
        Role { threshold: 1, keys }
    };
    let mut keys = List::new();
    keys.push(own.public()).expect("fits");
    keys.push(online).expect("fits");
    let root = Root::new(1, keys, [role(0), role(0), role(1)]).expect("consistent");
    sign(Form::Sign, &encode(&root).expect("fits"), &[own]).expect("fits")
}
