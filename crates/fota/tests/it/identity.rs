//! Devices that prove who they are, from the operator's side.

use std::process::{Child, Stdio};

use crate::harness::Server;

/// `fota sim` until it is dropped.
struct Sim(Child);

impl Sim {
    fn start(server: &Server, args: &[&str]) -> Self {
        let mut command = server.command(&["sim", "--speed", "50", "--poll", "10s"]);
        let command = command.args(args).stderr(Stdio::null());
        Self(command.spawn().expect("the program starts"))
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn strict() -> Server {
    Server::start_with(&["--device-auth", "required"])
}

#[test]
fn a_factorys_list_lets_its_devices_in_and_a_revoked_one_is_out() {
    let server = strict();
    let sim = ["--identity", "key", "--seed", "t", "--devices", "2"];
    let write = [&["sim"], &sim[..], &["--claims", "list.csv"]].concat();
    server.fota(&write).exits(0);
    let claim = ["device", "claim", "list.csv"];
    server.fota(&claim).exits(0).says("2 devices claimed");
    server
        .fota(&claim)
        .exits(0)
        .says("0 devices claimed, 2 known already");
    let _devices = Sim::start(&server, &sim);
    server.until_seen(2);
    let credentials = ["device", "credentials", "ESP32-001"];
    let shown = server.fota(&credentials).exits(0);
    shown.says("active").says("claim").says("key ");

    let revoke = ["device", "revoke", "ESP32-001"];
    server.fota(&revoke).exits(2);
    server
        .fota(&[&revoke[..], &["--yes"]].concat())
        .exits(0)
        .says("revoked");
    server.fota(&credentials).exits(0).says("revoked");
    server.fota(&[&revoke[..], &["--yes"]].concat()).exits(7);
    server.until("the refusal is told", |server| {
        let events = server.fota(&["device", "events", "ESP32-001"]).exits(0);
        events
            .out
            .contains("a check-in with a revoked credential was refused")
    });
}

#[test]
fn devices_let_themselves_in_with_an_enrolment_key() {
    let server = strict();
    let create = [
        "device",
        "enrolment-key",
        "create",
        "--name",
        "batch-7",
        "--max",
        "2",
        "--expires",
        "7d",
        "--id-prefix",
        "ESP32-",
    ];
    let made = server
        .fota(&[&create[..], &["--json"]].concat())
        .exits(0)
        .json();
    let secret = made["secret"].as_str().expect("shown").to_owned();
    server.fota(&create).exits(7).complains("batch-7");
    let sim = ["--identity", "key", "--devices", "2", "--enrol", &secret];
    let _devices = Sim::start(&server, &sim);
    server.until_seen(2);
    let list = ["device", "enrolment-key", "list"];
    let shown = server.fota(&list).exits(0).says("2 of 2").says("full");
    assert!(!shown.out.contains(&secret), "{}", shown.out);
    server
        .fota(&["device", "enrolment-key", "revoke", "batch-7"])
        .exits(0);
    server.fota(&list).exits(0).says("revoked");
    server
        .fota(&["device", "re-enrol", "ESP32-001"])
        .exits(0)
        .says("once");
    server.fota(&["device", "re-enrol", "nobody"]).exits(6);
}

#[test]
fn an_operator_gives_one_device_a_secret_or_registers_its_key() {
    let server = Server::start();
    let provision = |args: &[&str]| server.fota(&[&["device", "provision", "d1"], args].concat());
    let secret = provision(&["--secret", "--json"]).exits(0).json()["secret"].clone();
    assert_eq!(secret.as_str().map(str::len), Some(64));
    provision(&[]).exits(2);
    provision(&["--secret", "--key", "x.pem"]).exits(2);
    provision(&["--key", "missing.pem"])
        .exits(2)
        .complains("missing.pem");
    // The public half of `openssl ecparam -name prime256v1 -genkey`: the base point of the curve.
    let pem = "-----BEGIN PUBLIC KEY-----\n\
               MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n\
               6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n\
               -----END PUBLIC KEY-----\n";
    server.place.write("pub.pem", pem.as_bytes());
    provision(&["--key", "pub.pem"]).exits(0).says("key ");
    server
        .fota(&["device", "credentials", "d1"])
        .exits(0)
        .says("a secret")
        .says("operator");
    server
        .place
        .write("bad.csv", b"id,kind,key\nd2,secret,xyz\n");
    let bad = server.fota(&["device", "claim", "bad.csv"]);
    assert_ne!(bad.code, 0);
    let bad = bad.complains("line 2");
    assert!(!bad.err.contains("xyz"), "{}", bad.err);
}
