//! `fota serve` with TLS, and the commands and devices that trust its certificate.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::harness::{Place, Server};

/// Everything in the folder of a self-signed server just works; elsewhere the certificate is named.
#[test]
fn a_self_signed_server_is_trusted_where_its_certificate_is_known() {
    let server = Server::start_with(&["--tls-self-signed"]);
    assert!(
        server.url.starts_with("https://127.0.0.1:"),
        "{}",
        server.url
    );
    server.fota(&["status"]).exits(0);
    let doctor = server.fota(&["doctor"]).exits(0);
    doctor.says("tls      CN=fota self-signed, believed; TLSv1_3; it ends in");
    let token = server.token();
    let elsewhere = Place::new();
    let options = ["--server", &server.url, "--token", &token];
    let status = [&["status"], options.as_slice()].concat();
    elsewhere.run(&status).exits(8).complains("certificate");
    let doctor = [&["doctor"], options.as_slice()].concat();
    let ran = elsewhere.run(&doctor).exits(8).says("UnknownIssuer");
    ran.says("--ca FILE");
    let cert = server.place.path().join("fota-data/tls-cert.pem");
    let cert = cert.display().to_string();
    let named = [status.as_slice(), &["--ca", &cert]].concat();
    elsewhere.run(&named).exits(0);
    let text = format!("server = '{}'\nca = 'known.pem'\n", server.url);
    elsewhere.write("fota.toml", text.as_bytes());
    elsewhere.write("known.pem", &std::fs::read(&cert).expect("there"));
    elsewhere.run(&["status", "--token", &token]).exits(0);
    let absent = [status.as_slice(), &["--ca", "absent.pem"]].concat();
    elsewhere.run(&absent).exits(2).complains("absent.pem");
}

/// The certificate is for 127.0.0.1; asked for by another name of the same machine it is not
/// believed, and the doctor says that it is the name.
#[test]
fn the_doctor_tells_a_wrong_name_from_an_unknown_authority() {
    let everywhere = Server::start_with(&["--tls-self-signed", "--listen", "0.0.0.0:0"]);
    let other = everywhere.url.replace("127.0.0.1", "127.0.0.2");
    let ran = everywhere.fota(&["--server", &other, "doctor"]).exits(8);
    ran.says("not valid for name");
}

#[test]
fn simulated_devices_trust_the_certificate_that_they_are_given() {
    let server = Server::start_with(&["--tls-self-signed"]);
    let cert = server.place.path().join("fota-data/tls-cert.pem");
    let cert = cert.display().to_string();
    let mut sim = server.command(&["sim", "--devices", "2", "--ca", &cert, "--speed", "50"]);
    let mut sim = sim
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(sim.stderr.take().expect("piped")).lines();
    let mut lines = lines.map_while(std::result::Result::ok);
    let all = lines.find(|line| line.contains("all of them have checked in"));
    let _ = sim.kill();
    let _ = sim.wait();
    assert!(all.is_some(), "they never checked in");
    server.until_seen(2);
}

/// SIGHUP is for certificates where there are some; it must not end the server.
#[cfg(unix)]
#[test]
fn a_hangup_takes_up_a_new_certificate() {
    let server = Server::start_with(&["--tls-self-signed"]);
    let data = server.place.path().join("fota-data");
    let other = Server::start_with(&["--tls-self-signed"]);
    for file in ["tls-cert.pem", "tls-key.pem"] {
        let from = other.place.path().join("fota-data").join(file);
        std::fs::copy(from, data.join(file)).expect("copied");
    }
    let pid = server.pid().to_string();
    let sent = Command::new("kill").args(["-HUP", &pid]).status();
    assert!(sent.expect("kill runs").success());
    // The commands in this folder trust the files as they are now.
    server.until("the new certificate is served", |server| {
        server.fota(&["status"]).code == 0
    });
}
