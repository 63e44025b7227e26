//! `fota serve` as a process: how it starts, ends, and what a power cut leaves.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use fota_sim::firmware::Behaviour;

use crate::harness::{Place, Server, image};

#[test]
fn it_says_where_it_is_and_never_what_the_token_is() {
    let server = Server::start();
    let token = server.token();
    let path = server.place.path().join("fota-data/operator-token");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "only its owner may read the token");
    }
    assert!(token.len() >= 32, "long enough not to be guessed");
    server.fota(&["status"]).exits(0);
}

#[cfg(unix)]
#[test]
fn sigterm_ends_it_with_0() {
    let mut server = Server::start();
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_bad_chunk_key_is_refused_and_not_repeated() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0"]);
    let output = command
        .env("FOTA_LEGACY_PSK", "5ec2e7")
        .output()
        .expect("runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(
        err.contains("64 hex digits") && !err.contains("5ec2e7"),
        "{err}"
    );
}

#[test]
fn a_taken_port_is_told() {
    let server = Server::start();
    let address = server.url.trim_start_matches("http://").to_owned();
    let place = Place::new();
    place
        .run(&["serve", "--listen", &address])
        .exits(1)
        .complains(&address);
}

#[test]
fn kill_9_in_the_middle_of_an_upload_leaves_nothing_half() {
    let mut server = Server::start();
    let image = image("1.0.6", Behaviour::Works);
    let token = server.token();
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut connection = TcpStream::connect(&address).expect("connects");
    let head = format!(
        "POST /api/v1/releases HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\n\r\n",
        image.len()
    );
    connection.write_all(head.as_bytes()).expect("sent");
    connection
        .write_all(&image[..image.len() / 2])
        .expect("sent");
    std::thread::sleep(std::time::Duration::from_millis(300));
    server.kill();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    assert!(answer.is_empty(), "nothing was acknowledged");
    server.restart();
    let list = server.fota(&["release", "list", "--json"]).exits(0).json();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(0));
    // The same upload then works, and what is served is whole.
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    server
        .fota(&["release", "download", "1.0.6", "-o", "back.bin"])
        .exits(0);
    assert_eq!(
        std::fs::read(server.place.path().join("back.bin")).expect("there"),
        image
    );
}

#[test]
fn kill_9_after_an_acknowledged_upload_loses_nothing() {
    let mut server = Server::start();
    for round in 0..3 {
        let version = format!("1.0.{round}");
        let name = server.place.firmware(&version, Behaviour::Works);
        server.fota(&["upload", &name]).exits(0);
        server.kill();
        server.restart();
        let list = server.fota(&["release", "list", "--json"]).exits(0).json();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(round + 1));
        server
            .fota(&[
                "release",
                "download",
                &version,
                "-o",
                &format!("{version}.out"),
            ])
            .exits(0);
    }
}
