//! `fota release delta list|build|explain`.

use fota_sim::firmware::Behaviour;

use crate::harness::Server;

#[test]
fn patches_are_asked_for_listed_and_explained() {
    let server = Server::start();
    for version in ["1.0.5", "1.0.6"] {
        let name = server.place.firmware(version, Behaviour::Works);
        server.fota(&["upload", &name]).exits(0);
    }
    server
        .fota(&["release", "delta", "build", "1.0.6", "--from", "1.0.5"])
        .exits(0)
        .says("1 patch to 1.0.6");
    let list = || {
        let list = server.fota(&["release", "delta", "list", "1.0.6", "--json"]);
        list.exits(0).json()["items"].clone()
    };
    server.until("the patch is made", |_| list()[0]["state"] == "ready");
    let bytes = list()[0]["bytes"].as_u64().expect("a length");
    assert!(bytes < 10_000, "{bytes} bytes of 131,072");
    server
        .fota(&["release", "delta", "list"])
        .exits(0)
        .says("1.0.5");
    server
        .fota(&["release", "delta", "explain", "1.0.6", "--from", "1.0.5"])
        .exits(0)
        .says("the very one that devices get")
        .says("what moved where")
        .says("segment at");
    server
        .fota(&["release", "delta", "explain", "1.0.6", "--from", "9.9.9"])
        .exits(6);
    server
        .fota(&[
            "release",
            "delta",
            "build",
            "1.0.6",
            "--from",
            "all-running",
        ])
        .exits(0)
        .says("nothing to make");
}

#[test]
fn a_server_that_makes_none_says_how_it_would() {
    let server = Server::start_with(&["--delta-workers", "0"]);
    let name = server.place.firmware("1.0.6", Behaviour::Works);
    server.fota(&["upload", &name]).exits(0);
    server
        .fota(&["release", "delta", "build", "1.0.6"])
        .exits(7)
        .complains("--delta-workers");
}
