//! Starting, being killed, and starting again.

use std::os::unix::fs::PermissionsExt;

use fota_server::{Clock, Config, StartError, start};
use reqwest::StatusCode;

use crate::support::*;

async fn refusal(config: Config) -> String {
    match start(config, Clock::System).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn the_token_is_made_once_and_kept_for_the_owner_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config {
        operator_token: None,
        ..config(folder.path(), &Setup::default())
    };
    let first = start(config.clone(), Clock::System)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let token = first.operator_token.clone();
    assert_eq!(token.len(), 64);
    let path = folder.path().join("operator-token");
    let mode = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    first.shutdown().await;
    let second = start(config, Clock::System)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(second.operator_token, token);
    let url = format!("http://{}/api/v1/server", second.addr);
    let reply = Reply::of(http().get(url).bearer_auth(token)).await;
    assert_eq!(reply.status, StatusCode::OK);
    second.shutdown().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start(Setup::default()).await;
    let second = start(config(&server.data, &Setup::default()), Clock::System).await;
    let Err(error) = second else {
        panic!("two servers on one database");
    };
    assert!(matches!(error, StartError::Locked { .. }));
    let text = error.to_string();
    assert!(
        text.contains("a server already runs on") && text.contains("--data"),
        "{text}"
    );
}

#[tokio::test]
async fn why_it_does_not_start_names_the_cause_and_the_next_step() {
    let server = Server::start(Setup::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let usual = config(folder.path(), &Setup::default());
    let taken = refusal(Config {
        listen: server.running.addr,
        ..usual.clone()
    })
    .await;
    let addr = server.running.addr.to_string();
    assert!(
        taken.contains(&addr) && taken.contains("--listen"),
        "{taken}"
    );
    let file = folder.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let no_folder = refusal(Config {
        data: file.join("data"),
        ..usual.clone()
    })
    .await;
    assert!(no_folder.contains("--data"), "{no_folder}");
    let no_database = refusal(Config {
        db: Some("postgres://u:secret@127.0.0.1:1/x".to_owned()),
        ..usual.clone()
    })
    .await;
    assert!(
        no_database.contains("postgres://127.0.0.1:1/x"),
        "{no_database}"
    );
    assert!(!no_database.contains("secret"), "{no_database}");
    let unknown = refusal(Config {
        db: Some("mysql://x".to_owned()),
        ..usual.clone()
    })
    .await;
    assert!(unknown.contains("postgres://"), "{unknown}");
    let poll = refusal(Config { poll_s: 0, ..usual }).await;
    assert!(poll.contains("poll_s"), "{poll}");
}

#[tokio::test]
async fn a_damaged_or_newer_database_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let usual = config(folder.path(), &Setup::default());
    std::fs::write(folder.path().join("fota.db"), b"not a database".repeat(100)).expect("written");
    let text = refusal(usual.clone()).await;
    assert!(text.contains("fota.db"), "{text}");
    std::fs::remove_file(folder.path().join("fota.db")).expect("removed");
    start(usual.clone(), Clock::System)
        .await
        .unwrap_or_else(|e| panic!("{e}"))
        .shutdown()
        .await;
    let url = format!("sqlite://{}", folder.path().join("fota.db").display());
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url)
        .await
        .expect("opens");
    sqlx::query("UPDATE schema_version SET version = 999")
        .execute(&mut connection)
        .await
        .expect("runs");
    drop(connection);
    let text = refusal(usual).await;
    assert!(
        text.contains("schema 999") && text.contains("newer server"),
        "{text}"
    );
}

/// What a kill leaves: no graceful end, a half-written artifact, a journal.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = tempfile::tempdir().expect("a folder");
    let server = Server::start(Setup {
        data: Some(folder.path().to_owned()),
        ..Setup::default()
    })
    .await;
    let mut story = Story::begin(&server).await;
    let order = story.device.check_in(&server).await.install();
    // A copy of the files of the running server is what a power cut leaves.
    copy_all(folder.path(), copy.path());
    let half = copy.path().join("blobs").join("aa");
    std::fs::create_dir_all(&half).expect("made");
    let half = half.join(format!("{}#1", "a".repeat(64)));
    std::fs::write(&half, b"half an image").expect("written");
    let again = Server::start(Setup {
        data: Some(copy.path().to_owned()),
        ..Setup::default()
    })
    .await;
    assert!(!half.exists(), "what an interrupted upload left is removed");
    let image = again
        .get(&format!("/api/v1/releases/{}/image", story.release.id))
        .await;
    assert_eq!(image.body, story.new.bytes);
    assert_eq!(story.device.check_in(&again).await.install(), order);
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            std::fs::create_dir_all(&target).expect("made");
            copy_all(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copied");
        }
    }
}

#[tokio::test]
async fn health_needs_no_token_and_readiness_needs_the_database() {
    let server = Server::start(Setup::default()).await;
    for path in ["/healthz", "/readyz"] {
        let reply = Reply::of(server.http.get(format!("{}{path}", server.base))).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
    }
    server.running.state.store.close().await;
    let url = format!("{}/readyz", server.base);
    let (code, _, _) = Reply::of(server.http.get(url)).await.problem(503);
    assert_eq!(code, "not_ready");
}
