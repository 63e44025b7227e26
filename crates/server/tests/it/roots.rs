//! Roots of trust on the server: what is taken, what is refused, and that devices can follow.

use std::os::unix::fs::PermissionsExt;

use fota_proto::{manager::Root, signed};
use reqwest::{StatusCode, header};

use crate::{
    keys::{Keys, key},
    support::*,
};

#[tokio::test]
async fn a_root_is_taken_in_and_shown_with_the_roles_of_its_keys() {
    each_database(async |server| {
        let keys = Keys::of(&server).await;
        server.get("/api/v1/roots/current").await.problem(404);
        let bytes = keys.root(1);
        let root: Root = keys
            .add_root(&server, &bytes)
            .await
            .value(StatusCode::CREATED);
        let again: Root = keys.add_root(&server, &bytes).await.value(StatusCode::OK);
        assert_eq!(root, again);
        assert_eq!((root.version, root.thresholds.root), (1, 2));
        let roles: Vec<_> = root.keys.iter().map(|key| key.roles.join("+")).collect();
        assert_eq!(roles, ["root", "root", "release", "online"]);
        let info = server.get("/api/v1/server").await.json();
        assert_eq!(info["online_key"], root.keys[3].public.as_str());
        assert_eq!(info["root_version"], 1);
        let listed = server.get("/api/v1/roots").await.json();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(server.get("/api/v1/roots/current").await.body, bytes);
    })
    .await;
}

#[tokio::test]
async fn devices_follow_from_root_to_root_without_a_token() {
    let server = Server::start(Setup::default()).await;
    let keys = Keys::on(&server).await;
    let second = keys.root(2);
    let added = keys.add_root(&server, &second).await;
    assert_eq!(added.status, StatusCode::CREATED);
    for (version, bytes) in [(1, keys.root(1)), (2, second)] {
        let url = format!("{}/d/v1/roots/{version}", server.base);
        let reply = Reply::of(server.http.get(url)).await;
        assert_eq!(reply.body, bytes);
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/cose");
        let caching = reply.headers[header::CACHE_CONTROL].to_str().expect("text");
        assert!(caching.contains("immutable"));
    }
    let first = signed::Root::first(&added.body);
    assert!(first.is_err(), "the answer is JSON, not the root");
}

#[tokio::test]
async fn a_root_that_does_not_name_the_online_key_is_refused() {
    let server = Server::start(Setup::default()).await;
    let mut keys = Keys::of(&server).await;
    let own = keys.online;
    let other = key(9);
    let public = fota_proto::signed::sign::Signer::public(&other);
    keys.online.copy_from_slice(public.bytes());
    let (code, field, detail) = keys.add_root(&server, &keys.root(1)).await.problem(409);
    assert_eq!(
        (code.as_str(), field.as_deref()),
        ("online_key_unknown", Some("body"))
    );
    assert!(detail.contains(&public.id().to_string()), "{detail}");
    keys.online = own;
    let expired = keys.root_with(1, |root| root.expires = Some((NOON / 1000) as u64));
    let (code, ..) = keys.add_root(&server, &expired).await.problem(409);
    assert_eq!(code, "root_expired");
}

#[tokio::test]
async fn the_online_key_is_private_and_stays() {
    let server = Server::start(Setup::default()).await;
    let keys = Keys::on(&server).await;
    let path = server.data.join("online-key.pem");
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(
        text.lines()
            .next()
            .is_some_and(|line| line.contains("PRIVATE KEY"))
    );
    let mode = std::fs::metadata(&path)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let server = server.restart().await;
    assert_eq!(Keys::of(&server).await.online, keys.online);
    // A file that others may read, one that is damaged, and one that was named but is not there.
    let config = |file: Option<&std::path::Path>| fota_server::Config {
        online_key: file.map(ToOwned::to_owned),
        ..config(&server.data, &Setup::default())
    };
    let data = server.data.clone();
    let (open, usual) = (data.join("open.pem"), config(Some(&data.join("open.pem"))));
    std::fs::write(&open, &text).expect("writes");
    let missing = config(Some(&data.join("none.pem")));
    server.running.shutdown().await;
    let refusal = async |config: &fota_server::Config| {
        let started = fota_server::start(config.clone(), fota_server::Clock::manual(NOON)).await;
        started.err().expect("refused").to_string()
    };
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("sets");
    assert!(refusal(&usual).await.contains("others may read it"));
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o600)).expect("sets");
    std::fs::write(&open, &text[..60]).expect("writes");
    let damaged = refusal(&usual).await;
    assert!(damaged.contains("is no P-256 key"), "{damaged}");
    assert!(!damaged.contains(&text[30..50]), "the key is never told");
    assert!(refusal(&missing).await.contains("none.pem"));
}
