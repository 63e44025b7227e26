//! The release log: what devices and operators can prove with it.

use fota_proto::{
    Sha256,
    log::{Inclusion, LogHead, Path, verify_consistency, verify_inclusion},
    manager::{LogEntry, Page},
    signed::Root,
};
use reqwest::{StatusCode, header};
use sqlx::{Connection, Executor};

use crate::{
    keys::{Keys, ask},
    support::*,
};

async fn head(server: &Server) -> LogHead {
    let reply = server.get("/d/v1/log/head").await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/cbor");
    minicbor::decode(&reply.body).expect("a head")
}

async fn entries(server: &Server) -> Vec<LogEntry> {
    let page: Page<LogEntry> = server.get("/api/v1/log").await.value(StatusCode::OK);
    page.items
}

#[tokio::test]
async fn every_release_is_in_the_log_and_can_be_proven() {
    each_database(async |server| {
        let empty = head(&server).await;
        assert_eq!(empty.size, 0);
        let mut heads = vec![empty];
        for number in 0..7 {
            let image = Image::new(&format!("1.0.{number}"));
            let release = server.release(&image).await;
            heads.push(head(&server).await);
            let entry = entries(&server).await.pop().expect("an entry");
            assert_eq!((entry.index, entry.digest), (number, image.sha256));
            assert_eq!(entry.release, Some(release.id));
        }
        let last = *heads.last().expect("some");
        for entry in entries(&server).await {
            let path = format!("/d/v1/log/proof?leaf={}&size={}", entry.digest, last.size);
            let reply = server.get(&path).await;
            assert!(reply.body.len() <= 1024);
            let proof: Inclusion = minicbor::decode(&reply.body).expect("a proof");
            assert!(verify_inclusion(entry.digest, &proof, last), "{entry:?}");
        }
        for old in &heads {
            let path = format!("/d/v1/log/consistency?from={}&to={}", old.size, last.size);
            let proof = server.get(&path).await.body;
            let proof: Path = minicbor::decode(&proof).expect("a proof");
            assert!(verify_consistency(*old, last, &proof), "{old:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_same_release_again_adds_no_entry_and_a_signature_does() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        server.release(&image).await;
        server.upload(&image.bytes, "").await;
        assert_eq!(entries(&server).await.len(), 1);
        let keys = Keys::on(&server).await;
        let bundle = keys.bundle(&image, 5);
        server.upload(&bundle, "").await;
        server.upload(&bundle, "").await;
        let digests: Vec<Sha256> = entries(&server).await.iter().map(|e| e.digest).collect();
        let envelope = fota_server::blobs::digest(&keys.envelope(&image, 5, |_| {}));
        assert_eq!(digests, [image.sha256, envelope]);
        // With a root, the head is signed.
        let reply = server.get("/d/v1/log/head").await;
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/cose");
        let root = keys.root(1);
        let root = Root::first(&root).expect("a root");
        let payload = root.answer(&reply.body).expect("signed by the online key");
        let head: LogHead = minicbor::decode(payload).expect("a head");
        assert_eq!(head.size, 2);
    })
    .await;
}

#[tokio::test]
async fn a_device_that_saw_another_log_is_shown() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        let keys = Keys::on(&server).await;
        keys.release(&server, &image, 5).await;
        let mut device = TestDevice::running("ESP32-001", &image);
        device.root = Some(1);
        let honest = ask(&server, &mut device, &keys.root(1)).await.log;
        device.log = honest;
        ask(&server, &mut device, &keys.root(1)).await;
        let shown = server.show_device("ESP32-001").await;
        assert_eq!(shown.warning, None);
        assert_eq!(shown.log.map(|log| log.size), Some(1));
        device.log = Some(LogHead {
            size: 1,
            root: Sha256([7; 32]),
        });
        for _ in 0..3 {
            ask(&server, &mut device, &keys.root(1)).await;
        }
        let shown = server.show_device("ESP32-001").await;
        assert!(
            shown
                .warning
                .expect("a warning")
                .contains("fota log verify")
        );
        let forked = |kind: &&String| *kind == "log.forked";
        assert_eq!(
            server
                .history("ESP32-001")
                .await
                .iter()
                .filter(forked)
                .count(),
            1
        );
        // Having said it once, it cannot unsay it by saying nothing.
        device.log = None;
        ask(&server, &mut device, &keys.root(1)).await;
        assert!(server.show_device("ESP32-001").await.warning.is_some());
    })
    .await;
}

#[tokio::test]
async fn the_log_outlives_a_restart() {
    let server = Server::start(Setup::default()).await;
    for number in 0..3 {
        server.release(&Image::new(&format!("1.0.{number}"))).await;
    }
    let before = head(&server).await;
    let server = server.restart().await;
    assert_eq!(head(&server).await, before);
    server.release(&Image::new("1.0.3")).await;
    assert_eq!(head(&server).await.size, 4);
}

/// A server of before had no log: what it had taken is in it after the upgrade, oldest first.
#[tokio::test]
async fn releases_of_before_the_log_are_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.path().join("fota.db"))
        .create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options)
        .await
        .expect("opens");
    let first = include_str!("../../src/store/migrations/0001_first.sql");
    let releases = "CREATE TABLE schema_version (version BIGINT NOT NULL);
        INSERT INTO schema_version (version) VALUES (1);
        INSERT INTO release SELECT id, '1.0.' || id, 'kettle', 5, 9, digest, 'e9', NULL, NULL, 0, 0,
        NULL, '', 0, 0, NULL, 7 FROM (SELECT 7 AS id,
        'abababababababababababababababababababababababababababababababab' AS digest
        UNION SELECT 3, 'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd')";
    old.execute(first).await.expect("runs");
    old.execute(releases).await.expect("runs");
    old.close().await.expect("closes");
    let setup = Setup {
        data: Some(folder.path().to_owned()),
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    let entries = entries(&server).await;
    let found: Vec<_> = entries
        .iter()
        .map(|e| (e.index, e.digest, e.release))
        .collect();
    let expected = [
        (0, Sha256([0xCD; 32]), Some(3)),
        (1, Sha256([0xAB; 32]), Some(7)),
    ];
    assert_eq!(found, expected);
    assert_eq!(head(&server).await.size, 2);
}
