//! `POST /api/v1/backup`, and an empty server filled from what it gives.

use std::path::{Path, PathBuf};

use fota_server::{
    backup::{self, BackupError, UNFINISHED_FILE},
    domain::audit::Verifier,
    store::Store,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, Row};

use crate::{audit, support::*};

/// What must be the same afterwards. A backup is a deed itself, so the audit log is compared apart.
const SAME: [&str; 13] = [
    "/api/v1/fleet/summary",
    "/api/v1/releases?limit=1000",
    "/api/v1/rollouts?limit=1000",
    "/api/v1/rollouts/r-1",
    "/api/v1/devices?limit=1000",
    "/api/v1/devices/ESP32-001/events?limit=1000",
    "/api/v1/events?limit=1000",
    "/api/v1/groups",
    "/api/v1/users",
    "/api/v1/roots",
    "/api/v1/log",
    "/api/v1/webhooks",
    "/api/v1/enrolment-keys",
];

/// A server on which something of everything has happened.
async fn fill(server: &Server) {
    audit::prepare(server).await;
    let admin = server.token("boss", "admin").await;
    for deed in audit::deeds() {
        let reply = deed.done_by(server, &admin).await;
        assert!(reply.status.is_success(), "{} {}", deed.method, deed.path);
    }
    server.user("anna", "operator").await;
    let hook = json!({"name": "ops", "url": "http://127.0.0.1:1/", "events": ["*"]});
    server.post("/api/v1/webhooks", hook).await;
    // What becomes of its deliveries would differ from one moment to the next.
    let still = json!({"reason": "a test"});
    server.post("/api/v1/webhooks/ops/disable", still).await;
    server
        .post("/api/v1/groups", json!({"name": "attic"}))
        .await;
    let add = json!({"add": ["ESP32-001"]});
    server.post("/api/v1/groups/attic/devices", add).await;
    for _ in 0..600 {
        let deltas: Value = server.get("/api/v1/deltas").await.json();
        if !matches!(
            deltas["items"][0]["state"].as_str(),
            Some("queued" | "making")
        ) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the patch was not made");
}

async fn take(server: &Server) -> Vec<u8> {
    let reply = Reply::of(server.request(Method::POST, "/api/v1/backup")).await;
    assert_eq!(reply.status, StatusCode::OK);
    reply.body
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("backup.tar");
    std::fs::write(&path, bytes).expect("written");
    path
}

async fn told(server: &Server) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    for path in SAME {
        let reply = server.get(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        all.push((path, reply.json()));
    }
    all
}

/// AC8.5: a backup restores into an empty server with an identical summary; whichever database it
/// came from, it goes into SQLite.
#[tokio::test]
async fn a_backup_restores_into_an_empty_server_with_an_identical_summary() {
    each_database(async |server| {
        fill(&server).await;
        let before = told(&server).await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = written(folder.path(), &take(&server).await);
        let key = std::fs::read(server.data.join("online-key.pem")).expect("a key");
        let log = server.audit().await;
        let data = folder.path().join("new");
        let summary = backup::restore(&file, &data, None).await.expect("restored");
        assert!(summary.rows > 50 && summary.blobs >= 3 && summary.keys >= 1);
        assert_eq!(
            std::fs::read(data.join("online-key.pem")).expect("a key"),
            key
        );
        let restored = Server::start(Setup {
            data: Some(data),
            ..Setup::default()
        })
        .await;
        for ((path, old), (_, new)) in before.into_iter().zip(told(&restored).await) {
            assert_eq!(new, old, "{path}");
        }
        let new = restored.audit().await;
        // The exports that were asked for here come behind.
        assert_eq!(new[..log.len() - 1], log[..log.len() - 1]);
        let mut verifier = Verifier::new(None);
        new.iter()
            .for_each(|entry| verifier.next(entry).expect("whole"));
        let image = restored.get("/api/v1/releases/1/image").await;
        assert_eq!(image.body, Image::new("1.0.5").bytes);
        // It lives on: numbers go on behind the old ones.
        let made = restored
            .post("/api/v1/groups", json!({"name": "after"}))
            .await;
        assert_eq!(made.status, StatusCode::CREATED);
        restored.running.shutdown().await;
    })
    .await;
}

/// A server on SQLite moves to PostgreSQL by its backup.
#[tokio::test]
async fn what_sqlite_held_may_go_to_postgres() {
    with_postgres(async |url| {
        let server = Server::start(Setup::default()).await;
        fill(&server).await;
        let before = told(&server).await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = written(folder.path(), &take(&server).await);
        let data = folder.path().join("new");
        let restore = || backup::restore(&file, &data, Some(&url));
        restore().await.expect("restored");
        let setup = Setup {
            data: Some(data.clone()),
            db: Some(url.clone()),
            ..Setup::default()
        };
        let restored = Server::start(setup).await;
        for ((path, old), (_, new)) in before.into_iter().zip(told(&restored).await) {
            assert_eq!(new, old, "{path}");
        }
        restored.running.shutdown().await;
        std::fs::remove_dir_all(&data).expect("removed");
        let again = restore().await.expect_err("the database has rows");
        assert!(matches!(again, BackupError::NotEmpty { .. }), "{again}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_holds_something_is_not_restored_over() {
    let server = Server::start(Setup::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = written(folder.path(), &take(&server).await);
    let refused = backup::restore(&file, &server.data, None).await;
    let refused = refused.expect_err("there is a server");
    assert!(matches!(refused, BackupError::NotEmpty { .. }), "{refused}");
    // It is as it was, and can be restarted.
    server.restart().await.get("/readyz").await;
}

/// A byte that is missing or flipped, wherever it is, is found before anything is written.
#[tokio::test]
async fn a_damaged_backup_is_refused_and_nothing_is_changed() {
    let server = Server::start(Setup::default()).await;
    server.release(&Image::new("1.0.5")).await;
    let good = take(&server).await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("new");
    let mut damaged: Vec<Vec<u8>> = Vec::new();
    for place in (0..good.len())
        .step_by(good.len() / 300 + 1)
        .chain(good.len() - 1600..good.len())
    {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        damaged.push(bytes);
    }
    for length in [
        0,
        1,
        511,
        512,
        4096,
        good.len() / 2,
        good.len() - 2048,
        good.len() - 1,
    ] {
        damaged.push(good[..length].to_vec());
    }
    damaged.push([good.as_slice(), &[0; 512]].concat());
    damaged.push(b"not a backup at all".repeat(1000));
    for bytes in damaged {
        let file = written(folder.path(), &bytes);
        let error = backup::restore(&file, &data, None)
            .await
            .expect_err("damaged");
        let is_told = matches!(
            error,
            BackupError::Damaged { .. } | BackupError::Unknown { .. }
        );
        assert!(is_told, "{error}");
        assert!(!data.exists());
    }
    let file = written(folder.path(), &good);
    backup::restore(&file, &data, None)
        .await
        .expect("the whole one");
}

/// One that is whole and holds what it must not is refused too, and leaves nothing behind.
#[tokio::test]
async fn a_backup_with_rows_that_do_not_fit_leaves_nothing_behind() {
    let server = Server::start(Setup::default()).await;
    let good = take(&server).await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("new");
    for (name, bytes) in [
        ("rows/device/9.jsonl", "[\"id\"]\n[\"x\"]\n"),
        ("rows/nothing/1.jsonl", "[\"id\"]\n[1]\n"),
        ("rows/device/9.jsonl", "[\"id; DROP TABLE device\"]\n[1]\n"),
        ("keys/../../x", "x"),
        ("keys/fota.db", "x"),
        ("blobs/00", "x"),
        ("etc/passwd", "x"),
    ] {
        let file = written(folder.path(), &with_entry(&good, name, bytes.as_bytes()));
        let error = backup::restore(&file, &data, None).await.expect_err(name);
        assert!(!error.to_string().is_empty());
        let left = std::fs::read_dir(&data).map_or(0, |found| {
            found
                .filter(|entry| entry.as_ref().expect("read").file_name() != "lock")
                .count()
        });
        assert_eq!(left, 0, "{name}: {error}");
    }
}

/// The backup with one more entry and an end that belongs to it.
fn with_entry(good: &[u8], name: &str, bytes: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    let header = |name: &str, bytes: usize| {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes as u64);
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let mut all = good[..good.len() - 2048].to_vec();
    all.extend(header(name, bytes.len()));
    all.extend(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    let hash = sha2::Sha256::digest(&all);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    all.extend(header("end.json", 512));
    let before = all.len();
    all.extend(format!("{{\"sha256\":\"{hex}\"}}").bytes());
    all.resize(before + 512, b' ');
    all.resize(before + 1536, 0);
    all
}

#[tokio::test]
async fn a_server_does_not_start_where_a_restore_was_interrupted() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(UNFINISHED_FILE), "").expect("written");
    let config = config(folder.path(), &Setup::default());
    let refused = fota_server::start(config, fota_server::Clock::manual(NOON)).await;
    let refused = refused.err().expect("refused").to_string();
    assert!(refused.contains("was interrupted"), "{refused}");
}

/// A table that a migration adds is in the backup by itself; this says so if one is not.
#[tokio::test]
async fn every_table_is_in_a_backup() {
    let server = Server::start(Setup::default()).await;
    let url = format!("sqlite://{}", server.data.join("fota.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&url)
        .await
        .expect("connects");
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let rows = sqlx::query(sql)
        .fetch_all(&mut connection)
        .await
        .expect("runs");
    let mut there: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    there.retain(|name| name != "schema_version");
    there.sort();
    let mut known = Store::tables(Store::schema());
    known.sort_unstable();
    assert_eq!(known, there);
}
