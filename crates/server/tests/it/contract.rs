//! The store alone: what both databases must do alike, below HTTP.

use fota_server::domain::model::NewEvent;

use crate::support::*;

#[tokio::test]
async fn a_transaction_that_is_not_committed_leaves_nothing() {
    each_database(async |server| {
        let store = &server.running.state.store;
        let mut tx = store.write().await.expect("a turn");
        tx.insert_group("hall", NOON).await.expect("stored");
        tx.bump_generation().await.expect("stored");
        drop(tx);
        let mut tx = store.read().await.expect("reads");
        assert!(!tx.group_exists("hall").await.expect("reads"));
    })
    .await;
}

#[tokio::test]
async fn writers_take_turns_and_event_ids_have_no_gap() {
    const WRITERS: usize = 8;
    const EACH: usize = 10;
    each_database(async |server| {
        let store = server.running.state.store.clone();
        let write = |writer: usize| {
            let store = store.clone();
            async move {
                for number in 0..EACH {
                    let mut tx = store.write().await.expect("a turn");
                    let event = NewEvent {
                        kind: "test".to_owned(),
                        actor: "server",
                        text: format!("{writer}.{number}"),
                        ..NewEvent::default()
                    };
                    tx.append_event(&event, NOON).await.expect("stored");
                    tx.commit().await.expect("stored");
                }
            }
        };
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(writer)))
            .collect();
        for task in tasks {
            task.await.expect("ends");
        }
        let last = store
            .read()
            .await
            .expect("reads")
            .last_event_id()
            .await
            .expect("reads");
        assert_eq!(last as usize, WRITERS * EACH);
    })
    .await;
}

#[tokio::test]
async fn a_reader_sees_one_state_while_others_write() {
    each_database(async |server| {
        let store = &server.running.state.store;
        let mut reader = store.read().await.expect("reads");
        assert_eq!(reader.groups().await.expect("reads"), [""; 0]);
        let mut tx = store.write().await.expect("a turn");
        tx.insert_group("hall", NOON).await.expect("stored");
        tx.commit().await.expect("stored");
        assert_eq!(reader.groups().await.expect("reads"), [""; 0]);
        drop(reader);
        let mut reader = store.read().await.expect("reads");
        assert_eq!(reader.groups().await.expect("reads"), ["hall"]);
    })
    .await;
}

#[tokio::test]
async fn the_migrations_run_once_and_again_do_nothing() {
    async fn again(server: Server) {
        server.release(&Image::new("1.0.5")).await;
        let server = server.restart().await.restart().await;
        let releases = server.get("/api/v1/releases").await.json();
        assert_eq!(releases["items"].as_array().map(Vec::len), Some(1));
    }
    each_database(again).await;
}

#[tokio::test]
async fn any_text_that_may_be_stored_comes_back_as_it_was() {
    each_database(async |server| {
        let store = &server.running.state.store;
        for text in [
            "",
            "'",
            "\"; DROP TABLE event; --",
            "ü 漢字 🦀",
            "%_\\",
            "a\nb",
        ] {
            let mut tx = store.write().await.expect("a turn");
            let event = NewEvent {
                kind: "test".to_owned(),
                actor: "server",
                text: text.to_owned(),
                ..NewEvent::default()
            };
            let stored = tx.append_event(&event, NOON).await.expect("stored");
            tx.commit().await.expect("stored");
            let filter = fota_server::store::EventFilter {
                after: stored.id - 1,
                limit: 1,
                ..Default::default()
            };
            let found = store
                .read()
                .await
                .expect("reads")
                .events(&filter)
                .await
                .expect("reads");
            assert_eq!(found, [stored]);
        }
    })
    .await;
}
