//! `/api/v1/events`: the history, and the stream of it.

use fota_proto::checkin::Phase;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::*;

/// An open stream, read event by event.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(server: &Server, query: &str, last: Option<i64>) -> Self {
        let path = format!("/api/v1/events/stream{query}");
        let mut request = server.request(Method::GET, &path);
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = request.send().await.expect("answers");
        assert_eq!(response.status(), StatusCode::OK);
        let kind = response.headers()["content-type"].to_str().expect("text");
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next event as its id, its kind and its data.
    async fn next(&mut self) -> (Option<i64>, String, Value) {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                if !frame.starts_with(':') {
                    return parse(&frame);
                }
                continue;
            }
            let limit = std::time::Duration::from_secs(10);
            let chunk = tokio::time::timeout(limit, self.response.chunk()).await;
            let chunk = chunk
                .expect("in time")
                .expect("a stream")
                .expect("not the end");
            self.text
                .push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
}

fn parse(frame: &str) -> (Option<i64>, String, Value) {
    let field = |name: &str| {
        let line = frame.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    let id = field("id:").map(|id| id.parse().expect("a number"));
    let data = serde_json::from_str(&field("data:").expect("data")).expect("JSON");
    (id, field("event:").expect("a kind"), data)
}

#[tokio::test]
async fn a_stream_tells_what_happens_and_how_far_a_download_is() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let mut stream = Stream::open(&server, "", None).await;
        let order = story.device.check_in(&server).await.install();
        let (id, kind, data) = stream.next().await;
        assert_eq!(
            (kind.as_str(), data["state"].as_str()),
            ("attempt.offered", Some("offered"))
        );
        assert_eq!(id, data["id"].as_i64());
        story
            .device
            .reports(&server, order, Phase::Downloading, 4096)
            .await;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (id, kind, data) = stream.next().await;
            assert_eq!(id.is_none(), kind == "attempt.progress");
            if kind == "attempt.progress" {
                assert_eq!(
                    (&data["bytes_done"], &data["device"]),
                    (&json!(4096), &json!("ESP32-001"))
                );
            }
            seen.push(kind);
        }
        seen.sort();
        assert_eq!(seen, ["attempt.downloading", "attempt.progress"]);
        // Progress is no history.
        assert!(
            !server
                .history("ESP32-001")
                .await
                .contains(&"attempt.progress".to_owned())
        );
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_opened_again_misses_nothing() {
    async fn misses_nothing(server: Server) {
        let mut story = Story::begin(&server).await;
        let mut stream = Stream::open(&server, "", Some(0)).await;
        let (first, kind, _) = stream.next().await;
        assert_eq!(kind, "release.uploaded");
        drop(stream);
        story.device.updates_to(&server, &story.new).await;
        let server = server.restart().await;
        let stored = server.get("/api/v1/events?limit=1000").await.json();
        let stored: Vec<i64> = stored["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|event| event["id"].as_i64().expect("an id"))
            .collect();
        let mut stream = Stream::open(&server, "", first).await;
        let mut streamed = vec![first.expect("stored")];
        while streamed.len() < stored.len() {
            streamed.extend(stream.next().await.0);
        }
        assert_eq!(streamed, stored);
    }
    each_database(misses_nothing).await;
}

#[tokio::test]
async fn a_stream_of_one_rollout_tells_of_no_other() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        server
            .rollout(json!({"release": "1.0.5", "to": ["somebody"]}))
            .await;
        let query = format!("?rollout=r-{}&after=0", story.rollout.id);
        let mut stream = Stream::open(&server, &query, None).await;
        assert_eq!(stream.next().await.1, "rollout.started");
        story.device.check_in(&server).await.install();
        let (_, kind, data) = stream.next().await;
        assert_eq!(
            (kind.as_str(), &data["rollout"]),
            ("attempt.offered", &json!(story.rollout.id))
        );
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_some_kinds_or_one_device_tells_of_no_other_and_goes_on_where_it_was() {
    each_database(async |server| {
        let mut stream = Stream::open(&server, "?kinds=attempt.*,release.uploaded", Some(0)).await;
        let mut of_device = Stream::open(&server, "?device=other&after=0", None).await;
        let mut story = Story::begin(&server).await;
        TestDevice::running("other", &story.old)
            .check_in(&server)
            .await;
        story.device.check_in(&server).await.install();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(stream.next().await);
        }
        let kinds: Vec<&str> = seen.iter().map(|(_, kind, _)| kind.as_str()).collect();
        let wanted = [
            "release.uploaded",
            "release.uploaded",
            "attempt.offered",
            "attempt.offered",
        ];
        assert_eq!(kinds, wanted);
        for kind in ["device.seen", "attempt.offered"] {
            let (_, is, data) = of_device.next().await;
            assert_eq!((is.as_str(), &data["device"]), (kind, &json!("other")));
        }
        // Opened again with the id of the last event, it goes on behind it.
        let query = "?kinds=attempt.*";
        let mut again = Stream::open(&server, query, seen[2].0).await;
        assert_eq!(again.next().await.0, seen[3].0);
    })
    .await;
}

#[tokio::test]
async fn history_is_filtered_and_paged() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        story.device.check_in(&server).await.install();
        TestDevice::running("other", &story.old)
            .check_in(&server)
            .await;
        let kinds = async |query: &str| {
            let page = server.get(&format!("/api/v1/events{query}")).await.json();
            let items = page["items"].as_array().expect("items").clone();
            let kinds = items
                .iter()
                .map(|event| event["kind"].as_str().expect("kind").to_owned());
            (
                kinds.collect::<Vec<_>>(),
                page["next"].as_str().map(str::to_owned),
            )
        };
        let (of_device, _) = kinds("?device=ESP32-001").await;
        assert_eq!(of_device, ["device.seen", "attempt.offered"]);
        let (of_rollout, _) = kinds("?rollout=1").await;
        assert_eq!(
            of_rollout,
            ["rollout.started", "attempt.offered", "attempt.offered"]
        );
        let (both, _) = kinds("?rollout=1&device=other").await;
        assert_eq!(both, ["attempt.offered"]);
        let (first, next) = kinds("?limit=3").await;
        assert_eq!(
            first,
            ["release.uploaded", "release.uploaded", "device.seen"]
        );
        let (rest, end) = kinds(&format!("?limit=100&after={}", next.expect("more"))).await;
        assert_eq!(rest.len(), 4);
        assert_eq!(end, None);
    })
    .await;
}

#[tokio::test]
async fn an_open_stream_ends_with_the_server() {
    let server = Server::start(Setup::default()).await;
    let mut stream = Stream::open(&server, "", None).await;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(4), server.running.shutdown());
    ended.await.expect("a stream does not keep the server");
    assert!(matches!(stream.response.chunk().await, Ok(None) | Err(_)));
}
